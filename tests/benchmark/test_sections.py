"""Each section on toy sizes: all of its targets get a figure."""

import importlib.util
import math
import sys

import numpy as np
import pytest
import torch
from toy_bench import TOY

from smallgpt.benchmark import classifying_peers as peers
from smallgpt.benchmark import starting
from smallgpt.benchmark.bench import ROOT
from smallgpt.benchmark.classification import measure_classification
from smallgpt.benchmark.comparison import Comparison, Findings
from smallgpt.benchmark.generation import measure_generation
from smallgpt.benchmark.processes import measure_processes
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


def all_peers_are_installed() -> bool:
    return all(map(installed, ("onnxruntime", "onnxscript", "openvino", "ctranslate2")))


def test_generation_section(make_bench):
    found = Findings()
    measure_generation(make_bench(full=True), found)
    assert all_positive(numbers_of(found.comparisons))
    keys = {t.key for t in TARGETS if t.section == "generation" and t.device == "cpu"}
    if not all_peers_are_installed():  # the best peer may be one that is missing
        keys = {key for key in keys if "peer" not in key}
    assert reached(found, "generation") == keys
    for comparison in found.comparisons:
        notes = {entry.name: entry.note for entry in comparison.entries if not entry.values}
        assert not all_peers_are_installed() or notes == {}


def test_classification_section(make_bench):
    bench, found = make_bench(full=True), Findings()
    measure_classification(bench, found)
    assert all_positive(numbers_of(found.comparisons))
    keys = {t.key for t in TARGETS if t.section == "classification"}
    needed = {"one row, best against ONNX Runtime int8"} if not installed("onnxscript") else set()
    if not all_peers_are_installed():
        needed.add("file, best against the best peer")
    assert found.reached.keys() == keys - needed
    one, file = found.comparisons
    assert found.reached["file to predictions, of the matmul peak"] == file.entries[0].share
    for comparison in (one, file):
        notes = {entry.name: entry.note for entry in comparison.entries if not entry.values}
        assert not all_peers_are_installed() or notes == {}
    results = bench.folder / "classification" / "classify_file_torch_bf16_0" / "predictions.jsonl"
    assert len(results.read_text().splitlines()) == TOY.rows_classified


@pytest.mark.skipif(not all_peers_are_installed(), reason="the extra `benchmark`: not installed")
def test_peers_that_classify_give_the_logits_of_the_model(make_bench):
    bench = make_bench(full=True)
    trained = bench.saved_model()
    rows = np.random.default_rng(0).integers(6, 100, (5, 7)).tolist()
    words = [[trained.vocabulary.tokens[index] for index in row] for row in rows]
    with torch.inference_mode():
        expected = trained.model(torch.tensor(rows)).logits[:, -1].numpy()
    graph, config = bench.plain_graph(trained.model), trained.model.config
    for found in (
        peers.transformers_classify(trained.model, rows)(),
        peers.onnx_classify(graph, config, rows)(),
        peers.ctranslate2_classify(bench.ctranslate2_folder(), "float32", words)(),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    in_int8 = peers.onnx_classify(bench.plain_graph(trained.model, int8=True), config, rows)()
    by_openvino = peers.openvino_classify(graph, config, rows)()  # bf16 where the CPU has it
    for found in (in_int8, by_openvino):
        np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


@pytest.mark.long
def test_processes_section(bench):
    found = Findings()
    measure_processes(bench, found)
    assert all_positive(numbers_of(found.comparisons))
    targets = {target.key for target in TARGETS if target.section == "processes"}
    assert found.reached.keys() == targets and all_positive(list(found.reached.values()))


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
    keys = {t.key for t in TARGETS if t.section == "starting"}
    by_graph = {"inference.py --prompt, onnx"}
    without = not (installed("onnx") and installed("onnxruntime"))
    assert reached(found, "starting") == keys - (by_graph if without else set())
    assert {arguments[0] for arguments in started} == {*COMMANDS, "-c"}
    answer = (
        "inference.py", "--model_path", str(bench.folder / "model"), "--device", "cpu",
        "--prompt", "<IMG> <Z_001>", "--engine",
    )  # fmt: skip
    engines = ["torch", *(["onnx"] if installed("onnx") and installed("onnxruntime") else [])]
    assert [a for a in started if a[0] in COMMANDS and "--help" not in a] == [
        (*answer, engine) for engine in engines
    ] * 2


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
