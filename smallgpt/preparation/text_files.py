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

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from smallgpt.errors import UserError
from smallgpt.files.reading import shown, size_text
from smallgpt.files.writing import json_line
from smallgpt.preparation.records import BadRecordError, Item, _read, is_table, read_records
from smallgpt.rows.lines import MOST_LINE_BYTES
from smallgpt.tokens.labels import label_text

DOCUMENT_BORDER = "<|endoftext|>"
INSTRUCTION_KEYS = ("instruction", "input", "output")


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
