"""Parsed rows become the arrays of a dataset."""

from __future__ import annotations

from array import array

import numpy as np

from smallgpt.rows.dataset import COLUMNS, NewRow, TokenLabelDataset
from smallgpt.rows.label_tail import TAIL_LENGTH
from smallgpt.rows.read_counts import ReadCounts
from smallgpt.rows.row import Row, cut_row
from smallgpt.tokens.vocabulary import Vocabulary


class RowsBuilder:
    """Collects parsed rows; `finish` makes a dataset of them.

    Attributes:
        counts: what the rows met.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int, for_label: bool = False):
        """
        Args:
            vocabulary: of the rows' ids.
            max_length: rows are cut to this many tokens.
            for_label: the rows are only to be classified.
        """
        self.vocabulary, self.max_length, self.for_label = vocabulary, max_length, for_label
        self.counts = ReadCounts()
        self._tokens = array("H" if len(vocabulary) <= 65_536 else "I")
        codes = {name: column.dtype.replace("?", "b") for name, column in COLUMNS.items()}
        self._columns = {name: array(code) for name, code in codes.items()}
        self._appends = [
            (values.append, COLUMNS[name].value) for name, values in self._columns.items()
        ]
        self._groups: dict[str, int] = {}
        self._sources: dict[str, int] = {}

    def __len__(self) -> int:
        return self.counts.rows

    def add(
        self, row: Row, line: int, group: str | None, source: str | None = None, variant: int = 0
    ) -> None:
        """Add a row, cut to `max_length`.

        A row that is to be classified leaves room for a whole label tail, so that its body is cut
        alike whether or not its label is known.
        """
        room = TAIL_LENGTH - (len(row.ids) - row.body_length) if self.for_label else 0
        ids = cut_row(row.ids, self.max_length - room, self.vocabulary.first_ids)
        removed = len(row.ids) - len(ids)
        new = NewRow(
            row,
            len(ids),
            removed,
            len(self._tokens),
            line,
            -1 if group is None else self._groups.setdefault(group, len(self._groups)),
            -1 if source is None else self._sources.setdefault(source, len(self._sources)),
            variant,
        )
        for append, value_of in self._appends:
            append(value_of(new))
        # By way of an array, which takes half as long as extending by a list.
        self._tokens.extend(array(self._tokens.typecode, ids))
        counts = self.counts
        counts.rows += 1
        counts.labelled += row.label_class >= 0
        counts.completed += row.change == "completed"
        counts.repaired += row.change == "repaired"
        counts.unknown_tokens += row.unknown_tokens
        counts.padding_dropped += row.padding_dropped
        counts.cut += removed > 0
        counts.cut_tokens += removed

    def finish(self) -> TokenLabelDataset:
        """The rows that were added, in arrays that share the memory of this builder."""

        def numpy(values: array, dtype: str) -> np.ndarray:
            return np.frombuffer(values, dtype) if values else np.zeros(0, dtype)

        return TokenLabelDataset(
            self.vocabulary,
            self.max_length,
            numpy(self._tokens, self._tokens.typecode),
            **{name: numpy(self._columns[name], COLUMNS[name].dtype) for name in COLUMNS},
            group_names=list(self._groups),
            counts=self.counts,
        )
