"""Rows of an evaluation that the model has learned: figures of them say little of new rows."""

from __future__ import annotations

from pathlib import Path

from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.lines import read_json_lines
from smallgpt.rows.reading import read_found


def count_learned_rows(trained: TrainedModel, dataset: TokenLabelDataset) -> int | None:
    """How many rows have the body of a row in the model's training file; None without that file.

    The file is the `data_path` in the model's settings, as it is now, so that a file that was moved
    or is no longer readable tells nothing. It is read without the cache, which writes beside it:
    whoever made the model named the file.
    """
    settings = trained.settings
    path = Path(settings.data_path)
    if not path.is_file():
        return None
    try:
        learned = read_found(
            read_json_lines(path),
            path,
            trained.vocabulary,
            max_length=trained.max_length,
            on_bad_row="skip",
            unknown_token=settings.unknown_token,
        )
    except UserError:
        return None
    keys = set(learned.body_keys())
    return sum(key in keys for key in dataset.body_keys())
