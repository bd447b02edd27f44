"""Confidence calibration: temperature scaling, fitted on validation rows; calibration error.

    calibration = fit_calibration(log_probs_NxL, true_N)
    probs_NxL = apply_temperature(log_probs_NxL, calibration.temperature)

Networks are overconfident (Guo et al., On Calibration of Modern Neural Networks, 2017). Dividing
the logits by one number, the temperature, corrects most of that. It changes no prediction:
predictions are taken before it. The temperature of sampling (`decoding.sampling`) is another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from smallgpt.evaluation.statistics import wilson_interval

LOWEST, HIGHEST = 0.05, 100.0
BINS = 15
_FOLDS = 5
# Fewer rows are too few to fit on, and leave too few in a fold to measure the effect.
_FEWEST_ROWS = 20
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
class Calibration:
    """A temperature (1: too few rows to fit one) and its effect on the rows it was fitted on.

    ECE (expected calibration error) and NLL (mean negative log likelihood of the true label, nats):
    raw ones before it; the others cross-validated, each row at the temperature of the other folds.
    """

    temperature: float
    rows: int
    raw_ece: float
    ece: float
    raw_nll: float
    nll: float


def fit_calibration(log_probs_NxL: np.ndarray, true_N: np.ndarray) -> Calibration:
    """Fit a temperature and cross-validate it, N >= 1; `true_N` are class indices."""
    rows = len(true_N)
    raw_nll, raw_ece = _errors(log_probs_NxL, true_N, 1.0)
    if rows < _FEWEST_ROWS or not np.isfinite(log_probs_NxL).all():
        return Calibration(1.0, rows, raw_ece, raw_ece, raw_nll, raw_nll)
    fold_N = np.random.default_rng(0).permutation(rows) % _FOLDS
    temperature_Nx1 = np.ones((rows, 1))
    for fold in range(_FOLDS):
        others = fold_N != fold
        temperature_Nx1[~others] = fit_temperature(log_probs_NxL[others], true_N[others])
    nll, ece = _errors(log_probs_NxL, true_N, temperature_Nx1)
    temperature = fit_temperature(log_probs_NxL, true_N)
    return Calibration(temperature, rows, raw_ece, ece, raw_nll, nll)


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

    found = minimize_scalar(
        cost,
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return math.exp(float(found.x))


def _errors(
    log_probs_NxL: np.ndarray, true_N: np.ndarray, temperature: float | np.ndarray
) -> tuple[float, float]:
    """Mean negative log likelihood of the true label (nats), and calibration error."""
    true_Nx1 = np.take_along_axis(log_probs_NxL, true_N[:, None], axis=1) / temperature
    # From logarithms, so that it is never infinite.
    nll_N = log_totals(log_probs_NxL, temperature) - true_Nx1[:, 0]
    right_N = log_probs_NxL.argmax(axis=1) == true_N
    confidence_N = apply_temperature(log_probs_NxL, temperature).max(axis=1)
    return float(nll_N.mean()), expected_calibration_error(confidence_N, right_N)


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
