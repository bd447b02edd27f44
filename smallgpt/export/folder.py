"""The folder of an export: it appears whole, and takes the place of an earlier one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smallgpt.errors import UserError
from smallgpt.files.reading import contents, parse_json, read_text
from smallgpt.files.writing import folder_beside, sync

REPORT = "export_report.json"
_MOST_BYTES = 2**20  # of export_report.json


@contextmanager
def export_folder(folder: Path, weights: str, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder, which takes the place of `folder` when all has gone well.

    An earlier export of the same model is replaced.

    Raises:
        UserError: `folder` is something else, or without `overwrite` the export of another model.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder as --output_dir")
    taken = folder.is_dir() and any(contents(folder))
    if taken:
        earlier = _weights_of(folder)
        if earlier is None:
            raise UserError(
                f"{folder} has files that are no export: give another --output_dir, or move them"
            )
        if earlier != weights and not overwrite:
            raise UserError(
                f"{folder} holds the export of another model: give another --output_dir, or "
                f"replace it with --overwrite"
            )
    with folder_beside(folder) as beside:
        new = beside / "new"
        new.mkdir()
        yield new
        for place in [*new.rglob("*"), new]:
            sync(place)
        if folder.is_dir():
            os.rename(folder, beside / "old")  # deleted with `beside`
        os.rename(new, folder)
        sync(folder.parent)


def _weights_of(folder: Path) -> str | None:
    """The digest of the model that a folder is an export of, None for another folder."""
    try:
        value = parse_json(read_text(folder / REPORT, _MOST_BYTES))
    except (UserError, ValueError):
        return None
    weights = value.get("weights") if isinstance(value, dict) else None
    return weights if isinstance(weights, str) else None
