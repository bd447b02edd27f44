"""Groups of rows that belong together, and variants of one source: read from a row.

`smallgpt/rows/splitting.py` keeps them, and rows with the same body, on one side of a split.
"""

from __future__ import annotations

import json
from typing import Any

# Key in `meta` beside `source`: the number of a variant, 0 for the original. A name that nobody
# uses by accident, since an epoch visits only one row of each source that has it.
VARIANT = "prepare_data_variant"


def group_value(record: dict[str, Any], group_by: str | None) -> str | None:
    """The value at a key path as JSON text, None where the record lacks it."""
    if group_by is None:
        return None
    value: Any = record
    for key in group_by.split("."):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return None if value is None else json.dumps(value, sort_keys=True)


def variant_of(record: dict[str, Any]) -> tuple[str | None, int]:
    """A row's source and variant number (0 = the original), from its `meta`.

    `prepare_data.py --augment` writes both; a row that lacks one has no source here.
    """
    meta = record.get("meta")
    if isinstance(meta, dict) and "source" in meta:
        variant = meta.get(VARIANT)
        if type(variant) is int and variant >= 0:
            return json.dumps(meta["source"], sort_keys=True), variant
    return None, 0


def has_plain_variant(record: dict[str, Any]) -> bool:
    """Whether a row's `meta` has a `variant` of the user's own, which has no meaning here.

    Earlier versions of `prepare_data.py --augment` marked their variants so.
    """
    meta = record.get("meta")
    return isinstance(meta, dict) and "variant" in meta and "source" in meta and VARIANT not in meta
