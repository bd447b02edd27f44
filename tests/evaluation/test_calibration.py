"""The temperature: against a grid search, in extreme cases, and on rows it has not seen."""

import numpy as np
import pytest

from smallgpt.evaluation.calibration import (
    HIGHEST,
    LOWEST,
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    fit_temperatures,
)


def rows_of(count: int, classes: int, overconfidence: float, seed: int = 0):
    """Logarithms of shares whose true temperature is `overconfidence`, and labels drawn so."""
    random = np.random.default_rng(seed)
    logits_NxL = random.normal(size=(count, classes)) * 3
    shares_NxL = apply_temperature(logits_NxL, 1.0)
    true_N = np.array([random.choice(classes, p=shares) for shares in shares_NxL])
    return np.log(apply_temperature(logits_NxL * overconfidence, 1.0)), true_N


def fold_of(rows: int) -> np.ndarray:
    return np.arange(rows) % 5


def errors(log_probs_NxL, true_N, temperature) -> float:
    """Calibration error at a temperature, or at one for each row."""
    right = log_probs_NxL.argmax(axis=1) == true_N
    return expected_calibration_error(
        apply_temperature(log_probs_NxL, temperature).max(axis=1), right
    )


def cost(log_probs_NxL, true_N, temperature: float) -> float:
    """What fit_temperature promises to minimise, written down again."""
    shares = log_probs_NxL / temperature
    shares = shares - np.log(np.exp(shares).sum(axis=1, keepdims=True))
    prior = (np.log(temperature) / 0.35) ** 2 / 2
    return prior - shares[np.arange(len(true_N)), true_N].sum()


@pytest.mark.parametrize("overconfidence", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("count", [5, 60, 2000])
def test_temperature_is_that_of_a_grid_search(overconfidence, count):
    log_probs, true = rows_of(count, 4, overconfidence)
    grid = np.exp(np.linspace(np.log(LOWEST), np.log(HIGHEST), 3000))
    best = grid[np.argmin([cost(log_probs, true, temperature) for temperature in grid])]
    found = fit_temperature(log_probs, true)
    assert found == pytest.approx(best, rel=0.01)
    assert cost(log_probs, true, found) <= cost(log_probs, true, best) + 1e-4


def test_many_rows_give_the_true_temperature():
    assert fit_temperature(*rows_of(5000, 5, 2.0)) == pytest.approx(2.0, rel=0.07)


def test_overconfident_rows_are_mended_on_rows_not_seen():
    rows = rows_of(400, 5, 3.0, seed=1)
    found = fit_temperatures(*rows, fold_of(400))
    assert found.of_all > 2
    assert errors(*rows, found.of_row_Nx1) < errors(*rows, 1.0) / 2
    unseen = rows_of(2000, 5, 3.0, seed=2)
    assert errors(*unseen, found.of_all) < errors(*unseen, 1.0) / 3


def test_no_row_is_calibrated_by_its_own_fold():
    log_probs, true = rows_of(60, 4, 2.0)
    fold = fold_of(60)
    found = fit_temperatures(log_probs, true, fold)
    assert found.of_all == fit_temperature(log_probs, true)
    for number in range(5):
        others = fold != number
        expected = fit_temperature(log_probs[others], true[others])
        assert found.of_row_Nx1[~others, 0] == pytest.approx(np.full(12, expected))
    # Rows that cannot be parted have no others.
    alone = fit_temperatures(log_probs, true, np.zeros(60, int))
    assert alone.of_all == found.of_all and (alone.of_row_Nx1 == 1).all()


def test_temperature_changes_no_prediction():
    log_probs, _ = rows_of(300, 6, 1.0)
    for temperature in (LOWEST, 0.7, 3.0, HIGHEST):
        shares = apply_temperature(log_probs, temperature)
        assert (shares.argmax(axis=1) == log_probs.argmax(axis=1)).all()
        assert shares.sum(axis=1) == pytest.approx(np.ones(300))


def test_rows_that_are_all_right_do_not_ask_for_certainty():
    log_probs = np.log(np.tile([0.9, 0.06, 0.04], (30, 1)))
    found = fit_temperature(log_probs, np.zeros(30, int))
    assert 0.3 < found < 1
    assert apply_temperature(log_probs, found).max() < 0.9999


def test_labels_at_chance_lose_their_confidence():
    random = np.random.default_rng(0)
    log_probs, _ = rows_of(300, 4, 3.0)
    true = random.integers(0, 4, 300)
    found = fit_temperatures(log_probs, true, fold_of(300))
    assert found.of_all > 5
    assert errors(log_probs, true, found.of_row_Nx1) < errors(log_probs, true, 1.0) / 3


def test_rows_without_any_doubt_or_with_one_label_can_be_fitted():
    certain = np.array([[0.0, -800.0]] * 25 + [[-800.0, 0.0]])
    wrong_once = np.array([0] * 25 + [0])
    assert LOWEST <= fit_temperature(certain, wrong_once) <= HIGHEST
    assert fit_temperature(np.zeros((30, 1)), np.zeros(30, int)) == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 19])
def test_few_rows_leave_the_confidence_as_it_is(count):
    found = fit_temperatures(*rows_of(count, 3, 4.0), fold_of(count))
    assert found.of_all == 1.0 and (found.of_row_Nx1 == 1).all()


def test_few_rows_help_on_average():
    losses = []
    unseen, true = rows_of(3000, 5, 1.3, seed=99)
    for seed in range(40):
        shares = apply_temperature(unseen, fit_temperature(*rows_of(20, 5, 1.3, seed=seed)))
        losses.append(-np.log(shares[np.arange(len(true)), true]).mean())
    before = -unseen[np.arange(len(true)), true].mean()
    assert np.mean(losses) < before


def test_single_precision_gives_the_same_temperature_and_leaves_the_shares_alone():
    log_probs, true = rows_of(200, 300, 2.0)
    single = log_probs.astype(np.float32)
    before = single.copy()
    assert fit_temperature(single, true) == pytest.approx(fit_temperature(log_probs, true), 1e-3)
    assert (single == before).all()


def test_numbers_that_are_not_finite_are_left_alone():
    log_probs, true = rows_of(30, 3, 1.0)
    log_probs[3] = np.nan
    with np.errstate(invalid="ignore"):
        assert fit_temperatures(log_probs, true, fold_of(30)).of_all == 1.0
