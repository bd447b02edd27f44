"""The folder of an evaluation: names of its files, protection of files that are not its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from smallgpt.errors import SettingsError, UserError
from smallgpt.files.reading import contents, first_bytes, same_file

PREDICTIONS, METRICS = "predictions.jsonl", "metrics.json"
CONFUSION_PNG, RELIABILITY_PNG = "confusion_matrix.png", "reliability.png"
CLASSES_PNG, MISTAKES_PNG = "class_accuracy.png", "mistakes.png"
PICTURES = (CONFUSION_PNG, RELIABILITY_PNG, CLASSES_PNG, MISTAKES_PNG)
EVALUATION_FILES = re.compile("|".join(map(re.escape, (PREDICTIONS, METRICS, *PICTURES))))
# How rows and figures of ours begin. Pictures count as ours where rows or figures lie beside them.
_STARTS = {PREDICTIONS: b'{"line": ', METRICS: b'{\n  "model": '}


def check_evaluation_folder(folder: Path, otherwise: str) -> None:
    """Raise UserError for a file of others with the name of an evaluation's file.

    `otherwise` says in the message what would happen to it.
    """
    named = [path for path in contents(folder) if EVALUATION_FILES.fullmatch(path.name)]
    known = [path for path in named if path.name in _STARTS]
    foreign = [path for path in known if not first_bytes(path).startswith(_STARTS[path.name])]
    for path in foreign or (named if not known else ()):
        raise UserError(
            f"{path} was left by no evaluation, and {otherwise}: move it, or choose another "
            f"--output_dir"
        )


def refuse_overwriting(path: str | Path, output_dir: str | Path) -> None:
    """Refuse an evaluation that would overwrite its input rows or files of others.

    Raises:
        SettingsError: the rows are one of the files that it writes, also through a link.
        UserError: output_dir is a file, or holds such a file that no evaluation wrote.
    """
    folder = Path(output_dir)
    if any(same_file(path, folder / name) for name in (PREDICTIONS, METRICS, *PICTURES)):
        raise SettingsError([f"--test_data {path} would be overwritten: give another --output_dir"])
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{output_dir} is a file: give a folder as --output_dir")
    check_evaluation_folder(folder, "one writes under that name")


def remove_earlier(output_dir: str | Path) -> None:
    """Remove metrics and pictures of an earlier evaluation: they do not belong to the new rows."""
    for name in (METRICS, *PICTURES):
        (Path(output_dir) / name).unlink(missing_ok=True)
