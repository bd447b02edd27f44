"""Rows given from Python: one or many, as text, tokens, ids, records or pictures.

given = python_rows(trained, rows)
dataset = rows_to_classify(trained, given)
return given.answer([... for each row])        # the first alone where one row was given
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from smallgpt.console import printable, printable_lines, shorten
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.inference.images import beginning, codebook_of, image_rows
from smallgpt.inference.prompts import (
    ids_to_continue,
    record_of_prompt,
)
from smallgpt.inference.unknown_tokens import (
    refuse_unknown_tokens,
    say_unknown,
    unknown_token_of,
)
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.builder import RowsBuilder
from smallgpt.rows.codebook_of_rows import KnownCodebook
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.row import parse_row

_EXPECTED = (
    "one row is a string, a list of ids, a dict such as {'tokens': ...} or an array of pixels; "
    "many rows are a list of such rows"
)


@dataclass(frozen=True)
class PythonRows:
    """Rows as objects of a JSONL file."""

    records: list[dict[str, Any]]
    is_one: bool  # whether it was one row and no list of rows
    pictures: frozenset[int] = frozenset()  # indices of the rows that were pictures

    def answer(self, answers: Sequence[Any] | np.ndarray) -> Any:
        """The answers to all rows, or the one answer to the one row."""
        return answers[0] if self.is_one else answers

    @contextmanager
    def row(self, index: int) -> Iterator[None]:
        """Name the row of many that an error within is about."""
        try:
            yield
        except (RowError, UserError) as error:
            raise UserError(f"{error}" if self.is_one else f"rows[{index}]: {error}") from None


def python_rows(trained: TrainedModel, rows: Any) -> PythonRows:
    """One row or many, told apart by what is given.

    One row is a string (tokens separated by spaces; for a model of texts a text, for one of
    instructions an instruction), a list, tuple or 1-D array of ids, a dict like a line of a JSONL
    file, or a picture: an array HxW, or HxWxC with C = 1 (grey) or 3 (rgb). Many rows are an
    iterable of these, so that a list of strings is many rows; within it a list of strings is one
    row of tokens. An array NxHxW or NxHxWxC is many pictures.

    Pictures become what the model was trained on (`inputs/like_codebook.py` has the rules), which
    is told on standard error; those of one shape count as one source, whose values decide together
    what is white.

    Raises:
        UserError: neither, no rows at all, or pictures for a model of something else.
    """
    rows = _plain(rows)
    one = _one_row(trained, rows)
    if one is not None:
        return _encoded(trained, [one], True)
    if hasattr(rows, "columns"):  # a table iterates over the names of its columns
        raise UserError(
            "a table is no list of rows: give one of its columns, or to_dict('records') of it"
        )
    if isinstance(rows, (bytes, np.generic)) or not isinstance(rows, Iterable):
        raise UserError(f"not rows: {_described(rows)}; {_EXPECTED}")
    if isinstance(rows, np.ndarray):
        _refuse_odd_channels(trained, rows)
    many = []
    for index, row in enumerate(rows):
        row = _plain(row)
        one = _one_row(trained, row, within=True)
        if one is None:
            raise UserError(f"rows[{index}] is no row: {_described(row)}; {_EXPECTED}")
        many.append(one)
    if not many:
        raise UserError(f"no rows: {_EXPECTED}")
    return _encoded(trained, many, False)


def _plain(value: Any) -> Any:
    """A tensor as an array, an array of one axis as a list."""
    torch = sys.modules.get("torch")  # where it was never imported, nothing is a tensor
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value


def _one_row(
    trained: TrainedModel, row: Any, within: bool = False
) -> dict[str, Any] | np.ndarray | None:
    """A row as an object of a JSONL file, or the array of a picture; None for what is no row.

    `within` a list of rows.
    """
    if isinstance(row, np.ndarray):
        return row if row.ndim == 2 or (row.ndim == 3 and row.shape[2] in (1, 3)) else None
    if isinstance(row, str):
        return record_of_prompt(trained, row)
    if isinstance(row, Mapping):
        record = dict(row)
        if record.get("input_ids") is not None:
            record["input_ids"] = _plain(record["input_ids"])
        return record
    if isinstance(row, (list, tuple)) and row:
        if all(isinstance(index, Integral) and not isinstance(index, bool) for index in row):
            return {"input_ids": [int(index) for index in row]}
        if within and all(isinstance(token, str) for token in row):
            return {"tokens": list(row)}
    return None


def _described(value: Any) -> str:
    """A value in a message."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return shorten(printable(repr(value)), 60)


# ------------------------------------------------------------------------------- pictures


