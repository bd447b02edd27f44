"""Batches of row indices: shuffled for an epoch of training, longest first for scoring."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from smallgpt.rows.dataset import TokenLabelDataset

# Batches whose rows are sorted by length together: enough to leave next to no padding, few enough
# that the rows of a batch differ from epoch to epoch.
_BATCHES_SORTED_TOGETHER = 50


def epoch_batches(
    rows: TokenLabelDataset, batch_size: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Row indices of each batch of one epoch, shuffled, rows of similar length together.

    Of the variants of one source an epoch visits one, drawn anew in every epoch, so that
    `num_epochs` means the same with variants and without; rows with labels may be visited more
    often than others (`rows.labelled_visits`). The order follows from seed and epoch
    alone, so a resumed run needs no replay.
    """
    random = np.random.default_rng([seed, epoch])
    order = _one_of_each(rows, random.permutation(len(rows)))
    if rows.labelled_visits > 1:
        labelled = np.flatnonzero(rows.classes_N >= 0)
        again = [
            _one_of_each(rows, random.permutation(labelled))
            for _ in range(rows.labelled_visits - 1)
        ]
        order = random.permutation(np.concatenate([order, *again]))
    pool = batch_size * _BATCHES_SORTED_TOGETHER
    batches = []
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(rows.lengths_N[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def _one_of_each(rows: TokenLabelDataset, order: np.ndarray) -> np.ndarray:
    """The first row of each source in shuffled order: any of its variants is as likely."""
    if not rows.has_variants:
        return order
    return order[np.sort(np.unique(rows.units[order], return_index=True)[1])]


def batches_by_length(rows: TokenLabelDataset, batch_size: int) -> Iterator[np.ndarray]:
    """Row indices of batches for scoring, longest first: too little memory shows at once."""
    order = np.argsort(-rows.lengths_N.astype(np.int64), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
