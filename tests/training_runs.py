"""Runs that start from a checkpoint, and one that stops after some steps."""

import dataclasses
from pathlib import Path

from pretrained_models import (
    POSITIONS,
    write_data,
)

from smallgpt.options.training import TrainSettings
from smallgpt.training.stopping import StopRequestedError


def train_settings(folder: Path, checkpoint: Path, **values) -> TrainSettings:
    """Settings of a short run that starts from `checkpoint`."""
    rows, vocab = write_data(folder / "data", checkpoint)
    base = TrainSettings(
        data_path=str(rows), vocab_path=str(vocab), output_dir=str(folder / "run"),
        init_from=str(checkpoint), max_length=POSITIONS, num_epochs=2, batch_size=8,
        learning_rate=3e-3, log_steps=1, precision="fp32", device="cpu",
    )  # fmt: skip
    return dataclasses.replace(base, **values)


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
