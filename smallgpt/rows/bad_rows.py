"""Rows that cannot be read, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MOST_ERRORS_SHOWN = 20
# Kept with their reasons for a report; more than so many nobody reads, and they fill the memory.
MOST_BAD_ROWS = 1_000_000


@dataclass
class BadRow:
    """A row that could not be read, kept for a report; `record` only where records are kept."""

    line: int
    reason: str
    record: dict[str, Any]


def bad_rows_remedy(reasons: Iterable[str], good_rows: int) -> str:
    """What to do about bad rows, in one line."""
    if not good_rows:
        remedy = "not one row can be read: is this the vocabulary of these rows?"
        if all("not valid JSON" in reason for reason in reasons):
            remedy = (
                "not one line is JSON: rows come as JSONL; `python prepare_data.py text` makes "
                "them of texts and tables"
            )
        return remedy
    remedy = "correct them, or leave them out with --on_bad_row skip"
    if any("not in the vocabulary" in reason for reason in reasons):
        remedy += "; --unknown_token unk reads unknown tokens as <UNK>"
    return remedy


class RowError(Exception):
    """A row that breaks the format; the text is the reason."""
