"""Which evaluation some validation rows choose."""

import numpy as np
import pytest

from smallgpt.training.choice import Choice

ONES = np.ones(100)


def costs(mean: float, seed: int = 0) -> np.ndarray:
    """Costs of 100 rows of exactly this mean, that vary between the rows by about 1."""
    noise_N = np.random.default_rng(seed).normal(size=100)
    return mean + noise_N - noise_N.mean()


def test_a_lower_cost_is_chosen():
    choice = Choice(ONES)
    assert [choice.add(costs(mean, seed)) for seed, mean in enumerate((3, 2, 1))] == [True] * 3
    assert choice.lowest == pytest.approx(1)


def test_a_later_evaluation_is_chosen_unless_it_is_clearly_worse_than_the_lowest():
    choice = Choice(ONES)
    choice.add(costs(1.0))
    # Of independent costs the difference has a standard error of about 0.14.
    assert choice.add(costs(1.1, seed=1))
    assert not choice.add(costs(1.2, seed=2))
    assert choice.lowest == pytest.approx(1.0)  # and no step by step away from it
    assert choice.add(costs(1.1, seed=3))


def test_rows_are_compared_in_pairs():
    choice = Choice(ONES)
    choice.add(costs(1.0))
    # All rows are worse by about the same, although the rows differ far more among themselves.
    assert not choice.add(costs(1.0) + 0.05 + 0.01 * costs(0.0, seed=1))


def test_rows_of_many_tokens_count_more():
    weight_N = np.array([1, 2, 3, 100])
    choice = Choice(weight_N)
    choice.add(weight_N * 1.0)
    assert choice.add(weight_N * np.array([5, 5, 5, 0.7]))  # their mean is 3.9
    assert choice.lowest == pytest.approx((6 * 5 + 70) / 106)


def test_rows_without_a_say_do_not_count():
    say_N = np.arange(100) < 50
    choice = Choice(say_N)
    choice.add(np.where(say_N, costs(1.0), np.nan))
    assert choice.add(np.where(say_N, costs(1.0) - 0.1, np.nan))
    assert not choice.add(np.where(say_N, costs(1.0), -100.0))


def test_equal_evaluations_leave_the_last():
    choice = Choice(ONES)
    assert [choice.add(costs(1.0)), choice.add(costs(1.0))] == [True, True]


def test_after_an_evaluation_that_is_not_known_only_a_lower_cost_is_chosen():
    choice = Choice(ONES)
    choice.forget(lowest=1.0)
    assert not choice.add(costs(1.01))
    assert choice.add(costs(0.99)) and choice.add(costs(1.0, seed=1))


def test_one_row_chooses_the_lowest():
    choice = Choice(np.ones(1))
    assert choice.add(np.array([1.0])) and not choice.add(np.array([1.1]))
    assert choice.add(np.array([0.9]))
