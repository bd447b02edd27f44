"""Targets, and the report that tells which of them are reached."""

import json

import pytest

from smallgpt.benchmark.comparison import Comparison, Entry, Findings
from smallgpt.benchmark.report import save_report
from smallgpt.benchmark.targets import COMMANDS, TARGETS, Target, target_cells, targets_table
from smallgpt.benchmark.workloads import CPU_SIZES, GPU_SIZES


def test_targets_are_reached_missed_or_not_measured():
    targets = [
        Target("training", "speed", 2.0),
        Target("training", "share", 0.5, "%"),
        Target("reading", "seconds", 2.0, "s", at_most=True),
        Target("reading", "memory", 700.0, "MB", at_most=True),
        Target("training", "absent", 1.0),
        Target("training", "long", 1.0, full=True),
        Target("training", "speed", 3.0, device="cuda"),
        Target("starting", "not asked for", 1.0),
    ]
    findings = Findings()
    for key, value in {"speed": 3.0, "share": 0.4, "seconds": 0.5, "memory": 1400.0}.items():
        findings.reach(key, value)
    findings.reach("absent", None)
    found = targets_table(targets, findings.reached, ["training", "reading"], "cpu", full=False)
    assert [(row["target"], row["goal"], row["measured"], row["ratio"]) for row in found] == [
        ("speed", "2.00x", "3.00x", 1.5),
        ("share", "50%", "40%", 0.8),
        ("seconds", "at most 2 s", "0.5 s", 4.0),
        ("memory", "at most 700 MB", "1,400 MB", 0.5),
        ("absent", "1.00x", "not measured: a peer, or bf16, is missing here", None),
        ("long", "1.00x", "not measured: needs --full", None),
        ("cuda: speed", "3.00x", "not measured: needs --device cuda", None),
    ]
    _, rows = target_cells(found)
    assert [row[-1] for row in rows] == ["reached", "missed", "reached", "missed", "", "", ""]


@pytest.mark.parametrize(("device", "sizes"), [("cpu", CPU_SIZES), ("cuda", GPU_SIZES)])
def test_every_target_names_something_that_is_measured(device, sizes):
    jobs = [job.name for job in (*sizes.jobs, sizes.ragged)]
    starts = {
        "training": tuple(f"{name}, " for name in jobs),
        "processes": (f"{jobs[0]}, ",),
        "generation": tuple(f"batch {batch}, " for batch in sizes.batches_full),
        "classification": ("file to predictions, ", "file, ", "one row, "),
        "reading": (f"{sizes.rows_read:,} rows, ", f"{sizes.rows_read_full:,} rows, "),
        "starting": COMMANDS,
    }
    keys = [(target.section, target.key) for target in TARGETS if target.device == device]
    assert keys
    assert [key for section, key in keys if not key.startswith(starts[section])] == []


def test_the_report_is_json_with_every_round_and_markdown_tables(tmp_path):
    found = Comparison("Race", "rows/s", [Entry("ours", [1.0, 3.0, 2.0]), Entry("x", note="gone")])
    targets = targets_table([Target("a", "speed", 4.0)], {"speed": 2.0}, ["a"], "cpu", full=False)
    save_report(tmp_path / "new", {"date": "today"}, [found], targets)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "benchmark.json",
        "benchmark.md",
    ]
    report = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    ours, missing = report["comparisons"][0]["entries"]
    assert (ours["values"], ours["median"], ours["best"]) == ([1, 3, 2], 2, 3)
    assert (missing["median"], missing["note"]) == (None, "gone")
    assert report["targets"][0]["ratio"] == 0.5
    text = (tmp_path / "new" / "benchmark.md").read_text()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len({line.count("|") for line in table}) for table in tables] == [1, 1]
    assert "| speed | 4.00x | 2.00x | 0.50 | missed |" in text
    assert "- date: today" in text
