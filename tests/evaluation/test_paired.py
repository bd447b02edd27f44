"""Paired tests of two models: against scipy, statistics by hand, and the bootstrap."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from smallgpt.evaluation.paired import (
    accuracy_difference,
    group_numbers,
    holm,
    mean_difference,
    perplexity_ratio,
)


def rights(only_first: int, only_second: int, both: int, neither: int):
    """right_N of both models, and each row a group of its own."""
    cells = [(1, 0)] * only_first + [(0, 1)] * only_second + [(1, 1)] * both + [(0, 0)] * neither
    first_N, second_N = np.array(cells, bool).T
    return first_N, second_N, np.arange(len(cells))


TABLES = [(3, 12, 300, 44), (0, 6, 90, 4), (25, 4, 10, 1), (7, 7, 20, 6), (1, 0, 43, 0)]


@pytest.mark.parametrize("table", TABLES)
def test_accuracies_are_compared_by_mcnemars_exact_test(table):
    found = accuracy_difference(*rights(*table))
    first, second, *_ = table
    assert found["p_value"] == pytest.approx(stats.binomtest(first, first + second, 0.5).pvalue)
    assert found["difference"] == pytest.approx((second - first) / sum(table))
    names = ("only_first", "only_second", "both", "neither")
    assert tuple(found[name] for name in names) == table


def score_statistic(first: int, second: int, rows: int, delta: float) -> float:
    """(difference - delta) / its standard error at the likeliest shares with that difference."""

    def loss(share):  # of `first`; that of `second` is larger by delta
        rest = max(1 - 2 * share - delta, 1e-300)
        counts = ((first, share), (second, share + delta), (rows - first - second, rest))
        return -sum(count * math.log(max(part, 1e-300)) for count, part in counts if count)

    low, high = max(0.0, -delta), (1 - delta) / 2
    share = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    ).x
    variance = (2 * share + delta - delta**2) / rows
    return ((second - first) / rows - delta) / math.sqrt(variance)


@pytest.mark.parametrize("table", TABLES)
def test_interval_is_the_score_interval_or_the_wider_exact_one(table):
    found = accuracy_difference(*rights(*table))
    low, high = found["interval"]
    rows, z = sum(table), stats.norm.ppf(0.975)
    exact = stats.binomtest(table[1], table[0] + table[1]).proportion_ci(method="exact")
    exact = [(2 * end - 1) * (table[0] + table[1]) / rows for end in exact]
    assert low <= exact[0] + 1e-9 and high >= exact[1] - 1e-9
    for end, exact_end, sign in ((low, exact[0], 1), (high, exact[1], -1)):
        if abs(end - exact_end) > 1e-9:
            statistic = score_statistic(*table[:2], rows, end)
            assert statistic == pytest.approx(sign * z, abs=1e-3)


def test_the_interval_holds_0_wherever_the_test_finds_nothing():
    for first in range(8):
        for second in range(8):
            found = accuracy_difference(*rights(first, second, 40, 5))
            low, high = found["interval"]
            assert (low > 0 or high < 0) == (found["p_value"] <= 0.05), (first, second)


def test_interval_has_a_width_where_no_row_differs():
    found = accuracy_difference(*rights(0, 0, 38, 2))
    low, high = found["interval"]
    assert found["p_value"] == 1 and low == pytest.approx(-high) and 0.05 < high < 0.1


def test_interval_of_accuracies_is_about_that_of_the_bootstrap():
    first_N, second_N, group_N = rights(20, 45, 300, 35)
    found = accuracy_difference(first_N, second_N, group_N)
    drawn = np.random.default_rng(0).integers(0, 400, (4000, 400))
    differences = (second_N.astype(int) - first_N)[drawn].mean(axis=1)
    assert found["interval"] == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.008)


def test_rows_of_one_group_count_as_one():
    first_N, second_N, _ = rights(1, 7, 20, 2)
    copies = 5
    group_N = np.repeat(np.arange(30), copies)
    alone = accuracy_difference(first_N, second_N, np.arange(30))
    copied = accuracy_difference(first_N.repeat(copies), second_N.repeat(copies), group_N)
    assert copied["p_value"] == alone["p_value"] and copied["groups"] == 30
    assert (copied["groups_first_ahead"], copied["groups_second_ahead"]) == (1, 7)
    assert copied["difference"] == alone["difference"]
    # A margin like that of 30 rows, not of 150.
    widths = [high - low for low, high in (alone["interval"], copied["interval"])]
    assert widths[1] > 0.6 * widths[0]


def test_means_of_single_rows_are_compared_by_the_paired_t_test():
    random = np.random.default_rng(1)
    first_N, second_N = random.gamma(2, 1, 80), random.gamma(2, 1.1, 80)
    found = mean_difference(first_N, second_N, np.ones(80), np.arange(80))
    expected = stats.ttest_rel(second_N, first_N)
    assert found["p_value"] == pytest.approx(expected.pvalue)
    assert found["interval"] == pytest.approx(expected.confidence_interval(0.95))


def test_interval_of_a_perplexity_ratio_is_about_that_of_the_bootstrap_over_groups():
    random = np.random.default_rng(2)
    group_N = np.repeat(np.arange(120), random.integers(1, 5, 120))
    count_N = random.integers(5, 40, len(group_N))
    shared_G = random.normal(0.05, 0.2, 120)
    first_N = count_N * random.gamma(8, 0.25, len(group_N))
    second_N = first_N + count_N * (shared_G[group_N] + random.normal(0, 0.05, len(group_N)))
    found = perplexity_ratio(first_N, second_N, count_N, group_N)
    sums_G = np.bincount(group_N, second_N - first_N)
    counts_G = np.bincount(group_N, count_N)
    drawn = random.integers(0, 120, (4000, 120))
    ratios = np.exp(sums_G[drawn].sum(axis=1) / counts_G[drawn].sum(axis=1))
    assert found["interval"] == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.012)
    tokens = count_N.sum()
    assert found["ratio"] == pytest.approx(
        math.exp(second_N.sum() / tokens) / math.exp(first_N.sum() / tokens)
    )


def test_a_model_beside_itself_and_one_row_tell_nothing():
    nll_N = np.array([1.0, 2.0, 3.0])
    same = perplexity_ratio(nll_N, nll_N, np.array([2, 2, 2]), np.arange(3))
    assert same["ratio"] == 1 and same["interval"] == [1, 1] and same["p_value"] == 1
    alone = mean_difference(nll_N[:1], nll_N[1:2], np.ones(1), np.zeros(1, np.int64))
    assert alone["interval"] is None and alone["p_value"] is None


def test_rows_without_a_key_are_groups_of_their_own():
    assert group_numbers(["a", None, "b", "a", None]).tolist() == [0, 1, 2, 0, 3]


def test_holm_corrects_from_the_smallest_p_value_on():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
