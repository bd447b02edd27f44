"""What a run prints and records."""

import sys
from pathlib import Path

import pytest

from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.files.writing import json_line
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.run_log import RunLog


def test_log_holds_no_escape_sequence(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    with RunLog(folder) as log:
        log.say("label \x1b[31mred\r\nsecond line")
    (first, second) = folder.log.read_text().splitlines()
    assert first.endswith(r"  label \x1b[31mred\r") and second.endswith("  second line")
    assert "\x1b" not in capsys.readouterr().out


def test_log_is_printed_and_appended_with_the_time(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    for text in ("first", "second\nthird 训练"):
        with RunLog(folder) as log:
            log.say(text)
    assert capsys.readouterr().out == "first\nsecond\nthird 训练\n"
    lines = folder.log.read_text(encoding="utf-8").splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["first", "second", "third 训练"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_log_goes_on_when_standard_output_is_full(tmp_path, monkeypatch):
    with open("/dev/full", "w") as full, RunLog(RunFolder(tmp_path)) as log:
        monkeypatch.setattr(sys, "stdout", full)
        log.say("first")
        log.say("second")
        monkeypatch.undo()
        with pytest.raises(OSError):
            full.close()
    lines = (tmp_path / "train.log").read_text().splitlines()
    told = "warning: standard output: No space left on device"
    assert [line.split("  ", 1)[1].split(";")[0] for line in lines] == ["first", told, "second"]


def test_log_that_opens_later_keeps_what_was_said_before(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    with RunLog(folder, later=True) as log:
        log.say("first\nsecond")
        assert not folder.root.exists()
        log.open()
        log.say("third")
    assert capsys.readouterr().out == "first\nsecond\nthird\n"
    lines = folder.log.read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["first", "second", "third"]


def test_figures_are_readable_at_once_and_refuse_nan(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with RunLog(folder) as log:
        log.record({"kind": "train", "step": 1, "loss": 2.5})
        assert read_metrics(folder.metrics) == [{"kind": "train", "step": 1, "loss": 2.5}]
        with pytest.raises(ValueError):
            log.record({"kind": "train", "step": 2, "loss": float("nan")})
    assert len(read_metrics(folder.metrics)) == 1


def test_rows_end_at_line_feeds_alone(tmp_path):
    folder = RunFolder(tmp_path)
    rows = [{"kind": kind, "step": 1} for kind in ("a\u2028b", "c\x85d", "训练")]
    with RunLog(folder) as log:
        for row in rows:
            log.record(row)
    assert read_metrics(folder.metrics) == rows


def test_rows_that_a_resumed_run_writes_again_are_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    rows = [{"kind": kind, "step": step} for step in (10, 20, 30) for kind in ("train", "验证")]
    with RunLog(folder) as log:
        for row in rows:
            log.record(row)
    with open(folder.metrics, "a") as handle:
        handle.write('{"kind": "tra')
    with RunLog(folder) as log:
        log.keep_rows(3)  # also of two rows of one step
        assert read_metrics(folder.metrics) == rows[:3]
        log.record({"kind": "train", "step": 21})
    assert read_metrics(folder.metrics) == [*rows[:3], {"kind": "train", "step": 21}]


def test_lost_rows_are_told(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    with RunLog(folder) as log:
        for step in (1, 2, 3):
            log.record({"kind": "train", "step": step})
    folder.metrics.write_bytes(folder.metrics.read_bytes().replace(b'"step": 2', b'"step": x'))
    with RunLog(folder) as log:
        log.keep_rows(3)
    assert len(read_metrics(folder.metrics)) == 1
    assert "damaged after row 1: 2 rows of figures lost" in capsys.readouterr().out


def test_log_holds_whole_lines_whatever_is_said(tmp_path):
    folder = RunFolder(tmp_path)
    with RunLog(folder) as log:
        log.say("name \udcff of a file")
    assert folder.log.read_text().endswith("name \\udcff of a file\n")


@pytest.mark.parametrize(
    "half", [b'{"step": 3, "lo', b'{"step": 3, "\xe8\xae', b"\x00" * 50, b'{"step"', b"\n\n"]
)
def test_half_written_last_row_is_left_out(tmp_path, half):
    path = tmp_path / "metrics.jsonl"
    rows = [{"kind": "train", "step": step} for step in (1, 2)]
    path.write_bytes("".join(map(json_line, rows)).encode() + half)
    assert read_metrics(path) == rows


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000, b"7", b"[]", b"null", b'{"kind": "train"}', b'{"step": 3}',
        b'{"kind": "train", "step": "3"}', b'{"kind": "train", "step": true}',
        b'{"kind": "train", "step": 3, "loss": [1]}', b'{"kind": 1, "step": 3}',
        b'{"kind": "train", "step": 1' + b"0" * 400 + b"}", b"\xff\xfe\x00",
    ],
    ids=lambda line: repr(line[:40]),
)  # fmt: skip
def test_line_that_no_run_wrote_ends_the_figures(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    good = b'{"kind": "train", "step": 1}\n'
    path.write_bytes(good + line + b"\n" + good)
    assert read_metrics(path) == [{"kind": "train", "step": 1}]


def test_no_metrics_file_means_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []
