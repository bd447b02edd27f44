"""Percentiles of row lengths, and the length that covers all but a few rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallgpt.rows.lengths import covering_length, describe_cut, describe_lengths, length_figures


@given(st.lists(st.integers(1, 40), min_size=1, max_size=300))
def test_percentiles_are_the_least_lengths_that_so_many_rows_do_not_exceed(lengths):
    figures = length_figures(np.array(lengths))
    for name, share in (("p90", 90), ("p99", 99)):
        reached = [sum(x <= limit for x in lengths) * 100 for limit in range(41)]
        assert figures[name] == next(i for i in range(41) if reached[i] >= share * len(lengths))
    assert (figures["shortest"], figures["longest"]) == (min(lengths), max(lengths))


def test_one_endless_row_is_left_out_of_the_length_that_is_given():
    for count in (3, 99, 100, 1000):
        assert covering_length(np.array([*[15] * count, 12_003])) == 15
    assert covering_length(np.array([12_003])) == 12_003
    assert covering_length(np.array([3, 3, 3, 400])) == 8  # the least that training takes


def test_rows_that_are_not_far_beyond_are_covered_whole():
    assert covering_length(np.array([*[15] * 500, 29])) == 29
    assert covering_length(np.array([*[15] * 500, 30])) == 15
    # More than one row in a hundred is long: they are no exception.
    assert covering_length(np.array([*[15] * 500, *[900] * 6])) == 900
    assert covering_length(np.array([*[15] * 495, *[900] * 5])) == 15


def test_what_is_cut_is_told_in_rows_and_tokens():
    lengths = np.array([10] * 9 + [910])
    assert describe_cut(lengths, 10) == (
        "cuts 1 of 10 rows and leaves out 900 tokens (90.0% of all)"
    )
    assert describe_lengths(length_figures(lengths)) == (
        "row lengths in tokens: median 10, 90 % up to 10, 99 % up to 910, longest 910"
    )
    assert describe_lengths(length_figures(lengths[:9])) == ""
    assert length_figures(lengths[:0])["longest"] == 0


@pytest.mark.parametrize("count", [1, 2])
def test_figures_are_plain_numbers_for_json(count):
    assert {type(x) for x in length_figures(np.arange(1, count + 1)).values()} <= {int, float}
