"""Several processes train the model that one process trains, and end together.

The processes are real: started by --processes, by torchrun, or one by one with their environment.
"""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from parallel_runs import Group, figures, in_other_folder, ragged_settings, train, wait_for_step
from pretrained_models import TEXTS, save_byte_level, train_settings
from training_runs import ROOT, command, start_run

from smallgpt.processes import ALONE, Processes
from smallgpt.training.checkpoint import find_checkpoint
from train_gpt import read_command_line


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Settings of a run in one process that is at its end."""
    settings = ragged_settings(tmp_path_factory.mktemp("alone"))
    train(settings)
    return settings


def check_equal_to(one, other, bound=2e-6):
    """The same losses, norms and validation figures, up to the order in which numbers are added."""
    losses = figures(one, "loss"), figures(other, "loss")
    assert len(losses[0]) == len(losses[1]) > 40
    assert abs(losses[0] - losses[1]).max() < bound
    norms = figures(one, "grad_norm"), figures(other, "grad_norm")
    assert abs(norms[0][0] / norms[1][0] - 1) < 1e-6
    for name in ("loss", "calibrated_label_loss", "label_accuracy"):
        mine, theirs = (figures(run, name, "validation") for run in (one, other))
        assert mine == pytest.approx(theirs, abs=20 * bound), name


# ------------------------------------------------------------------------------- one model


def test_two_processes_train_the_model_of_one(alone, tmp_path):
    settings = in_other_folder(alone, tmp_path, processes=2)
    done = train(settings)
    check_equal_to(alone, settings)
    assert "processes: 2 on 1 machine, 1 thread each" in done.stdout
    assert "an update sends 0.0 MB between the processes, which takes" in done.stdout
    assert done.stdout.count("done in") == 1 and not done.stderr  # one of them talks
    text = (Path(settings.output_dir) / "train.log").read_text()
    assert text.count("done in") == 1


def test_mean_of_the_means_of_processes_would_be_another_loss(alone):
    """The bounds here tell the sum of all rows from what DistributedDataParallel makes."""
    run = start_run(replace(alone, output_dir=alone.output_dir + "_other"))
    batches = run.updates_of_epoch(0)[0]
    run.gradients.add_gradients(batches)
    whole = [p.grad.clone() for p in run.model.parameters()]
    run.gradients.clear_gradients()
    for part in Processes(0, 2).parts(batches, run.rows.lengths_N):
        run.gradients.add_gradients(part)
    means = [p.grad / 2 for p in run.model.parameters()]
    norms = [torch.stack([g.norm() for g in grads]).norm() for grads in (whole, means)]
    assert abs(norms[0] / norms[1] - 1) > 1e-3


@pytest.mark.parametrize("count", [1, 2, 3, 4, 30])
def test_every_row_of_an_update_has_one_process(count):
    lengths = np.array([3, 9, 1, 4, 4, 7, 2, 50, 8, 8, 1])
    batches = [np.array([0, 3, 5, 7]), np.array([1, 2, 4, 10]), np.array([8])]
    parts = (
        Processes(0, count).parts(batches, lengths) if count > 1 else ALONE.parts(batches, lengths)
    )
    rows = [row for part in parts for batch in part for row in batch.tolist()]
    assert sorted(rows) == [0, 1, 2, 3, 4, 5, 7, 8, 10] and len(parts) == count
    assert all(0 < len(batch) <= 4 for part in parts for batch in part)
    counts = [sum(map(len, part)) for part in parts]
    assert max(counts) - min(counts) <= 1


def test_dropout_differs_between_processes_and_repeats():
    def drawn(rank, step, count=2, seed=1):
        Processes(rank, count).seed_update(seed, step)
        return torch.rand(4).tolist()

    with torch.random.fork_rng():
        masks = [
            drawn(0, 5),
            drawn(1, 5),
            drawn(0, 6),
            drawn(1, 6),
            drawn(0, 5, 3),
            drawn(0, 5, 2, 7),
        ]
        assert len({tuple(mask) for mask in masks}) == len(masks)
        assert drawn(1, 6) == masks[3]
        shared = [Processes(rank, 2).seed_update(1, 5) for rank in (0, 1)]
        assert len({tuple(torch.rand(4, generator=each).tolist()) for each in shared}) == 1
        before = torch.get_rng_state()
        assert ALONE.seed_update(1, 5) is None and torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------- updates


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Settings of each kind of run, by name."""
    folder = tmp_path_factory.mktemp("cases")
    ragged = ragged_settings(folder)
    texts = folder / "texts"
    save_byte_level(texts / "checkpoint")
    short = train_settings(texts, texts / "checkpoint", dropout=0.0)
    instructions = folder / "instructions.jsonl"
    with open(instructions, "w") as handle:
        for number in range(20):
            row = {"instruction": f"Say {TEXTS[number % 3]}.", "output": f"{TEXTS[number % 4]}"}
            handle.write(json.dumps(row) + "\n")
    labelled = folder / "labelled.jsonl"
    rows = [line for line in Path(ragged.data_path).read_text().splitlines() if "label" in line]
    labelled.write_text("\n".join(rows) + "\n")
    return {
        "adamw": ragged,
        "muon": replace(ragged, optimizer="muon", ema_decay=0.9),
        "early labels": replace(ragged, early_label_weight=2.0, labelled_visits=2),
        "label first": replace(ragged, label_first_share=0.5),
        "fewer rows than processes": replace(ragged, batch_size=2, grad_accumulation_steps=1),
        "head": replace(ragged, classifier="head", data_path=str(labelled)),
        "adapter": replace(short, lora_rank=2),
        "instructions": replace(short, data_path=str(instructions), init_from=None, n_layer=1,
                                n_head=2, n_embd=16, n_positions=48),
        "checkpointing": replace(ragged, gradient_checkpointing=True),
        "poisoned": replace(ragged, on_nonfinite="skip"),
    }  # fmt: skip