def _encoded(
    trained: TrainedModel, rows: list[dict[str, Any] | np.ndarray], is_one: bool
) -> PythonRows:
    """The rows with pictures as their ids; tells what was converted."""
    by_shape: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
    for index, row in enumerate(rows):
        if isinstance(row, np.ndarray):
            by_shape.setdefault(row.shape, {})[index] = row
    records: list[Any] = list(rows)
    for shape, pictures in by_shape.items():
        if trained.codebook is None:
            raise UserError(
                f"an array of shape {shape} is a picture, and {trained.name} holds no "
                f"codebook.npz to read one; rows of ids are a list: rows.tolist()"
            )
        ids, notes = image_rows(trained, np.stack(list(pictures.values())))
        for note in notes:
            print(printable_lines(note), file=sys.stderr)
        for index, ids_of_picture in zip(pictures, ids, strict=True):
            records[index] = {"input_ids": ids_of_picture}
    return PythonRows(records, is_one, frozenset(i for part in by_shape.values() for i in part))


def _refuse_odd_channels(trained: TrainedModel, rows: np.ndarray) -> None:
    """Refuse an array that is one picture with an alpha channel, or with its channels first."""
    if trained.codebook is None:
        return
    width = codebook_of(trained).width
    if rows.ndim == 3 and rows.shape[2] in (2, 4) and rows.shape[2] != width:
        raise UserError(
            f"an array of shape {rows.shape}: a picture has one channel or three; without its "
            f"alpha channel it is rows[..., :{rows.shape[2] - 1}]"
        )
    looks_so = rows.ndim == 3 and rows.shape[0] == 3 and trained.codebook is not None
    if looks_so and codebook_of(trained).channels == 3:
        raise UserError(
            f"an array of shape {rows.shape}: the channels of a picture stand last, HxWx3; three "
            f"grey pictures are a list of arrays"
        )


def upper_parts(trained: TrainedModel, given: PythonRows, keep: float | None) -> PythonRows:
    """The pictures without what a model is to complete; other rows as they are.

    `keep`: share of a picture that stays, from its top (`beginning`).

    Raises:
        UserError: pictures and no `keep`, or `keep` and rows that are no pictures.
    """
    if keep is None:
        if given.pictures:
            raise UserError("pictures are whole: keep=0.5, for example, says what share stays")
        return given
    codebook, records = codebook_of(trained), []
    for index, record in enumerate(given.records):
        with given.row(index):
            if index not in given.pictures:
                raise UserError("keep is the share of a picture that stays, and this row is none")
            records.append({"input_ids": beginning(codebook, record["input_ids"], keep).ids})
    return PythonRows(records, given.is_one)


# ------------------------------------------------------------------------------- to ids


def rows_to_classify(
    trained: TrainedModel, given: PythonRows, unknown_token: str | None = None
) -> TokenLabelDataset:
    """The rows read as those of a file that is only to be classified, with room for a label.

    Raises:
        UserError: a row breaks the format, or is an image of another codebook.
    """
    unknown_token = unknown_token_of(trained, unknown_token)
    _refuse_other_codebook(trained, given)
    vocabulary = trained.vocabulary
    builder = RowsBuilder(vocabulary, trained.max_length, for_label=bool(vocabulary.labels))
    for index, record in enumerate(given.records):
        with given.row(index):
            refuse_unknown_tokens(trained, record, unknown_token)
            row = parse_row(record, vocabulary, unknown_token, for_label=True)
        builder.add(row, index + 1, None)
    return builder.finish()


def rows_to_continue(
    trained: TrainedModel, given: PythonRows, unknown_token: str | None = None
) -> list[list[int]]:
    """The ids that the model goes on from, see `ids_to_continue`; tells unknown tokens.

    Raises:
        UserError: as `rows_to_classify`.
    """
    unknown_token = unknown_token_of(trained, unknown_token)
    _refuse_other_codebook(trained, given)
    prompts: list[list[int]] = []
    unknown: Counter[str] = Counter()
    for index, record in enumerate(given.records):
        with given.row(index):
            ids, names = ids_to_continue(trained, record, unknown_token)
        prompts.append(ids)
        unknown.update(names)
    say_unknown(trained, unknown)
    return prompts


def _refuse_other_codebook(trained: TrainedModel, given: PythonRows) -> None:
    """Refuse rows of images that another codebook made."""
    named = [(i, record) for i, record in enumerate(given.records, 1) if "meta" in record]
    codebook = KnownCodebook.at(trained.codebook) if named else None
    for number, record in named:
        if codebook is not None:
            codebook.made(record, "rows", number)
