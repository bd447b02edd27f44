"""Rows to the ids that a model goes on from, ids to text; checks of a model and arguments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any

from smallgpt.console import plural, printable
from smallgpt.errors import SettingsError, UserError
from smallgpt.files.reading import shown
from smallgpt.model.folder import TrainedModel
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.reader import check_settings
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.row import ids_of, split_words
from smallgpt.tokens.instruction_template import instruction_prompt

_MOST_NAMED = 5  # unknown tokens or letters


def record_of_prompt(trained: TrainedModel, prompt: str) -> dict[str, Any]:
    """A string as the object of a row: tokens, or a text or instruction for such a model."""
    if trained.vocabulary.tokenizer is None:
        return {"tokens": prompt}
    return {"instruction" if trained.is_instructed else "text": prompt}


def ids_to_continue(
    trained: TrainedModel, record: dict[str, Any], unknown_token: str = "error"
) -> list[int]:
    """Ids of a row that the model goes on from: its tokens as they stand, without its label.

    Of an instruction its prompt; a text gets the mark of a beginning and not that of an end.

    Raises:
        UserError: no tokens, or tokens that the vocabulary lacks (named, with the nearest).
    """
    tokenizer = trained.vocabulary.tokenizer
    refuse_unknown_tokens(trained, record, unknown_token)
    try:
        if tokenizer is None or not _is_text(record):
            ids, _, _ = ids_of(record, trained.vocabulary, unknown_token)
        elif not _text_of(record).strip():
            ids = []
        elif record.get("instruction") is not None:
            ids = tokenizer.encode(_text_of(record))
        else:
            ids = [*tokenizer.first_ids, *tokenizer.encode(_text_of(record), marked=False)]
    except (RowError, ValueError) as error:
        raise UserError(str(error)) from None
    if not ids:
        raise UserError("the prompt has no tokens")
    return ids


def refuse_unknown_tokens(
    trained: TrainedModel, record: dict[str, Any], unknown_token: str
) -> None:
    """Refuse a row with unknown tokens, unless they are read as <UNK>; names them with the nearest.

    Raises:
        UserError: it has some.
    """
    if unknown_token == "unk":
        return
    named = []
    for token in list(dict.fromkeys(_unknown_tokens(trained, record)))[:10]:
        close = trained.vocabulary.nearest(token)
        named.append(shown(token) + (f" (did you mean {printable(close)}?)" if close else ""))
    if named:
        raise UserError(f"not in the vocabulary: {', '.join(named)}")


def say_unknown(trained: TrainedModel, records: Sequence[dict[str, Any]]) -> None:
    """Print on standard error which tokens, or characters of texts, are unknown to the model."""
    tokenizer, count = trained.vocabulary.tokenizer, 0
    unknown: dict[str, None] = {}  # as an ordered set
    for record in records:
        tokens = _unknown_tokens(trained, record)
        count += len(tokens)
        unknown |= dict.fromkeys(tokens)
        if tokenizer is not None and _is_text(record):
            text = _text_of(record)
            in_text = tokenizer.count_unknown(tokenizer.encode(text))
            count += in_text
            if in_text and len(unknown) <= _MOST_NAMED:
                letters = dict.fromkeys(text)
                every = (c for c in letters if tokenizer.count_unknown(tokenizer.encode(c)))
                unknown |= dict.fromkeys(islice(every, _MOST_NAMED + 1))
    if count:
        named = " ".join(shown(name) for name in list(unknown)[:_MOST_NAMED])
        print(
            f"{plural(count, 'unknown token')} read as <UNK>{': ' if named else ''}{named}"
            + (" ..." if len(unknown) > _MOST_NAMED else ""),
            file=sys.stderr,
        )


def _unknown_tokens(trained: TrainedModel, record: dict[str, Any]) -> list[str]:
    """The tokens of a row that the vocabulary lacks."""
    if record.get("tokens") is None:
        return []
    try:
        words = split_words(record["tokens"])
    except RowError as error:
        raise UserError(str(error)) from None
    return [word.decode() for word in words if word not in trained.vocabulary.ids_by_bytes]


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
    parts = ["" if part is None else part for part in parts]
    for part in parts:
        if not isinstance(part, str):
            raise UserError(f"expected a text, got {shown(part)}")
    if instruction is None or not instruction.strip():
        return parts[0]
    return instruction_prompt(*parts)


def token_text(trained: TrainedModel, index: int) -> str:
    """A token for display; with a text tokenizer, the piece of text that it stands for."""
    token, tokenizer = trained.vocabulary.tokens[index], trained.vocabulary.tokenizer
    piece = tokenizer.decode([index]) if tokenizer is not None else ""
    # Special tokens stand for no text, and some tokens for half of a character.
    return token if not piece or "\ufffd" in piece else piece


def row_text(trained: TrainedModel, ids: Sequence[int]) -> str:
    """A row for display: its tokens, or its text with a text tokenizer."""
    return (trained.vocabulary.tokenizer or trained.vocabulary).decode(ids)


def refuse_labels_only(trained: TrainedModel) -> None:
    """Refuse a model with a label head, which predicts no tokens, by a UserError."""
    if trained.is_classifier:
        raise UserError(
            f"{trained.folder}: this model only names labels (--classifier head): ask it with "
            f"--mode classify or evaluate"
        )


def not_finite(trained: TrainedModel) -> UserError:
    """The error of a model whose output is NaN or infinite."""
    return UserError(
        f"{trained.folder}: the model gives no finite number: damaged weights? (try --precision "
        f"fp32)"
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
