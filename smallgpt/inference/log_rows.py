"""Logs of events that a model is used on: one row a group, as preparation makes them.

rows = read_given(trained, "march.csv", EventColumns("session", "event", "at"), for_label=True)
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from smallgpt.console import plural, printable_lines
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.files.reading import read_bytes, shown
from smallgpt.inference.columns import Columns
from smallgpt.inference.files import GivenRows, RowForm, RowSource, of_lines, open_rows, read_source
from smallgpt.inputs.encoding import MOST_BYTES
from smallgpt.inputs.event_log import LABEL, EventColumns, EventLog
from smallgpt.inputs.records import read_records
from smallgpt.inputs.tables import Table
from smallgpt.rows.bad_rows import MOST_BAD_ROWS, BadRows, RowError
from smallgpt.rows.reading import Found


def read_given(
    trained: TrainedModel,
    path: str | Path,
    columns: Columns | EventColumns,
    for_label: bool = False,
) -> GivenRows:
    """The rows of a file: of a log with `EventColumns`, else of JSONL or a table.

    Raises:
        UserError: as `open_given`, or it has no row at all.
    """
    return read_source(trained, open_given(trained, path, columns), for_label)


def open_given(
    trained: TrainedModel, path: str | Path, columns: Columns | EventColumns
) -> RowSource:
    """The rows of a file, to be read: of a log with `EventColumns`, else of JSONL or a table.

    Raises:
        UserError: as `open_rows` and `open_log`.
    """
    if isinstance(columns, EventColumns):
        return open_log(trained, path, columns)
    return open_rows(trained, path, columns)


def open_log(trained: TrainedModel, path: str | Path, columns: EventColumns) -> RowSource:
    """A table of events, to be read as rows.

    A row is named by the line of its first event. A group with an event that cannot be used is a
    row that cannot be used; so is an event that tells no group. How the log was read is printed on
    standard error.

    Raises:
        UserError: it cannot be read, lacks a column, has no events or too many unusable ones.
    """
    path = Path(path)
    if trained.vocabulary.tokenizer is not None:
        raise UserError(f"{trained.name} is a model of texts: it reads no log of events")
    log, unreadable = EventLog(columns), BadRows("event", MOST_BAD_ROWS)
    spoiled: dict[Any, tuple[str, str]] = {}  # of each group the first unusable event
    for record in read_records(path, path.name, unreadable, columns.needed(), [LABEL]):
        try:
            log.add(record)
        except RowError as error:
            group = record.values.get(columns.group)
            if type(group) in (str, int) and str(group).strip():
                spoiled.setdefault(group, (record.place, str(error)))
            else:
                unreadable.note(record.place, str(error))
    if unreadable.count > MOST_BAD_ROWS:
        raise UserError(
            f"{unreadable.first[0]}\n{plural(unreadable.count, 'event')} like this: is this a log?"
        )
    if not len(log) and not spoiled and not unreadable.count:
        raise UserError(f"{path}: no events in it")
    found: list[Found] = []
    for place, row in log.rows():
        line, bad = _line(place), spoiled.pop(row[columns.group], None)
        if bad is None:
            found.append((line, row, None))
        else:
            found.append((min(line, _line(bad[0])), row, _reason(*bad)))
    for group, bad in spoiled.items():  # those without a usable event
        found.append((_line(bad[0]), {columns.group: group}, _reason(*bad)))
    for place, reason in zip(unreadable.places, unreadable.reasons, strict=True):
        found.append((_line(place), {}, f"an event of no known {shown(columns.group)}: {reason}"))
    for note in log.notes() if len(log) else ():
        print(printable_lines(f"{path}: {note}"), file=sys.stderr)
    found.sort(key=lambda each: each[0])
    form = RowForm()
    if path.suffix.lower() in (".csv", ".tsv"):
        table = Table.of(str(path), read_bytes(path, MOST_BYTES), columns.needed())
        form = RowForm("csv", log=replace(table, text=""))
    return RowSource(str(path), lambda only: of_lines(found, only), form)


def _line(place: str) -> int:
    """The number of a line or record, with which its place ends."""
    return int(re.findall(r"\d+$", place)[0])


def _reason(place: str, reason: str) -> str:
    return f"the event in line {_line(place)}: {reason}"
