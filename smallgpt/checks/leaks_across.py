"""Leaks between training and validation rows: `group_across` and `duplicate_across`.

Only with two files: a split of one file keeps groups and equal bodies together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smallgpt.checks.leak_state import EXAMPLES, MOST_FINDINGS, LeakSearch, short_name
from smallgpt.checks.sides import Sides
from smallgpt.console import plural

_KEEPS = "or leave out --val_data_path: the split of one file keeps"


def groups_across(search: LeakSearch) -> list[dict[str, Any]]:
    """Groups (`--group_by`) with rows on both sides."""
    sides = _in_file_order(search.sides)  # the examples shall be the first ones
    values = sides.validation.group_values()
    shared, examples = _shared(sides, sides.train.group_values(), values)
    if not shared:
        return []
    shared_values = (values[row] for row in shared)  # none of them None, see `_shared`
    groups = list(dict.fromkeys(value for value in shared_values if value is not None))
    return [
        {
            "kind": "group_across",
            "message": f"{search.group_by} of {plural(len(shared), 'validation row')} is that of "
            f"training rows ({plural(len(groups), 'value')}, the first: {short_name(groups[0])})",
            "group_by": search.group_by,
            "rows": len(shared),
            "groups": groups[:MOST_FINDINGS],
            "groups_in_all": len(groups),
            "examples": examples,
            "remedy": f"move each group to one side, {_KEEPS} groups together",
        }
    ]


def duplicates_across(search: LeakSearch) -> list[dict[str, Any]]:
    """Bodies that occur on both sides."""
    sides = _in_file_order(search.sides)
    shared, examples = _shared(sides, sides.train.body_keys(), sides.validation.body_keys())
    if not shared:
        return []
    count = len(sides.validation)
    return [
        {
            "kind": "duplicate_across",
            "message": f"{len(shared):,} of {plural(count, 'validation row')} "
            f"{'has' if len(shared) == 1 else 'have'} the body of a training row: the validation "
            f"figures flatter",
            "rows": len(shared),
            "share": len(shared) / count,
            "examples": examples,
            "remedy": f"remove them from one file, {_KEEPS} equal rows together",
        }
    ]


def _in_file_order(sides: Sides) -> Sides:
    return sides.subset(
        *(np.argsort(rows.lines_N, kind="stable") for rows in (sides.train, sides.validation))
    )


def _shared(sides: Sides, train_keys: list[Any], keys: list[Any]) -> tuple[list[int], list[str]]:
    """Validation rows whose key (None excepted) a training row has, and examples as `file:line`."""
    first: dict[Any, int] = {}
    for row, key in enumerate(train_keys):
        first.setdefault(key, row)
    shared = [row for row, key in enumerate(keys) if key is not None and key in first]
    examples = [
        f"{sides.place(len(sides.train) + row)} and {sides.place(first[keys[row]])}"
        for row in shared[:EXAMPLES]
    ]
    return shared, examples
