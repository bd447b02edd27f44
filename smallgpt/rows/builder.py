"""Collects parsed rows, cut to max_length (`row.cut_row`), into the arrays of a dataset."""

from __future__ import annotations

from array import array
from operator import attrgetter
from typing import Any

import numpy as np

from smallgpt.rows.dataset import COLUMNS, NewRow, TokenLabelDataset
from smallgpt.rows.label_tail import TAIL_LENGTH
from smallgpt.rows.read_counts import ReadCounts
from smallgpt.rows.row import Row, cut_row
from smallgpt.tokens.vocabulary import Vocabulary

_NUMBERS_OF = attrgetter(*(column.attribute for column in COLUMNS.values()))
_MOST_NEW_NUMBERS = 2**16


class RowsBuilder:
    """Collects parsed rows; `finish` makes a dataset of them."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        max_length: int,
        for_label: bool = False,
        keep_tokens: bool = True,
    ):
        """`for_label`: the rows are only to be classified; `keep_tokens`: else columns alone."""
        self.vocabulary, self.max_length, self.for_label = vocabulary, max_length, for_label
        self.keep_tokens = keep_tokens
        self.counts = ReadCounts()
        self._tokens = array("H" if len(vocabulary) <= 65_536 else "I")
        self._columns = {name: bytearray() for name in COLUMNS}
        self._new = array("q")  # numbers of the latest rows, row after row
        self._groups: dict[str, int] = {}
        self._sources: dict[str, int] = {}

    def __len__(self) -> int:
        return self.counts.rows

    def add(
        self, row: Row, line: int, group: str | None, source: str | None = None, variant: int = 0
    ) -> None:
        """Add a row, cut to `max_length`.

        A row to be classified leaves room for a whole label tail, so that its body is cut to the
        same tokens whether or not its label is known.
        """
        counts = self.counts
        room = TAIL_LENGTH - (len(row.ids) - row.body_length) if self.for_label else 0
        if len(row.ids) > self.max_length - room:
            length = len(row.ids)
            row = cut_row(row, self.max_length - room, self.vocabulary)
            counts.cut += 1
            counts.cut_tokens += length - len(row.ids)
            unread = 0 if self.vocabulary.reads_tail else TAIL_LENGTH
            counts.max_length = self.max_length - unread
            counts.longest_cut = max(counts.longest_cut, length + room - unread)
        new = NewRow(
            row,
            len(row.ids),
            len(self._tokens),
            line,
            -1 if group is None else self._groups.setdefault(group, len(self._groups)),
            -1 if source is None else self._sources.setdefault(source, len(self._sources)),
            variant,
        )
        self._new.extend(_NUMBERS_OF(new))
        if len(self._new) > _MOST_NEW_NUMBERS:
            self._into_columns()
        if self.keep_tokens:
            # Through an array: half the time of extending by a list.
            self._tokens.extend(array(self._tokens.typecode, row.ids))
        counts.rows += 1
        counts.labelled += row.label_class >= 0
        if row.change:
            counts.completed += row.change == "completed"
            counts.repaired += row.change == "repaired"
        counts.note_unknown(row.unknown)
        counts.padding_dropped += row.padding_dropped

    def _into_columns(self) -> None:
        """Move the numbers of the latest rows into the columns, each in its own type."""
        new_NxC = np.array(self._new).reshape(-1, len(COLUMNS))
        for new_N, (name, column) in zip(new_NxC.T, COLUMNS.items(), strict=True):
            self._columns[name] += new_N.astype(column.dtype).tobytes()
        del self._new[:]

    def finish(self) -> TokenLabelDataset:
        """The dataset of the rows added; its arrays share the memory of this builder."""
        self._into_columns()
        columns: dict[str, Any] = {
            name: np.frombuffer(self._columns[name], COLUMNS[name].dtype) for name in COLUMNS
        }
        return TokenLabelDataset(
            self.vocabulary,
            self.max_length,
            np.frombuffer(self._tokens, self._tokens.typecode),
            **columns,
            group_names=list(self._groups),
            counts=self.counts,
        )
