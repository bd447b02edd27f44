"""The folder of an export: it appears whole, and takes the place of an earlier one alone.

The report of an export lists what was written, so that the next one knows files of others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smallgpt.console import printable, shorten
from smallgpt.errors import UserError
from smallgpt.files.reading import contents, parse_json, read_text
from smallgpt.files.writing import folder_beside, sync, write_json

REPORT = "export_report.json"
_MOST_BYTES = 2**20  # of export_report.json


_CONTENTS = "contents"  # its key: the paths of all that an export wrote
_MOST_NAMED, _LONGEST_NAME = 3, 60


@contextmanager
def export_folder(folder: Path, weights: str, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder, which takes the place of `folder` when all has gone well.

    An earlier export of the same model is replaced, unless other files came into its folder.

    Raises:
        UserError: `folder` is something else or holds files of others, or without `overwrite` the
            export of another model.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder as --output_dir")
    if any(contents(folder)):
        earlier = _report_of(folder)
        if earlier is None:
            raise UserError(
                f"{folder} has files that are no export: give another --output_dir, or move them"
            )
        _refuse_others(folder, earlier)
        if earlier["weights"] != weights and not overwrite:
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
            _refuse_others(folder, _report_of(folder))  # an export may take minutes
            os.rename(folder, beside / "old")  # deleted with `beside`
        os.rename(new, folder)
        sync(folder.parent)


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write export_report.json into the folder of an export, when everything else is written."""
    write_json(folder / REPORT, {**report, _CONTENTS: [*_paths_in(folder), REPORT]})


def _refuse_others(folder: Path, report: dict[str, Any] | None) -> None:
    """Raise UserError where a folder holds what its export did not write.

    Args:
        report: of the export, None where there is none. Earlier versions listed no contents, so
            nothing tells which files are theirs.
    """
    written = [] if report is None else report.get(_CONTENTS)
    if not isinstance(written, list):
        raise UserError(
            f"{folder} holds an export of an earlier version, which did not list its files: move "
            f"it, or give another --output_dir"
        )
    known = {".", *map(str, written)}
    others = [
        path
        for path in _paths_in(folder)
        if path not in known and str(Path(path).parent) in known  # of a folder its name says all
    ]
    if not others:
        return
    named = ", ".join(shorten(printable(path), _LONGEST_NAME) for path in others[:_MOST_NAMED])
    more = len(others) - _MOST_NAMED
    raise UserError(
        f"{folder} holds what no export wrote: {named}{f' and {more} more' if more > 0 else ''}; "
        f"move it, or give another --output_dir"
    )


def _paths_in(folder: Path) -> list[str]:
    """Paths of all files and folders in a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def _report_of(folder: Path) -> dict[str, Any] | None:
    """The report of the export in a folder, None for another folder."""
    try:
        report = parse_json(read_text(folder / REPORT, _MOST_BYTES))
    except (UserError, ValueError):
        return None
    is_report = isinstance(report, dict) and isinstance(report.get("weights"), str)
    return report if is_report else None
