"""Records of JSONL, JSON, CSV and TSV files, and of the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from smallgpt.console import progress_bar
from smallgpt.errors import UserError
from smallgpt.files.reading import parse_json, read_bytes, shown
from smallgpt.inputs.encoding import MOST_BYTES, read_text_file, remedy
from smallgpt.inputs.library_data import is_library_data, open_records
from smallgpt.inputs.tables import Table, check_columns
from smallgpt.rows.bad_rows import BadRows
from smallgpt.rows.lines import read_json_lines

_LINES_A_STEP = 1000  # of the progress bar


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a file; `place` and `source` as in `examples.Text`."""

    place: str
    source: str
    values: dict[str, Any]


# (number of the line or record, values, why it cannot be used or None).
Found = Iterator[tuple[int, dict[str, Any], str | None]]


def is_table(path: Path) -> bool:
    """Whether a file holds records rather than plain text."""
    return path.suffix.lower() in (".jsonl", ".json", ".csv", ".tsv") or is_library_data(path)


def read_records(
    path: Path, name: str, bad: BadRows, columns: list[str], optional: Sequence[str] = ()
) -> Iterator[Record]:
    """The records of a JSONL, JSON, CSV or TSV file, or of a data set of the `datasets` library.

    `name` is the file's name in each `source`; `bad` collects unusable records. `columns` must be
    there (numbers count those of a CSV or TSV file without a heading), `optional` ones may.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    kind = "library" if is_library_data(path) else path.suffix.lower()
    if kind == "library":
        found = _library_records(path, columns, optional)
    elif kind in (".csv", ".tsv"):
        found = _table_rows(path, columns)
    else:
        found = _objects(path, columns)
    counted = ": record " if kind in ("library", ".json") else ":"
    for number, values, problem in found:
        if problem is None:
            yield Record(f"{path}{counted}{number}", f"{name}:{number}", values)
        else:
            bad.note(f"{path}{counted}{number}", problem)


def _library_records(path: Path, columns: list[str], optional: Sequence[str]) -> Found:
    names, records = open_records(path)
    check_columns(str(path), columns, names)
    for number, values in enumerate(records([*columns, *optional]), 1):
        yield number, values, None


def _objects(path: Path, columns: list[str]) -> Found:
    """The lines of a JSONL file, or the elements of the array in a JSON file."""
    one_a_line = path.suffix.lower() == ".jsonl"
    first, told = True, False
    for number, values, problem in read_json_lines(path) if one_a_line else _json_values(path):
        if first and one_a_line and _starts_an_array(path):
            raise UserError(f"{path}: one JSON array, not one object a line: rename it to .json")
        if problem is not None and problem.startswith("not UTF-8") and not told:
            with open(path, "rb") as handle:
                line = next(islice(handle, number - 1, None))
            problem, told = f"{problem}; {remedy(line, str(path))}", True
        if problem is None and not isinstance(values, dict):
            problem = f"expected an object, got {shown(values)}"
        if problem is None and first:
            check_columns(str(path), columns, list(values))
            first = False
        yield number, values, problem


def _starts_an_array(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(1000).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _json_values(path: Path) -> Iterator[tuple[int, Any, None]]:
    """The elements of a JSON array, numbered from 1."""
    text = read_text_file(path)
    try:
        values = parse_json(text)
    except ValueError as error:
        hint = ""
        if text.lstrip().startswith("{"):
            hint = "; if each line is an object of its own, rename it to .jsonl"
        raise UserError(f"{path}: {error}{hint}") from None
    if not isinstance(values, list):
        raise UserError(f"{path}: expected one JSON array of records; one object a line is .jsonl")
    for number, value in enumerate(values, 1):
        yield number, value, None


def _table_rows(path: Path, columns: list[str]) -> Found:
    """The rows of a CSV or TSV file."""
    table = Table.of(str(path), read_bytes(path, MOST_BYTES), columns)
    shown_line = 0
    with progress_bar(f"reading {path.name}", table.text.count("\n"), "line") as bar:
        for line, cells, problem in table.rows():
            if line - shown_line >= _LINES_A_STEP:
                bar.update(line - shown_line)
                shown_line = line
            yield line, dict(zip(table.names, cells, strict=True)), problem
