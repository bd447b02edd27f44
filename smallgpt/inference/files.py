"""The rows that a model is used on: reading them, and messages about unusable ones."""

from __future__ import annotations

import io
import os
import sys
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

from smallgpt.console import plural, printable
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.evaluation.abstention import is_unusable
from smallgpt.files.reading import open_input, read_bytes, size_text
from smallgpt.inference.columns import (
    USUAL_COLUMNS,
    Columns,
    open_table,
    refuse_needless_pairs,
    renamed,
    table_records,
)
from smallgpt.inference.unknown_tokens import UNK_REMEDY
from smallgpt.inputs.encoding import MOST_BYTES
from smallgpt.inputs.tables import MissingColumnError, Table
from smallgpt.options.inference import STANDARD_INPUT
from smallgpt.rows.bad_rows import could_be_unk
from smallgpt.rows.codebook_of_rows import KnownCodebook
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.lines import json_lines_of, read_json_lines
from smallgpt.rows.reading import Found, read_found

STDIN = "stdin"  # how standard input is named
_CHUNK = 2**20
_TABLES = (".csv", ".tsv")  # names of what is always read as a table
_DOCUMENTS = (".md", ".markdown")  # whose tables are no data: their second line is a rule
_TAKES = "--test_data takes rows: JSONL, an object a line, or a table (CSV, TSV)"
_MOST_REASONS = 5  # why rows could not be used


@dataclass(frozen=True)
class GivenRows:
    """Rows that a model is used on, checked, and where they came from.

    Bad rows are kept in the dataset with their reason, and so are the records as they were found.
    """

    dataset: TokenLabelDataset
    source: str  # names the rows in messages and in metrics.json
    form: str = "jsonl"  # or "csv": of the predictions, unless another is asked for
    table: Table | None = None  # whose rows they are
    log: Table | None = None  # the form of the table of events that they were made of


def read_rows(
    trained: TrainedModel,
    path: str | Path,
    for_label: bool = False,
    columns: Columns = USUAL_COLUMNS,
) -> GivenRows:
    """Read JSONL or a table, of a file or, as `-`, of standard input, checked as in training.

    A file named .csv or .tsv is a table; so is any other content, unless it is named .jsonl, that
    begins with neither `{` nor `[`.

    Args:
        for_label: the rows are only to be classified.
        columns: which columns or keys hold the rows.

    Raises:
        UserError: it cannot be read, has no row at all, lacks a column, or is a document.
    """
    refuse_needless_pairs(trained, columns)
    source, path = str(path), Path(path)
    content = None
    if source == STANDARD_INPUT:
        source, content = STDIN, _standard_input()
    suffix = path.suffix.lower()
    if suffix in _DOCUMENTS:
        raise UserError(f"{source}: a document; {_TAKES}")
    if suffix in _TABLES or (suffix != ".jsonl" and not _is_json(path, content)):
        if content is None:
            content = read_bytes(path, MOST_BYTES)
        try:
            table = open_table(trained, source, content, columns)
        except MissingColumnError as error:
            if suffix in _TABLES or columns != USUAL_COLUMNS:
                raise
            # Perhaps it is no table at all, but a text.
            problem = str(error).removeprefix(f"{source}: ")
            raise UserError(f"{source}: {_TAKES}; read as a table it has {problem}") from None
        found = table_records(trained, table, columns)
        return replace(given_rows(trained, found, source, for_label), form="csv", table=table)
    if content is None:
        lines = read_json_lines(path)
    else:
        lines = json_lines_of(io.BytesIO(content), source, len(content))
    return given_rows(trained, renamed(lines, columns), source, for_label)


def _standard_input() -> bytes:
    """All of standard input; a person at the keyboard is told how to end it."""
    if sys.stdin.isatty():
        print("reading rows from the keyboard until Ctrl-D", file=sys.stderr)
    parts, size = [], 0
    while size <= MOST_BYTES and (part := sys.stdin.buffer.read(_CHUNK)):
        parts.append(part)
        size += len(part)
    if size > MOST_BYTES:
        raise UserError(f"{STDIN}: larger than {size_text(MOST_BYTES)}, which is the most read")
    return b"".join(parts)


def _is_json(path: Path, content: bytes | None) -> bool:
    """Whether a file, or the content that was read already, begins as JSON or has nothing."""
    if content is None:
        with open_input(path) as handle:
            content = handle.read(1000)
    start = content[:1000].removeprefix(BOM_UTF8).lstrip()
    return not start or start[:1] in b"{["


