"""Times of events: all numbers, or all ISO dates; stored so that they can be sorted."""

from __future__ import annotations

import sys
from array import array
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from smallgpt.files.reading import shown
from smallgpt.rows.bad_rows import RowError

_NUMBER, _LOCAL, _WITH_ZONE = "a number", "a date without a time zone", "a date with a time zone"
_MOST = sys.float_info.max
_MICROSECOND = timedelta(microseconds=1)
_EPOCHS = {_LOCAL: datetime(1970, 1, 1), _WITH_ZONE: datetime(1970, 1, 1, tzinfo=UTC)}


class EventTimes:
    """Times of one kind in the order they are added."""

    def __init__(self) -> None:
        self._kind, self._first = "", ""  # of all times; the first one and its place
        # Numbers as they are, dates in microseconds. Fractions and numbers of more than 64 bits
        # turn all into floating point.
        self._values: array[Any] = array("q")

    def check(self, value: Any, place: str) -> float:
        """The number that stands for a time.

        Raises:
            RowError: it is neither a number nor an ISO date, or not of the kind of the first time.
        """
        kind, number = _kind_and_number(value, self._kind)
        if not self._kind:
            self._kind, self._first = kind, f"{shown(value)} of {place}"
        elif kind != self._kind:
            raise RowError(f"the time {shown(value)} is {kind}, {self._first} is {self._kind}")
        return number

    def add(self, number: float) -> None:
        """Add a time that `check` returned."""
        try:
            self._values.append(number)
        except (TypeError, OverflowError):
            self._values = array("d", self._values)
            self._values.append(number)

    def array(self) -> np.ndarray:
        """The times as numbers; they share the memory of this object."""
        return np.frombuffer(self._values, self._values.typecode)


def _kind_and_number(value: Any, likely: str) -> tuple[str, float]:
    """The kind of a time and the number that stands for it; the likely kind is tried first."""
    found = None
    if isinstance(value, str):
        text = value.strip()
        readers = (_number, _date) if likely in ("", _NUMBER) else (_date, _number)
        found = readers[0](text) or readers[1](text)
    elif type(value) in (int, float) and abs(value) <= _MOST:
        found = _NUMBER, value
    if found is None:
        raise RowError(
            f"the time {shown(value)} is neither a number nor an ISO date, such as 2024-05-31 or "
            f"2024-05-31 14:05:00"
        )
    return found


def _date(text: str) -> tuple[str, float] | None:
    try:
        date = datetime.fromisoformat(text)
        kind = _LOCAL if date.tzinfo is None else _WITH_ZONE
        return kind, (date - _EPOCHS[kind]) // _MICROSECOND
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> tuple[str, float] | None:
    if "_" in text:  # Python reads 1_000
        return None
    for read in (int, float):
        try:
            number = read(text)
        except ValueError:
            continue
        return (_NUMBER, number) if abs(number) <= _MOST else None
    return None
