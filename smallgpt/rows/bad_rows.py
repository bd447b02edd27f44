"""Bad rows of a file: collected with their reasons, reported, and what to do about them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from smallgpt.console import command_hint
from smallgpt.errors import UserError

MOST_ERRORS_SHOWN = 20
_MOST_ALIKE_SHOWN = 5
_VALUE = re.compile(r"""'[^']*'|"[^"]*"|\d+""")
# More are not kept for a report: nobody reads them, and they fill the memory.
MOST_BAD_ROWS = 1_000_000
REMEDY = "correct them, or leave them out with --on_bad_row skip"


class RowError(Exception):
    """A row breaks the format; the text is the reason."""


@dataclass
class BadRow:
    """A row that could not be read, kept for a report."""

    line: int
    reason: str
    record: dict[str, Any]  # {} where records are not kept


class BadRows:
    """Counts bad rows; keeps only the first, since in a file of the wrong kind all are bad."""

    def __init__(self, what: str = "row", most: int = MOST_ERRORS_SHOWN):
        self.what, self.most = what, most
        self.count = 0
        self.places: list[str] = []
        self.reasons: list[str] = []
        # The same after their places: `train.jsonl:3: the row has no tokens`.
        self.first: list[str] = []

    def note(self, place: str, reason: str) -> None:
        self.count += 1
        if self.count <= self.most:
            self.places.append(place)
            self.reasons.append(reason)
            self.first.append(f"{place}: {reason}")

    def raise_if_any(self, remedy: str = REMEDY) -> None:
        """Raise if a row was bad.

        Raises:
            UserError: the remedy, the first bad rows, and how many more there are.
        """
        if not self.count:
            return
        if self.count == 1:
            raise UserError(f"{self.first[0]}\n{remedy}")
        lines = some_of_each_kind(zip(self.places, self.reasons, strict=True))
        if self.count > len(lines):
            lines.append(f"... and {self.count - len(lines):,} more")
        raise UserError("\n".join([f"{self.count:,} bad {self.what}s: {remedy}", *lines]))


def some_of_each_kind(bad: Iterable[tuple[str, str]]) -> list[str]:
    """Bad rows as `place: reason`, of many that differ only in values the first five."""
    of_kind: Counter[str] = Counter()
    lines = []
    for place, reason in bad:
        kind = _VALUE.sub("", reason)
        of_kind[kind] += 1
        if of_kind[kind] <= _MOST_ALIKE_SHOWN:
            lines.append(f"{place}: {reason}")
    return lines


def could_be_unk(reason: str) -> bool:
    """Whether a row is bad for a token that may be read as <UNK>, as no label token may."""
    return reason.startswith("token ") and reason.endswith("is not in the vocabulary")


def bad_rows_remedy(reasons: Iterable[str], good_rows: int) -> str:
    """What to do about bad rows of a file for training or evaluation, in one line."""
    if not good_rows:
        if all("not valid JSON" in reason for reason in reasons):
            return (
                "not one line is JSON: rows come as JSONL; "
                f"`{command_hint('prepare_data.py', 'text')}` makes them of texts and tables"
            )
        return "not one row can be read: is this the vocabulary of these rows?"
    if any(map(could_be_unk, reasons)):
        return f"{REMEDY}; --unknown_token unk reads unknown tokens as <UNK>"
    return REMEDY
