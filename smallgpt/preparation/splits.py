"""Train/test split: no shared bodies or groups, no empty side, labels of one side only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.tokens.labels import sorted_labels

_LABELS_NAMED = 10


def move_shared(
    train: np.ndarray, test: np.ndarray, keys: Sequence[np.ndarray], notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Move test rows to training as long as any shares a number >= 0 with a training row.

    `keys` hold a number for each row, such as that of its distinct body.
    """
    before = len(test)
    while True:
        shared = np.zeros(len(test), bool)
        for numbers in keys:
            shared |= (numbers[test] >= 0) & np.isin(numbers[test], numbers[train])
        if not shared.any():
            break
        train, test = np.sort(np.concatenate([train, test[shared]])), test[~shared]
    if len(test) < before:
        moved = plural(before - len(test), "test row")
        notes.append(f"{moved} with the tokens of a training row moved to training")
    return train, test


def leave_out_shared(
    train: np.ndarray, test: np.ndarray, keys: Sequence[np.ndarray], notes: list[str], what: str
) -> np.ndarray:
    """The training rows that share no number >= 0 with a test row of the user's own, which stays.

    Args:
        keys: as in `move_shared`.
        what: the keys in words: "the tokens".
    """
    shared = np.zeros(len(train), bool)
    for numbers in keys:
        shared |= (numbers[train] >= 0) & np.isin(numbers[train], numbers[test])
    if shared.any():
        notes.append(
            f"{plural(int(shared.sum()), 'training row')} with {what} of a test row left out"
        )
    return train[~shared]


def check_split(train: np.ndarray, test: np.ndarray, remedy: str = "give more rows") -> None:
    """Refuse a split with an empty side.

    Raises:
        UserError: a side is empty.
    """
    if not len(train) or not len(test):
        raise UserError(
            f"no {'test' if len(train) else 'training'} rows are left: there are too few rows, or "
            f"too many are equal or of one group; {remedy}"
        )


def label_notes(train: Sequence[str | None], test: Sequence[str | None]) -> list[str]:
    """Notes on labels that occur on one side of the split only."""

    def named(labels: set[str]) -> str:
        names = sorted_labels(labels)
        rest = f" and {len(names) - _LABELS_NAMED:,} more" if len(names) > _LABELS_NAMED else ""
        return ", ".join(shown(name)[1:-1] for name in names[:_LABELS_NAMED]) + rest

    train_labels = {label for label in train if label is not None}
    test_labels = {label for label in test if label is not None}
    notes = []
    if test_labels - train_labels:
        only = named(test_labels - train_labels)
        notes.append(f"labels in test rows only, which cannot be learned: {only}")
    if train_labels - test_labels and test_labels:
        notes.append(f"labels without a test row: {named(train_labels - test_labels)}")
    return notes
