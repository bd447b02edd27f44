"""Rows that stand in both files, and files whose order gives the label away."""

from __future__ import annotations

from typing import Any

import numpy as np

from smallgpt.checks.thresholds import _EXAMPLES, MOST_FINDINGS, short_name
from smallgpt.console import plural
from smallgpt.rows.dataset import TokenLabelDataset

# ------------------------------------------------------------------------------- across


def _across(
    train: TokenLabelDataset,
    validation: TokenLabelDataset,
    names: tuple[str, str],
    group_by: str | None,
) -> list[dict[str, Any]]:
    """Groups and bodies that stand on both sides; a split of one file never has any."""
    # In the order of their files, so that the first ones are told.
    train, validation = (
        rows.subset(np.argsort(rows.lines_N, kind="stable")) for rows in (train, validation)
    )
    found = []
    train_lines = _first_lines(train.group_values())
    held_out = validation.group_values()
    shared = [i for i, value in enumerate(held_out) if value is not None and value in train_lines]
    if shared:
        groups = list(dict.fromkeys(held_out[i] for i in shared))
        first = short_name(groups[0])
        found.append(
            {
                "kind": "group_across",
                "message": f"{group_by} of {plural(len(shared), 'validation row')} is that of "
                f"training rows ({plural(len(groups), 'value')}, the first: {first})",
                "group_by": group_by,
                "rows": len(shared),
                "groups": groups[:MOST_FINDINGS],
                "groups_in_all": len(groups),
                "examples": _pairs_of_lines(
                    train, validation, names, train_lines, held_out, shared
                ),
            }
        )
    train_lines = _first_lines(train.body_keys())
    held_out = validation.body_keys()
    shared = [i for i, key in enumerate(held_out) if key in train_lines]
    if shared:
        found.append(
            {
                "kind": "duplicate_across",
                "message": f"{len(shared):,} of {plural(len(validation), 'validation row')} have "
                f"the body of a training row: the validation figures flatter",
                "rows": len(shared),
                "share": len(shared) / len(validation),
                "examples": _pairs_of_lines(
                    train, validation, names, train_lines, held_out, shared
                ),
            }
        )
    return found


def _first_lines(keys: list[Any]) -> dict[Any, int]:
    """Row number at which each key stands first."""
    first: dict[Any, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return first


def _pairs_of_lines(
    train: TokenLabelDataset,
    validation: TokenLabelDataset,
    names: tuple[str, str],
    first: dict[Any, int],
    held_out: list[Any],
    shared: list[int],
) -> list[str]:
    return [
        f"{names[1]}:{validation.lines_N[i]} and {names[0]}:{train.lines_N[first[held_out[i]]]}"
        for i in shared[:_EXAMPLES]
    ]
