"""Rows of an evaluation that the model has learned: figures of them say little of new rows."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.lines import read_json_lines
from smallgpt.rows.reading import Found, read_found

_LINES_AT_ONCE = 10_000


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
    keys = dataset.body_keys()
    asked, learned, has_rows = set(keys), set(), False
    lines = read_json_lines(path)
    try:
        # Some lines at a time: the training file may be larger than the memory of this machine.
        while some := list(islice(lines, _LINES_AT_ONCE)):
            rows = _readable(trained, some, path)
            if rows is not None:
                has_rows = True
                learned |= asked.intersection(rows.body_keys())
    except UserError:  # it cannot be read
        return None
    return sum(key in learned for key in keys) if has_rows else None


def _readable(
    trained: TrainedModel, found: Iterable[Found], path: Path
) -> TokenLabelDataset | None:
    """Rows as training reads them, without bad ones; None where all are bad."""
    try:
        return read_found(
            found,
            path,
            trained.vocabulary,
            max_length=trained.max_length,
            on_bad_row="skip",
            unknown_token=trained.settings.unknown_token,
        )
    except UserError:
        return None
