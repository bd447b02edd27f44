"""The output folder of prepare_data.py: file names, lock, protection, all-or-nothing replacement.

    @holding_output
    def prepare(settings):
        check_output("tokens", settings, inputs)
        with publishing(settings) as folder:
            write_lines(folder / TRAIN, lines, count)
            write_summary(folder, summary)

A preparation that fails leaves the files of the one before. One that would change them is refused
without --overwrite: in the beginning if its settings differ, in the end if its files do.
"""

from __future__ import annotations

import dataclasses
import filecmp
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from smallgpt.console import printable, progress_bar, say, shorten
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
from smallgpt.options.option import AUTO, options_of
from smallgpt.options.preparation import PreparationSettings
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
# They describe the others; another version may word or draw them differently, and nothing is lost.
_DESCRIBING = (SUMMARY, CODEBOOK_PICTURE, RECONSTRUCTIONS)
# Options that name files: one file may be named in several ways, and its content is what counts.
_PATHS = ("input", "labels", "test_input", "test_labels", "codebook", "tokenizer")
_MOST_SHOWN, _LONGEST_VALUE = 3, 60  # of what differs, in a message
_REMEDY = "give another --output_dir, or replace it with --overwrite"


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


def check_output(command: str, settings: PreparationSettings, inputs: Iterable[str]) -> None:
    """Refuse an output folder with files of others, or with another preparation to be protected.

    Raises:
        UserError: such a folder.
        SettingsError: an input is one of the files to be written.
    """
    folder = Path(settings.output_dir)
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
    if _is_whole(folder) and not settings.overwrite:
        _refuse_other_settings(folder, command, settings)


def _refuse_other_settings(folder: Path, command: str, settings: PreparationSettings) -> None:
    """Raise UserError where a folder was prepared by another command or with other settings.

    What is still `auto` is not compared: what was chosen is, when this is called with it.
    """
    summary = read_summary(folder)
    if summary["command"] != command:
        other = shown(summary["command"]).strip("'")
        raise UserError(f"{folder} was prepared by `prepare_data.py {other}`: {_REMEDY}")
    stored = summary.get("settings")
    if not isinstance(stored, dict):
        return  # damaged: the files decide
    different, options = [], options_of(type(settings))
    for name, value in stored_settings(settings).items():
        # An earlier version lacks the options that it did not know.
        before = stored.get(name, options[name].default)
        if options[name].can_be_auto and AUTO in (value, before):
            continue
        if name != "output_dir" and _comparable(name, value) != _comparable(name, before):
            different.append(f"--{name} was {_as_typed(before)}, is {_as_typed(value)}")
    if different:
        more = len(different) - _MOST_SHOWN
        named = "; ".join(different[:_MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(f"{folder} was prepared with other settings ({named}): {_REMEDY}")


def _comparable(name: str, value: Any) -> Any:
    """The value of an option, equal for all ways to write the same."""
    if isinstance(value, (list, tuple)):
        return [_comparable(name, item) for item in value]
    return os.path.abspath(value) if name in _PATHS and isinstance(value, str) else value


def _as_typed(value: Any) -> str:
    """The value of an option about as one types it after its flag."""
    if isinstance(value, (list, tuple)):
        more = len(value) - _MOST_SHOWN
        return " ".join([*map(_as_typed, value[:_MOST_SHOWN]), *(["..."] if more > 0 else [])])
    if isinstance(value, str):
        return printable(shorten(value, _LONGEST_VALUE))
    return "none" if value is None else shown(value)


def stored_settings(settings: PreparationSettings) -> dict[str, Any]:
    """The settings that prepared.json keeps: all but those of one call, such as --overwrite."""
    options = options_of(type(settings))
    values = dataclasses.asdict(settings)
    return {name: value for name, value in values.items() if not options[name].flag_only}


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds a preparation that came to its end: training rows come last."""
    return TRAIN in _made_before(folder) and (folder / TRAIN).exists()


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
def publishing(settings: PreparationSettings) -> Iterator[Path]:
    """Yield an empty folder whose files on success replace those of an earlier preparation.

    Needs `holding_output`. Nothing changes before. Then the old training rows are deleted first and
    the new ones moved last, so that rows never lie beside another preparation's vocabulary. Files
    that would be the same stay as they are.

    Raises:
        UserError: the files of an earlier preparation would change, without --overwrite.
    """
    folder = Path(settings.output_dir)
    remove_leftovers(folder, re.compile("prepare"))
    with folder_beside(folder / "prepare") as stage:
        yield stage
        made, before = {path.name for path in stage.iterdir()}, _made_before(folder)
        names = [SUMMARY, *sorted(made - {SUMMARY, TRAIN}), TRAIN]
        same = {name for name in made if _same_content(stage / name, folder / name)}
        there = {name for name in before if (folder / name).exists()}
        changed = [name for name in FILES if name in there - same - set(_DESCRIBING)]
        if _is_whole(folder) and not changed:
            say(f"{folder} holds the same rows already: they stay as they are")
            names = [name for name in names if name not in same]
        elif _is_whole(folder) and not settings.overwrite:
            raise UserError(
                f"{folder}: {', '.join(changed)} would change though the settings are the same, "
                f"from other input files or by another version of this program: {_REMEDY}"
            )
        else:
            (folder / TRAIN).unlink(missing_ok=True)
            for name in before - made:
                (folder / name).unlink(missing_ok=True)
        replace_files(stage, folder, names)


def _same_content(path: Path, other: Path) -> bool:
    """Whether both are files of the same bytes."""
    return path.is_file() and other.is_file() and filecmp.cmp(path, other, shallow=False)


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
