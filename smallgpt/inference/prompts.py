"""What a person types, as ids; tokens and rows, shown to a person."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from smallgpt.console import plural, printable
from smallgpt.errors import SettingsError, UserError
from smallgpt.files.reading import shown
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.reader import check_settings
from smallgpt.tokens.instruction_template import instruction_prompt

if TYPE_CHECKING:
    from smallgpt.model.folder import TrainedModel
    from smallgpt.rows.dataset import TokenLabelDataset


MOST_LABELS_SHOWN = 30  # in a table; of more the first and a line for the others
_NOT_FINITE = "{}: the model gives no finite number: damaged weights? (try --precision fp32)"


# ------------------------------------------------------------------------------- library


def prompt_ids(trained: TrainedModel, prompt: str) -> list[int]:
    """Ids of a prompt: tokens separated by spaces, or a text or instruction for such a model.

    Raises:
        UserError: no tokens, or tokens that the vocabulary lacks (named, with the nearest).
    """
    tokenizer = trained.vocabulary.tokenizer
    try:
        if tokenizer is not None:
            if is_instructed(trained) and prompt.strip():
                return tokenizer.encode(instruction_prompt(prompt))
            # The text goes on: it gets the mark of a beginning and not that of an end.
            ids = tokenizer.encode(prompt, marked=False)
            return [*tokenizer.first_ids, *ids] if prompt.strip() else _refuse_empty()
        ids = trained.vocabulary.encode(prompt)
    except ValueError as error:
        raise UserError(str(error)) from None
    except KeyError as error:
        named = []
        for token in list(dict.fromkeys(error.args[0]))[:10]:
            close = trained.vocabulary.nearest(token)
            hint = f" (did you mean {printable(close)}?)" if close else ""
            named.append(shown(token) + hint)
        raise UserError(f"not in the vocabulary: {', '.join(named)}") from None
    if not ids:
        _refuse_empty()
    return ids


def _refuse_empty() -> NoReturn:
    raise UserError("the prompt has no tokens")


def say_unknown(trained: TrainedModel, prompt: str) -> None:
    """Say on standard error what of a text the model cannot read."""
    tokenizer = trained.vocabulary.tokenizer
    if tokenizer is not None:
        count = tokenizer.count_unknown(tokenizer.encode(prompt))
        if count:
            letters = dict.fromkeys(prompt)
            every = (c for c in letters if tokenizer.count_unknown(tokenizer.encode(c)))
            unknown = list(islice(every, 6))
            named = " ".join(shown(letter) for letter in unknown[:5])
            print(
                f"{plural(count, 'unknown token')} read as <UNK>{': ' if named else ''}{named}"
                + (" ..." if len(unknown) > 5 else ""),
                file=sys.stderr,
            )


def is_instructed(trained: TrainedModel) -> bool:
    """Whether a model answers instructions, each in its prompt's template."""
    return trained.settings.task == "instruct" and trained.vocabulary.tokenizer is not None


def shown_token(trained: TrainedModel, index: int) -> str:
    """A token for a person: of a model of texts, the piece of text that it stands for."""
    vocabulary = trained.vocabulary
    token = vocabulary.tokens[index]
    if vocabulary.tokenizer is None:
        return token
    piece = vocabulary.tokenizer.decode([index])
    # Special tokens stand for no text, and some tokens for half of a character.
    return token if not piece or "\ufffd" in piece else piece


def shown_row(trained: TrainedModel, ids: Sequence[int]) -> str:
    """A row for a person: its tokens, or its text for a model of texts."""
    tokenizer = trained.vocabulary.tokenizer
    return tokenizer.decode(ids) if tokenizer is not None else trained.vocabulary.decode(ids)


def refuse_labels_only(trained: TrainedModel) -> None:
    """Raise where a model has no next token.

    Raises:
        UserError: it only names labels.
    """
    if is_labels_only(trained):
        raise UserError(
            f"{trained.folder}: this model only names labels (--classifier head): ask it with "
            f"--mode classify or evaluate"
        )


def is_labels_only(trained: TrainedModel) -> bool:
    """Whether a model tells labels by a head, and predicts no tokens."""
    return trained.settings.classifier == "head"


def check_arguments(mode: str, **values: Any) -> None:
    """Hold what a call from Python says to the rules of the command line.

    Args:
        mode: of the command.
        values: options of `InferenceSettings` by name.

    Raises:
        SettingsError: a wrong value, or values that contradict one another.
    """
    try:
        check_settings(InferenceSettings(mode=mode, **values))
    except SettingsError as error:
        own_name = [text.replace("num_return_sequences", "count") for text in error.mistakes]
        raise SettingsError(own_name) from None


def _refuse_unusable(dataset: TokenLabelDataset, path: str | Path, what: str) -> NoReturn:
    bad = dataset.bad_rows[0]
    remedy = ""
    if all("not valid JSON" in each.reason for each in dataset.bad_rows):
        remedy = ": rows come as JSONL, `python prepare_data.py text` makes them of a table"
    raise UserError(
        f"{path}:{bad.line}: {bad.reason}\n"
        f"not one of {plural(len(dataset.bad_rows), 'row')} can be {what}{remedy}"
    )
