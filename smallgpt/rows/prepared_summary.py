"""Reads prepared.json, the summary that prepare_data.py writes beside its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smallgpt.errors import UserError
from smallgpt.files.reading import parse_json, read_text

VOCABULARY, SUMMARY = "vocab.json", "prepared.json"
_MOST_SUMMARY_BYTES = 2**26


def has_variants(rows: Path) -> bool:
    """Whether a file of rows was prepared with --augment."""
    return bool(side_figures(read_summary(rows.parent), "train").get("variants"))


def read_summary(folder: Path) -> dict[str, Any]:
    """The content of prepared.json in a folder, {} where there is none of this program."""
    try:
        summary = parse_json(read_text(folder / SUMMARY, _MOST_SUMMARY_BYTES))
    except (UserError, ValueError):
        return {}
    return summary if isinstance(summary, dict) and "command" in summary else {}


def side_figures(summary: dict[str, Any], side: str) -> dict[str, Any]:
    """The figures of one side of the split, {} without any."""
    figures = summary.get(side)
    return figures if isinstance(figures, dict) else {}
