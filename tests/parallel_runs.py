"""Training in several processes for tests: ragged rows, processes started one by one."""

import dataclasses
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from plain_settings import plain_settings
from training_runs import ROOT, command

from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.options.training import TrainSettings
from smallgpt.processes import MEETING_FILE

LETTERS = "abcdefgh"


def ragged_settings(folder: Path, **values) -> TrainSettings:
    """Rows of 2 to 50 tokens, four in ten with a label of three of unlike frequency.

    With other weights for labels and classes, a last update that is not full, and an average of the
    processes' means is far from the mean of all rows.
    """
    random = np.random.default_rng(0)
    tokens = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *LETTERS, "<CLS_few>", "<CLS_many>", "<CLS_some>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    with open(folder / "rows.jsonl", "w") as handle:
        for number in range(120):
            body = random.choice(list(LETTERS), random.integers(2, 51))
            row = {"tokens": " ".join(body)}
            if number % 5 < 2:
                row["label"] = random.choice(["few", "some", "many"], p=[0.1, 0.3, 0.6])
            handle.write(json.dumps(row) + "\n")
    settings = plain_settings(
        data_path=str(folder / "rows.jsonl"),
        vocab_path=str(folder / "vocab.json"),
        output_dir=str(folder / "run"),
        n_layer=2,
        n_head=2,
        n_embd=16,
        n_positions=64,
        max_length=64,
        num_epochs=10,
        batch_size=7,
        grad_accumulation_steps=3,
        label_loss_weight=7.0,
        class_weights="balanced",
        optimizer="adamw",
        dropout=0.0,
        learning_rate=3e-3,
        log_steps=1,
        precision="fp32",
        device="cpu",
    )
    return dataclasses.replace(settings, **values)


class Group:
    """Processes that train one model, started one by one, each by its own command."""

    def __init__(self, *commands: list[str], **environment: str):
        self._folder = tempfile.TemporaryDirectory()
        count = len(commands)
        self.processes = [
            subprocess.Popen(
                words,
                cwd=ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "GLOO_SOCKET_IFNAME": "lo",
                    "RANK": f"{rank}",
                    "LOCAL_RANK": f"{rank}",
                    "WORLD_SIZE": f"{count}",
                    MEETING_FILE: f"{self._folder.name}/meeting",
                    **environment,
                },
            )
            for rank, words in enumerate(commands)
        ]

    def wait(self) -> list[tuple[int, str, str]]:
        """Exit code, output and errors of each."""
        said = [process.communicate(timeout=120) for process in self.processes]
        self._folder.cleanup()
        return [(p.returncode, *texts) for p, texts in zip(self.processes, said, strict=True)]


def train(settings: TrainSettings, *flags: str) -> subprocess.CompletedProcess[str]:
    """Train with the command, to its end."""
    words = command(settings, *flags)
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def figures(settings: TrainSettings, name: str, kind: str = "train") -> np.ndarray:
    """A figure of each row of metrics.jsonl of a kind."""
    rows = read_metrics(Path(settings.output_dir) / "metrics.jsonl")
    return np.array([row[name] for row in rows if row["kind"] == kind])


def in_other_folder(settings: TrainSettings, folder: Path, **values) -> TrainSettings:
    """The settings of another run on the same rows."""
    return dataclasses.replace(settings, output_dir=str(folder / "run"), **values)


def wait_for_step(settings: TrainSettings, step: int) -> None:
    """Wait until a run has told so many updates (`log_steps` 1)."""
    path = Path(settings.output_dir) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_text().count('"train"') >= step):
        assert time.monotonic() < deadline, "it does not come so far"
        time.sleep(0.02)
