"""The folder of an evaluation: its files, what they were made from, protection of other files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from smallgpt.errors import SettingsError, UserError
from smallgpt.files.locks import FolderInUseError, hold_output
from smallgpt.files.reading import contents, first_bytes, parse_json, read_text, same_file
from smallgpt.files.writing import remove_leftovers, write_json

PREDICTIONS, METRICS, MADE_FROM = "predictions.jsonl", "metrics.json", "made_from.json"
PREDICTIONS_TABLE = "predictions.csv"
COMPARISON, COMPARISON_PNG = "compare.json", "compare.png"
CONFUSION_PNG, RELIABILITY_PNG = "confusion_matrix.png", "reliability.png"
CLASSES_PNG, COVERAGE_PNG = "class_accuracy.png", "coverage.png"
MISTAKES_PNG = "mistakes.png"
PICTURES = (CONFUSION_PNG, RELIABILITY_PNG, COVERAGE_PNG, CLASSES_PNG, MISTAKES_PNG)
_RESULTS = (PREDICTIONS, PREDICTIONS_TABLE, METRICS, *PICTURES, COMPARISON, COMPARISON_PNG)
EVALUATION_FILES = re.compile("|".join(map(re.escape, (*_RESULTS, MADE_FROM))))
# How rows and figures of ours begin. Pictures and a table count as ours where these lie beside.
_STARTS = {
    PREDICTIONS: b'{"line": ',
    METRICS: b'{\n  "model": ',
    COMPARISON: b'{\n  "compared": ',
    MADE_FROM: b'{\n  "mode": ',
}
# What of made_from.json tells one evaluation from another: contents of rows and model, by digest.
_IDENTITY = ("mode", "rows", "weights", "settings")
_MOST_BYTES = 2**20  # of made_from.json
_LONGEST_NAME = 200  # bytes; file systems take 255


class _TakenError(UserError):
    """A folder has what is not to be overwritten; `what` says so without the remedy."""

    def __init__(self, what: str, remedy: str):
        self.what = what
        super().__init__(f"{what}: {remedy}")


def check_evaluation_folder(folder: Path, otherwise: str) -> None:
    """Raise UserError for a file of others with the name of an evaluation's file.

    `otherwise` says in the message what would happen to it.
    """
    named = [path for path in contents(folder) if EVALUATION_FILES.fullmatch(path.name)]
    known = [path for path in named if path.name in _STARTS]
    foreign = [path for path in known if not first_bytes(path).startswith(_STARTS[path.name])]
    for path in foreign or (named if not known else ()):
        raise _TakenError(
            f"{path} was left by no evaluation, and {otherwise}",
            "move it, or choose another --output_dir",
        )


def _refuse_overwriting(path: str, folder: Path) -> None:
    """Refuse an evaluation that would overwrite its input rows or files of others.

    Raises:
        SettingsError: the rows are one of the files that it writes, also through a link.
        UserError: the folder is a file, or holds such a file that no evaluation wrote.
    """
    if any(same_file(path, folder / name) for name in _RESULTS):
        raise SettingsError([f"--test_data {path} would be overwritten: give another --output_dir"])
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise _TakenError(f"{folder} is a file", "give a folder as --output_dir")
    check_evaluation_folder(folder, "one writes under that name")


def named_after(kind: str, source: str) -> str:
    """The name of a result folder, such as `evaluation_test` for rows of data/test.jsonl."""
    stem = Path(source).stem or Path(os.path.abspath(source)).stem
    name = re.sub(r"[^\w.-]+", "_", f"{kind}_{stem}")
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


@dataclass(frozen=True)
class ResultFolder:
    """The folder that takes the results of one evaluation or classification."""

    path: Path
    made_from: Mapping[str, Any]
    instead: str  # why it is not the folder that was first thought of; "" where it is

    def begin(self) -> None:
        """Begin to write: results of before go, and the folder is that of `made_from`.

        That comes before the results, so that whoever is stopped halfway can do it again.
        """
        remove_leftovers(self.path, EVALUATION_FILES)
        for name in _RESULTS:
            (self.path / name).unlink(missing_ok=True)
        write_json(self.path / MADE_FROM, self.made_from)


@contextmanager
def holding_results(
    folder: Path, made_from: Mapping[str, Any], *, may_move: bool, overwrite: bool
) -> Iterator[ResultFolder]:
    """Lock a folder for the results of one evaluation or classification.

    Results of the very same one are replaced, those of another stay: with `may_move` the next free
    of `folder`, `folder_2` ... is taken.

    Args:
        made_from: what becomes made_from.json: `mode`, and for people `model` and `data`, the name
            of the rows; digests and settings, which identify it.
        overwrite: replace the results of another one.

    Raises:
        SettingsError: the rows lie in the folder, under the name of a result.
        UserError: it holds results of another, or files of others, or a process is using it.
    """

    def check(place: Path) -> None:
        _refuse_overwriting(made_from["data"], place)
        if not overwrite:
            _refuse_replacing(place, made_from)

    instead = ""
    for number in count(1):
        place = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        with ExitStack() as stack:
            try:
                check(place)
                stack.enter_context(hold_output(place, "evaluation"))
                check(place)  # another may have written meanwhile
            except (SettingsError, _TakenError, FolderInUseError) as error:
                if not may_move:
                    raise
                instead = instead or getattr(error, "what", f"{place} is in use")
                continue
            yield ResultFolder(place, made_from, instead)
            return


def _refuse_replacing(folder: Path, made_from: Mapping[str, Any]) -> None:
    """Raise UserError where a folder has results that are made from something else."""
    if not any((folder / name).exists() for name in (METRICS, PREDICTIONS, COMPARISON)):
        return
    stored = read_made_from(folder)
    changed = [name for name in _IDENTITY if stored.get(name) != made_from[name]]
    if not changed:
        return
    kinds = {"classify": "a classification", "compare": "a comparison"}
    what = kinds.get(str(stored.get("mode")), "an evaluation")
    if isinstance(stored.get("data"), str):
        what += f" of {stored['data']}"
    if "weights" in changed and "weights" in stored:  # earlier versions did not store them
        what += " by another model"  # which may read the same file as other rows
    elif (stored.get("mode"), stored.get("data")) == (made_from["mode"], made_from["data"]):
        what += f" with other {' and '.join(changed)}"
    raise _TakenError(
        f"{folder} holds {what}", "give another --output_dir, or replace it with --overwrite"
    )


def read_made_from(folder: Path) -> dict[str, Any]:
    """The content of made_from.json, {} where none is readable."""
    try:
        value = parse_json(read_text(folder / MADE_FROM, _MOST_BYTES))
    except (UserError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
