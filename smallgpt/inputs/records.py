"""Records of JSONL, JSON, CSV and TSV files, and of the `datasets` library."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallgpt.errors import UserError
from smallgpt.files.reading import parse_json, read_bytes, shown
from smallgpt.inputs.library_data import is_library_data, open_records
from smallgpt.rows.bad_rows import BadRows
from smallgpt.rows.lines import read_json_lines

MOST_BYTES = 2**32  # of a file that is read as a whole: all but JSONL


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


def read_utf8(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(path, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start + 1}); {_utf8_remedy(path)}"
        ) from None


def _utf8_remedy(path: Path) -> str:
    return f"convert it, for example: iconv -f GB18030 -t UTF-8 {path} > utf8{path.suffix}"


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
        found = _table_rows(path, columns, optional)
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
    _check_columns(path, columns, names)
    for number, values in enumerate(records([*columns, *optional]), 1):
        yield number, values, None


def _objects(path: Path, columns: list[str]) -> Found:
    """The lines of a JSONL file, or the elements of the array in a JSON file."""
    one_a_line = path.suffix.lower() == ".jsonl"
    first, remedy = True, f"; {_utf8_remedy(path)}"
    for number, values, problem in read_json_lines(path) if one_a_line else _json_values(path):
        if first and one_a_line and _starts_an_array(path):
            raise UserError(f"{path}: one JSON array, not one object a line: rename it to .json")
        if problem is not None and problem.startswith("not UTF-8"):
            problem, remedy = problem + remedy, ""  # once is enough
        if problem is None and not isinstance(values, dict):
            problem = f"expected an object, got {shown(values)}"
        if problem is None and first:
            _check_columns(path, columns, list(values))
            first = False
        yield number, values, problem


def _starts_an_array(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(1000).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _json_values(path: Path) -> Iterator[tuple[int, Any, None]]:
    """The elements of a JSON array, numbered from 1."""
    text = read_utf8(path)
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


def _table_rows(path: Path, columns: list[str], optional: Sequence[str]) -> Found:
    """The lines of a CSV file (fields may be quoted) or TSV file (quotes are text)."""
    csv.field_size_limit(2**31 - 1)
    text = io.StringIO(read_utf8(path), newline="")
    if path.suffix.lower() == ".tsv":
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(text, strict=True)
    by_number = all(column.isdecimal() for column in columns)
    names: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
                if by_number:
                    names = [str(number) for number in range(1, len(cells) + 1)]
                _check_columns(path, columns, names)
                _check_headings(f"{path}:{reader.line_num}", [*columns, *optional], names)
                if not by_number:
                    continue
            if len(cells) == len(names):
                yield reader.line_num, dict(zip(names, cells, strict=True)), None
            else:
                problem = f"{len(cells)} columns where the first line has {len(names)}"
                yield reader.line_num, {}, problem
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None


def _check_headings(place: str, columns: Sequence[str], names: Sequence[str]) -> None:
    """Refuse two columns of one name if that name is to be read."""
    for column in columns:
        numbers = [str(number) for number, name in enumerate(names, 1) if name == column]
        if len(numbers) > 1:
            raise UserError(
                f"{place}: the heading {shown(column)} stands over the columns "
                f"{' and '.join(numbers)}: rename all but one"
            )


def _check_columns(path: Path, columns: list[str], names: list[str]) -> None:
    missing = [column for column in columns if column not in names]
    if not missing:
        return
    shown_names = ", ".join(shown(name)[1:-1] for name in names[:10]) or "none"
    remedy = ""
    separator = {".csv": ("a comma", ";\t|"), ".tsv": ("a tab", ",;|")}.get(path.suffix.lower())
    if separator and len(names) == 1 and any(letter in names[0] for letter in separator[1]):
        remedy = f"; {separator[0]} must part the columns of a {path.suffix} file"
    elif path.suffix.lower() in (".csv", ".tsv") and not missing[0].isdecimal():
        remedy = "; where the first line is no heading, count columns: 1, 2, ..."
    raise UserError(f"{path}: no column {shown(missing[0])}; there is {shown_names}{remedy}")
