"""Rows that are read, and predictions that are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallgpt.console import plural, printable
from smallgpt.errors import SettingsError, UserError
from smallgpt.training.run_folder import check_evaluation_folder

if TYPE_CHECKING:
    from smallgpt.model.folder import TrainedModel
    from smallgpt.rows.dataset import TokenLabelDataset


PREDICTIONS, METRICS = "predictions.jsonl", "metrics.json"


def refuse_overwriting(path: str | Path, output_dir: str | Path) -> None:
    """Raise where an evaluation would write over its own rows or over files of others.

    Raises:
        SettingsError: the file of rows is one of those that it writes, by whatever name.
        UserError: no evaluation has left what bears the name of such a file.
    """
    from smallgpt.evaluation.pictures import PICTURES

    if any(are_one(path, Path(output_dir) / name) for name in (PREDICTIONS, METRICS, *PICTURES)):
        raise SettingsError([f"--test_data {path} would be overwritten: give another --output_dir"])
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):
        raise UserError(f"{output_dir} is a file: give a folder as --output_dir")
    check_evaluation_folder(Path(output_dir), "one writes under that name")


def are_one(path: str | Path, other: str | Path) -> bool:
    """Whether two paths name one file, however they are written."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there
        return False


def remove_earlier(output_dir: str | Path) -> None:
    """Remove figures and pictures of an earlier evaluation, so that none stands beside new rows."""
    from smallgpt.evaluation.pictures import PICTURES

    for name in (METRICS, *PICTURES):
        (Path(output_dir) / name).unlink(missing_ok=True)


def read_rows(
    trained: TrainedModel, path: str | Path, for_label: bool = False
) -> TokenLabelDataset:
    """Read a JSONL file as the model was trained to read; bad rows are kept with their reason."""
    from smallgpt.rows.dataset import TokenLabelDataset

    return TokenLabelDataset.read(
        path,
        trained.vocabulary,
        max_length=trained.max_length,
        on_bad_row="keep",
        unknown_token=trained.settings.unknown_token,
        keep_records=True,
        for_label=for_label,
    )


def say_bad_rows(predictions: list[dict[str, Any]]) -> None:
    """Say how many rows could not be used, and why the first few."""
    bad = [row for row in predictions if "reason" in row]
    if bad:
        print(
            f"{plural(len(bad), 'row')} could not be used (kept in predictions.jsonl), the first:"
        )
        for row in bad[:5]:
            print(f"  line {row['line']}: {printable(row['reason'])}")