def results_of(cases, count, updates, folder):
    path, result = folder / "cases.json", folder / f"result_{count}.json"
    path.write_text(json.dumps({name: asdict(settings) for name, settings in cases.items()}))
    words = [sys.executable, "tests/updates_program.py", f"{path}", f"{updates}", f"{result}"]
    ended = Group(*[words] * count, PYTHONPATH=f"{ROOT}").wait()
    assert [code for code, *_ in ended] == [0] * count, ended
    return json.loads(result.read_text())


def check_updates(cases, counts, updates, folder):
    alone = results_of(cases, 1, updates, folder)
    for count in counts:
        for name, found in results_of(cases, count, updates, folder).items():
            assert len(set(found["digests"])) == 1, name
            assert found["figures"] == pytest.approx(alone[name]["figures"], abs=1e-12), name
            if name == "poisoned":
                (line,) = found["said"]
                assert "no longer finite at step 3" in line and "lines" in line
                continue
            # Which rows have their label first is drawn by torch's generator in one process.
            if name != "label first":
                bound = 1e-4 if name == "muon" else 2e-6
                assert found["losses"] == pytest.approx(alone[name]["losses"], abs=bound), name
                assert found["norms"][0] == pytest.approx(alone[name]["norms"][0], rel=1e-6), name
            assert found["said"] == []


def test_updates_of_three_processes_are_those_of_one(cases, tmp_path):
    check_updates(cases, [3], 12, tmp_path)


@pytest.mark.long
def test_updates_stay_those_of_one_process_for_long(cases, tmp_path):
    check_updates({name: cases[name] for name in ("adamw", "muon")}, [2, 4], 200, tmp_path)
    check_updates({"head": cases["head"]}, [2, 4], 50, tmp_path)
    check_updates({"adamw": cases["adamw"]}, [2], 600, tmp_path)


# ------------------------------------------------------------------------------- stopping


@pytest.mark.long
def test_signal_to_one_stops_all_and_another_number_goes_on(alone, tmp_path):
    settings = in_other_folder(alone, tmp_path)
    group = Group(command(settings), command(settings))
    wait_for_step(settings, 8)
    group.processes[1].send_signal(signal.SIGTERM)
    ended = group.wait()
    assert [code for code, *_ in ended] == [143, 143]
    assert "stopped at step" in ended[0][1] and ended[1][1:] == ("", "")
    done = train(settings, "--resume")
    assert "processes was 2, is 1" in done.stdout
    check_equal_to(alone, settings, 2e-5)


def test_killed_process_ends_all_and_loses_no_update(alone, tmp_path):
    settings = in_other_folder(alone, tmp_path, processes=2, num_epochs=400, checkpoint_steps=0)
    run = subprocess.Popen(
        command(settings), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for_step(settings, 8)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    assert len(children) == 2
    subprocess.run(["kill", "-9", children[1]], check=True)
    said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "process 1 of 2 was ended by SIGKILL" in said[1]
    assert "all updates before are saved, go on with: python train_gpt.py --resume" in said[1]
    assert len(said[1].splitlines()) == 2
    step = find_checkpoint(Path(settings.output_dir) / "checkpoints").loop.step
    assert step >= len(figures(settings, "loss")) >= 8  # each step was told
    for child in children:
        assert not Path(f"/proc/{child}").exists()


# ------------------------------------------------------------------------------- refusals


def test_other_options_on_one_process_are_refused_by_name(alone, tmp_path):
    settings = in_other_folder(alone, tmp_path)
    other = Group(command(settings), command(replace(settings, learning_rate=0.1))).wait()
    assert [code for code, *_ in other] == [1, 1]
    assert "process 1 (" in other[0][2] and "learning_rate: 0.1" in other[0][2]
    assert other[1][2] == ""


def test_more_processes_than_cores_are_refused(alone, tmp_path):
    words = command(in_other_folder(alone, tmp_path, processes=1000))
    wrong = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert wrong.returncode == 2
    (line,) = wrong.stderr.splitlines()
    assert line.startswith("error: processes 1000: this machine has ")


def test_torchrun_goes_on_with_its_own_number(alone, monkeypatch):
    """The folder stores --processes of the run, which the user of torchrun has not given."""
    folder = Path(alone.output_dir)
    stored = (folder / "settings.yaml").read_text()
    (folder / "settings.yaml").write_text(stored.replace("processes: 1", "processes: 2"))
    try:
        words = ["--resume", "--output_dir", str(folder)]
        assert read_command_line(words).processes == 2
        monkeypatch.setenv("RANK", "0")
        assert read_command_line(words).processes == 1
    finally:
        (folder / "settings.yaml").write_text(stored)


def test_torchrun_says_how_many(alone, tmp_path):
    settings = in_other_folder(alone, tmp_path, processes=3, num_epochs=1)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    wrong = subprocess.run(
        [*words, *command(settings)[1:]], cwd=ROOT, text=True, capture_output=True, timeout=120
    )
    assert wrong.returncode == 1
    assert "processes 3: torchrun has started 2, and says how many; drop it" in wrong.stderr
