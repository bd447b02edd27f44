"""Intervals and p values of shares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array


# Accuracy is above chance, and a label told from chance, where guessing does as well less often.
_CHANCE_OF_ALL, _CHANCE_OF_LABELS = 0.025, 0.05


def label_p_values(confusion_LxL: np.ndarray | csr_array) -> np.ndarray:
    """How likely guessing tells each label as well: Fisher's exact test, one-sided.

    Predicted k or not against truly k or not; corrected for the number of labels (Holm, 1979).

    Returns:
        p_values_L: from 0 to 1, NaN for a label that no row has.
    """
    from scipy.stats import hypergeom

    true_L, predicted_L = confusion_LxL.sum(axis=1), confusion_LxL.sum(axis=0)
    asked = np.flatnonzero(true_L)
    tables_Mx3 = np.stack([confusion_LxL.diagonal(), true_L, predicted_L], axis=1)[asked]
    # SciPy takes 0.1 ms and more for each; of many labels most have the counts of another.
    tables_Ux3, which_M = np.unique(tables_Mx3, axis=0, return_inverse=True)
    right_U, true_U, predicted_U = tables_Ux3.T
    p_M = hypergeom.sf(right_U - 1, true_L.sum(), true_U, predicted_U)[which_M]
    order = np.argsort(p_M)
    corrected_M = np.maximum.accumulate(p_M[order] * np.arange(len(p_M), 0, -1))
    p_values_L = np.full(len(true_L), np.nan)
    p_values_L[asked[order]] = np.minimum(corrected_M, 1)
    return p_values_L


def _best_p_value(rows: int, support: int) -> float:
    """Fisher's p-value of a label of `support` rows that is told without a mistake."""
    ways = math.lgamma(rows + 1) - math.lgamma(support + 1) - math.lgamma(rows - support + 1)
    return math.exp(-ways)


# ------------------------------------------------------------------------------- calibration


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> list[float]:
    """Wilson's score interval of a share, 95 % for the default z (Wilson, 1927)."""
    share = successes / trials
    spread = z * z / trials
    middle = share + spread / 2
    margin = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return [max(0.0, (middle - margin) / (1 + spread)), min(1.0, (middle + margin) / (1 + spread))]


def exact_interval(successes: int, trials: int) -> list[float]:
    """The exact 95 % interval of a share (Clopper and Pearson, 1934).

    Its lower end lies above a chance where guessing at that chance succeeds as often in less than
    2.5 % of cases, so it agrees with `above_chance` of `chance_figures`.
    """
    from scipy.stats import beta

    failures, tail = trials - successes, _CHANCE_OF_ALL
    low = float(beta.ppf(tail, successes, failures + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, failures)) if failures else 1.0
    return [low, high]


def _wilson_lower(right: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Lower end of `metrics.wilson_interval` for many shares at once."""
    z = 1.959963984540054
    share, spread = right / rows, z * z / rows
    margin = z * np.sqrt(share * (1 - share) / rows + spread / (4 * rows))
    return np.maximum(0, (share + spread / 2 - margin) / (1 + spread))
