"""Confidence intervals of shares; p values of an accuracy or a label against guessing."""

from __future__ import annotations

import math
from typing import overload

import numpy as np
import scipy  # loads scipy.stats (half a second) at its first use: answering a prompt has none

# The highest p value at which an accuracy, and a label, count as better than guessing.
ACCURACY_LEVEL, LABEL_LEVEL = 0.025, 0.05


@overload
def wilson_interval(successes: int, trials: int, z: float = ...) -> tuple[float, float]: ...


@overload
def wilson_interval(
    successes: np.ndarray, trials: int | np.ndarray, z: float = ...
) -> tuple[np.ndarray, np.ndarray]: ...


def wilson_interval(
    successes: int | np.ndarray, trials: int | np.ndarray, z: float = 1.959963984540054
) -> tuple[float | np.ndarray, float | np.ndarray]:
    """Lower and upper end of Wilson's score interval of shares, by default 95 % (Wilson, 1927)."""
    share = successes / trials
    spread = z * z / trials
    middle = share + spread / 2
    margin = z * np.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    low, high = (middle - margin) / (1 + spread), (middle + margin) / (1 + spread)
    return np.maximum(low, 0.0), np.minimum(high, 1.0)


def exact_interval(successes: int, trials: int) -> list[float]:
    """The exact 95 % interval of a share (Clopper and Pearson, 1934).

    Its lower end lies above a chance rate where the p value at that rate is below 2.5 %, so it
    agrees with `above_chance` of `metrics.chance_figures`.
    """
    failures, tail, quantile = trials - successes, ACCURACY_LEVEL, scipy.stats.beta.ppf
    low = float(quantile(tail, successes, failures + 1)) if successes else 0.0
    high = float(quantile(1 - tail, successes + 1, failures)) if failures else 1.0
    return [low, high]


def difference_interval(
    successes: int, trials: int, other_successes: int, other_trials: int
) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares (Newcombe, 1998, method 10).

    For shares of the same rows it is too wide rather than too narrow: rows that are hard for one
    classifier are mostly hard for the other, and then the difference varies less.
    """
    share, other = successes / trials, other_successes / other_trials
    low, high = wilson_interval(successes, trials)
    other_low, other_high = wilson_interval(other_successes, other_trials)
    return (
        share - other - math.hypot(share - low, other_high - other),
        share - other + math.hypot(high - share, other - other_low),
    )


def ratio_interval(sum_N: np.ndarray, count_N: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of sum(sum_N) / sum(count_N) over other rows of the kind; None of one row.

    Rows are drawn, not tokens: those of one row are alike. By Student's t.
    """
    if len(sum_N) < 2:
        return None
    ratio, error = ratio_and_error(sum_N, count_N)
    margin = scipy.stats.t.ppf(1 - ACCURACY_LEVEL, len(sum_N) - 1) * error
    return float(ratio - margin), float(ratio + margin)


def ratio_and_error(sum_N: np.ndarray, count_N: np.ndarray) -> tuple[float, float]:
    """sum(sum_N) / sum(count_N) and its standard error, by linearization; at least two rows."""
    rows, count = len(sum_N), count_N.sum()
    ratio = sum_N.sum() / count
    variance = ((sum_N - ratio * count_N) ** 2).sum() * rows / (rows - 1)
    return float(ratio), float(math.sqrt(variance) / count)


def chance_p_value(right: int, rows: int, chance: float) -> float:
    """P value: at least `right` of `rows` guesses are right, each with probability `chance`."""
    return float(scipy.stats.binom.sf(right - 1, rows, min(chance, 1.0)))


def label_p_values(confusion_LxL: np.ndarray | scipy.sparse.csr_array) -> np.ndarray:
    """p_values_L of one-sided Fisher's exact tests of each label; NaN for a label without rows.

    Predicted k or not against truly k or not; corrected for the number of labels (Holm, 1979).
    """
    true_L, predicted_L = confusion_LxL.sum(axis=1), confusion_LxL.sum(axis=0)
    present_M = np.flatnonzero(true_L)
    tables_Mx3 = np.stack([confusion_LxL.diagonal(), true_L, predicted_L], axis=1)[present_M]
    # SciPy takes 0.1 ms and more for each; of many labels most share their counts with another.
    tables_Ux3, which_M = np.unique(tables_Mx3, axis=0, return_inverse=True)
    right_U, true_U, predicted_U = tables_Ux3.T
    p_M = scipy.stats.hypergeom.sf(right_U - 1, true_L.sum(), true_U, predicted_U)[which_M]
    order = np.argsort(p_M)
    corrected_M = np.maximum.accumulate(p_M[order] * np.arange(len(p_M), 0, -1))
    p_values_L = np.full(len(true_L), np.nan)
    p_values_L[present_M[order]] = np.minimum(corrected_M, 1)
    return p_values_L


def best_p_value(rows: int, support: int) -> float:
    """Fisher's p value of a label of `support` rows that is predicted without a mistake."""
    ways = math.lgamma(rows + 1) - math.lgamma(support + 1) - math.lgamma(rows - support + 1)
    return math.exp(-ways)
