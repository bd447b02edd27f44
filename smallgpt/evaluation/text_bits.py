"""Bits a byte and a character of texts: what compares models of different tokenizers.

    read = texts_read(dataset)                        # None where rows are no texts
    figures |= bit_figures(scores.tokens.body_nll_sum_N, read)

Perplexity is an average over tokens, and another tokenizer has other tokens: the fewer it makes of
a text, the higher the perplexity of an equally good model. A text has one number of bytes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from smallgpt.rows.dataset import TokenLabelDataset


class TextsRead(NamedTuple):
    """How much of each text the scored tokens stand for: all but its first token, if uncut.

    (All of it where the tokenizer puts a mark before it, from which the first token is predicted.)
    """

    bytes_N: np.ndarray
    characters_N: np.ndarray


def texts_read(dataset: TokenLabelDataset) -> TextsRead | None:
    """What was scored of texts; None where some row is no text. Read with keep_records.

    Labels and marks of an end are not counted, as in `body_nll_sum`.
    """
    tokenizer, records = dataset.vocabulary.tokenizer, dataset.kept_records
    if tokenizer is None or not len(dataset):
        return None
    if not all(is_text(record) for record in records):
        return None
    counts_N = np.maximum(dataset.scored_body_counts - tokenizer.count_after, 0)
    parts = [
        tokenizer.end_of(record["text"], count)
        for record, count in zip(records, counts_N.tolist(), strict=True)
    ]
    return TextsRead(
        np.array([len(part.encode()) for part in parts], np.int64),
        np.array([len(part) for part in parts], np.int64),
    )


def bit_figures(body_nll_sum_N: np.ndarray, read: TextsRead) -> dict[str, Any]:
    """`bits_per_byte` (UTF-8) and `bits_per_character` of texts, from nats of each."""
    bits = math.fsum(body_nll_sum_N.tolist()) / math.log(2)
    of_bytes, of_characters = int(read.bytes_N.sum()), int(read.characters_N.sum())
    if not of_bytes:
        return {}
    return {"bits_per_byte": bits / of_bytes, "bits_per_character": bits / of_characters}


def is_text(record: Any) -> bool:
    """Whether a row was read as a text."""
    others = ("tokens", "input_ids", "instruction")
    return isinstance(record, dict) and all(record.get(name) is None for name in others)
