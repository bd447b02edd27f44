"""The continuation of learning curves, against curves whose law is known."""

import numpy as np
import pytest

from smallgpt.evaluation.learning_curve import continue_curve

ROWS = np.array([144, 288, 575, 1150])


def labels_wrong(error_K, rows: int, seed: int) -> np.ndarray:
    """Whether each row is wrong at each point; hard rows are hard at all points."""
    random = np.random.default_rng(seed)
    hard_N, own_KxN = random.normal(size=rows), random.normal(size=(len(error_K), rows))
    difficulty_KxN = 0.9 * hard_N + 0.44 * own_KxN
    edges_K = [
        np.quantile(each_N, 1 - e) for each_N, e in zip(difficulty_KxN, error_K, strict=True)
    ]
    return (difficulty_KxN > np.array(edges_K)[:, None]).astype(float)


def law(rows, scale: float, exponent: float, floor: float):
    return floor + scale * (rows / 1150) ** -exponent


@pytest.mark.parametrize(
    ("scale", "exponent", "floor"), [(0.05, 0.7, 0.0), (0.05, 0.6, 0.03), (0.1, 0.3, 0.0)]
)
def test_gain_of_a_known_law_lies_in_its_interval(scale, exponent, floor):
    cost_KxN = labels_wrong(law(ROWS, scale, exponent, floor), 4000, 1)
    ones_N, group_N = np.ones(4000, int), np.arange(4000)
    for each in continue_curve(ROWS, cost_KxN, ones_N, group_N, low_floor=True):
        error = law(each.factor * 1150, scale, exponent, floor)
        low, high = each.gain_interval
        assert low <= law(1150, scale, exponent, floor) - error <= high
        assert each.error_interval[0] <= error <= each.error_interval[1]
        assert low > 0


def test_flat_curve_shows_no_gain_and_few_rows_a_wider_one():
    widths = []
    for rows in (4000, 100):
        cost_KxN = labels_wrong([0.1] * 4, rows, 2)
        twice, _ = continue_curve(ROWS, cost_KxN, np.ones(rows, int), np.arange(rows), True)
        low, high = twice.gain_interval
        assert low < 0 < high
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]


def test_rows_of_one_group_are_drawn_together():
    cost_KxN = labels_wrong(law(ROWS, 0.05, 0.7, 0.0), 400, 3).repeat(5, axis=1)
    ones_N = np.ones(2000, int)
    apart, _ = continue_curve(ROWS, cost_KxN, ones_N, np.arange(2000), True)
    together, _ = continue_curve(ROWS, cost_KxN, ones_N, np.arange(400).repeat(5), True)
    spans = [each.error_interval[1] - each.error_interval[0] for each in (apart, together)]
    assert spans[1] > 1.3 * spans[0]


def test_nothing_wrong_and_two_points_are_no_trouble():
    ones_N, group_N = np.ones(100, int), np.arange(100)
    for each in continue_curve(ROWS[:2], np.zeros((2, 100)), ones_N, group_N, True):
        assert np.isfinite([*each.error_interval, *each.gain_interval]).all()
