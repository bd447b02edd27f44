"""Texts from the files that people have: plain text, JSONL, JSON, CSV, TSV, `datasets`.

    for text in read_texts(Path("reviews.tsv"), text_column="1", label_column="2"):
        text.text, text.label, text.place        # place: "reviews.tsv:17"
    for each in read_instructions(Path("alpaca.json")):
        each.instruction, each.input, each.output

What the `datasets` library reads (library_data.py) is read by it. Any other file whose name
ends in none of .jsonl, .json, .csv, .tsv is plain text: one document, or several with lines
`<|endoftext|>` between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from smallgpt.errors import UserError
from smallgpt.files.reading import shown, size_text
from smallgpt.files.writing import json_line
from smallgpt.preparation.examples import Instruction, Text
from smallgpt.preparation.records import (
    BadRecordError,
    Record,
    is_table,
    read_records,
    read_utf8,
)
from smallgpt.rows.lines import MOST_LINE_BYTES
from smallgpt.tokens.labels import label_text

DOCUMENT_BORDER = "<|endoftext|>"


def read_texts(
    path: Path, name: str | None = None, *, text_column: str, label_column: str | None
) -> Iterator[Text | BadRecordError]:
    """The texts of a file; in place of one that cannot be used, the reason.

    Args:
        path: the file.
        name: of the file in each `source`, from `source_names`; None = its own.
        text_column: key or column of the text; a number counts the columns of a CSV or TSV file
            without a heading, from 1. Plain text has none.
        label_column: the same of the label; None for texts without.

    Raises:
        UserError: the file cannot be read, or has no such column.
    """
    if not is_table(path):
        if label_column is not None:
            raise UserError(
                f"{path}: plain text has no --label_column; give JSONL, JSON, CSV, TSV or Parquet"
            )
        for number, document in enumerate(_documents(read_utf8(path)), 1):
            yield Text(document, None, f"{path}#{number}", f"{name or path.name}#{number}")
        return
    columns = [text_column] if label_column is None else [text_column, label_column]
    for record in read_records(path, columns, name=name):
        try:
            record.check()
            label = None if label_column is None else _label(record, label_column)
            text = _text(record, text_column)
            if label is not None:  # others are cut into rows
                _check_length(record.place, text)
            yield Text(text, label, record.place, record.source)
        except BadRecordError as error:
            yield error


def read_instructions(
    path: Path, name: str | None = None
) -> Iterator[Instruction | BadRecordError]:
    """Records of instruction, input and output (Alpaca form); in place of a bad one, the reason.

    Args:
        path, name: as of `read_texts`.

    Raises:
        UserError: the file cannot be read, or is of another form.
    """
    if not is_table(path):
        raise UserError(f"{path}: instructions come as JSON, JSONL, CSV, TSV or Parquet")
    for record in read_records(path, ["instruction", "output"], ["input"], name):
        try:
            record.check()
            texts = (
                _text(record, "instruction"),
                _text(record, "input", may_be_empty=True),
                _text(record, "output"),
            )
            _check_length(record.place, *texts)
            yield Instruction(*texts, record.place, record.source)
        except BadRecordError as error:
            yield error


def _label(record: Record, column: str) -> str:
    """A record's label as it is spelled there."""
    value = record.values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRecordError(f"{record.place}: no label in `{column}`")
    try:
        label_text(value)
    except ValueError as error:
        raise BadRecordError(f"{record.place}: `{column}`: {error}") from None
    return str(value)


def _text(record: Record, column: str, may_be_empty: bool = False) -> str:
    value = record.values.get(column)
    if value is None and may_be_empty:
        return ""
    if column not in record.values:
        there = ", ".join(shown(key)[1:-1] for key in list(record.values)[:10]) or "none"
        raise BadRecordError(f"{record.place}: no `{column}`; there is {there}")
    if not isinstance(value, str):
        raise BadRecordError(f"{record.place}: `{column}` must be a text, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRecordError(
            f"{record.place}: `{column}` has half of a surrogate pair: not valid Unicode"
        ) from None
    if not value.strip() and not may_be_empty:
        raise BadRecordError(f"{record.place}: `{column}` is empty")
    return value


def _check_length(place: str, *texts: str) -> None:
    """Refuse a record that would make a row too long to be read again."""
    most = MOST_LINE_BYTES // 2  # the rest is for its label, its source, the spaces of a variant
    if (
        6 * sum(map(len, texts)) > most
        and sum(len(json_line(text).encode()) for text in texts) > most
    ):
        raise BadRecordError(f"{place}: longer than {size_text(most)}, the most for a row of text")


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
