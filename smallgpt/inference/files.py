"""The file of rows that a model is used on, and what is said of rows that cannot be used."""

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
    """Read a JSONL file as the model was trained to read; bad rows are kept with their reason."""
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
    """Raise because all rows of a file are bad.

    Args:
        dataset: with the bad rows alone.
        path: of the file.
        verb: what cannot be done with them, such as "scored".

    Raises:
        UserError: with the reason of the first.
    """
    bad = dataset.bad_rows[0]
    remedy = ""
    if all("not valid JSON" in each.reason for each in dataset.bad_rows):
        remedy = ": rows come as JSONL, `python prepare_data.py text` makes them of a table"
    raise UserError(
        f"{path}:{bad.line}: {bad.reason}\n"
        f"not one of {plural(len(dataset.bad_rows), 'row')} can be {verb}{remedy}"
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


def beside(folder: Path, name: str) -> Path:
    """The path of a folder beside `folder`, also where that is called `.`, without a name."""
    if folder.name in ("", ".."):
        folder = Path(os.path.abspath(folder))
    return folder.parent / name
