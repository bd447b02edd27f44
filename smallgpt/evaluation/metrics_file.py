"""Reading metrics.jsonl of a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl up to the first invalid line: the last may be half-written."""
    rows = []
    if path.is_file():
        for line in path.read_bytes().split(b"\n"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not _is_row(row):
                break
            rows.append(row)
    return rows


def _is_row(row: object) -> bool:
    """Whether a parsed line has the types that a run writes."""
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return False
    if type(row.get("step")) is not int:
        return False
    return all(
        value is None
        or isinstance(value, str | float)
        or (isinstance(value, int) and abs(value) < 2**53)
        for value in row.values()
    )
