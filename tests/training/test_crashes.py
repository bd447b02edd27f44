"""Crashes: a training process is killed at any moment and goes on as if nothing had happened.

    python -m pytest tests/training/test_crashes.py
    KILLS=200 python -m pytest -m "" -s tests/training/test_crashes.py -k uninterrupted  # longer

The processes are real and die of SIGKILL, while another one reads best_model all the time. They
are forked from a server that has loaded the libraries, so that a death costs tenths of a second.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from plain_settings import plain_settings
from scipy import stats
from sklearn import linear_model
from transformers.models.gpt2 import modeling_gpt2

from smallgpt.checks import report
from smallgpt.command import run_command
from smallgpt.console import progress_bar
from smallgpt.engines.trained import load_trained_model
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.evaluation.scoring import score_rows
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.rows.reading import read_dataset
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training import pictures as training_pictures
from smallgpt.training.best_model import choose_metric
from smallgpt.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from smallgpt.training.cross_fitting import CrossFit
from smallgpt.training.loop_state import LoopState
from smallgpt.training.run_folder import RunFolder
from train_gpt import main as train_main

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("KILLS", "16"))
FORKS = multiprocessing.get_context("forkserver")
# The module itself, and what a run imports on its way; a wrong name would be passed over silently.
LOADED = (linear_model, modeling_gpt2, pyplot, report, stats, training_pictures)
FORKS.set_forkserver_preload([__name__, *(module.__name__ for module in LOADED)])
LETTERS = "abcdef"
# Everything that a resumed run could get wrong is on: dropout, accumulation, early stopping, best
# model. Each step is saved, so that most deaths fall into the writing of files.
FLAGS = [
    "--n_layer=1", "--n_head=2", "--n_embd=16", "--n_positions=32", "--max_length=32",
    "--batch_size=4", "--grad_accumulation_steps=2", "--dropout=0.2", "--device=cpu",
    "--checkpoint_steps=1", "--log_steps=3", "--learning_rate=0.03", "--num_epochs=40",
]  # fmt: skip
VARIANTS = {
    "adamw": [
        *("--early_stopping_patience=4", "--precision=fp32", "--optimizer=adamw"),
        "--keep_checkpoints=1",
    ],
    "muon": [
        *("--early_stopping_patience=0", "--precision=bf16", "--optimizer=muon"),
        *("--num_epochs=8", "--best_metric=label_accuracy", "--keep_checkpoints=2"),
    ],
}


# ------------------------------------------------------------------------------- the processes


def write_data(folder: Path) -> list[str]:
    """Rows whose direction through the alphabet is the label; returns the flags that name them."""
    tokens = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *LETTERS, "<CLS_down>", "<CLS_up>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    numbers = np.random.default_rng(0)
    with open(folder / "rows.jsonl", "w") as handle:
        for row in range(60):
            label, step = (("up", 1), ("down", -1))[row % 2]
            start, length = numbers.integers(6), numbers.integers(3, 12)
            body = [LETTERS[(start + step * i) % 6] for i in range(length)]
            handle.write(json.dumps({"tokens": " ".join(body), "label": label}) + "\n")
    return [f"--data_path={folder / 'rows.jsonl'}", f"--vocab_path={folder / 'vocab.json'}"]


def train_process(flags: list[str], output: Path) -> None:
    """`python train_gpt.py`, in a process that has loaded its libraries."""
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["train_gpt.py", *flags]
    run_command(train_main)


def start(flags: list[str], folder: Path) -> multiprocessing.Process:
    process = FORKS.Process(
        target=train_process, args=([*flags, f"--output_dir={folder}"], folder.with_suffix(".txt"))
    )
    process.start()
    return process


def read_for_ever(root: Path, problems: Path, reads) -> None:
    """Load every best_model below `root` again and again; a failure is written to `problems`.

    What is stored with the weights must be theirs, to the last bit: it is computed again.
    """
    torch.set_num_threads(1)
    rows = {}
    try:
        while True:
            for folder in sorted(root.glob("*/best_model")):
                trained = load_trained_model(folder, "cpu", "auto")
                if not rows:
                    settings = trained.settings
                    everything = read_dataset(
                        settings.data_path, trained.vocabulary, max_length=settings.max_length
                    )
                    rows = split_dataset(everything, settings.validation_fraction, settings.seed)[1]
                again = load_trained_model(folder, "cpu", trained.settings.precision)
                scores = score_rows(again.engines.torch, rows, to_calibrate=True)
                metric = choose_metric(again.settings, rows)
                results = scores.cross_fitted_results(rows, CrossFit(rows, metric).fold_N)
                assert results.temperature == again.temperature, folder
                names = {"label_accuracy": "accuracy", "label_loss": "calibrated_label_loss"}
                found = results.figures(rows)[names.get(metric, metric)]
                assert found == again.validation["best_value"], folder
                reads.value += 1
            time.sleep(0.005)
    except BaseException:
        problems.write_text(traceback.format_exc())


class Reader:
    """A process that reads best_model while others write it."""

    def __init__(self, root: Path):
        self.root, self.problems = root, root / "problems.txt"
        self.reads = FORKS.Value("i", 0)

    def __enter__(self):
        self.process = FORKS.Process(
            target=read_for_ever, args=(self.root, self.problems, self.reads)
        )
        self.process.start()
        return self

    def __exit__(self, *_: object):
        self.process.kill()
        self.process.join()

    def check(self) -> None:
        assert not self.problems.exists(), self.problems.read_text()
        assert self.process.is_alive()


# ------------------------------------------------------------------------------- what is compared


def contents(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def result_of(folder: Path) -> dict[str, object]:
    """All that must not depend on an interruption."""
    run = RunFolder(folder)
    (last,) = run.checkpoints.glob("*_finished")
    clock = {"seconds", "tokens_per_second"}
    rows = read_metrics(run.metrics)
    assert len(rows) == run.metrics.read_bytes().count(b"\n")
    loop = json.loads((last / "state.json").read_text())["loop"]
    return {
        "final weights": contents(run.final_model / "model.safetensors"),
        "best weights and their figures": contents(run.best_model / "model.safetensors"),
        "optimizer and random generators": contents(last / "training.safetensors"),
        "position": {k: v for k, v in loop.items() if k not in {"seconds", "window_began"}},
        "metrics.jsonl": [{k: v for k, v in row.items() if k not in clock} for row in rows],
    }


def leftovers(folder: Path) -> int:
    """Half-written files and folders of a run."""
    return sum(1 for _ in itertools.chain(folder.glob(".*.tmp"), folder.glob("*/.*.tmp")))


def newest(folder: Path) -> str:
    return max((path.name for path in folder.glob("checkpoints/step_*")), default="")


def live_and_die(flags: list[str], folder: Path, dice: random.Random) -> bool:
    """Start or go on with a run and kill it at a random moment; whether it was killed."""
    process = start([*flags, "--resume"], folder)
    if dice.random() < 0.2:  # it may die while it starts
        process.join(dice.uniform(0, 1))
    else:
        # Deaths are spread over steps, since a machine that others use has no steady clock.
        for _ in range(dice.randint(1, 16)):
            before = newest(folder)
            while newest(folder) == before and process.is_alive():
                time.sleep(0.001)
        process.join(dice.uniform(0, 0.06))
    process.kill()
    process.join()
    if process.exitcode == 0:
        return False
    assert process.exitcode == -signal.SIGKILL, folder.with_suffix(".txt").read_text()[-2000:]
    return True


def survive(root: Path, variant: str, kills: int, seed: int) -> dict[str, int]:
    """Kill a run `kills` times, in as many repetitions as that takes, and compare each one's end.

    Returns:
        counts of what was survived.
    """
    flags = [*FLAGS, *write_data(root), *VARIANTS[variant]]
    whole = root / "whole"
    process = start(flags, whole)
    process.join()
    assert process.exitcode == 0, whole.with_suffix(".txt").read_text()[-2000:]
    expected, dice = result_of(whole), random.Random(seed)
    counts = {"kills": 0, "runs": 0, "while writing": 0, "reads": 0}
    with Reader(root) as reader, progress_bar(f"killing {variant}", kills, "kill") as bar:
        while counts["kills"] < kills:
            counts["runs"] += 1
            folder = root / f"broken{counts['runs']}"
            while counts["kills"] < kills and live_and_die(flags, folder, dice):
                counts["kills"] += 1
                counts["while writing"] += leftovers(folder) > 0
                bar.update()
                reader.check()
            process = start([*flags, "--resume"], folder)
            process.join()
            assert process.exitcode == 0, folder.with_suffix(".txt").read_text()[-2000:]
            assert result_of(folder) == expected
            assert leftovers(folder) == 0
        reader.check()
        counts["reads"] = reader.reads.value
    return counts


# ------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("variant", ["adamw", pytest.param("muon", marks=pytest.mark.long)])
def test_killed_run_ends_where_the_uninterrupted_one_ends(tmp_path, variant):
    share = KILLS // len(VARIANTS)
    counts = survive(tmp_path, variant, kills=share, seed=1)
    print(f"{variant}: survived", ", ".join(f"{count} {what}" for what, count in counts.items()))
    assert counts["kills"] == share
    assert counts["reads"] > 0


@pytest.mark.long
def test_killed_command_goes_on(tmp_path):
    """The command itself, from the shell's point of view."""
    flags = [*FLAGS, *write_data(tmp_path), *VARIANTS["adamw"], "--num_epochs=3"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(flags, whole)
    command = [sys.executable, "train_gpt.py", *flags, f"--output_dir={broken}"]
    killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while newest(broken) < "step_00000003" and killed.poll() is None:
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    again = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "going on from step" in again.stdout
    process.join()
    assert result_of(broken) == result_of(whole)


# ---- between any two operations on files ----------------------------------------------

OPERATIONS = ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir")


def before_operation(number: int, act: Callable[[], None]) -> None:
    """Let `act` be called before the operation of that number on files, from 1."""
    count = itertools.count(1)

    def counted(real):
        def operation(*args, **kwargs):
            if next(count) == number:
                act()
            return real(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def small_run() -> tuple[torch.nn.Module, list, torch.amp.GradScaler]:
    model = torch.nn.Linear(3, 2)
    model(torch.ones(3)).sum().backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    return model, [optimizer], torch.amp.GradScaler("cpu", enabled=False)


def save_step(folder: Path, step: int) -> None:
    """A checkpoint whose weights all are its step."""
    model, optimizers, scaler = small_run()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(step)
    about = {"settings": {}, "belongs_to": {}, "computed_by": {}, "config": {}}
    loop = LoopState(step=step, epoch_step=step)
    save_checkpoint(folder, model, optimizers, scaler, loop, about, keep=1, evaluated={})


def save_step_and_die(folder: Path, number: int) -> None:
    before_operation(number, die)
    save_step(folder, 2)


def die_at_each_operation(
    target: Callable[[Path, int], None], prepare: Callable[[int], Path]
) -> Iterator[Path]:
    """Yield folders in which `target` was killed before its 1st, 2nd, ... operation, to its end."""
    for number in itertools.count(1):
        folder = prepare(number)
        process = FORKS.Process(target=target, args=(folder, number))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        yield folder
        if process.exitcode == 0:
            assert number > 10  # it did die at some
            return


def test_checkpoint_survives_death_before_any_operation(tmp_path):
    def prepare(number: int) -> Path:
        # A damaged one lies where the new one is to be, and only one is kept.
        folder = tmp_path / str(number)
        save_step(folder / "other", 2)
        save_step(folder, 1)
        (folder / "other/step_00000002").rename(folder / "step_00000002")
        (folder / "step_00000002/model.safetensors").write_bytes(b"damaged")
        return folder

    steps = []
    for folder in die_at_each_operation(save_step_and_die, prepare):
        found = find_checkpoint(folder)
        model, optimizers, scaler = small_run()
        load_checkpoint(found, model, optimizers, scaler, {})
        assert (model.weight == found.loop.step).all()
        steps.append(found.loop.step)
        save_step(folder, 3)
        assert {path.name for path in folder.iterdir()} <= {"step_00000003", "other"}
    assert set(steps) == {1, 2} and steps == sorted(steps)


def save_model_of_step(folder: Path, step: int) -> None:
    """A model folder whose stored figures name the step that all its weights are."""
    settings = plain_settings(n_layer=1, n_head=1, n_embd=4, n_positions=8, max_length=8)
    vocabulary = Vocabulary(["<PAD>", "a"])
    model = build_model(settings, vocabulary)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(step)
    figures = {"step": step, "rows": 1, "perplexity": 1.0, "baselines": {}}
    save_model_folder(model, folder / "best_model", vocabulary, settings, None, figures)


def save_model_and_die(folder: Path, number: int) -> None:
    before_operation(number, die)
    save_model_of_step(folder, 1)
    save_model_of_step(folder, 2)


def test_best_model_survives_death_before_any_operation(tmp_path):
    def prepare(number: int) -> Path:
        (tmp_path / str(number)).mkdir()
        return tmp_path / str(number)

    steps = []
    for folder in die_at_each_operation(save_model_and_die, prepare):
        step = 0
        if (folder / "best_model").exists():
            trained = load_trained_model(folder / "best_model", "cpu", "fp32")
            step = trained.validation["step"]
            assert all((p == step).all() for p in trained.model.parameters())
            assert not list((folder / "best_model").glob(".*"))
        steps.append(step)
    assert set(steps) == {0, 1, 2} and steps == sorted(steps)
