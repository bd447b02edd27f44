"""An evaluation read back from its folder: its metrics, and its predictions row by row."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallgpt.errors import UserError
from smallgpt.evaluation.abstention import is_unusable
from smallgpt.evaluation.folder import METRICS, PREDICTIONS, read_made_from
from smallgpt.files.reading import parse_json, read_text
from smallgpt.model.own_config import is_number
from smallgpt.rows.lines import read_json_lines

_MOST_BYTES = 2**28  # of metrics.json, which of 10,000 labels has 2 MB
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        figures: those of metrics.json.
        predictions: the objects of predictions.jsonl, with answers that `abstain` withheld.
        rows_digest: of the rows that it read, as in made_from.json; None where that is not known.
    """

    figures: dict[str, Any]
    predictions: list[dict[str, Any]]
    rows_digest: str | None


def is_evaluation(folder: Path) -> bool:
    """Whether a folder holds an evaluation, by its look."""
    return (folder / METRICS).is_file() and (folder / PREDICTIONS).is_file()


def read_evaluation(folder: Path) -> Evaluated:
    """Read the folder of an evaluation, of whatever origin.

    Raises:
        UserError: a file of it cannot be read or is not what an evaluation wrote.
    """
    path = folder / METRICS
    try:
        figures = parse_json(read_text(path, _MOST_BYTES))
    except ValueError as error:
        raise UserError(f"{path}: {error}; evaluate again") from None
    if not isinstance(figures, dict):
        raise UserError(f"{path}: not the metrics of an evaluation; evaluate again")
    path = folder / PREDICTIONS
    predictions = []
    for line, row, problem in read_json_lines(path):
        if problem is not None or not _is_prediction(row):
            reason = problem or "no prediction of an evaluation"
            raise UserError(f"{path}:{line}: {reason}; evaluate again")
        predictions.append(_answered(row))
    digest = read_made_from(folder).get("rows")
    return Evaluated(figures, predictions, digest if isinstance(digest, str) else None)


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the prediction that was withheld for its low confidence, if it was."""
    if is_unusable(row) or "reason" not in row:
        return row
    likeliest = max(row["probabilities"], key=row["probabilities"].__getitem__)
    return {name: value for name, value in row.items() if name != "reason"} | {
        "prediction": likeliest
    }


def _is_prediction(row: Any) -> bool:
    """Whether a line has what comparisons use, of the types that an evaluation writes."""
    if not isinstance(row, dict) or type(row.get("line")) is not int:
        return False
    texts = all(isinstance(row.get(name, ""), str | None) for name in ("label", "prediction"))
    shares = row.get("probabilities", {})
    if not is_unusable(row) and "reason" in row and not shares:  # withheld, and lost
        return False
    losses = ("nll_sum", "body_nll_sum", "label_nll")
    counts = ("token_count", "body_token_count")
    return (
        texts
        and isinstance(row.get("row"), dict)
        and isinstance(shares, dict)
        and all(is_number(share, 0, 1.001) for share in shares.values())
        and all(is_number(row.get(name, 0), 0, _LARGEST) for name in losses)
        and all(type(row.get(name, 0)) is int and row.get(name, 0) >= 0 for name in counts)
        and ("nll_sum" not in row or {*losses[:2], *counts} <= row.keys())
    )
