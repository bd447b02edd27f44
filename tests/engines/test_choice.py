"""Which engine does the work: auto measures, keeps what it measured, and tells it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from trained_models import body_of

import inference
from inference import classify, load_trained_model, next_tokens
from smallgpt.engines import engines, kept_graphs
from smallgpt.engines.graph_engine import GraphDecoder, GraphEngine
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.errors import SettingsError, UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(model_of, tmp_path) -> Path:
    """A model folder that no other test has made graphs of."""
    shutil.copytree(model_of("bars"), tmp_path / "model")
    return tmp_path / "model"


def kept(model: Path) -> list[Path]:
    """The folders of graphs beside a model."""
    return sorted((model.parent / ".cache").glob("*"))


def change_weights(model: Path) -> None:
    """As training does: other weights take the place of the old ones."""
    path = model / "model.safetensors"
    state = {name: tensor + 0.01 for name, tensor in load_file(path).items()}
    save_file(state, model / "new", {"format": "pt"})
    os.replace(model / "new", path)


@pytest.fixture
def seconds(monkeypatch) -> dict[str, float]:
    """What each engine takes for any work: a clock of the tests."""
    found = {"torch": 3.0, "onnx": 2.0, "openvino": 4.0}
    monkeypatch.setattr(engines.Engines, "_probe", lambda self, engine, work: found[engine.name])
    monkeypatch.setattr(engines, "is_installed", lambda name: True)
    monkeypatch.setattr(engines, "version", lambda name: "1")
    return found


# ------------------------------------------------------------------------------- choosing


@pytest.mark.parametrize("fastest", ["torch", "onnx", "openvino"])
def test_auto_takes_the_fastest_and_tells_it_once(model, seconds, fastest, capsys):
    pytest.importorskip("openvino")
    seconds[fastest] = 1.0
    trained = load_trained_model(model, "cpu", "fp32")
    assert trained.engines.for_rows(10**9).name == fastest
    told = capsys.readouterr().err
    assert told.startswith(f"engine: {fastest} fp32 for many rows, ")
    (other, *_) = [name for name in seconds if name != fastest]
    assert f"{seconds[other]:.1f}x as fast as {other} fp32" in told
    assert trained.engines.for_rows(10**9).name == fastest
    seconds[fastest] = 9.0  # measured once, then kept
    again = load_trained_model(model, "cpu", "fp32")
    assert again.engines.for_rows(1).name == fastest
    told = f"engine: {fastest} fp32 for many rows, the fastest when it was measured\n"
    assert capsys.readouterr().err == (told if fastest != "torch" else "")


def test_each_kind_of_work_is_measured_by_itself(model, seconds):
    trained = load_trained_model(model, "cpu", "fp32")
    assert trained.engines.for_rows(10**9).name == "onnx"
    seconds["torch"] = 1.0
    assert not isinstance(trained.engines.decoder(64, 10**9), GraphDecoder)
    assert trained.engines.for_rows(10**9).name == "onnx"


def test_little_work_is_done_by_torch_without_a_measurement(model, seconds, capsys):
    trained = load_trained_model(model, "cpu", "fp32")
    assert isinstance(trained.engines.for_rows(100), TorchEngine)
    assert isinstance(trained.engines.for_row(), TorchEngine)
    assert kept(model) == [] and capsys.readouterr().err == ""


def test_processes_that_share_the_work_measure_nothing(model, seconds):
    trained = load_trained_model(model, "cpu", "fp32")
    trained.engines.may_measure = False
    assert isinstance(trained.engines.for_rows(10**9), TorchEngine)
    assert kept(model) == []
    load_trained_model(model, "cpu", "fp32").engines.for_rows(10**9)
    again = load_trained_model(model, "cpu", "fp32")
    again.engines.may_measure = False
    assert again.engines.for_rows(0).name == "onnx"  # as one alone found


def test_what_was_measured_on_another_machine_does_not_count(model, seconds, monkeypatch):
    load_trained_model(model, "cpu", "fp32").engines.for_rows(10**9)
    monkeypatch.setattr(engines, "processor_name", lambda: "another")
    trained = load_trained_model(model, "cpu", "fp32")
    assert isinstance(trained.engines.for_rows(1), TorchEngine)


@pytest.mark.parametrize("text", ["", "[]", '{"key": 3}', "{"])
def test_damaged_choices_are_measured_again(model, seconds, text):
    load_trained_model(model, "cpu", "fp32").engines.for_rows(10**9)
    (folder,) = kept(model)
    choices = folder / "choices.json"
    key = next(iter(json.loads(choices.read_text())))
    choices.write_text(text.replace('"key"', json.dumps(key)))
    trained = load_trained_model(model, "cpu", "fp32")
    assert trained.engines.for_rows(10**9).name == "onnx"


def test_a_real_measurement_ends_with_an_engine(model, monkeypatch, capsys):
    monkeypatch.setattr(engines, "_WORTH_MEASURING", 0)
    trained = load_trained_model(model, "cpu", "fp32")
    for take in (
        lambda: trained.engines.for_row(),
        lambda: trained.engines.for_rows(10),
        lambda: trained.engines.decoder(1, 10),
        lambda: trained.engines.decoder(30, 10),
    ):
        take()
    lines = capsys.readouterr().err.splitlines()
    kinds = ["one row", "many rows", "one sequence", "many sequences"]
    assert len(lines) == 4
    for line, kind in zip(lines, kinds, strict=True):
        assert line.startswith("engine: ") and f" for {kind}, " in line


def test_int8_is_taken_by_name_only(model, seconds):
    trained = load_trained_model(model, "cpu", "int8")
    assert trained.engines.for_rows(10**9).precision == "int8"
    for precision in ("auto", "fp32"):
        trained = load_trained_model(model, "cpu", precision)
        assert trained.engines.for_rows(10**9).precision != "int8"


# ------------------------------------------------------------------------------- graphs


def test_graphs_are_made_once_and_belong_to_their_weights(model, monkeypatch):
    first = load_trained_model(model, "cpu", "fp32", engine="onnx")
    (folder,) = kept(model)
    made = (folder / "classify.onnx").stat().st_mtime_ns
    load_trained_model(model, "cpu", "fp32", engine="onnx")
    assert (folder / "classify.onnx").stat().st_mtime_ns == made
    before = classify(first, body_of(0))
    change_weights(model)
    second = load_trained_model(model, "cpu", "fp32", engine="onnx")
    (other,) = kept(model)  # those of the old weights are gone
    assert other != folder
    by_torch = load_trained_model(model, "cpu", "fp32", engine="torch")
    assert classify(second, body_of(0))[1] == pytest.approx(
        classify(by_torch, body_of(0))[1], abs=1e-4
    )
    assert classify(second, body_of(0)) != before


def test_a_model_that_was_replaced_meanwhile_is_not_mixed_with_its_graphs(model):
    load_trained_model(model, "cpu", "fp32", engine="onnx")
    trained = load_trained_model(model, "cpu", "fp32", engine="onnx")
    change_weights(model)
    with pytest.raises(UserError, match="was replaced since it was loaded"):
        trained.model.config  # noqa: B018


def test_where_nothing_can_be_kept_graphs_are_made_for_the_process(model, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_graphs, "atomic_folder", full)
    trained = load_trained_model(model, "cpu", "fp32", engine="onnx")
    assert isinstance(trained.engines.for_row(), GraphEngine)
    assert kept(model) == [] and len(next_tokens(trained, "<IMG>")) == 5


def test_a_deleted_cache_is_made_again(model):
    load_trained_model(model, "cpu", "fp32", engine="onnx")
    shutil.rmtree(model.parent / ".cache")
    trained = load_trained_model(model, "cpu", "fp32", engine="onnx")
    assert len(kept(model)) == 1 and len(next_tokens(trained, "<IMG>")) == 5


PROGRAM = """
import sys, inference
code = inference.main(sys.argv[1:])
print("torch" in sys.modules, "transformers" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "prompt",
    [("--prompt", "<IMG> <Z_000>"), ("--mode", "classify", "--prompt", body_of(0))],
    ids=["next token", "label"],
)
def test_the_second_prompt_is_answered_alike_without_importing_torch(model, prompt):
    def ask():
        words = ["--model_path", str(model), "--json", "--precision", "fp32", *prompt]
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], cwd=ROOT, capture_output=True, text=True,
            check=True,
        )  # fmt: skip

    first, second = ask(), ask()
    assert first.stderr.splitlines()[-1] == "True True"
    assert second.stderr.splitlines()[-1] == "False False"
    numbers = []
    for done in (first, second):
        answer = json.loads(done.stdout)
        shares = answer.get("probabilities") or {
            each["token"]: each["probability"] for each in answer["next_tokens"]
        }
        numbers.append(shares)
    assert [*numbers[0]] == [*numbers[1]]
    np.testing.assert_allclose([*numbers[0].values()], [*numbers[1].values()], atol=1e-4)


# ------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_missing_library_is_named_with_its_extra(model, name, monkeypatch):
    monkeypatch.setattr("smallgpt.engines.runtimes.importlib.util.find_spec", lambda library: None)
    with pytest.raises(UserError, match=rf"--engine {name} needs .*pip install .*\[{name}\]"):
        load_trained_model(model, engine=name)


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            "--engine torch --precision int8",
            "--engine torch does not compute in int8: onnx and openvino do",
        ),
        (
            "--engine onnx --precision bf16",
            "--engine onnx does not compute in bf16: leave --engine out",
        ),
        ("--engine openvino --precision fp16", "--engine openvino computes on a CPU"),
        ("--engine onnx --device cuda", "--engine onnx computes on the CPU: drop --device cuda"),
        ("--precision int8 --device cuda", "--precision int8 computes on the CPU"),
    ],
)
def test_engines_and_precisions_that_do_not_go_together_are_refused(flags, message):
    with pytest.raises(SettingsError, match=message):
        inference.main(flags.split())
