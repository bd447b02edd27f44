"""Comparisons of contenders, and their tables."""

from smallgpt.benchmark.comparison import Comparison, Entry


def test_a_comparison_counts_larger_rates_and_smaller_times_as_faster():
    fast, slow, missing = Entry("ours", [9.0, 12.0, 10.0]), Entry("peer", [4.0]), Entry("absent")
    rates = Comparison("rates", "rows/s", [fast, slow, missing])
    assert (fast.median, rates.best(fast), rates.best(missing)) == (10, 12, None)
    assert rates.advantage(fast, over=slow) == 2.5
    assert rates.advantage(fast, over=missing) is None
    times = Comparison("times", "s", [fast, slow])
    assert times.best(fast) == 9
    assert times.advantage(fast, over=slow) == 0.4


def test_the_lead_is_over_the_fastest_other_with_that_name():
    entries = [Entry("ours a", [6]), Entry("ours b", [8]), Entry("generate 1", [2])]
    found = Comparison("", "tokens/s", [*entries, Entry("generate 2", [3]), Entry("other")])
    assert found.lead("generate") == 2
    assert found.lead("generate 1", of=entries[1]) == 4
    assert found.lead("generate", of=found.entries[3]) == 1.5  # it does not count itself
    assert found.lead() == 0.75
    assert found.lead("other") is None


def test_a_table_says_how_much_faster_ours_is_and_its_share_of_the_peak():
    entries = [Entry("ours", [1500.0], share=0.5), Entry("peer", [600.0]), Entry("gone", note="?")]
    header, rows = Comparison("", "tokens/s", entries).cells()
    assert header == ["", "median tokens/s", "best", "ours is", "of the peak", ""]
    assert rows == [
        ["ours", "1,500", "1,500", "", "50%", ""],
        ["peer", "600", "600", "2.50x as fast", "", ""],
        ["gone", "-", "-", "", "", "?"],
    ]
