"""Benchmark workloads: models, rows, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.console import progress_bar
from smallgpt.files.writing import atomic_write, json_line
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.vocabulary import Vocabulary


@dataclass(frozen=True)
class Shape:
    """Shape of a model; the default is that of the toolkit."""

    n_layer: int = 6
    n_head: int = 8
    n_embd: int = 384
    n_positions: int = 1024
    codes: int = 500  # with 10 labels and 6 special tokens the vocabulary


@dataclass(frozen=True)
class Job:
    """Rows to train on, all once per round; `lengths` in tokens, `full` = only with --full."""

    name: str
    lengths: tuple[int, ...]
    batch_size: int
    shape: Shape = Shape()
    full: bool = False

    @property
    def inputs(self) -> list[int]:
        """Input tokens of each row, all but its last; as many are predicted."""
        return [length - 1 for length in self.lengths]

    @property
    def is_ragged(self) -> bool:
        """Whether the rows differ in length."""
        return len(set(self.lengths)) > 1


def equal(name: str, rows: int, length: int, steps: int, **more: Any) -> Job:
    """`steps` batches of equal rows."""
    return Job(name, (length,) * (rows * steps), rows, **more)


def ragged(rows: int, batch_size: int, shortest: int, longest: int, **more: Any) -> Job:
    """Rows whose lengths are spread evenly."""
    step = (longest - shortest) / (rows - 1)
    lengths = tuple(round(shortest + step * row) for row in range(rows))
    return Job(f"rows of {shortest} to {longest}", lengths, batch_size, **more)


RAGGED = ragged(32, 8, 32, 789)


@dataclass(frozen=True)
class Sizes:
    """How much is measured on a kind of device; the tests take less."""

    jobs: tuple[Job, ...] = (equal("64 x 54", 64, 54, 2), equal("8 x 789", 8, 789, 1))
    ragged: Job = RAGGED
    shape: Shape = Shape()  # of the model that decodes, classifies and starts
    batches: tuple[int, ...] = (1, 64)
    batches_full: tuple[int, ...] = (1, 16, 64)
    prompt: int = 8
    new_tokens: int = 100
    row_length: int = 54
    rows_classified: int = 2048
    rows_read: int = 60_000
    rows_read_full: int = 1_000_000
    rounds: int = 3
    rounds_full: int = 7
    starts: int = 5
    squares: tuple[int, ...] = (1024, 2048, 4096)
    copied: int = 1 << 28  # bytes


CPU_SIZES = Sizes()
GPT2_SMALL = Shape(n_layer=12, n_head=12, n_embd=768, codes=50_241)
GPU_SIZES = replace(
    CPU_SIZES,
    jobs=(
        equal("1024 x 54", 1024, 54, 8),
        equal("16 x 1024, 124M", 16, 1024, 8, shape=GPT2_SMALL, full=True),
    ),
    ragged=ragged(1024, 64, 32, 789),
    batches=(1, 64, 256),
    batches_full=(1, 16, 64, 256),
    rows_classified=60_000,
    squares=(4096, 8192),
    copied=1 << 31,
)


def write_rows(path: Path, vocabulary: Vocabulary, lengths: Sequence[int], seed: int) -> Path:
    """Write labelled rows of random codes as JSONL; `lengths` in tokens, at least 6."""
    random = np.random.default_rng(seed)
    codes = [token for token in vocabulary.tokens if token.startswith("<Z_")]
    with (
        atomic_write(path) as handle,
        progress_bar(f"writing {path.name}", len(lengths), "row") as bar,
    ):
        for number, length in enumerate(lengths):
            body = " ".join([codes[i] for i in random.integers(len(codes), size=length - 5)])
            label = vocabulary.labels[number % len(vocabulary.labels)]
            text = f"<IMG> {body} </IMG> <CLS> <CLS_{label}> <EOS>"
            handle.write(json_line({"tokens": text, "label": label}))
            bar.update()
    return path


def vocabulary_of(shape: Shape) -> Vocabulary:
    """A vocabulary of codes and ten labels."""
    return Vocabulary.for_images(shape.codes, map(str, range(10)))


def settings_of(shape: Shape) -> TrainSettings:
    """Settings with this shape, and fixed values of what a recipe would choose by the rows."""
    return TrainSettings(
        batch_size=32,
        dropout=0.2,
        token_dropout=0.1,
        optimizer="adamw",
        learning_rate=1e-3,
        max_length=shape.n_positions,
        n_positions=shape.n_positions,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
    )
