"""Each section on toy sizes: all of its targets get a figure."""

import importlib.util
import math
import sys

import pytest
import torch
from toy_bench import TOY

from smallgpt.benchmark import starting
from smallgpt.benchmark.bench import ROOT
from smallgpt.benchmark.classification import measure_classification
from smallgpt.benchmark.comparison import Comparison, Findings
from smallgpt.benchmark.generation import measure_generation
from smallgpt.benchmark.reading import measure_reading
from smallgpt.benchmark.starting import BARE_PROGRAM, measure_starting
from smallgpt.benchmark.targets import COMMANDS, TARGETS, TRAINER, targets_table
from smallgpt.benchmark.training import (
    LOOP,
    MINIMAL,
    OURS,
    measure_training,
    our_epoch,
    training_run,
)
from smallgpt.options.training import TrainSettings


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def numbers_of(found: list[Comparison]) -> list[float]:
    return [value for comparison in found for entry in comparison.entries for value in entry.values]


def all_positive(numbers: list[float]) -> bool:
    return bool(numbers) and all(0 < number < math.inf for number in numbers)


@pytest.mark.parametrize("shipped", [False, True])
def test_our_epoch_is_that_of_train_gpt_on_all_rows(bench, shipped, capsys):
    job = TOY.ragged
    with training_run(bench, job, shipped) as run:
        before = run.model.transformer.wte.weight.detach().clone()
        our_epoch(run)()
        assert (run.state.step, run.state.window_tokens) == (2, sum(job.inputs))
        assert not torch.equal(run.model.transformer.wte.weight, before)
        assert sorted(run.rows.lengths_N) == sorted(job.lengths)
        assert run.settings.dropout == 0.1
        assert run.settings.token_dropout == (0.1 if shipped else 0)
        if shipped:
            assert run.settings.attention_dropout == TrainSettings.attention_dropout
    assert capsys.readouterr().out == ""


def reached(found: Findings, section: str) -> set[str]:
    """Keys of the targets of a section that have a value."""
    rows = targets_table(TARGETS, found.reached, [section], "cpu", full=True)
    return {row["target"] for row in rows if row["value"] is not None}


def test_training_section(bench):
    found = Findings()
    measure_training(bench, found)
    assert all_positive(numbers_of(found.comparisons))
    assert all_positive(list(found.reached.values()))
    assert len(found.comparisons) == 2 * len(TOY.jobs) + 1
    for comparison in found.comparisons:
        names = [entry.name for entry in comparison.entries]
        assert names[0] == OURS and {LOOP, MINIMAL, TRAINER} <= set(names)
        (trainer,) = [entry for entry in comparison.entries if entry.name == TRAINER]
        assert bool(trainer.values) == installed("accelerate"), trainer.note
    keys = {t.key for t in TARGETS if t.section == "training" and t.device == "cpu"}
    missing = set() if installed("accelerate") else {key for key in keys if TRAINER in key}
    assert reached(found, "training") == keys - missing


def test_generation_section(make_bench):
    found = Findings()
    measure_generation(make_bench(full=True), found)
    assert all_positive(numbers_of(found.comparisons))
    keys = {t.key for t in TARGETS if t.section == "generation" and t.device == "cpu"}
    packages = {"ONNX Runtime": ("onnxruntime", "onnxscript"), "CTranslate2": ("ctranslate2",)}
    for peer, needed in packages.items():
        if not all(map(installed, needed)):
            keys = {key for key in keys if peer not in key}
    assert reached(found, "generation") == keys


def test_classification_section(bench):
    found = Findings()
    measure_classification(bench, found)
    assert all_positive(numbers_of(found.comparisons))
    (key,) = [target.key for target in TARGETS if target.section == "classification"]
    assert found.reached.keys() == {key}
    assert found.reached[key] == found.comparisons[0].entries[0].share
    lines = (bench.folder / "classification" / "classify_file_0" / "predictions.jsonl").read_text()
    assert len(lines.splitlines()) == TOY.rows_classified


def test_reading_section(make_bench):
    found = Findings()
    measure_reading(make_bench(full=True), found)
    assert all_positive(numbers_of(found.comparisons))
    assert found.reached.keys() == {
        "20 rows, first",
        "20 rows, again",
        "30 rows, first",
        "30 rows, peak memory",
    }
    assert 10 < found.reached["30 rows, peak memory"] < 2000  # MB


def test_starting_section(bench, monkeypatch):
    started = []
    monkeypatch.setattr(starting, "run_python", lambda *arguments: started.append(arguments))
    found = Findings()
    measure_starting(bench, found)
    assert reached(found, "starting") == {t.key for t in TARGETS if t.section == "starting"}
    assert {arguments[0] for arguments in started} == {*COMMANDS, "-c"}
    assert [a for a in started if a[0] in COMMANDS and "--help" not in a] == [
        ("inference.py", "--model_path", str(bench.folder / "model"), "--device", "cpu",
         "--prompt", "<IMG> <Z_001>")
    ] * 2  # fmt: skip


def test_the_bare_process_computes_what_the_model_computes(bench, monkeypatch, capsys):
    trained = bench.saved_model()
    monkeypatch.setattr(sys, "argv", ["-c", str(trained.folder), "cpu"])
    exec(compile(BARE_PROGRAM, "bare", "exec"), {})
    with torch.inference_mode():
        expected = trained.model(torch.tensor([[2, 7]])).logits[0, -1].argmax().item()
    assert capsys.readouterr().out == f"{expected}\n"


def test_every_command_is_started():
    scripts = [path for path in ROOT.glob("*.py") if "run_command(main)\n" in path.read_text()]
    assert {path.name for path in scripts if path.name != "console.py"} == set(COMMANDS)
