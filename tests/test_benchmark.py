"""benchmark.py: what it prints and writes, wrong options, a signal."""

import json
import os
import signal
import tempfile

import pytest
import torch
from toy_bench import TOY

import benchmark
from benchmark import main, run_benchmark
from smallgpt.errors import SettingsError, UserError
from smallgpt.options.benchmark import BENCHMARK_SECTIONS, BenchmarkSettings


def test_the_command_tells_and_writes_what_was_asked_for(tmp_path, capsys):
    run_benchmark(BenchmarkSettings(only=("reading",)), tmp_path / "out", TOY)
    told = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    text = (tmp_path / "out" / "benchmark.md").read_text()
    titles = [comparison["title"] for comparison in report["comparisons"]]
    assert titles[-1] == "Reading 20 rows of 9 tokens"
    for title in titles:
        assert f"\n{title}\n" in told and f"\n## {title}\n" in text
    assert {row["target"].split(" rows")[0] for row in report["targets"]} == {"60,000", "1,000,000"}
    # Of a build for GPUs the package index leaves out what follows the +.
    assert torch.__version__.startswith(report["machine"]["torch"])
    assert str(tmp_path / "out" / "benchmark.json") in told


def test_sections_are_measured_in_the_order_of_the_options(tmp_path, monkeypatch):
    measured = []
    for name in BENCHMARK_SECTIONS:
        monkeypatch.setattr(
            f"smallgpt.benchmark.{name}.measure_{name}", lambda *_, name=name: measured.append(name)
        )
    run_benchmark(BenchmarkSettings(), tmp_path, TOY)
    assert measured == list(BENCHMARK_SECTIONS)
    measured.clear()
    run_benchmark(BenchmarkSettings(only=("reading", "generation")), tmp_path, TOY)
    assert measured == ["generation", "reading"]


def test_a_wrong_section_is_told_with_the_right_ones():
    with pytest.raises(SettingsError) as error:  # before anything is measured
        main(["--only", "reading", "reeding"])
    assert error.value.mistakes == [f"--only reeding: there is {', '.join(BENCHMARK_SECTIONS)}"]


def test_sigterm_deletes_the_temporary_folder(tmp_path, monkeypatch):
    def killed(bench, findings):
        (bench.folder / "rows").write_text("many")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("smallgpt.benchmark.workloads.CPU_SIZES", TOY)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("smallgpt.benchmark.reading.measure_reading", killed)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as leaving:
            main(["--only", "reading"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert leaving.value.code == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(benchmark.signal, "signal", lambda *_: None)
    with pytest.raises(UserError, match="no such device here"):
        main(["--device", "cuda"])
