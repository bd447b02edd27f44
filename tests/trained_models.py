"""Tiny trained models that tests share: made once a run of the tests, and only read.

A fixture of conftest.py names each. A test that changes a folder copies it first.
"""

import json
from pathlib import Path

import numpy as np
from plain_settings import plain_settings
from training_runs import small_settings

from smallgpt.tokens.codebook import Codebook
from train_gpt import train

BEST_MODEL = Path("run", "best_model")
SIDE = 4  # pixels of an image of bars, patches of one pixel


def image_of(label: int, random: np.random.Generator) -> np.ndarray:
    """A bright bar at the top (0) or at the bottom (1), with some noise."""
    image = random.integers(0, 2, (SIDE, SIDE))
    image[0 if label == 0 else -1] = 3
    return image


def body_of(label: int) -> str:
    """The body of a row: an image of bars as codes."""
    image = image_of(label, np.random.default_rng(5)).ravel()
    return "<IMG> " + " ".join(f"<Z_{code:03d}>" for code in image) + " </IMG>"


def train_bars(folder: Path) -> None:
    """A model of 4x4 images of two classes with its codebook, beside train and test rows."""
    random = np.random.default_rng(0)
    codes = np.arange(4, dtype=np.float32)[:, None]
    Codebook(codes, 1, SIDE, SIDE, 1, 0.0, 3.0, 3.0).save(folder / "codebook.npz")
    tokens = ["<PAD>", "<UNK>", "<IMG>", "</IMG>", "<CLS>", "<EOS>"]
    tokens += [f"<Z_{code:03d}>" for code in range(4)] + ["<CLS_0>", "<CLS_1>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    for name, count in (("train", 160), ("test", 40)):
        with open(folder / f"{name}.jsonl", "w") as handle:
            for number in range(count):
                body = image_of(number % 2, random).ravel()
                text = " ".join(f"<Z_{code:03d}>" for code in body)
                row = {"tokens": f"<IMG> {text} </IMG>", "label": number % 2, "id": f"r{number}"}
                handle.write(json.dumps(row) + "\n")
    train(
        plain_settings(
            data_path=str(folder / "train.jsonl"),
            vocab_path=str(folder / "vocab.json"),
            output_dir=str(folder / "run"),
            n_layer=2, n_head=2, n_embd=32, n_positions=32, max_length=32, num_epochs=25,
            batch_size=16, learning_rate=1e-2, precision="fp32", device="cpu",
        )
    )  # fmt: skip


def train_rule_rows(folder: Path) -> None:
    """A finished run with `small_settings`, its rows beside it."""
    train(small_settings(folder))
