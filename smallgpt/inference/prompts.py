"""Rows to the ids that a model goes on from, ids to text; checks of a model and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import SettingsError, UserError
from smallgpt.files.reading import shown
from smallgpt.inference.unknown_tokens import refuse_unknown_tokens
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.reader import check_settings
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.row import ids_of
from smallgpt.tokens.instruction_template import instruction_prompt
from smallgpt.tokens.text_tokenizer import shown_bytes


def record_of_prompt(trained: TrainedModel, prompt: str) -> dict[str, Any]:
    """A string as the object of a row: tokens, or a text or instruction for such a model."""
    if trained.vocabulary.tokenizer is None:
        return {"tokens": prompt}
    return {"instruction" if trained.is_instructed else "text": prompt}


def ids_to_continue(
    trained: TrainedModel, record: dict[str, Any], unknown_token: str = "error"
) -> tuple[list[int], list[str]]:
    """Ids of a row that the model goes on from, without its label, and what was read as <UNK>.

    Of an instruction its prompt; a text gets the mark of a beginning and not that of an end.

    Raises:
        UserError: no tokens, or tokens that the vocabulary lacks (named, with the nearest).
    """
    tokenizer = trained.vocabulary.tokenizer
    unknown: list[str] = []
    refuse_unknown_tokens(trained, record, unknown_token)
    try:
        if tokenizer is None or not _is_text(record):
            ids, _, names = ids_of(record, trained.vocabulary, unknown_token)
            unknown = list(names)
        elif not _text_of(record).strip():
            ids = []
        else:
            text = _text_of(record)
            ids = tokenizer.encode(text, marked=False)
            unknown = tokenizer.unknown_letters(text, ids)
            if record.get("instruction") is not None:
                ids = tokenizer.encode(text)
            else:
                ids = [*tokenizer.ids_before, *ids]
    except (RowError, ValueError) as error:
        raise UserError(str(error)) from None
    if not ids:
        raise UserError("the prompt has no tokens")
    return ids, unknown


def _is_text(record: dict[str, Any]) -> bool:
    """Whether a row is a text or an instruction."""
    return record.get("tokens") is None and record.get("input_ids") is None


def _text_of(record: dict[str, Any]) -> str:
    """The text that a model of texts or instructions reads; "" where there is none.

    Raises:
        UserError: it is no text.
    """
    instruction = record.get("instruction")
    parts = [instruction, record.get("input")] if instruction is not None else [record.get("text")]
    texts: list[str] = []
    for part in parts:
        if part is not None and not isinstance(part, str):
            raise UserError(f"expected a text, got {shown(part)}")
        texts.append(part or "")
    if instruction is None or not instruction.strip():
        return texts[0]
    return instruction_prompt(*texts)


def token_text(trained: TrainedModel, index: int) -> str:
    """A token for display; with a text tokenizer, the piece of text that it stands for."""
    token, tokenizer = trained.vocabulary.tokens[index], trained.vocabulary.tokenizer
    piece = tokenizer.decode([index]) if tokenizer is not None else ""
    if not piece:
        return token  # special tokens stand for no text ...
    return shown_bytes(token) if "\ufffd" in piece else piece  # ... and some for half of a letter


def row_text(trained: TrainedModel, ids: Sequence[int]) -> str:
    """A row for display: its tokens, or its text with a text tokenizer."""
    return (trained.vocabulary.tokenizer or trained.vocabulary).decode(ids)


def refuse_labels_only(trained: TrainedModel) -> None:
    """Refuse a model with a label head, which predicts no tokens, by a UserError."""
    if trained.is_classifier:
        raise UserError(
            f"{trained.name}: this model only names labels (a classification head): classify or "
            f"evaluate with it"
        )


def not_finite(trained: TrainedModel) -> UserError:
    """The error of a model whose output is NaN or infinite."""
    return UserError(
        f"{trained.name}: the model gives no finite number: damaged weights? (try precision fp32)"
    )


def check_arguments(mode: str, **values: Any) -> None:
    """Check options of `InferenceSettings`, given from Python, as the command line does.

    Raises:
        SettingsError: a wrong value, or values that contradict one another.
    """
    try:
        check_settings(InferenceSettings(mode=mode, **values))
    except SettingsError as error:
        own_name = [text.replace("num_return_sequences", "count") for text in error.mistakes]
        raise SettingsError(own_name) from None
