"""Rows that are read, and what is said of those that could not be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallgpt.console import plural, printable

if TYPE_CHECKING:
    from smallgpt.model.folder import TrainedModel
    from smallgpt.rows.dataset import TokenLabelDataset


def read_rows(
    trained: TrainedModel, path: str | Path, for_label: bool = False
) -> TokenLabelDataset:
    """Read a JSONL file as the model was trained to read; bad rows are kept with their reason."""
    from smallgpt.rows.reading import read_dataset

    return read_dataset(
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
