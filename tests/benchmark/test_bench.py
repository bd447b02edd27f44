"""Contenders take turns; peers may be missing."""

import pytest

from smallgpt.benchmark.bench import run_python
from smallgpt.benchmark.training import OURS


def test_contenders_take_turns_after_a_round_that_does_not_count(bench):
    calls = []

    def contender(name):
        return lambda: calls.append(name) or float(len(calls))

    peers = {"peer": lambda: contender("peer")}
    entries = bench.take_turns("", {OURS: contender(OURS)}, peers, rounds=2)
    assert calls == [OURS, "peer"] * 3
    assert [(name, entry.values) for name, entry in entries.items()] == [
        (OURS, [3, 5]),
        ("peer", [4, 6]),
    ]


def test_a_peer_that_is_missing_or_fails_is_a_row(bench):
    def absent():
        raise ModuleNotFoundError("No module named 'absent'")

    def fails():
        raise RuntimeError("first line\nsecond line")

    peers = {
        "absent": absent,
        "broken": fails,
        "fails at work": lambda: fails,
        "works": lambda: lambda: 1.0,
    }
    entries = bench.take_turns("", {OURS: lambda: 1.0}, peers)
    assert list(entries) == [OURS, *peers]
    notes = {name: entry.note for name, entry in entries.items() if not entry.values}
    assert notes == {
        "absent": "not installed (the extra `benchmark`)",
        "broken": "failed: RuntimeError: first line",
        "fails at work": "failed: RuntimeError: first line",
    }


def test_ctrl_c_in_a_peer_stops_the_benchmark(bench):
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.take_turns("", {OURS: lambda: 1.0}, {"peer": lambda: stopped})


def test_a_child_that_fails_says_why():
    with pytest.raises(RuntimeError, match="No module named 'absent'"):
        run_python("-c", "import absent")
