"""Texts from the files that people have: plain text, JSONL, JSON, CSV, TSV, `datasets`.

    for item in read_texts(Path("reviews.tsv"), text_column="1", label_column="2"):
        item.text, item.label, item.place        # place: "reviews.tsv:17"
    for item in read_instructions(Path("alpaca.json")):
        item.record                              # {"instruction": ..., "input": ..., "output": ...}

What the `datasets` library reads (`datasets_reader.py`) is read by it. Any other file whose name
ends in none of .jsonl, .json, .csv, .tsv is plain text: one document, or several with lines
`<|endoftext|>` between them.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console import UserError
from datasets_reader import is_library_data, open_records
from input_files import parse_json, read_bytes, shown, size_text
from rows import MOST_LINE_BYTES, read_json_lines
from run_folder import json_line
from vocabulary import label_text

# Of a file that is held in memory as a whole: all but JSONL.
MOST_BYTES = 2**32
DOCUMENT_BORDER = "<|endoftext|>"
INSTRUCTION_KEYS = ("instruction", "input", "output")


@dataclass(frozen=True, slots=True)
class Item:
    """A record of a file.

    Attributes:
        place: file and line for a message, `data/reviews.tsv:17`.
        source: the same for the row's `meta`, by the name of the file in `source_names`.
        record: its values by key or column.
        problem: why it is none; the record is then empty.
    """

    place: str
    source: str
    record: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A text, its label, and where it stands.

    Attributes:
        text: never empty.
        label: as it is spelled; None where no label column was asked for.
        place, source: of `Item`.
    """

    text: str
    label: str | None
    place: str
    source: str


class BadRecordError(Exception):
    """A record that cannot be used; the text is `place: reason`."""


def source_names(paths: Sequence[Path]) -> dict[Path, str]:
    """What each of several files is called in the `source` of its rows: no two alike.

    That is its name, with as many of its folders as tell it from the others: `a/data.csv` and
    `b/data.csv` beside `more.csv`.
    """
    names: dict[Path, str] = {}
    waiting, length = set(paths), 1
    while waiting:
        ends = Counter(path.parts[-length:] for path in waiting)
        alone = {path for path in waiting if ends[path.parts[-length:]] == 1}
        names |= {path: str(Path(*path.parts[-length:])) for path in alone}
        waiting -= alone
        length += 1
    return names


def read_texts(
    path: Path, text_column: str, label_column: str | None, name: str | None = None
) -> Iterator[Text | BadRecordError]:
    """The texts of a file; in place of one that cannot be used, the reason.

    Args:
        path: the file.
        text_column: key or column of the text; a number counts the columns of a CSV or TSV file
            without a heading, from 1. Plain text has none.
        label_column: the same of the label; None for texts without.
        name: of the file in each `source`, from `source_names`; None = its own.

    Raises:
        UserError: the file cannot be read, or has no such column.
    """
    if not is_table(path):
        if label_column is not None:
            raise UserError(
                f"{path}: plain text has no --label_column; give JSONL, JSON, CSV, TSV or Parquet"
            )
        for number, document in enumerate(_documents(_read(path)), 1):
            yield Text(document, None, f"{path}#{number}", f"{name or path.name}#{number}")
        return
    columns = [text_column] if label_column is None else [text_column, label_column]
    for item in read_records(path, columns, name=name):
        try:
            if item.problem is not None:
                raise BadRecordError(f"{item.place}: {item.problem}")
            label = None if label_column is None else _label(item, label_column)
            text = _text(item, text_column)
            if label is not None:  # others are cut into rows
                _check_length(item.place, text)
            yield Text(text, label, item.place, item.source)
        except BadRecordError as error:
            yield error


def read_instructions(path: Path, name: str | None = None) -> Iterator[Item | BadRecordError]:
    """Records of instruction, input and output (Alpaca form), each value a text.

    Args:
        path, name: as of `read_texts`.

    Raises:
        UserError: the file cannot be read, or is of another form.
    """
    if not is_table(path):
        raise UserError(f"{path}: instructions come as JSON, JSONL, CSV, TSV or Parquet")
    for item in read_records(path, ["instruction", "output"], ["input"], name):
        try:
            if item.problem is not None:
                raise BadRecordError(f"{item.place}: {item.problem}")
            texts = [_text(item, key, may_be_empty=key == "input") for key in INSTRUCTION_KEYS]
            _check_length(item.place, *texts)
            yield item
        except BadRecordError as error:
            yield error


def is_table(path: Path) -> bool:
    """Whether a file holds records rather than plain text."""
    return path.suffix.lower() in (".jsonl", ".json", ".csv", ".tsv") or is_library_data(path)


