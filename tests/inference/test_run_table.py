"""The table of the runs in a folder: order, what their settings have, other data, damaged runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command_program import run_here
from training_runs import small_settings

from inference import main
from smallgpt.model.weights_file import read_validation
from train_gpt import train


def train_runs(folder: Path) -> None:
    """Three short runs on the same rows and one on other validation rows."""
    settings = small_settings(folder)
    runs = folder / "runs"
    for name, changes in {
        "plain": {},
        "same": {"learning_rate": 1e-4},
        "wide": {"n_embd": 32},
        "elsewhere": {"validation_fraction": 0.4},
    }.items():
        train(replace(settings, output_dir=str(runs / name), **changes))
    (runs / "notes").mkdir()  # something of the user's own


@pytest.fixture(scope="module")
def runs(made_once) -> Path:
    return made_once("four runs", train_runs) / "runs"


def table(folder: Path, *words: object):
    return run_here(main, "--mode", "compare", "--model_path", folder, *words)


def test_each_run_has_a_line_the_best_first(runs):
    done = table(runs, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["runs"]
    assert {run["run"] for run in found} == {"plain", "same", "wide", "elsewhere"}
    stored = [read_validation(runs / run["run"] / "best_model") for run in found]
    assert all(each["label_loss"] != each["calibrated_label_loss"] for each in stored)
    losses = [each["calibrated_label_loss"] for each in stored]  # by which best_model is chosen
    assert losses == sorted(losses)
    assert [run["figures"]["label_loss"] for run in found] == losses


def test_settings_are_those_unlike_most_of_the_others(runs):
    found = {
        run["run"]: run["settings"] for run in json.loads(table(runs, "--json").stdout)["runs"]
    }
    assert found == {
        "plain": {},
        "same": {"learning_rate": 1e-4},
        "wide": {"n_embd": 32},
        "elsewhere": {"validation_fraction": 0.4},
    }
    told = table(runs).stdout
    assert "learning_rate 0.0001" in told
    assert ": 4 runs, validation figures (intervals: 95 %, Wilson), the best first" in told


def test_runs_that_were_validated_on_other_rows_are_marked(runs):
    lines = table(runs).stdout.splitlines()
    assert any("figures compare only where the rows of validation are the same" in x for x in lines)
    mark = {line.split()[0]: line.split()[1] for line in lines[3:7]}
    assert mark["plain"] == mark["same"] == mark["wide"] != mark["elsewhere"]


def test_a_damaged_run_is_told_and_the_others_are_listed(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs" / "same" / "best_model" / "model.safetensors").write_bytes(b"damaged")
    done = table(tmp_path / "runs")
    assert done.returncode == 0 and "same: left out, " in done.stdout
    assert "wide" in done.stdout


def test_runs_are_not_tested_as_a_folder(runs):
    done = table(runs, "--test_data", "x.jsonl")
    assert done.returncode == 1 and "drop --test_data" in done.stderr


def test_a_folder_without_runs_is_told(tmp_path):
    done = table(tmp_path)
    assert done.returncode == 1 and "a folder of runs" in done.stderr
