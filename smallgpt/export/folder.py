"""The folder of an export: it appears whole, and takes the place of an earlier one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

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
        UserError: `folder` is something else, has files that no export wrote, or without
            `overwrite` is the export of another model.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder as --output_dir")
    earlier: dict[str, Any] | None = None
    taken = folder.is_dir() and any(contents(folder))
    if taken:
        earlier = _report_of(folder)
        if earlier is None:
            raise UserError(
                f"{folder} has files that are no export: give another --output_dir, or move them"
            )
        if earlier["weights"] != weights and not overwrite:
            raise UserError(
                f"{folder} holds the export of another model: give another --output_dir, or "
                f"replace it with --overwrite"
            )
        if "written" in earlier:  # else it is not known before there is a new export
            _refuse_others(folder, earlier["written"])
    with folder_beside(folder) as beside:
        new = beside / "new"
        new.mkdir()
        yield new
        for place in [*new.rglob("*"), new]:
            sync(place)
        if earlier is not None:
            _refuse_others(folder, [*earlier.get("written", ()), *files_of(new)])
        if folder.is_dir():
            os.rename(folder, beside / "old")  # deleted with `beside`
        os.rename(new, folder)
        sync(folder.parent)


def files_of(folder: Path) -> list[str]:
    """The files in a folder and in those within it, by their paths from there."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    )


def _refuse_others(folder: Path, written: Sequence[str]) -> None:
    """Refuse to replace a folder with files that no export has written, by a UserError."""
    known = {*written, *(str(place) for each in written for place in PurePosixPath(each).parents)}
    here = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    if others := sorted(path for path in here if path not in known):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise UserError(
            f"{folder} has what no export wrote: {', '.join(others[:3])}{more}; move it, or give "
            f"another --output_dir"
        )


def _report_of(folder: Path) -> dict[str, Any] | None:
    """The report of the export in a folder, None for another folder."""
    try:
        value = parse_json(read_text(folder / REPORT, _MOST_BYTES))
    except (UserError, ValueError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("weights"), str):
        return None
    written = value.get("written", [])
    if not isinstance(written, list) or not all(isinstance(each, str) for each in written):
        return None
    return value