def _label(item: Item, column: str) -> str:
    """A record's label as it is spelled there."""
    value = item.record.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRecordError(f"{item.place}: no label in `{column}`")
    try:
        label_text(value)
    except ValueError as error:
        raise BadRecordError(f"{item.place}: `{column}`: {error}") from None
    return str(value)


def _text(item: Item, column: str, may_be_empty: bool = False) -> str:
    value = item.record.get(column)
    if value is None and may_be_empty:
        return ""
    if column not in item.record:
        there = ", ".join(shown(key)[1:-1] for key in list(item.record)[:10]) or "none"
        raise BadRecordError(f"{item.place}: no `{column}`; there is {there}")
    if not isinstance(value, str):
        raise BadRecordError(f"{item.place}: `{column}` must be a text, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRecordError(
            f"{item.place}: `{column}` has half of a surrogate pair: not valid Unicode"
        ) from None
    if not value.strip() and not may_be_empty:
        raise BadRecordError(f"{item.place}: `{column}` is empty")
    return value


def _check_length(place: str, *texts: str) -> None:
    """Refuse a record that would make a row too long to be read again."""
    most = MOST_LINE_BYTES // 2  # the rest is for its label, its source, the spaces of a variant
    if (
        6 * sum(map(len, texts)) > most
        and sum(len(json_line(text).encode()) for text in texts) > most
    ):
        raise BadRecordError(f"{place}: longer than {size_text(most)}, the most for a row of text")


def _read(path: Path) -> str:
    """The content of a file, which must be UTF-8.

    Raises:
        UserError: it is not, or cannot be read.
    """
    try:
        return read_bytes(path, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start + 1}); {utf8_remedy(path)}"
        ) from None


def utf8_remedy(path: Path | str) -> str:
    """What to do about a file in another encoding."""
    return f"convert it, for example: iconv -f GB18030 -t UTF-8 {path} > utf8{Path(path).suffix}"


def _documents(text: str) -> list[str]:
    """The documents of a plain text, without those of whitespace alone."""
    text = text.replace("\r\n", "\n")
    documents, lines = [], []
    for line in text.splitlines(keepends=True):
        if line.strip() == DOCUMENT_BORDER:
            documents.append("".join(lines))
            lines = []
        else:
            lines.append(line)
    documents.append("".join(lines))
    return [document for document in documents if document.strip()]


# ------------------------------------------------------------------------------- records


def read_records(
    path: Path, columns: list[str], optional: Sequence[str] = (), name: str | None = None
) -> Iterator[Item]:
    """The records of a JSONL, JSON, CSV or TSV file, or of a data set of the `datasets` library.

    Args:
        path: the file.
        columns: that must be there; numbers name those of a CSV or TSV file without a heading.
        optional: other columns that are read where they are there.
        name: as of `read_texts`.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    name = name or path.name
    if is_library_data(path):
        names, records = open_records(path)
        _check_columns(path, columns, names)
        for number, record in enumerate(records([*columns, *optional]), 1):
            yield Item(f"{path}: record {number}", f"{name}:{number}", record)
        return
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        yield from _table_rows(path, columns, optional, name)
        return
    values = _json_values(path) if kind == ".json" else read_json_lines(path)
    first, told = True, False
    for line, record, problem in values:
        if first and kind == ".jsonl" and _starts_an_array(path):
            raise UserError(f"{path}: one JSON array, not one object a line: rename it to .json")
        if problem is not None and problem.startswith("not UTF-8") and not told:
            problem, told = f"{problem}; {utf8_remedy(path)}", True
        if problem is None and not isinstance(record, dict):
            record, problem = {}, f"expected an object, got {shown(record)}"
        if problem is None and first:
            _check_columns(path, columns, list(record))
            first = False
        place = f"{path}:{line}" if kind == ".jsonl" else f"{path}: record {line}"
        yield Item(place, f"{name}:{line}", record if problem is None else {}, problem)


def _starts_an_array(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(1000).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _json_values(path: Path) -> Iterator[tuple[int, Any, None]]:
    """The elements of a JSON array, numbered from 1."""
    text = _read(path)
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


def _table_rows(
    path: Path, columns: list[str], optional: Sequence[str], name: str
) -> Iterator[Item]:
    """The lines of a CSV file (fields may be quoted) or TSV file (quotes are text)."""
    csv.field_size_limit(2**31 - 1)
    text = io.StringIO(_read(path), newline="")
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
            problem = None
            if len(cells) != len(names):
                problem = f"{len(cells)} columns where the first line has {len(names)}"
            record = {} if problem else dict(zip(names, cells, strict=True))
            line = reader.line_num
            yield Item(f"{path}:{line}", f"{name}:{line}", record, problem)
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None


def _check_headings(place: str, columns: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a column that is to be read and stands twice; others may be called as they like.

    Raises:
        UserError: such a column.
    """
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
