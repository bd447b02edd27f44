"""Paired tests of two models on the same rows: accuracy, label loss, perplexity.

Differences are of the other model (B) minus the first (A). Rows of one group (variants of one
image, visits of one person) are alike and count as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy

from smallgpt.evaluation.metrics import perplexity
from smallgpt.evaluation.statistics import ACCURACY_LEVEL, exact_interval, ratio_interval

# The highest p value at which two models count as told apart.
DIFFERENCE_LEVEL = 0.05


def group_numbers(keys: Sequence[str | None]) -> np.ndarray:
    """group_N: the number of each row's group from 0; a row without a key is a group of its own."""
    numbers: dict[Any, int] = {}
    return np.array(
        [
            numbers.setdefault(place if key is None else key, len(numbers))
            for place, key in enumerate(keys)
        ],
        np.int64,
    )


def accuracy_difference(
    right_N: np.ndarray, other_right_N: np.ndarray, group_N: np.ndarray
) -> dict[str, Any]:
    """Difference of two accuracies on the same rows, with McNemar's exact test (McNemar, 1947).

    Args:
        right_N, other_right_N: whether each model told the label of a row.

    Returns:
        difference, interval (95 %), p_value; only_first, only_second, both, neither: rows that
        only A, only B, both or none of them told. Where a group has several rows, the test counts
        groups: of `groups`, in groups_first_ahead A told more rows and in groups_second_ahead B.
    """
    rows = len(right_N)
    difference_N = other_right_N.astype(np.int64) - right_N
    first, second = int((difference_N < 0).sum()), int((difference_N > 0).sum())
    both = int((right_N & other_right_N).sum())
    found: dict[str, Any] = {
        "difference": (second - first) / rows,
        "only_first": first,
        "only_second": second,
        "both": both,
        "neither": rows - first - second - both,
    }
    difference_G = np.bincount(group_N, difference_N)
    interval = None
    if len(difference_G) < rows:
        first, second = int((difference_G < 0).sum()), int((difference_G > 0).sum())
        found |= {
            "groups": len(difference_G),
            "groups_first_ahead": first,
            "groups_second_ahead": second,
        }
        if first or second:
            interval = ratio_interval(difference_G, np.bincount(group_N))
    found["interval"] = list(interval or _shares_interval(first, second, len(difference_G)))
    differing = first + second
    found["p_value"] = float(scipy.stats.binomtest(first, differing).pvalue) if differing else 1.0
    return found


def mean_difference(
    sum_N: np.ndarray, other_sum_N: np.ndarray, count_N: np.ndarray, group_N: np.ndarray
) -> dict[str, Any]:
    """Difference of two means over the same items: `count_N` items a row, of which sums are known.

    Returns:
        difference; interval (95 %) and p_value by Student's t over groups, None of one group.
    """
    difference_G = np.bincount(group_N, other_sum_N - sum_N)
    count_G = np.bincount(group_N, count_N)
    difference = float(difference_G.sum() / count_G.sum())
    interval = ratio_interval(difference_G, count_G)
    p_value = None
    if interval is not None:
        margin, degrees = (interval[1] - interval[0]) / 2, len(count_G) - 1
        error = margin / scipy.stats.t.ppf(1 - ACCURACY_LEVEL, degrees)
        p_value = float(2 * scipy.stats.t.sf(abs(difference) / error, degrees)) if error else 1.0
        if not error and difference:  # every group differs by the same
            p_value = 0.0
    return {
        "difference": difference,
        "interval": interval and list(interval),
        "p_value": p_value,
    }


def perplexity_ratio(
    nll_sum_N: np.ndarray, other_nll_sum_N: np.ndarray, count_N: np.ndarray, group_N: np.ndarray
) -> dict[str, Any]:
    """Perplexity of B divided by that of A on the same tokens, with the interval and test of the
    difference of their losses (nats a token), of which it is exp."""
    losses = mean_difference(nll_sum_N, other_nll_sum_N, count_N, group_N)
    ends = losses["interval"]
    return {
        "ratio": perplexity(losses["difference"]),
        "interval": ends and [perplexity(end) for end in ends],
        "p_value": losses["p_value"],
        "loss_difference": losses["difference"],
        "tokens": int(count_N.sum()),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm, 1979), in the order given."""
    corrected, highest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = highest
    return corrected


def _shares_interval(first: int, second: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of (second - first) / rows, of rows that only one of two models told.

    Tango's score interval (1998), which has a width even where no row differs; widened where
    needed to the exact one of the share of `second` among the differing rows (Clopper-Pearson), so
    that it holds 0 wherever McNemar's exact test finds nothing.
    """
    z = scipy.stats.norm.ppf(1 - ACCURACY_LEVEL)

    def score(delta: float) -> float:
        """The score statistic of the true difference `delta`, decreasing in it."""
        b = (2 * rows - second + first) * delta - first - second
        c = -first * delta * (1 - delta)
        share = (math.sqrt(max(0.0, b * b - 8 * rows * c)) - b) / (4 * rows)
        variance = rows * (2 * share + delta * (1 - delta))
        return (second - first - rows * delta) / math.sqrt(max(variance, 1e-300))

    observed, edge = (second - first) / rows, 1 - 1e-12
    low = high = observed
    if score(-edge) > z:
        low = scipy.optimize.brentq(lambda delta: score(delta) - z, -edge, observed)
    if score(edge) < -z:
        high = scipy.optimize.brentq(lambda delta: score(delta) + z, observed, edge)
    differing = first + second
    if differing:
        ends = [(2 * end - 1) * differing / rows for end in exact_interval(second, differing)]
        low, high = min(low, ends[0]), max(high, ends[1])
    return low, high
