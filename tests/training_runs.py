"""Training runs for tests: rows whose rule is easily learned, a run as a process, a stopped one."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from plain_settings import plain_settings
from safetensors.torch import load_file

from smallgpt.options.option import options_of
from smallgpt.options.training import TrainSettings
from smallgpt.training.data import read_data
from smallgpt.training.run import Run
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.run_log import RunLog
from smallgpt.training.setup import build_run
from smallgpt.training.stopping import StopRequestedError
from smallgpt.training.update import Updater

ROOT = Path(__file__).parent.parent
LETTERS = "abcdef"


def write_rule_rows(folder: Path, rows: int = 60) -> tuple[Path, Path]:
    """Rows that run through the alphabet forwards or backwards; the direction is the label."""
    tokens = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *LETTERS, "<CLS_down>", "<CLS_up>"]
    vocab = folder / "vocab.json"
    vocab.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    data = folder / "rows.jsonl"
    random = np.random.default_rng(0)
    with open(data, "w") as handle:
        for number in range(rows):
            label, step = (("up", 1), ("down", -1))[number % 2]
            start, length = random.integers(6), random.integers(3, 12)
            body = [LETTERS[(start + step * i) % 6] for i in range(length)]
            handle.write(json.dumps({"tokens": " ".join(body), "label": label}) + "\n")
    return data, vocab


def small_settings(folder: Path) -> TrainSettings:
    """Settings of a run of a second on the rows of `write_rule_rows`."""
    data, vocab = write_rule_rows(folder)
    return plain_settings(
        data_path=str(data),
        vocab_path=str(vocab),
        output_dir=str(folder / "run"),
        n_layer=2,
        n_head=2,
        n_embd=16,
        n_positions=32,
        max_length=32,
        num_epochs=2,
        batch_size=8,
        learning_rate=3e-3,
        log_steps=2,
        precision="fp32",
        device="cpu",
    )


def spoiled_settings(folder: Path) -> TrainSettings:
    """Settings of a run that is worse and worse from some evaluation on.

    Its validation rows have the wrong labels, so that it gets worse as it learns the right ones.
    """
    settings = small_settings(folder)
    lines = Path(settings.data_path).read_text().splitlines(keepends=True)
    wrong = {'"up"': '"down"', '"down"': '"up"'}
    swapped = [re.sub('"up"|"down"', lambda found: wrong[found[0]], line) for line in lines[:20]]
    for name, part in (("wrong.jsonl", swapped), ("right.jsonl", lines[20:])):
        (folder / name).write_text("".join(part))
    return dataclasses.replace(
        settings,
        data_path=str(folder / "right.jsonl"),
        val_data_path=str(folder / "wrong.jsonl"),
        num_epochs=24,
        learning_rate=0.02,
        early_stopping_patience=0,
    )


def start_run(settings: TrainSettings) -> Run:
    """A run that is ready for its first step."""
    folder = RunFolder(settings.output_dir)
    return build_run(settings, folder, RunLog(folder), *read_data(settings, print))


def update(updater: Updater, batches: list[np.ndarray]) -> None:
    """What the loop of train_gpt.py does for each update."""
    updater.set_learning_rate()
    updater.compute_gradients(batches)
    updater.step_optimizers()


def change(settings: TrainSettings, **values) -> TrainSettings:
    return dataclasses.replace(settings, **values)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights_of(one), weights_of(other)
    return all(torch.equal(first[name], second[name]) for name in first | second)


def command(settings: TrainSettings, *flags: str) -> list[str]:
    """train_gpt.py with these settings as a process of its own."""
    values = [
        f"--{name}={getattr(settings, name)}"
        for name, option in options_of(TrainSettings).items()
        if not option.flag_only
    ]
    return [sys.executable, "train_gpt.py", *values, *flags]


class StopAfter:
    """Stands in for StopSignal: asks to stop after so many looks."""

    def __init__(self, looks: int):
        self.looks, self.exit_code = looks, 130

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def requested(self):
        return self.looks <= 0

    def raise_if_requested(self):
        self.looks -= 1
        if self.looks < 0:
            raise StopRequestedError
