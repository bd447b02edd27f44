"""The rows that a model is used on: reading them, and messages about unusable ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

from smallgpt.console import plural, printable
from smallgpt.errors import UserError
from smallgpt.model.folder import TrainedModel
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.reading import read_dataset


def read_rows(
    trained: TrainedModel, path: str | Path, for_label: bool = False
) -> TokenLabelDataset:
    """Read a JSONL file as in training; bad rows are kept with their reason."""
    return read_dataset(
        path,
        trained.vocabulary,
        max_length=trained.max_length,
        on_bad_row="keep",
        unknown_token=trained.settings.unknown_token,
        keep_records=True,
        for_label=for_label,
    )


def refuse_unusable(dataset: TokenLabelDataset, path: str | Path, verb: str) -> NoReturn:
    """Raise UserError, with the first reason, for a file without usable rows; `verb`: "scored"."""
    bad = dataset.bad_rows[0]
    remedy = ""
    if all("not valid JSON" in each.reason for each in dataset.bad_rows):
        remedy = ": rows come as JSONL, `python prepare_data.py text` makes them of a table"
    raise UserError(
        f"{path}:{bad.line}: {bad.reason}\n"
        f"not one of {plural(len(dataset.bad_rows), 'row')} can be {verb}{remedy}"
    )


def say_bad_rows(predictions: list[dict[str, Any]]) -> None:
    """Print how many rows could not be used, and the reasons of the first five."""
    bad = [row for row in predictions if "reason" in row]
    if bad:
        print(
            f"{plural(len(bad), 'row')} could not be used (kept in predictions.jsonl), the first:"
        )
        for row in bad[:5]:
            print(f"  line {row['line']}: {printable(row['reason'])}")


def beside(folder: Path, name: str) -> Path:
    """The sibling `name` of `folder`, also where that is `.` or `..`."""
    if folder.name in ("", ".."):
        folder = Path(os.path.abspath(folder))
    return folder.parent / name
