"""Abstention: answers below a confidence are withheld; accuracy against coverage.

    curve = CoverageCurve.of(confidence_N, right_N)
    curve.answered_at(0.6)                    # the rows of confidence 0.6 and more
    predictions = abstain(predictions, 0.6)   # the others get no prediction

The higher the lowest confidence that is still answered, the fewer rows are answered (coverage), and
the more of them rightly if the confidence tells right from wrong: the risk-coverage curve of
El-Yaniv and Wiener (2010) and Geifman and El-Yaniv (2017), with accuracy in place of risk.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from smallgpt.evaluation.statistics import wilson_interval

_PERCENTS = (95, 90, 80, 50)  # of the rows, at least so many answered


@dataclass(frozen=True)
class CoverageCurve:
    """How many rows are answered, and how many of them rightly, for every lowest confidence.

    Attributes:
        confidence_K: the distinct confidences, falling.
        answered_K, right_K: rows of at least that confidence, and those of them told right.
    """

    confidence_K: np.ndarray
    answered_K: np.ndarray
    right_K: np.ndarray

    @classmethod
    def of(cls, confidence_N: np.ndarray, right_N: np.ndarray) -> CoverageCurve:
        """From the confidence of each row, and whether it was told right."""
        order_N = np.argsort(-confidence_N, kind="stable")
        falling_N = confidence_N[order_N]
        last_K = np.flatnonzero(np.diff(falling_N, append=-1.0))  # rows that are alike go together
        return cls(falling_N[last_K], last_K + 1, right_N[order_N].cumsum()[last_K])

    @property
    def rows(self) -> int:
        """The number of rows, answered or not."""
        return int(self.answered_K[-1])

    def answered_at(self, threshold: float) -> dict[str, Any]:
        """The rows of at least a confidence: their number, share of all rows, and accuracy.

        Accuracy and interval (95 %, Wilson) are None where no row is answered.
        """
        place = int(np.searchsorted(-self.confidence_K, -threshold, side="right")) - 1
        answered, accuracy, interval = 0, None, None
        if place >= 0:
            answered, right = int(self.answered_K[place]), int(self.right_K[place])
            accuracy, interval = right / answered, [*map(float, wilson_interval(right, answered))]
        return {
            "threshold": threshold,
            "answered": answered,
            "coverage": answered / self.rows,
            "accuracy": accuracy,
            "accuracy_interval": interval,
        }

    def points(self) -> list[dict[str, Any]]:
        """`answered_at` where the least of 95, 90, 80 and 50 % of the rows are answered.

        Rows of one confidence are answered together or not at all, so it may be more. The threshold
        is the shortest number that leaves just these rows.
        """
        least = [-(-percent * self.rows // 100) for percent in _PERCENTS]
        places = dict.fromkeys(np.searchsorted(self.answered_K, least).tolist())
        thresholds = [
            _shortest_number(self.confidence_K[place + 1], self.confidence_K[place])
            for place in places
            if place + 1 < len(self.confidence_K)
        ]
        return [self.answered_at(threshold) for threshold in thresholds]

    def area(self) -> float:
        """The mean, over the confidences of all rows, of the share wrong among the answered (AURC).

        1 - accuracy where the confidence tells nothing, less where it does (Geifman et al., 2019).
        """
        wrong_K = 1 - self.right_K / self.answered_K
        return float(wrong_K @ np.diff(self.answered_K, prepend=0)) / self.rows


def _shortest_number(above: float, up_to: float) -> float:
    """The number with the fewest decimals that is greater than `above` and at most `up_to`."""
    for decimals in range(1, 17):
        number = math.floor(up_to * 10**decimals) / 10**decimals
        if above < number <= up_to:
            return number
    return float(up_to)


def abstain(
    predictions: Iterable[dict[str, Any]], abstain_below: float | None
) -> list[dict[str, Any]]:
    """Objects of predictions.jsonl, those below a confidence without their prediction.

    Their `reason` says so; their confidence and probabilities stay. None: all answer.
    """
    return [withheld(row, abstain_below) for row in predictions]


def withheld(row: dict[str, Any], abstain_below: float | None) -> dict[str, Any]:
    """An object of predictions.jsonl as `abstain` leaves it."""
    if abstain_below is None or not _is_below(row, abstain_below):
        return row
    return {**row, "prediction": None, "reason": f"confidence below {abstain_below}"}


def abstention_figures(
    predictions: Collection[dict[str, Any]], abstain_below: float | None
) -> dict[str, Any]:
    """What of metrics.json tells of the answers that are withheld; {} where none are.

    `abstained` counts all rows without an answer for their confidence; `answered`, of the rows with
    a label, is `CoverageCurve.answered_at`.
    """
    if abstain_below is None:
        return {}
    abstained = sum(_is_below(row, abstain_below) for row in predictions)
    figures: dict[str, Any] = {"abstain_below": abstain_below, "abstained": abstained}
    if any(row["label"] is not None for row in predictions):
        figures["answered"] = curve_of(predictions).answered_at(abstain_below)
    return figures


def curve_of(predictions: Collection[dict[str, Any]]) -> CoverageCurve:
    """The curve of the labelled rows of predictions.jsonl, of which there is at least one."""
    labelled = (row for row in predictions if row["label"] is not None)
    told = ((row["confidence"], row["prediction"] == row["label"]) for row in labelled)
    rows = np.fromiter(told, np.dtype([("confidence", float), ("right", bool)]))
    return CoverageCurve.of(rows["confidence"], rows["right"])


def _is_below(row: dict[str, Any], abstain_below: float) -> bool:
    """Whether a row has a confidence, and one below the threshold."""
    confidence = row.get("confidence")
    return confidence is not None and confidence < abstain_below


def is_unusable(row: dict[str, Any]) -> bool:
    """Whether a row of predictions.jsonl was not used, and not only left without an answer."""
    return "reason" in row and row.get("confidence") is None
