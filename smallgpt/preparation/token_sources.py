"""Where rows of tokens come from: JSONL files, tables with a column of tokens, logs of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.inputs.event_log import LABEL, EventColumns, EventLog
from smallgpt.inputs.records import read_records
from smallgpt.options.preparation import TokensSettings
from smallgpt.rows.bad_rows import BadRows
from smallgpt.rows.lines import read_json_lines
from smallgpt.rows.row import ROW_KEYS

# Yields the place and the content of each row, as often as it is called, and notes what cannot be
# read. The content is any JSON value.
TokenSource = Callable[[BadRows], Iterator[tuple[str, Any]]]


def token_source(settings: TokensSettings, files: Sequence[str], notes: list[str]) -> TokenSource:
    """The rows of some files; `notes` gets lines on how a log of events was read.

    Raises:
        UserError: a log cannot be read or has bad events that are not to be skipped; a table, and
            no column is named.
    """
    paths = [Path(path) for path in files]
    group, event, column = settings.group_column, settings.event_column, settings.tokens_column
    if group is not None and event is not None:  # one alone is a contradiction of the settings
        columns = EventColumns(group, event, settings.time_column, settings.label_column)
        log = _read_log(paths, columns, settings.on_bad_row, notes)
        return lambda bad: log.rows()
    if column is not None:
        return lambda bad: _table_rows(paths, column, settings.label_column, bad)
    for path in paths:
        if path.suffix.lower() in (".csv", ".tsv", ".parquet"):
            raise UserError(
                f"{path}: a table: --tokens_column names the column of its tokens; where each line "
                f"is one event, --group_column and --event_column (and --time_column)"
            )
    return lambda bad: _json_rows(paths, bad)


def _json_rows(paths: list[Path], bad: BadRows) -> Iterator[tuple[str, Any]]:
    for path in paths:
        for line, record, problem in read_json_lines(path):
            if problem is None:
                yield f"{path}:{line}", record
            else:
                bad.note(f"{path}:{line}", problem)


def _table_rows(
    paths: list[Path], column: str, named_label: str | None, bad: BadRows
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of tables, all other columns beside tokens and label under their own names."""
    label_column = named_label or LABEL
    needed = [column, *([named_label] if named_label else [])]
    for path in paths:
        for record in read_records(path, path.name, bad, needed, [LABEL]):
            values = dict(record.values)
            row = {"tokens": values.pop(column, None)}
            label = values.pop(label_column, None)
            if label is not None and label != "":
                row["label"] = label
            for name in ROW_KEYS:
                if name in values:
                    raise UserError(
                        f"{path}: the column {shown(name)} has a name that rows need: rename it"
                    )
            yield record.place, row | values


def _read_log(
    paths: list[Path], columns: EventColumns, on_bad_row: str, notes: list[str]
) -> EventLog:
    log, bad = EventLog(columns), BadRows("event")
    for path in paths:
        log.read(path, bad)
    if not len(log):
        if not bad.count:
            raise UserError(f"{', '.join(map(str, paths))}: no events in it")
        events = plural(bad.count, "event")
        raise UserError(f"not one of {events} can be used, the first: {bad.first[0]}")
    if on_bad_row == "error":
        bad.raise_if_any()
    notes += log.notes()
    if (column := log.likely_label()) is not None:
        notes.append(f"no labels: if {shown(column)} is the label, add --label_column {column}")
    if bad.count:
        notes.append(f"{plural(bad.count, 'bad event')} skipped, the first: {bad.first[0]}")
    return log
