"""Tokens that a model's vocabulary lacks: refused with the nearest known ones, or read as <UNK>."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from smallgpt.console import printable, printable_lines
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.read_counts import unknown_line
from smallgpt.rows.row import split_words
from smallgpt.tokens.labels import label_of_token

UNK_REMEDY = "--unknown_token unk (from Python: unknown_token='unk') reads such tokens as <UNK>"


def unknown_token_of(trained: TrainedModel, unknown_token: str | None) -> str:
    """What to do about unknown tokens, "error" or "unk"; None: as the model says.

    That is as in training, and "unk" where the training rows themselves had <UNK>.

    Raises:
        UserError: neither "error" nor "unk", or no <UNK> to read them as.
    """
    if unknown_token is None:
        unknown_token = trained.settings.unknown_token
    if unknown_token not in ("error", "unk"):
        raise UserError(f"unknown_token: {shown(unknown_token)} is neither 'error' nor 'unk'")
    if unknown_token == "unk" and trained.vocabulary.unk_id is None:
        raise UserError("unknown_token='unk' needs <UNK> in the vocabulary")
    return unknown_token


def with_unknown_token(trained: TrainedModel, unknown_token: str | None) -> TrainedModel:
    """The model, to be used as `unknown_token_of` says.

    Raises:
        UserError: as `unknown_token_of`.
    """
    unknown_token = unknown_token_of(trained, unknown_token)
    return replace(trained, settings=replace(trained.settings, unknown_token=unknown_token))


def refuse_unknown_tokens(
    trained: TrainedModel, record: dict[str, Any], unknown_token: str
) -> None:
    """Refuse a row with unknown tokens, unless they are read as <UNK>; names them with the nearest.

    Raises:
        UserError: it has some.
    """
    if unknown_token == "unk" or record.get("tokens") is None:
        return
    vocabulary = trained.vocabulary
    try:
        words = split_words(record["tokens"])
    except RowError as error:
        raise UserError(str(error)) from None
    named = []
    unknown = [word.decode() for word in words if word not in vocabulary.ids_by_bytes]
    for token in list(dict.fromkeys(unknown))[:10]:
        close = vocabulary.nearest(token)
        named.append(shown(token) + (f" (did you mean {printable(close)}?)" if close else ""))
    if named:
        # A label token is never read as <UNK>.
        helps = vocabulary.unk_id is not None and not any(map(label_of_token, unknown))
        remedy = f"; {UNK_REMEDY}" if helps else ""
        raise UserError(f"not in the vocabulary: {', '.join(named)}{remedy}")


def say_unknown(trained: TrainedModel, names: Mapping[str, int]) -> None:
    """Print on standard error which tokens, or letters of texts, were read as <UNK>, how often."""
    if names:
        line = unknown_line(sum(names.values()), names, trained.learned_unknown)
        print(printable_lines(line), file=sys.stderr)
