"""What an earlier version wrote: its model is loaded, and its stopped run goes on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import train_gpt

# Made by the last version whose modules lay flat beside the scripts: a run stopped at step 14 of
# 30 (Muon, averaged weights), and what it gave when it was not stopped.
ROOT = Path(__file__).parent.parent
MADE = Path(__file__).parent / "made_by_earlier_version"
EXPECTED = MADE / "expected"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    shutil.copytree(MADE, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")  # its settings name their files from there
    return tmp_path / "copy"


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_stopped_run_of_an_earlier_version_goes_on_as_if_it_had_never_stopped(copy):
    assert train_gpt.main(["--resume", "--output_dir", "run"]) == 0
    rows, expected = rows_of(copy / "run" / "metrics.jsonl"), rows_of(EXPECTED / "metrics.jsonl")
    assert [(row["kind"], row["step"]) for row in rows] == [
        (row["kind"], row["step"]) for row in expected
    ]
    for row, other in zip(rows, expected, strict=True):
        # Another CPU may give other last bits.
        for name in ("loss", "learning_rate", "grad_norm", "label_loss"):
            assert (name in row) == (name in other)
            if row.get(name) is not None:
                assert row[name] == pytest.approx(other[name], rel=1e-3)
    weights = load_file(copy / "run" / "final_model" / "model.safetensors")
    reference = load_file(EXPECTED / "model.safetensors")
    assert weights.keys() == reference.keys()
    for name, tensor in weights.items():
        assert tensor.numpy() == pytest.approx(reference[name].numpy(), abs=1e-3), name


def test_model_of_an_earlier_version_predicts_what_it_predicted(copy):
    shutil.copy(EXPECTED / "model.safetensors", copy / "run" / "best_model")
    argv = ["--model_path", "run/best_model", "--test_data", "test.jsonl", "--output_dir", "out"]
    # The expected rows were computed in bf16, by instructions that every CPU has: those for bf16
    # round otherwise.
    command = [sys.executable, str(ROOT / "inference.py"), *argv, "--precision", "bf16"]
    subprocess.run(command, cwd=copy, env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}, check=True)
    for row, other in zip(
        rows_of(copy / "out" / "predictions.jsonl"),
        rows_of(EXPECTED / "predictions.jsonl"),
        strict=True,
    ):
        assert (row["line"], row["prediction"]) == (other["line"], other["prediction"])
        assert row["nll_sum"] == pytest.approx(other["nll_sum"], rel=1e-4)
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
