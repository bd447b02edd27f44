"""Columns that hold rows: a table, or JSONL with other keys, as records of the row format.

columns = Columns(text="review", label="rating")
table = open_table(trained, "new.csv", content, columns)
for line, record, problem in table_records(trained, table, columns): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.inputs.tables import Table
from smallgpt.rows.reading import Found
from smallgpt.rows.row import ROW_KEYS
from smallgpt.tokens.text_tokenizer import SEP, pair_text

_LABEL = "label"
_PAIR = "text_pair"  # a second text until it is put behind the first


@dataclass(frozen=True)
class Columns:
    """The columns of a table, or the keys of JSON objects, that hold rows; None: the usual ones.

    These are `text`, `tokens`, or `instruction`, `input` and `output`, whatever the model reads,
    and `label`, which may be missing. `pair` is of the second text of pairs; without it `text`
    holds both, <SEP> between them. A number counts the columns of a table without a heading.
    """

    text: str | None = None
    tokens: str | None = None
    label: str | None = None
    pair: str | None = None

    def key_of(self) -> dict[str, str]:
        """The key of a row that each column named here becomes."""
        named = {self.text: "text", self.tokens: "tokens", self.label: _LABEL, self.pair: _PAIR}
        return {column: key for column, key in named.items() if column is not None}


USUAL_COLUMNS = Columns()


def reads_pairs(trained: TrainedModel) -> bool:
    """Whether a model reads pairs of texts, parted by <SEP>."""
    return trained.vocabulary.separator_id is not None and not trained.is_instructed


def refuse_needless_pairs(trained: TrainedModel, columns: Columns) -> None:
    """Refuse a second text for a model that reads one, by a UserError."""
    if columns.pair is not None and not reads_pairs(trained):
        raise UserError(
            f"--pair_column {columns.pair}: {trained.name} is no model of pairs of texts "
            f"(prepare_data.py text --pair_column)"
        )


def open_table(trained: TrainedModel, source: str, content: bytes, columns: Columns) -> Table:
    """The table that a content is, checked to have the columns that hold rows.

    Raises:
        UserError: no such column, texts for a model that reads none, or no table.
    """
    if columns.text is not None and trained.vocabulary.tokenizer is None:
        raise UserError(
            f"--text_column {columns.text}: {trained.folder} is no model of texts; --tokens_column "
            f"names a column of tokens"
        )
    usual = "text" if trained.vocabulary.tokenizer is not None else "tokens"
    needed = _key_of(trained, columns)
    remedy = ""
    if not columns.text and not columns.tokens:
        remedy = f": --{usual}_column names the one to read"
        if usual == "tokens":
            remedy += "; where each line is one event, --group_column and --event_column"
    return Table.of(source, content, list(needed), remedy)


def table_records(trained: TrainedModel, table: Table, columns: Columns) -> Iterator[Found]:
    """A record of each row of a table, in which other columns keep their names.

    An empty label is none.

    Raises:
        UserError: another column has a name that rows need; or as `Table.rows`.
    """
    key_of = _key_of(trained, columns)
    if columns.label is None and _LABEL in table.names:
        key_of[_LABEL] = _LABEL
    taken = {*ROW_KEYS, *key_of.values()}
    if "text" in taken:
        taken.add("instruction")
    for name in table.names:
        if name in taken and name not in key_of:
            raise UserError(
                f"{table.source}: the column {shown(name)} has a name that rows need: rename it"
            )
    keys = [key_of.get(name, name) for name in table.names]
    for line, cells, problem in table.rows():
        record = dict(zip(keys, cells, strict=True))
        if not record.get(_LABEL, "").strip():
            record.pop(_LABEL, None)
        if problem is None:
            record, problem = _with_pair(record, columns)
        yield line, record, problem


def _key_of(trained: TrainedModel, columns: Columns) -> dict[str, str]:
    """The key of a row that each column becomes which a table must have."""
    key_of = columns.key_of()
    if columns.text is None and columns.tokens is None:
        if trained.is_instructed:
            usual = ["instruction", "output"]
        else:
            usual = ["tokens" if trained.vocabulary.tokenizer is None else "text"]
        key_of |= {name: name for name in usual}
    return key_of


def renamed(found: Iterable[Found], columns: Columns) -> Iterator[Found]:
    """Objects whose keys are those of the row format, in place of the ones that a user named."""
    key_of = columns.key_of()
    for line, record, problem in found:
        if problem is None and isinstance(record, dict):
            record, problem = _renamed(record, key_of)
            if problem is None:
                record, problem = _with_pair(record, columns)
        yield line, record, problem


def _renamed(record: dict[str, Any], key_of: dict[str, str]) -> tuple[dict[str, Any], str | None]:
    """A record with its keys renamed, and why it cannot be used."""
    for key, to in key_of.items():
        if key not in record and to != _LABEL:
            there = ", ".join(shown(name)[1:-1] for name in list(record)[:10]) or "none"
            return record, f"no `{key}`; there is {there}"
        if key != to and to in record:
            return record, f"`{to}` stands beside `{key}`, which is to be read as it: rename one"
    return {key_of.get(key, key): value for key, value in record.items()}, None


def _with_pair(record: dict[str, Any], columns: Columns) -> tuple[dict[str, Any], str | None]:
    """A record with the text of its pair behind its own, and why it cannot be used."""
    if columns.pair is None:
        return record, None
    given = {columns.text or "text": record.get("text"), columns.pair: record.pop(_PAIR)}
    for column, text in given.items():
        if not isinstance(text, str):
            return record, f"`{column}` must be a text, got {shown(text)}"
        if not text.strip():
            return record, f"`{column}` is empty"
        if SEP in text:
            return record, f"`{column}` holds {SEP}, which parts the two texts of a pair"
    return record | {"text": pair_text(*given.values())}, None
