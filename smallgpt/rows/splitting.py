"""Splits rows into training and held-out rows, or into folds: stratified, linked rows together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.rows.dataset import TokenLabelDataset


def split_dataset(
    rows: TokenLabelDataset, fraction: float, seed: int
) -> tuple[TokenLabelDataset, TokenLabelDataset]:
    """Split into training and held-out rows; see `split_rows`.

    Rows with the same body stay on one side, so that no held-out row has been learned. Variants of
    one source stay together, and augmented ones are not held out: the held-out rows are like those
    that a model will meet.

    Raises:
        UserError: all rows belong together, so nothing can be held out.
    """
    keys = _keys_of(rows)
    train, held_out = split_rows(keys, rows.classes_N, fraction, seed)
    held_out = held_out[~rows.augmented_N[held_out]]
    if not len(train) or not len(held_out):
        raise UserError(
            f"the rows cannot be split into training and validation: "
            f"{_why_unsplit(rows, keys)}; give more rows or --val_data_path"
        )
    return rows.subset(train), rows.subset(held_out)


def half_of(rows: TokenLabelDataset, seed: int) -> TokenLabelDataset:
    """Half of the rows, drawn as `split_dataset` draws; all of them where they belong together."""
    kept, _ = split_rows(_keys_of(rows), rows.classes_N, 0.5, seed)
    return rows.subset(kept)


def _keys_of(rows: TokenLabelDataset) -> list[np.ndarray]:
    """By which rows belong together: as `keys` of `split_rows`."""
    return [number_keys(rows.body_keys()), rows.groups_N, rows.sources_N]


def fold_rows(rows: TokenLabelDataset, counts_N: np.ndarray, most_folds: int) -> np.ndarray:
    """fold_N: the fold of each row, from 0; rows with one body, group or source share a fold.

    Each label is spread evenly. `counts_N` (booleans) are the rows that something is measured on:
    of them each fold has some, so that there are fewer than `most_folds` folds, or a single one,
    where few of them can be parted. Folds follow from the rows alone, not from their order.
    """
    keys = rows.body_keys()
    key_N = np.frombuffer(b"".join(key[:8] for key in keys), np.uint64)
    linked_N = _linked([number_keys(keys), rows.groups_N, rows.sources_N], len(rows))
    # The first row of each component, by key, stands for it.
    order = np.lexsort((rows.classes_N, key_N))
    _, first_G = np.unique(linked_N[order], return_index=True)
    key_G, class_G = key_N[order][first_G], rows.classes_N[order][first_G]
    size_G = np.bincount(linked_N)
    counts_G = np.bincount(linked_N, counts_N) > 0
    folds = max(1, min(most_folds, int(counts_G.sum())))
    fold_G = np.empty(len(size_G), np.int64)
    fold_G[np.lexsort((key_G, -size_G, class_G, ~counts_G))] = np.arange(len(size_G)) % folds
    return fold_G[linked_N]


def _why_unsplit(rows: TokenLabelDataset, keys: list[np.ndarray]) -> str:
    """Why `split_dataset` can hold nothing out; `keys` are those it split by."""
    if len(rows) < 2:
        return f"there is {plural(len(rows), 'row')}"
    linked_N = _linked(keys, len(rows))
    if not linked_N.any():
        return f"all {len(rows):,} rows belong together, by a shared body or group"
    if rows.augmented_N.any():
        return "too few of them are originals, and variants are not held out"
    labels = len(np.unique(rows.classes_N))
    return (
        f"each of {plural(labels, 'label')} has one row alone, or rows of one body or group, "
        f"and holding those out would leave none to learn from"
    )


def number_keys(keys: Iterable[Any]) -> np.ndarray:
    """Each distinct key as a whole number from 0, in order of appearance."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def split_rows(
    keys: list[np.ndarray], classes_N: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split row numbers into those kept and those held out, stratified and by group.

    Args:
        keys: arrays of N group numbers; rows with the same number >= 0 in any of them stay on
            one side, and so do rows linked through others.
        classes_N: class of each row, -1 for none; each class is held out in the same share.
        fraction: share to hold out. Every class with at least two groups gets at least one
            held-out row and keeps at least one.

    Returns:
        kept, held_out: sorted row numbers.
    """
    components_N = _linked(keys, len(classes_N))
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(classes_N))
    # The rows of each component, components in shuffled order.
    order = shuffled[np.argsort(components_N[shuffled], kind="stable")]
    starts_G = np.flatnonzero(np.diff(components_N[order], prepend=-1))
    sizes_G = np.diff(starts_G, append=len(order))
    mixed = random.permutation(len(starts_G))
    starts_G, sizes_G = starts_G[mixed], sizes_G[mixed]
    # A component that mixes classes counts for the class of its first row.
    classes_G = classes_N[order[starts_G]]

    chosen = np.zeros(len(classes_N), dtype=bool)
    by_class = np.argsort(classes_G, kind="stable")
    borders = np.flatnonzero(np.diff(classes_G[by_class], prepend=-2))
    for members in np.split(by_class, borders)[1:]:
        starts, sizes = starts_G[members].tolist(), sizes_G[members].tolist()
        rows, smallest = sum(sizes), min(sizes)
        # A class of one group is kept for training.
        wanted = min(max(round(fraction * rows), 1), rows - 1) if len(sizes) > 1 else 0
        room = wanted
        for start, size in zip(starts, sizes, strict=True):
            # The smallest group may exceed it, so that every class has a held-out row.
            if size <= room or (room == wanted > 0 and size == smallest):
                chosen[order[start : start + size]] = True
                room -= size
            if room <= 0:
                break
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _linked(keys: list[np.ndarray], rows: int) -> np.ndarray:
    """Connected component of each row; rows with the same number >= 0 in any key are connected."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes, row_side, key_side = rows, [], []
    for numbers in keys:
        present = np.flatnonzero(numbers >= 0)
        row_side.append(present)
        key_side.append(numbers[present] + nodes)
        nodes += int(numbers.max(initial=-1)) + 1
    ends = np.concatenate(row_side), np.concatenate(key_side)
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][:rows]
