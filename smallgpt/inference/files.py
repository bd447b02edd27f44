"""The rows that a model is used on: reading them, and messages about unusable ones."""

from __future__ import annotations

import io
import os
import sys
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

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


class RowForm(NamedTuple):
    """The form of rows, which that of their predictions follows."""

    name: str = "jsonl"  # or "csv"
    table: Table | None = None  # whose rows they are
    log: Table | None = None  # the form of the table of events that they were made of

    def asked(self, output_format: str | None) -> RowForm:
        """The form of predictions where `output_format` was asked for; None: that of the rows."""
        return self._replace(name=output_format or self.name)


@dataclass(frozen=True)
class RowSource:
    """Where rows come from: they can be found as often as needed, in the order of their lines.

    `found` takes the lines that are asked for, None: all.
    """

    name: str  # names them in messages and in metrics.json
    found: Callable[[Container[int] | None], Iterable[Found]]
    form: RowForm = field(default_factory=RowForm)


@dataclass(frozen=True)
class GivenRows:
    """Rows that a model is used on, checked, and where they came from.

    Bad rows are kept in the dataset with their reason, and so are the records as they were found.
    """

    dataset: TokenLabelDataset
    source: str  # names the rows in messages and in metrics.json
    form: RowForm = field(default_factory=RowForm)


def read_rows(
    trained: TrainedModel,
    path: str | Path,
    for_label: bool = False,
    columns: Columns = USUAL_COLUMNS,
) -> GivenRows:
    """Read JSONL or a table, checked as in training; see `open_rows`.

    `for_label`: the rows are only to be classified.

    Raises:
        UserError: as `open_rows`, or it has no row at all.
    """
    return read_source(trained, open_rows(trained, path, columns), for_label)


def open_rows(
    trained: TrainedModel, path: str | Path, columns: Columns = USUAL_COLUMNS
) -> RowSource:
    """JSONL or a table, of a file or, as `-`, of standard input.

    A file named .csv or .tsv is a table; so is any other content, unless it is named .jsonl, that
    begins with neither `{` nor `[`. `columns`: which columns or keys hold the rows.

    Raises:
        UserError: it cannot be read, lacks a column, or is a document.
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

        def records(only: Container[int] | None) -> Iterable[Found]:
            return of_lines(table_records(trained, table, columns), only)

        return RowSource(source, records, RowForm("csv", table))

    def objects(only: Container[int] | None) -> Iterable[Found]:
        if content is None:
            lines = read_json_lines(path, only=only)
        else:
            lines = json_lines_of(io.BytesIO(content), source, len(content), only=only)
        return renamed(lines, columns)

    return RowSource(source, objects)


def of_lines(found: Iterable[Found], only: Container[int] | None) -> Iterable[Found]:
    """Those of rows that stand in certain lines; None: all."""
    return found if only is None else (row for row in found if row[0] in only)


def read_source(trained: TrainedModel, source: RowSource, for_label: bool) -> GivenRows:
    """Read the rows of a source, checked as in training; `for_label`: only to be classified.

    Raises:
        UserError: they cannot be read, or there is none.
    """
    given = given_rows(trained, source.found(None), source.name, for_label)
    return replace(given, form=source.form)


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
    return GivenRows(read_for(trained, found, source, for_label, made_here=made_here), source)


def read_for(
    trained: TrainedModel,
    found: Iterable[Found],
    source: str,
    for_label: bool,
    *,
    made_here: bool = False,
    visit: Callable[[int, dict[str, Any]], None] | None = None,
    again: bool = False,
) -> TokenLabelDataset:
    """The rows as a model reads them, bad ones kept with their reason.

    Signs that they are meant for another model are told on standard error, unless the rows are read
    `again`. `visit`: see `read_found`.
    """
    if trained.is_pretrained and not trained.vocabulary.labels:
        found = _without_labels(found, source, again)
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
        visit=visit,
    )
    if not again and 2 * dataset.counts.unknown_tokens > dataset.lengths_N.sum():
        print(
            f"!!! {source}: more than half of the tokens are unknown to the model: is it the one "
            f"for these rows?",
            file=sys.stderr,
        )
    return dataset


def _without_labels(found: Iterable[Found], source: str, again: bool) -> Iterator[Found]:
    """The rows without their labels, for a model that knows no labels at all; tells how many."""
    count = 0
    for line, record, problem in found:
        if isinstance(record, dict) and record.get("label") is not None:
            count += 1
            record = {key: value for key, value in record.items() if key != "label"}
        yield line, record, problem
    if count and not again:
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
    bad = [(each.line, each.reason) for each in rows.dataset.bad_rows]
    raise unusable_error(rows.source, bad, verb, has_unknown_token and has_unk(trained))


def unusable_error(
    source: str, bad: Sequence[tuple[int, str]], verb: str, unk_helps: bool
) -> UserError:
    """The error of rows of which not one is usable: their lines, and why.

    `unk_helps`: that tokens may be read as <UNK> is worth saying.
    """
    remedy = _remedy([reason for _, reason in bad], unk_helps)
    if all("not valid JSON" in reason for _, reason in bad):
        remedy = "rows come as JSONL, one object a line, or as a table (.csv, .tsv)"
    line, reason = bad[0]
    return UserError(
        f"{source}:{line}: {reason}\n"
        f"not one of {plural(len(bad), 'row')} can be {verb}{f': {remedy}' if remedy else ''}"
    )


def has_unk(trained: TrainedModel) -> bool:
    """Whether a model can read unknown tokens as <UNK>."""
    return trained.vocabulary.unk_id is not None


def say_bad_rows(
    predictions: Collection[dict[str, Any]], verb: str, stream: TextIO, unk_helps: bool
) -> bool:
    """Print how many rows could not be used and the most frequent reasons; returns whether any.

    `verb`: "scored". `unk_helps`: as for `unusable_error`.
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
    remedy = _remedy(counts, unk_helps)
    lines += [f"!!! {remedy}"] if remedy else []
    print("\n".join(lines), end="\n\n", file=stream)
    return True


def _remedy(reasons: Iterable[str], unk_helps: bool) -> str:
    """What to do about rows that could not be used, "" where nothing helps them all alike."""
    return UNK_REMEDY if unk_helps and any(map(could_be_unk, reasons)) else ""


def beside(folder: Path, name: str) -> Path:
    """The sibling `name` of `folder`, also where that is `.` or `..`."""
    if folder.name in ("", ".."):
        folder = Path(os.path.abspath(folder))
    return folder.parent / name