def given_rows(
    trained: TrainedModel,
    found: Iterable[Found],
    source: str,
    for_label: bool = False,
    made_here: bool = False,
) -> GivenRows:
    """The rows of what a reader found, checked as in training.

    `made_here`: rows of images, made with the model's own codebook.
    """
    if trained.is_pretrained and not trained.vocabulary.labels:
        found = _without_labels(found, source)
    dataset = read_found(
        found,
        source,
        trained.vocabulary,
        max_length=trained.max_length,
        on_bad_row="keep",
        unknown_token=trained.settings.unknown_token,
        keep_records=True,
        for_label=for_label,
        codebook=None if made_here else KnownCodebook.at(trained.codebook),
        # A text given to a pretrained model may be a part of one: it is not closed.
        open_text=bool(trained.vocabulary.labels) or trained.is_pretrained,
    )
    if 2 * dataset.counts.unknown_tokens > dataset.lengths_N.sum():
        print(
            f"!!! {source}: more than half of the tokens are unknown to the model: is it the one "
            f"for these rows?",
            file=sys.stderr,
        )
    return GivenRows(dataset, source)


def _without_labels(found: Iterable[Found], source: str) -> Iterator[Found]:
    """The rows without their labels, for a model that knows no labels at all; tells how many."""
    count = 0
    for line, record, problem in found:
        if isinstance(record, dict) and record.get("label") is not None:
            count += 1
            record = {key: value for key, value in record.items() if key != "label"}
        yield line, record, problem
    if count:
        print(
            f"{printable(source)}: {plural(count, 'label')} left out: the model names none",
            file=sys.stderr,
        )


def refuse_unusable(
    trained: TrainedModel, rows: GivenRows, verb: str, has_unknown_token: bool = True
) -> NoReturn:
    """Raise UserError, with the first reason, where no row is usable.

    Args:
        verb: "scored".
        has_unknown_token: the command has the option --unknown_token.
    """
    bad = rows.dataset.bad_rows
    remedy = _remedy(trained, [each.reason for each in bad]) if has_unknown_token else ""
    if all("not valid JSON" in each.reason for each in bad):
        remedy = "rows come as JSONL, one object a line, or as a table (.csv, .tsv)"
    raise UserError(
        f"{rows.source}:{bad[0].line}: {bad[0].reason}\n"
        f"not one of {plural(len(bad), 'row')} can be {verb}{f': {remedy}' if remedy else ''}"
    )


def say_bad_rows(
    trained: TrainedModel, predictions: list[dict[str, Any]], verb: str, stream: TextIO
) -> bool:
    """Print how many rows could not be used and the most frequent reasons; returns whether any.

    `verb`: "scored".
    """
    first_line: dict[str, int] = {}
    unusable = [row for row in predictions if is_unusable(row)]
    counts = Counter(row["reason"] for row in unusable)
    if not counts:
        return False
    for row in unusable:
        first_line.setdefault(row["reason"], row["line"])
    lines = [
        f"!!! {counts.total():,} of {plural(len(predictions), 'row')} could not be {verb}; "
        f"the predictions have them with the reason:"
    ]
    for reason, count in counts.most_common(_MOST_REASONS):
        where = f"line {first_line[reason]}"
        if count > 1:
            where = f"{plural(count, 'row')}, the first in {where}"
        lines.append(f"!!!   {printable(reason)} ({where})")
    if len(counts) > _MOST_REASONS:
        lines.append(f"!!!   and {plural(len(counts) - _MOST_REASONS, 'other reason')}")
    remedy = _remedy(trained, counts)
    lines += [f"!!! {remedy}"] if remedy else []
    print("\n".join(lines), end="\n\n", file=stream)
    return True


def _remedy(trained: TrainedModel, reasons: Iterable[str]) -> str:
    """What to do about rows that could not be used, "" where nothing helps them all alike."""
    helps = any(map(could_be_unk, reasons))
    return UNK_REMEDY if helps and trained.vocabulary.unk_id is not None else ""


def beside(folder: Path, name: str) -> Path:
    """The sibling `name` of `folder`, also where that is `.` or `..`."""
    if folder.name in ("", ".."):
        folder = Path(os.path.abspath(folder))
    return folder.parent / name
