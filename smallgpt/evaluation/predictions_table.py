"""predictions.csv: the user's own table, with what a model said of each row in columns beside.

text, notes = predictions_table(predictions, vocabulary.label_names, table)
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smallgpt.files.reading import shown
from smallgpt.files.writing import atomic_write
from smallgpt.inputs.tables import Table

_MOST_LABELS = 20  # of more labels there is no column of probabilities

Cells = Callable[[dict[str, Any]], str]  # the cell of a column, from an object of predictions.jsonl


def predictions_table(
    predictions: Collection[dict[str, Any]],
    labels: Sequence[str],
    table: Table | None,
    log: Table | None = None,
) -> tuple[Iterator[str], list[str]]:
    """The lines of predictions.csv, and what a user should know of its columns.

    Args:
        predictions: the objects of predictions.jsonl.
        labels: all labels of the model.
        table: whose rows they are: its cells and its form stay. None: the keys of the rows become
            columns, values that are no text as JSON.
        log: the table whose form they get where they are rows of no table.
    """
    added = _added_columns(predictions, labels)
    if table is None:
        own = _columns_of_keys(predictions)
        names, rows = [*own], ([cell(row) for cell in own.values()] for row in predictions)
    else:
        names, rows = table.names, (cells for _, cells, _ in table.rows())
    headings, notes = _distinct(names, list(added))
    own_headings = table.headings if table is not None and table.headings else names
    lines = (
        [*cells, *(cell(row) for cell in added.values())]
        for cells, row in zip(rows, predictions, strict=True)
    )
    return _written([[*own_headings, *headings]], lines, table or log), notes


def write_predictions_table(path: Path, lines: Iterable[str]) -> None:
    """Write predictions.csv atomically."""
    with atomic_write(path) as handle:
        handle.writelines(lines)


def _added_columns(
    predictions: Collection[dict[str, Any]], labels: Sequence[str]
) -> dict[str, Cells]:
    """The columns of what the model said, those that no row has left out."""
    keys = {key for row in predictions for key in row}
    columns: dict[str, Cells] = {}
    if labels:
        columns["prediction"] = lambda row: row["prediction"] or ""
        columns["confidence"] = lambda row: _number(row.get("confidence"))
        for label in labels if len(labels) <= _MOST_LABELS else ():
            columns[f"probability {label}"] = _probability_of(label)
    if "answer" in keys:
        columns["answer"] = lambda row: row.get("answer") or ""
    if "nll_sum" in keys:
        columns["nll_per_token"] = lambda row: _number(
            row["nll_sum"] / row["token_count"] if row.get("token_count") else None
        )
    if "reason" in keys:
        columns["reason"] = lambda row: row.get("reason", "")
    return columns


def _columns_of_keys(predictions: Collection[dict[str, Any]]) -> dict[str, Cells]:
    """The line of each row, its own keys in the order in which they come up, and its label."""
    keys = dict.fromkeys(key for row in predictions for key in row["row"])
    columns: dict[str, Cells] = {} if "line" in keys else {"line": lambda row: str(row["line"])}
    for key in keys:
        columns[key] = _value_of(key)
    if any(row["label"] is not None for row in predictions):
        columns["label"] = lambda row: row["label"] or ""
    return columns


def _probability_of(label: str) -> Cells:
    return lambda row: _number(row.get("probabilities", {}).get(label))


def _value_of(key: str) -> Cells:
    return lambda row: _cell(row["row"].get(key))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _cell(value: Any) -> str:
    """A value as text; what is neither text nor missing as JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()  # half of a surrogate pair is no UTF-8


def _distinct(own: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """`names`, with a number where a user's column is called so, and lines that say it."""
    headings, notes = [], []
    for name in names:
        heading, number = name, 2
        while heading in own or heading in headings:
            heading, number = f"{name}_{number}", number + 1
        if heading != name:
            notes.append(
                f"predictions.csv: {shown(heading)} is the model's, {shown(name)} the table's own"
            )
        headings.append(heading)
    return headings, notes


def _written(
    headings: Iterable[list[str]], rows: Iterable[list[str]], table: Table | None
) -> Iterator[str]:
    """The text of rows in the form of a table, a piece for each; of no table with commas."""
    delimiter, line_end = (",", "\n") if table is None else (table.delimiter, table.line_end)
    if table is not None and table.marked:
        yield "\ufeff"
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=line_end)
    for some in (headings, rows):
        for cells in some:
            if table is not None and not table.quoted:  # quotes are text: none may be added
                yield delimiter.join(" ".join(cell.splitlines()) for cell in cells) + line_end
                continue
            writer.writerow(cells)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
