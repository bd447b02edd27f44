"""Prompts to token ids, ids to text; checks of a prompt, a model and arguments."""

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
from smallgpt.tokens.instruction_template import instruction_prompt


def prompt_ids(trained: TrainedModel, prompt: str) -> list[int]:
    """Ids of a prompt: tokens separated by spaces, or a text or instruction for such a model.

    Raises:
        UserError: no tokens, or tokens that the vocabulary lacks (named, with the nearest).
    """
    vocabulary = trained.vocabulary
    tokenizer = vocabulary.tokenizer
    try:
        if tokenizer is None:
            ids = vocabulary.encode(prompt)
        elif not prompt.strip():
            ids = []
        elif trained.is_instructed:
            return tokenizer.encode(instruction_prompt(prompt))
        else:
            # The text goes on: it gets the mark of a beginning and not that of an end.
            ids = [*tokenizer.first_ids, *tokenizer.encode(prompt, marked=False)]
    except ValueError as error:
        raise UserError(str(error)) from None
    except KeyError as error:
        named = []
        for token in list(dict.fromkeys(error.args[0]))[:10]:
            close = vocabulary.nearest(token)
            named.append(shown(token) + (f" (did you mean {printable(close)}?)" if close else ""))
        raise UserError(f"not in the vocabulary: {', '.join(named)}") from None
    if not ids:
        raise UserError("the prompt has no tokens")
    return ids


def say_unknown(trained: TrainedModel, prompt: str) -> None:
    """Print on standard error which characters of a text are unknown to the model."""
    tokenizer = trained.vocabulary.tokenizer
    count = tokenizer.count_unknown(tokenizer.encode(prompt)) if tokenizer is not None else 0
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
