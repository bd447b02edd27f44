"""Texts and instructions of plain text, JSONL, JSON, CSV and TSV files, and of `datasets`.

    bad = BadRows("record")
    path = Path("data/reviews.tsv")
    for text in read_texts(path, "reviews.tsv", bad, text_column="1", label_column="2"):
        text.text, text.label, text.place        # place: "data/reviews.tsv:17"

A file that is neither .jsonl, .json, .csv or .tsv nor for `datasets` (library_data.py) is plain
text: one document, or several with lines `<|endoftext|>` between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smallgpt.errors import UserError
from smallgpt.files.reading import shown, size_text
from smallgpt.files.writing import json_line
from smallgpt.inputs.encoding import read_text_file
from smallgpt.inputs.records import is_table, read_records
from smallgpt.preparation.examples import Instruction, Text
from smallgpt.rows.bad_rows import BadRows, RowError
from smallgpt.rows.lines import MOST_LINE_BYTES
from smallgpt.rows.row import ROW_KEYS
from smallgpt.tokens.labels import label_text
from smallgpt.tokens.text_tokenizer import SEP, pair_text

DOCUMENT_BORDER = "<|endoftext|>"
_NAMES_OF_ROWS = {*ROW_KEYS, "text", "instruction", "meta"}


def read_texts(
    path: Path,
    name: str,
    bad: BadRows,
    *,
    text_column: str,
    pair_column: str | None = None,
    label_column: str | None,
    left_out: set[str],
) -> Iterator[Text]:
    """The usable texts of a file; `bad` collects the other records.

    Args:
        name: of the file in each `source`, from `source_names`.
        text_column: key or heading; a number counts the columns of a CSV or TSV file without a
            heading, from 1. Ignored for plain text.
        pair_column: likewise, of a second text, put behind the first; None for single texts.
        label_column: likewise; None for texts without labels.
        left_out: gets the other columns that cannot stay, because rows need their names.

    Raises:
        UserError: the file cannot be read, or has no such column.
    """
    if not is_table(path):
        if label_column is not None:
            raise UserError(
                f"{path}: plain text has no --label_column; give JSONL, JSON, CSV, TSV or Parquet"
            )
        for number, document in enumerate(_documents(read_text_file(path)), 1):
            yield Text(document, None, f"{path}#{number}", f"{name}#{number}")
        return
    texts = [text_column] if pair_column is None else [text_column, pair_column]
    columns = texts if label_column is None else [*texts, label_column]
    for record in read_records(path, name, bad, columns):
        try:
            label = None if label_column is None else _label(record.values, label_column)
            text = _text(record.values, text_column)
            if pair_column is not None:
                text = _pair(text, _text(record.values, pair_column))
            others = {key: value for key, value in record.values.items() if key not in columns}
            left_out |= others.keys() & _NAMES_OF_ROWS
            others = {key: value for key, value in others.items() if key not in _NAMES_OF_ROWS}
            # Texts without labels are cut into rows, each with all the other columns.
            _check_length(text if label is not None else "", json_line(others) if others else "")
            yield Text(text, label, record.place, record.source, others)
        except RowError as error:
            bad.note(record.place, str(error))


def read_instructions(path: Path, name: str, bad: BadRows) -> Iterator[Instruction]:
    """The usable records of instruction, input and output (Alpaca format); else as `read_texts`."""
    if not is_table(path):
        raise UserError(f"{path}: instructions come as JSON, JSONL, CSV, TSV or Parquet")
    for record in read_records(path, name, bad, ["instruction", "output"], ["input"]):
        try:
            texts = (
                _text(record.values, "instruction"),
                _text(record.values, "input", may_be_empty=True),
                _text(record.values, "output"),
            )
            _check_length(*texts)
            yield Instruction(*texts, record.place, record.source)
        except RowError as error:
            bad.note(record.place, str(error))


def _label(values: dict[str, Any], column: str) -> str:
    value = values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise RowError(f"no label in `{column}`")
    try:
        label_text(value)
    except ValueError as error:
        raise RowError(f"`{column}`: {error}") from None
    return str(value)


def _text(values: dict[str, Any], column: str, may_be_empty: bool = False) -> str:
    value = values.get(column)
    if value is None and may_be_empty:
        return ""
    if column not in values:
        there = ", ".join(shown(key)[1:-1] for key in list(values)[:10]) or "none"
        raise RowError(f"no `{column}`; there is {there}")
    if not isinstance(value, str):
        raise RowError(f"`{column}` must be a text, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f"`{column}` has half of a surrogate pair: not valid Unicode") from None
    if not value.strip() and not may_be_empty:
        raise RowError(f"`{column}` is empty")
    return value


def _pair(first: str, second: str) -> str:
    """Two texts as one that a tokenizer of pairs reads."""
    if SEP in first or SEP in second:
        raise RowError(f"a text holds {SEP}, which parts the two texts of a pair")
    return pair_text(first, second)


def _check_length(*texts: str) -> None:
    """Refuse a record whose row would be too long to be read."""
    most = MOST_LINE_BYTES // 2  # leaves room for label, source, and the spaces of a variant
    if (
        6 * sum(map(len, texts)) > most
        and sum(len(json_line(text).encode()) for text in texts) > most
    ):
        raise RowError(f"longer than {size_text(most)}, the most for a row of text")


def _documents(text: str) -> list[str]:
    """The documents of a plain text that are not blank."""
    text = text.replace("\r\n", "\n")
    documents: list[str] = []
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.strip() == DOCUMENT_BORDER:
            documents.append("".join(lines))
            lines = []
        else:
            lines.append(line)
    documents.append("".join(lines))
    return [document for document in documents if document.strip()]
