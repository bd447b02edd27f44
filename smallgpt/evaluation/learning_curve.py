"""Learning curves: the error of models against their training rows, continued to more rows.

With more training rows n the error falls about as a power law, towards a floor that no number of
rows removes: error = floor + a * n^-b (Hestness et al., 2017, "Deep learning scaling is
predictable, empirically"). A few points hardly tell the floor from the exponent, so the floor is
left open: it is drawn anew in every draw, and the spread of the draws is the uncertainty.

Letters: K points, G groups of validation rows, F floors, S draws.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from smallgpt.evaluation.statistics import ACCURACY_LEVEL

_DRAWS = 1000
_FLOORS = np.linspace(0, 0.98, 50)  # shares of the lowest error
# Two trainings on as many rows differ by luck. Before the points tell, their errors are taken to
# differ by 1 %, which counts as much as two points that lie on the curve or off it.
_LUCK, _LUCK_COUNTS = 0.01, 2


class Continuation(NamedTuple):
    """The error that a factor of more rows would bring, and how much less it is than the last.

    Attributes:
        error, gain: the medians.
        error_interval: 95 %, for other validation rows of the kind.
        gain_interval: 95 %, for such rows, the same for both errors.
    """

    factor: int
    error: float
    error_interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]


def continue_curve(
    rows_K: np.ndarray,
    cost_KxN: np.ndarray,
    count_N: np.ndarray,
    group_N: np.ndarray,
    low_floor: bool,
    factors: tuple[int, ...] = (2, 4),
) -> list[Continuation]:
    """The curve of two or more points at so many times the rows of the last.

    Each draw takes a floor, one about which the points scatter less more often; takes the groups of
    the validation rows anew (a bootstrap, the same for all points, since they share the rows); and
    adds luck of training, as large as the points scatter. A weighted line through the logarithms of
    what is above the floor gives the exponent, and from the last point the curve goes on with it.
    In Bayes' terms the variance of the scatter is an inverse chi-square.

    Args:
        rows_K: training rows, ascending.
        cost_KxN: of each validation row the summed error: nats, or 1 for a wrong label.
        count_N: of how many tokens, or 1 of a label.
        group_N: numbers of groups; rows of one are alike.
        low_floor: whether low floors are likelier than high ones before the points tell. The loss
            of tokens has their entropy for a floor; most labels can be told without error.
    """
    cost_KxG = np.stack([np.bincount(group_N, cost_N) for cost_N in cost_KxN])
    count_G = np.bincount(group_N, count_N)
    random, groups = np.random.default_rng(0), len(count_G)
    least = 0.5 / count_G.sum()  # where nothing is wrong, and a logarithm is taken
    error_K = np.maximum(cost_KxG.sum(axis=1) / count_G.sum(), least)
    error_SxK = np.empty((_DRAWS, len(rows_K)))
    for draw in range(_DRAWS):
        times_G = np.bincount(random.integers(groups, size=groups), minlength=groups)
        error_SxK[draw] = np.maximum(cost_KxG @ times_G / (count_G @ times_G), least)
    x_K = np.log(rows_K / rows_K[-1])
    deviation_K = np.hypot(np.log(error_SxK).std(axis=0), _LUCK)

    freedom = len(rows_K) - 2 + _LUCK_COUNTS
    above_FxK = error_K - _FLOORS[:, None] * error_K.min()
    _, scatter_FxK = _lines(x_K, error_K, above_FxK, deviation_K)
    squares_F = (scatter_FxK**2).sum(axis=1) + _LUCK_COUNTS * _LUCK**2
    chance_F = squares_F ** (-freedom / 2) * (1 - _FLOORS if low_floor else 1.0) ** 2
    floor_S = random.choice(len(_FLOORS), _DRAWS, p=chance_F / chance_F.sum())
    luck_S = np.sqrt(squares_F[floor_S] / random.chisquare(freedom, _DRAWS))

    error_SxK *= np.exp(luck_S[:, None] * random.standard_normal(error_SxK.shape))
    least_S = _FLOORS[floor_S] * error_SxK.min(axis=1)
    above_SxK = error_SxK - least_S[:, None]
    slope_S, _ = _lines(x_K, error_SxK, above_SxK, deviation_K)
    found = []
    for factor in factors:
        later_S = least_S + above_SxK[:, -1] * factor**slope_S
        gain_S = error_SxK[:, -1] - later_S
        gain = float(np.median(gain_S))
        found.append(
            Continuation(
                factor, float(error_K[-1]) - gain, _interval(later_S), gain, _interval(gain_S)
            )
        )
    return found


def _lines(
    x_K: np.ndarray, error_SxK: np.ndarray, above_SxK: np.ndarray, deviation_K: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares of log(above) over x: slope_S, and the scatter_SxK of log(error)."""
    # The same deviation of an error is a larger one of the logarithm nearer to the floor.
    share_SxK = above_SxK / error_SxK
    weight_SxK = (share_SxK / deviation_K) ** 2
    weight_SxK /= weight_SxK.sum(axis=1, keepdims=True)
    y_SxK = np.log(above_SxK)
    x_SxK, y_SxK = (z - (weight_SxK * z).sum(axis=1, keepdims=True) for z in (x_K, y_SxK))
    slope_S = (weight_SxK * x_SxK * y_SxK).sum(axis=1) / (weight_SxK * x_SxK**2).sum(axis=1)
    return slope_S, (y_SxK - slope_S[:, None] * x_SxK) * share_SxK


def _interval(values_S: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values_S, [ACCURACY_LEVEL, 1 - ACCURACY_LEVEL])
    return float(low), float(high)
