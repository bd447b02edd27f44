"""Training and validation rows of a run side by side, and helpers for their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smallgpt.rows.dataset import TokenLabelDataset


@dataclass(frozen=True)
class Sides:
    """Training and validation rows, numbered on from one to the other; either may be empty."""

    train: TokenLabelDataset
    validation: TokenLabelDataset
    train_file: str
    validation_file: str | None = None  # None: both are parts of `train_file`

    def files(self) -> list[tuple[str, TokenLabelDataset]]:
        """Each file once, with the rows that carry its reading's counts and bad rows."""
        files = [(self.train_file, self.train)]
        if self.validation_file is not None:
            files.append((self.validation_file, self.validation))
        return files

    def joined(self, column: str) -> np.ndarray:
        """A column of the datasets, such as `classes_N`, over both sides."""
        return np.concatenate([getattr(self.train, column), getattr(self.validation, column)])

    def subset(self, train: np.ndarray, validation: np.ndarray) -> Sides:
        """Some rows of each side, in the order of the numbers given."""
        rows = self.train.subset(train), self.validation.subset(validation)
        return Sides(*rows, self.train_file, self.validation_file)

    @cached_property
    def lines(self) -> np.ndarray:
        """Line number of each row in its file."""
        return self.joined("lines_N")

    def place(self, row: int) -> str:
        """A row's place as `file:line`."""
        in_validation = row >= len(self.train) and self.validation_file is not None
        file = self.validation_file if in_validation else self.train_file
        return f"{file}:{self.lines[row]}"


def tokens_of(rows: TokenLabelDataset) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of the rows in order: id and row of each."""
    ids_M, lengths_N = rows.gather(np.arange(len(rows)))
    return ids_M, np.repeat(np.arange(len(rows)), lengths_N)


def places_within(row_M: np.ndarray) -> np.ndarray:
    """The place of each token in its row, from 0; `row_M` ascends."""
    lengths_N = np.bincount(row_M)
    return np.arange(len(row_M)) - (np.cumsum(lengths_N) - lengths_N)[row_M]


def lookup(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Value of each asked key among the sorted `keys`, 0 if missing."""
    if not len(keys):
        return np.zeros(len(asked), np.int64)
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[at] == asked, values[at], 0)
