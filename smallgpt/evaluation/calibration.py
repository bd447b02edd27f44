"""Confidence calibration: temperature scaling, fitted on validation rows; calibration error.

    temperature = fit_temperature(log_probs_NxL, true_N)
    probs_NxL = apply_temperature(log_probs_NxL, temperature)

Networks are overconfident (Guo et al., On Calibration of Modern Neural Networks, 2017). Dividing
the logits by one number, the temperature, corrects most of that. It changes no prediction:
predictions are taken before it. The temperature of sampling (`decoding.sampling`) is another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # loads scipy.optimize at its first use: answering a prompt fits nothing

from smallgpt.evaluation.statistics import wilson_interval

LOWEST, HIGHEST = 0.05, 100.0
BINS = 15
FEWEST_TO_FIT = 20  # rows; fewer rather spoil the confidence (docs/measurements.md)
# Prior of the temperature: standard deviation of its logarithm around 0. Without it a few rows that
# all happen to be right would lead to full certainty. Measured: with 0.35 unseen rows gain on
# average from 20 fitted rows on, with 1 they lose (docs/measurements.md).
_EXPECTED_SPREAD = 0.35


# ------------------------------------------------------------------------------- applying


def apply_temperature(
    log_probs_NxL: np.ndarray,
    temperature: float | np.ndarray,
    log_totals_N: np.ndarray | None = None,
) -> np.ndarray:
    """Probabilities of the labels, softmax(log_probs / temperature) (Guo et al., 2017, eq. 9).

    All calibrated confidences are computed here. A temperature (one, or Nx1) above 1 lowers the
    confidence. `log_totals_N`: over all labels, where the columns are only some of them.
    """
    if log_totals_N is not None:
        return np.exp(log_probs_NxL / temperature - log_totals_N[:, None])
    scaled_NxL = (log_probs_NxL - log_probs_NxL.max(axis=1, keepdims=True)) / temperature
    probs_NxL = np.exp(scaled_NxL)
    return probs_NxL / probs_NxL.sum(axis=1, keepdims=True)


def log_totals(log_probs_NxL: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """log(sum(exp(log_probs / temperature))) of each row: the normalizer of `apply_temperature`."""
    scaled_NxL = log_probs_NxL / temperature
    highest_N = scaled_NxL.max(axis=1)
    return highest_N + np.log(np.exp(scaled_NxL - highest_N[:, None]).sum(axis=1))


# ------------------------------------------------------------------------------- fitting


@dataclass(frozen=True)
class Temperatures:
    """Temperatures of N rows: fitted on all, and for each row on the rows of the other folds."""

    of_all: float
    of_row_Nx1: np.ndarray


def fit_temperatures(
    log_probs_NxL: np.ndarray, true_N: np.ndarray, fold_N: np.ndarray
) -> Temperatures:
    """Fit a temperature, and one without each fold, by which that fold is calibrated unseen.

    1 where there are too few rows to fit one, or no other folds. `true_N` are class indices.
    """
    rows, folds = len(true_N), np.unique(fold_N)
    of_row_Nx1 = np.ones((rows, 1))
    if rows < FEWEST_TO_FIT or not np.isfinite(log_probs_NxL).all():
        return Temperatures(1.0, of_row_Nx1)
    for fold in folds if len(folds) > 1 else ():
        others = fold_N != fold
        of_row_Nx1[~others] = fit_temperature(log_probs_NxL[others], true_N[others])
    return Temperatures(fit_temperature(log_probs_NxL, true_N), of_row_Nx1)


def fit_temperature(log_probs_NxL: np.ndarray, true_N: np.ndarray) -> float:
    """The most probable temperature from LOWEST to HIGHEST, for finite log probabilities.

    Minimises the summed negative log likelihood of the true labels (class indices `true_N`) plus
    (log temperature / 0.35)^2 / 2, a prior that a hundred rows outweigh.
    """
    below_NxL = log_probs_NxL - log_probs_NxL.max(axis=1, keepdims=True)
    true_sum = float(below_NxL[np.arange(len(true_N)), true_N].sum(dtype=np.float64))
    # Allocated once: with many labels that takes longer than the exponentials.
    probs_NxL = np.empty_like(below_NxL)

    def cost(log_temperature: float) -> float:
        sharpness = math.exp(-log_temperature)
        np.exp(np.multiply(below_NxL, sharpness, out=probs_NxL), out=probs_NxL)
        nll = float(np.log(probs_NxL.sum(axis=1)).sum(dtype=np.float64)) - true_sum * sharpness
        return nll + (log_temperature / _EXPECTED_SPREAD) ** 2 / 2

    found = scipy.optimize.minimize_scalar(
        cost,
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return math.exp(float(found.x))


# ------------------------------------------------------------------------------- measuring


def expected_calibration_error(
    confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS
) -> float:
    """Mean gap between confidence and accuracy over equal bins (Guo et al., 2017, eq. 3)."""
    filled = reliability(confidence_N, right_N, bins)
    gaps = [abs(row["confidence"] - row["accuracy"]) * row["count"] for row in filled]
    return math.fsum(gaps) / len(confidence_N)


def reliability(
    confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS
) -> list[dict[str, Any]]:
    """Count, mean confidence, accuracy and its interval of each filled bin ((m-1)/bins, m/bins]."""
    place_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for place in np.unique(place_N).tolist():
        inside = place_N == place
        count, right = int(inside.sum()), int(right_N[inside].sum())
        rows.append(
            {
                "from": place / bins,
                "to": (place + 1) / bins,
                "count": count,
                "confidence": float(confidence_N[inside].mean()),
                "accuracy": float(right_N[inside].mean()),
                "accuracy_interval": [*map(float, wilson_interval(right, count))],
            }
        )
    return rows
