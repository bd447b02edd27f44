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


def test_the_fastest_of_ours_is_compared_with_the_fastest_peer():
    ours = [Entry("ours, torch fp32", [10.0]), Entry("ours, onnx int8", [30.0])]
    peers = [Entry("generate fp32", [20.0]), Entry("other int8", [60.0])]
    found = Comparison("", "rows/s", [*ours, *peers])
    assert found.lead_of_ours() == 0.5
    assert found.lead_of_ours(peers="fp32") == 1.5
    assert found.lead_of_ours("torch", "generate") == 0.5
    assert found.lead_of_ours(peers="none") is None
    assert found.is_complete
    assert not Comparison("", "rows/s", [*ours, Entry("missing", note="not installed")]).is_complete
