"""The output folder of prepare_data.py: file names, lock, all-or-nothing replacement.

    @holding_output
    def prepare(settings):
        check_output(settings.output_dir, inputs)
        with publishing(settings.output_dir) as folder:
            write_lines(folder / TRAIN, lines, count)
            write_summary(folder, summary)

A preparation that fails leaves the files of the one before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from smallgpt.console import progress_bar
from smallgpt.errors import SettingsError, UserError
from smallgpt.files.locks import hold_output
from smallgpt.files.reading import shown, size_text
from smallgpt.files.writing import (
    atomic_write,
    folder_beside,
    json_line,
    remove_leftovers,
    replace_files,
    write_json,
)
from smallgpt.rows.lines import MOST_LINE_BYTES
from smallgpt.rows.prepared_summary import SUMMARY, VOCABULARY, read_summary, side_figures
from smallgpt.tokens.text_tokenizer import TOKENIZER

TRAIN, VALIDATION, TEST = "train.jsonl", "val.jsonl", "test.jsonl"
# File of each side of the split -> its key in prepared.json.
SIDES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
CODEBOOK, CODEBOOK_PICTURE = "codebook.npz", "codebook.png"
RECONSTRUCTIONS = "reconstructions.png"
_OF_IMAGES = (CODEBOOK, CODEBOOK_PICTURE, RECONSTRUCTIONS)
FILES = (*SIDES, VOCABULARY, TOKENIZER, SUMMARY, *_OF_IMAGES)


def holding_output(prepare: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """Decorate a preparation to lock its output folder, and to remove a new folder if it fails.

    Raises:
        UserError: another process holds the folder, or it is no folder.
    """

    @wraps(prepare)
    def holding(settings: Any) -> dict[str, Any]:
        with hold_output(Path(settings.output_dir), "command"):
            return prepare(settings)

    return holding


def check_output(output_dir: str, inputs: Iterable[str]) -> None:
    """Refuse an output folder with files that this program did not make.

    Raises:
        UserError: such a folder.
        SettingsError: an input is one of the files to be written.
    """
    folder = Path(output_dir)
    made = _made_before(folder)
    foreign = [name for name in FILES if os.path.lexists(folder / name) and name not in made]
    if foreign:
        raise UserError(
            f"{folder / foreign[0]} is there already and was not made by this command: move it, or "
            f"give another --output_dir"
        )
    # Not Path.resolve, which fails on a loop of symbolic links.
    written = {os.path.realpath(folder / name) for name in FILES}
    for path in map(Path, inputs):
        if os.path.realpath(path) in written:
            raise SettingsError([f"--input {path} would be overwritten: give another --output_dir"])


def _made_before(folder: Path) -> set[str]:
    """Names in `FILES` that an earlier preparation wrote in a folder."""
    summary = read_summary(folder)
    if not summary:
        return set()
    if "files" in summary:
        listed = summary["files"]
        return {name for name in FILES if isinstance(listed, list) and name in listed}
    # Earlier versions did not list the files; they follow from the command and the row counts.
    other = set(_OF_IMAGES)
    if summary["command"] in ("digits", "images"):
        other = {TOKENIZER}
    elif summary["command"] == "tokens":
        other.add(TOKENIZER)
    names = set(FILES) - other
    return {n for n in names if n not in SIDES or side_figures(summary, SIDES[n]).get("rows")}


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write prepared.json last; its `files` lists all files."""
    summary["files"] = sorted({SUMMARY, *os.listdir(folder)})
    write_json(folder / SUMMARY, summary)


@contextmanager
def publishing(output_dir: str) -> Iterator[Path]:
    """Yield an empty folder whose files on success replace those of an earlier preparation.

    Needs `holding_output`. Nothing changes before. Then the old training rows are deleted first and
    the new ones moved last, so that rows never lie beside another preparation's vocabulary.
    """
    folder = Path(output_dir)
    remove_leftovers(folder, re.compile("prepare"))
    with folder_beside(folder / "prepare") as stage:
        yield stage
        made = {path.name for path in stage.iterdir()}
        (folder / TRAIN).unlink(missing_ok=True)
        for name in _made_before(folder) - made:
            (folder / name).unlink(missing_ok=True)
        replace_files(stage, folder, [SUMMARY, *sorted(made - {SUMMARY, TRAIN}), TRAIN])


def write_lines(path: Path, lines: Iterable[str], count: int) -> None:
    """Write `count` lines of rows."""
    with atomic_write(path) as handle, progress_bar(f"writing {path.name}", count, "row") as bar:
        for line in lines:
            handle.write(line)
            bar.update()


def row_line(row: Any) -> str:
    """A row as a JSON line.

    Raises:
        UserError: the line is longer than is ever read.
    """
    line = json_line(row)
    if 4 * len(line) > MOST_LINE_BYTES < len(line.encode()):
        raise UserError(
            f"a row would be longer than {size_text(MOST_LINE_BYTES)}, the most for a line of rows "
            f"(it begins {shown(line)}): make it shorter"
        )
    return line
