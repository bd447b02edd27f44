"""The lengths of prepared rows, and the max_length of the suggested training command."""

from __future__ import annotations

from typing import Any

import numpy as np

from smallgpt.options.training import TrainSettings
from smallgpt.rows.lengths import covering_length, describe_cut, length_figures

_DEFAULT = min(TrainSettings.max_length, TrainSettings.n_positions)


def summarize_lengths(lengths_N: np.ndarray, of_text: bool, notes: list[str]) -> dict[str, Any]:
    """The entries of a summary on row lengths; `notes` gets a line on what the command will cut.

    `suggested_max_length` is None where the default does: longer texts are cut to it, other rows
    are cut only where a few of them are far longer than all others.
    """
    longest = int(lengths_N.max())
    length, suggested = _DEFAULT, None
    if longest > _DEFAULT and not of_text:
        length = suggested = covering_length(lengths_N)
    if longest > length:
        notes.append(
            f"the longest row has {longest:,} tokens; training with max_length {length:,} "
            f"{describe_cut(lengths_N, length)}"
        )
    return {
        "longest_row": longest,
        "row_lengths": length_figures(lengths_N),
        "suggested_max_length": suggested,
    }
