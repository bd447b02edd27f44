"""Event logs: a long table, one event a line, as rows of tokens, one row a session or user.

    log = EventLog(EventColumns(group="session", event="event", time="at"))
    log.read(Path("events.csv"), bad)
    for place, row in log.rows():      # {"session": "s1", "tokens": "login search <EOS>", ...}

A log is kept as a few numbers an event, and as text what is said of a group as a whole.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.console import plural, progress_bar
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.inputs.event_times import EventTimes
from smallgpt.inputs.records import Record, read_records
from smallgpt.rows.bad_rows import BadRows, RowError
from smallgpt.rows.row import ROW_KEYS
from smallgpt.tokens.labels import label_of_token, label_text, too_long
from smallgpt.tokens.vocabulary import CLS, END_IMG, EOS, IMG, PAD

LABEL = "label"  # the column of labels where none is named
_SPECIAL = (PAD, IMG, END_IMG, CLS, EOS)
_ABSENT = object()
_NAMED = 10
_MOST_LIKELY_LABELS = 200  # different values of a column that could be the label


@dataclass(frozen=True)
class EventColumns:
    """The columns of a log, or keys of its objects, that have a meaning here."""

    group: str  # events of one value are one row
    event: str
    time: str | None = None  # None: the events of a group stand in order
    label: str | None = None  # None: the column `label`, if there is one

    def needed(self) -> list[str]:
        """The columns that a file must have."""
        named = (self.group, self.event, self.time, self.label)
        return [column for column in named if column is not None]


class EventLog:
    """The events of one or several files, by group."""

    def __init__(self, columns: EventColumns):
        self.columns = columns
        self.label_column = columns.label or LABEL
        self._names: dict[Any, int] = {}  # number of each event name, by its spelling
        self._tokens: dict[str, int] = {}  # the same by its token
        self._spellings: dict[int, tuple[str, str]] = {}  # the first one of each, and its place
        self._respelled: dict[str, tuple[str, str]] = {}  # token: another spelling, and its place
        # Of each event.
        self._events, self._groups, self._times = array("I"), array("I"), EventTimes()
        # Of each group.
        self._numbers: dict[Any, int] = {}  # number of each group, by its value
        self._places: list[str] = []  # of the first event
        self._labels: list[tuple[Any, str]] = []  # (None, "") without one
        self._others: dict[str, list[Any]] = {}  # of columns that are constant in every group
        self._varying: dict[str, str] = {}  # other columns, and where a group has another value

    def read(self, path: Path, bad: BadRows) -> None:
        """Add the events of a file; `bad` collects those that cannot be used.

        Raises:
            UserError: the file cannot be read, lacks a column, or has two names that would become
                one token.
        """
        for record in read_records(path, path.name, bad, self.columns.needed(), [LABEL]):
            try:
                self.add(record)
            except RowError as error:
                bad.note(record.place, str(error))

    def __len__(self) -> int:
        return len(self._events)

    def add(self, record: Record) -> None:
        """Add an event.

        Raises:
            RowError: it cannot be used.
            UserError: as `read`.
        """
        values, place, columns = record.values, record.place, self.columns
        group_value = values.get(columns.group)
        if _is_blank(group_value):
            raise RowError(f"no value in {shown(columns.group)}")
        if type(group_value) not in (str, int):
            found = f"{shown(columns.group)} is {shown(group_value)}"
            raise RowError(f"{found}, neither a text nor a whole number")
        name = values.get(columns.event)
        event = self._names.get(name) if type(name) in (str, int) else None
        token = self._token(name) if event is None else ""
        time = 0.0
        if columns.time is not None:
            time = self._times.check(values.get(columns.time), place)
        label = self._label(values.get(self.label_column))
        group = self._numbers.get(group_value, len(self._numbers))
        if group < len(self._numbers) and label is not None:
            known, known_place = self._labels[group]
            if known is not None and known != label:
                raise RowError(
                    f"{shown(columns.group)} {shown(group_value)} has the label {shown(label)} "
                    f"here and {shown(known)} in {known_place}"
                )
        if event is None:
            event = self._number_of_name(name, token, place)

        if group == len(self._numbers):
            self._numbers[group_value] = group
            self._places.append(place)
            self._labels.append((None, ""))
            for column in self._others.values():
                column.append(_ABSENT)
            self._note_others(group, values, first=True)
        else:
            self._note_others(group, values, first=False)
        if label is not None and self._labels[group][0] is None:
            self._labels[group] = (label, place)
        self._events.append(event)
        self._groups.append(group)
        if columns.time is not None:
            self._times.add(time)

    def _label(self, value: Any) -> Any:
        if _is_blank(value):
            return None
        try:
            label_text(value)
        except ValueError as error:
            raise RowError(str(error)) from None
        return value

    def _token(self, name: Any) -> str:
        """The token of an event name."""
        if _is_blank(name):
            raise RowError(f"no event in {shown(self.columns.event)}")
        if type(name) not in (str, int):
            raise RowError(f"the event {shown(name)} is neither a text nor a whole number")
        token = "_".join(str(name).split())
        try:
            token.encode()
        except UnicodeEncodeError:
            raise RowError(f"the event {shown(name)} is not valid Unicode") from None
        if token in _SPECIAL or label_of_token(token) is not None:
            raise RowError(f"the event {shown(name)} has the name of a special token: rename it")
        if too_long(token):
            raise RowError(f"event {too_long(token)}")
        return token

    def _number_of_name(self, name: Any, token: str, place: str) -> int:
        """The number of a spelling that is met for the first time."""
        spelling = str(name)
        number = self._tokens.setdefault(token, len(self._tokens))
        first, first_place = self._spellings.setdefault(number, (spelling, place))
        if first.split() != spelling.split():
            raise UserError(
                f"{place}: the event {shown(spelling)} would become one with {shown(first)} of "
                f"{first_place}, {shown(token)}: rename one of them"
            )
        if first != spelling:
            self._respelled.setdefault(token, (spelling, place))
        self._names[name] = number
        return number

    def _note_others(self, group: int, values: dict[str, Any], first: bool) -> None:
        """Keep the values of the other columns, as long as they are the same within each group."""
        columns = self.columns
        named = (columns.group, columns.event, columns.time, self.label_column)
        others = self._others
        for column in values.keys() - others.keys() - self._varying.keys():
            if column not in named:
                others[column] = [_ABSENT] * len(self._numbers)
        for column in list(others):
            value = values.get(column, _ABSENT)
            if first:
                others[column][group] = value
            elif others[column][group] != value:
                self._varying[column] = self._places[group]
                del others[column]

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The place of a group's first event, and its row, in the order of the first events.

        A group without a label ends with <EOS>.

        Raises:
            UserError: a column that is kept has the name of a key that rows have.
        """
        columns = self.columns
        for column in (columns.group, *self._others):
            if column in ROW_KEYS:
                raise UserError(f"the column {shown(column)} has a name that rows need: rename it")
        groups_N = np.frombuffer(self._groups, np.uint32)
        keys = [groups_N] if columns.time is None else [self._times.array(), groups_N]
        order_N = np.lexsort(keys)  # events of one time stay in order
        events_N = np.frombuffer(self._events, np.uint32)[order_N]
        ends_G = np.cumsum(np.bincount(groups_N, minlength=len(self._numbers)))
        tokens, start = list(self._tokens), 0
        ends = zip(self._numbers.items(), ends_G.tolist(), strict=True)
        with progress_bar("rows of events", len(self._numbers), "row") as bar:
            for (value, group), end in ends:
                label = self._labels[group][0]
                words = [tokens[event] for event in events_N[start:end].tolist()]
                if label is None:
                    words.append(EOS)
                row = {columns.group: value, "tokens": " ".join(words)}
                if label is not None:
                    row["label"] = label
                for column, found in self._others.items():
                    if found[group] is not _ABSENT:
                        row[column] = found[group]
                yield self._places[group], row
                start = end
                bar.update()

    def notes(self) -> list[str]:
        """What a person should know of the reading, one line each."""
        columns, group = self.columns, shown(self.columns.group)
        order = "the order of the file"
        if columns.time is not None:
            order = f"the order of {shown(columns.time)}"
        notes = [
            f"{plural(len(self), 'event')} of {plural(len(self._tokens), 'kind')} in "
            f"{plural(len(self._numbers), 'row')}, one for each {group}, in {order}"
        ]
        changed = [
            (token, *self._spellings[number])
            for token, number in self._tokens.items()
            if self._spellings[number][0] != token
        ]
        if changed:
            token, spelling, place = changed[0]
            notes.append(
                f"whitespace in the names of {plural(len(changed), 'event')} left out or written "
                f"as _, the first: {shown(spelling)} of {place} is {shown(token)}"
            )
        if self._respelled:
            token, (spelling, place) = next(iter(self._respelled.items()))
            first, first_place = self._spellings[self._tokens[token]]
            notes.append(
                f"{plural(len(self._respelled), 'event')} spelled with different whitespace read "
                f"as one, the first: {shown(first)} of {first_place}, {shown(spelling)} of {place}"
            )
        if self._others:
            notes.append(f"kept with each row: {_listed(self._others)}")
        if self._varying:
            column, place = next(iter(self._varying.items()))
            notes.append(
                f"left out, since they differ within one {group}: {_listed(self._varying)} (the "
                f"first: {shown(column)} in that of {place})"
            )
        return notes

    def likely_label(self) -> str | None:
        """Where no row has a label, the column of fewest values, one for each row; None without."""
        if any(label is not None for label, _ in self._labels):
            return None
        counts = {
            column: len(set(map(str, values)))
            for column, values in self._others.items()
            if all(value is not _ABSENT and not _is_blank(value) for value in values)
        }
        likely = [column for column, count in counts.items() if 2 <= count <= _MOST_LIKELY_LABELS]
        return min(likely, key=counts.__getitem__, default=None)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _listed(columns: dict[str, Any]) -> str:
    names = ", ".join(shown(column)[1:-1] for column in list(columns)[:_NAMED])
    return names + (f" and {len(columns) - _NAMED:,} more" if len(columns) > _NAMED else "")
