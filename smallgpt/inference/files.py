"""The rows that a model is used on: reading them, and messages about unusable ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from smallgpt.console import plural, printable
from smallgpt.errors import UserError
from smallgpt.model.folder import TrainedModel
from smallgpt.rows.codebook_of_rows import KnownCodebook
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.lines import read_json_lines
from smallgpt.rows.reading import Found, read_found


@dataclass(frozen=True)
class GivenRows:
    """Rows that a model is used on, checked, and where they came from.

    Bad rows are kept in the dataset with their reason, and so are the records as they were found.
    """

    dataset: TokenLabelDataset
    source: str  # names the rows in messages and in metrics.json


def read_rows(trained: TrainedModel, path: str | Path, for_label: bool = False) -> GivenRows:
    """Read a JSONL file as in training; `for_label`: the rows are only to be classified."""
    return given_rows(trained, read_json_lines(Path(path)), str(path), for_label)


def given_rows(
    trained: TrainedModel,
    found: Iterable[Found],
    source: str,
    for_label: bool = False,
    made_here: bool = False,
) -> GivenRows:
    """The rows of what a reader found, checked as in training.

    `made_here`: rows of images, made with the model's own codebook.
    """
    dataset = read_found(
        found,
        source,
        trained.vocabulary,
        max_length=trained.max_length,
        on_bad_row="keep",
        unknown_token=trained.settings.unknown_token,
        keep_records=True,
        for_label=for_label,
        codebook=None if made_here else KnownCodebook.at(trained.codebook),
    )
    return GivenRows(dataset, source)


def refuse_unusable(dataset: TokenLabelDataset, source: str, verb: str) -> NoReturn:
    """Raise UserError, with the first reason, where no row is usable; `verb`: "scored"."""
    bad = dataset.bad_rows[0]
    remedy = ""
    if all("not valid JSON" in each.reason for each in dataset.bad_rows):
        remedy = ": rows come as JSONL, `python prepare_data.py text` makes them of a table"
    raise UserError(
        f"{source}:{bad.line}: {bad.reason}\n"
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
