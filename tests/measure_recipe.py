"""Measure what training reaches on whole data sets, against simple models on the same test rows.

    python tests/measure_recipe.py tictactoe shapes --work FOLDER
    python tests/measure_recipe.py mnist_dev --data DATA --work FOLDER --train "--num_epochs 25"

Without --prepare and --train nothing but paths and a seed is given. Each row of digits, shapes,
tictactoe and chess is tested once, in 5 folds; of mnist and usps 100 images a class are drawn three
times. What ends in _dev is to choose by: none of its rows are tested in the set it is named after.
DATA holds mnist/, usps/ and chess-endgame/. docs/measurements.md has the figures.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from smallgpt.console import format_table

ROOT = Path(__file__).parent.parent
FOLDS, OF_A_CLASS = 5, 100
Part = tuple[np.ndarray, np.ndarray]  # rows to learn from, rows to test on

# ------------------------------------------------------------------------------- data sets


@dataclass
class Images:
    """Images NxHxWxC with their labels, and how they are parted."""

    images: np.ndarray
    labels: np.ndarray
    parts: list[Part]

    @property
    def features(self) -> np.ndarray:
        return self.images.reshape(len(self.images), -1) / 255.0

    def write(self, folder: Path, part: Part) -> list[str]:
        """Files of one part; returns the command that prepares them."""
        for name, rows in zip(("train", "test"), part, strict=True):
            np.savez(folder / f"{name}.npz", images=self.images[rows], labels=self.labels[rows])
        return [
            *("prepare_data.py", "images", "--output_dir", f"{folder}/rows"),
            *("--input", f"{folder}/train.npz", "--test_input", f"{folder}/test.npz"),
        ]


@dataclass
class Tokens:
    """Rows of tokens, all of one length, with their labels, and how they are parted."""

    rows: list[list[str]]
    labels: np.ndarray
    parts: list[Part]
    names: list[str]

    @property
    def features(self) -> np.ndarray:
        from sklearn.preprocessing import OneHotEncoder

        return OneHotEncoder(sparse_output=False).fit_transform(np.array(self.rows))

    def write(self, folder: Path, part: Part) -> list[str]:
        """Finished files of one part, which need no preparation."""
        out = folder / "rows"
        out.mkdir()
        for name, rows in zip(("train", "test"), part, strict=True):
            with open(out / f"{name}.jsonl", "w") as handle:
                for i in rows:
                    row = {"tokens": self.rows[i], "label": self.names[self.labels[i]]}
                    handle.write(json.dumps(row) + "\n")
        tokens = sorted({token for row in self.rows for token in row})
        special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]
        whole = [*special, *tokens, *(f"<CLS_{name}>" for name in self.names)]
        (out / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(whole)}))
        return []


def folds_of(labels: np.ndarray) -> list[Part]:
    """Stratified folds."""
    order = np.random.default_rng(0).permutation(len(labels))
    fold_N = np.empty(len(labels), int)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        fold_N[mine] = np.arange(len(mine)) % FOLDS
    return [(np.flatnonzero(fold_N != k), np.flatnonzero(fold_N == k)) for k in range(FOLDS)]


def few_of_each(labels: np.ndarray, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.concatenate(
        [order[labels[order] == label][:OF_A_CLASS] for label in np.unique(labels)]
    )


def shapes(seed: int) -> Images:
    """60 circles, squares and triangles each, of any place, size and colour, on noise."""
    random, images, labels = np.random.default_rng(seed), [], np.repeat(np.arange(3), 60)
    y, x = np.mgrid[:32, :32] + 0.5
    for label in labels:
        (down, right), size = random.uniform(12, 20, 2), random.uniform(5, 10)
        dy, dx = y - down, x - right
        inside = (
            dy**2 + dx**2 < size**2,
            np.maximum(abs(dy), abs(dx)) < 0.85 * size,
            (dy < 0.8 * size) & (dy > 2 * abs(dx) - size),
        )[label]
        ground, colour = random.uniform(0, 90, 3), random.uniform(110, 255, 3)
        image = np.where(inside[..., None], colour, ground) + random.normal(0, 25, (32, 32, 3))
        images.append(image.clip(0, 255).astype(np.uint8))
    return Images(np.array(images), labels, folds_of(labels))


def tictactoe() -> Tokens:
    """The 958 boards at the end of a game that x began, and whether x has won."""
    lines = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
    won: dict[str, int] = {}

    def play(board: str, turn: str) -> None:
        winners = [board[a] for a, b, c in lines if board[a] == board[b] == board[c] != "b"]
        if winners or "b" not in board:
            won[board] = int(winners[:1] == ["x"])
            return
        for i in range(9):
            if board[i] == "b":
                play(board[:i] + turn + board[i + 1 :], "o" if turn == "x" else "x")

    play("b" * 9, "x")
    labels = np.array([won[board] for board in sorted(won)])
    return Tokens([list(b) for b in sorted(won)], labels, folds_of(labels), ["other", "x_wins"])


def chess(data: Path) -> Tokens:
    rows = [
        json.loads(line)
        for part in ("train", "test")
        for line in (data / f"chess-endgame/{part}.jsonl").read_text().splitlines()
    ]
    names = sorted({row["label"] for row in rows})
    labels = np.array([names.index(row["label"]) for row in rows])
    return Tokens([row["tokens"].split() for row in rows], labels, folds_of(labels), names)


def digits() -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images * 255 / 16).round().astype(np.uint8)[..., None]
    return Images(images, found.target, folds_of(found.target))


def mnist(data: Path, dev: bool) -> Images:
    def read(name: str, skip: int) -> np.ndarray:
        packed = (data / "mnist" / f"train-{name}-ubyte.gz").read_bytes()
        return np.frombuffer(gzip.decompress(packed), np.uint8, offset=skip)

    images = read("images-idx3", 16).reshape(-1, 28, 28, 1)
    labels = read("labels-idx1", 8).astype(int)
    known, asked = (
        (40_000, np.arange(40_000, 43_000)) if dev else (50_000, np.arange(50_000, 60_000))
    )
    seeds = (11, 12, 13) if dev else (1, 2, 3)
    return Images(images, labels, [(few_of_each(labels[:known], seed), asked) for seed in seeds])


def usps(data: Path, dev: bool) -> Images:
    train, test = (np.load(data / f"usps/{part}.npz") for part in ("train", "test"))
    images = np.concatenate([train["images"], test["images"]]).reshape(-1, 16, 16, 1)
    labels, known = (
        np.concatenate([train["labels"], test["labels"]]).astype(int),
        len(train["labels"]),
    )
    parts = []
    for seed in (11, 12, 13) if dev else (1, 2, 3):
        few = few_of_each(labels[:known], seed)
        rest = np.setdiff1d(np.arange(known), few)
        asked = np.random.default_rng(seed).permutation(rest)[:3000]
        parts.append((few, asked if dev else np.arange(known, len(labels))))
    return Images(images, labels, parts)


def load(name: str, data: Path) -> Images | Tokens:
    dev = name.endswith("_dev")
    makers: dict[str, Callable[[], Images | Tokens]] = {
        "digits": digits,
        "shapes": lambda: shapes(7 if dev else 0),
        "tictactoe": tictactoe,
        "chess": lambda: chess(data),
        "mnist": lambda: mnist(data, dev),
        "usps": lambda: usps(data, dev),
    }
    return makers[name.removesuffix("_dev")]()


# ------------------------------------------------------------------------------- measuring


def simple_models(found: Images | Tokens, part: Part) -> dict[str, np.ndarray]:
    """Whether each test row is right, by model; each learns from all rows of the other side."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.svm import SVC

    models = {"SVM": SVC(C=5.0)}
    if isinstance(found, Tokens):
        models["boosted trees"] = HistGradientBoostingClassifier(max_iter=300, random_state=0)
    (known, asked), features, labels = part, found.features, found.labels
    return {
        name: model.fit(features[known], labels[known]).predict(features[asked]) == labels[asked]
        for name, model in models.items()
    }


def run(words: list[str], folder: Path, options: argparse.Namespace) -> float:
    """Run one of the scripts; returns its seconds."""
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if options.jobs > 1 else {})
    began = time.monotonic()
    with open(folder / "log", "a") as log:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=options.tree, env=environment, stdout=log, stderr=log, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)}: exit {done.returncode}, see {folder}/log")
    return time.monotonic() - began


def model_right(
    found: Images | Tokens, draw: int, folder: Path, options: argparse.Namespace
) -> tuple[np.ndarray, float]:
    """Whether the model is right on each test row, and the seconds of training."""
    folder.mkdir(parents=True)
    seed = ["--seed", str(draw + 1)]
    prepare = found.write(folder, found.parts[draw])
    if prepare:
        run([*prepare, *seed, *shlex.split(options.prepare)], folder, options)
    rows, out = folder / "rows", folder / "run"
    paths = ["--data_path", f"{rows}/train.jsonl", "--vocab_path", f"{rows}/vocab.json"]
    train = ["train_gpt.py", *paths, "--output_dir", str(out), *seed, *shlex.split(options.train)]
    seconds = run(train, folder, options)
    evaluate = ["inference.py", "--model_path", f"{out}/best_model", "--test_data"]
    run([*evaluate, f"{rows}/test.jsonl", "--output_dir", f"{folder}/out"], folder, options)
    answers = map(json.loads, (folder / "out" / "predictions.jsonl").read_text().splitlines())
    return np.array([row["prediction"] == row["label"] for row in answers]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--work", type=Path, required=True, help="a new folder for the runs")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--draws", type=int, nargs="*", help="of the folds or draws, from 0")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, of a thread each")
    parser.add_argument("--tree", type=Path, default=ROOT, help="another tree of the toolkit")
    parser.add_argument("--prepare", default="", help="further flags of prepare_data.py")
    parser.add_argument("--train", default="", help="further flags of train_gpt.py")
    options = parser.parse_args()
    table = []
    for name in options.sets:
        found = load(name, options.data)
        draws = options.draws or range(len(found.parts))
        one = partial(model_right, found, options=options)
        folders = [options.work / f"{name}{draw}" for draw in draws]
        with ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(one, draws, folders))
        right = np.concatenate([each for each, _ in results])
        seconds = " ".join(f"{each:.0f}" for _, each in results)
        accuracies = " ".join(f"{each.mean():.4f}" for each, _ in results)
        table.append([name, "GPT", f"{right.mean():.4f}", "", accuracies, seconds])
        simple = [simple_models(found, found.parts[draw]) for draw in draws]
        for model in simple[0]:
            other = np.concatenate([each[model] for each in simple])
            ahead = right.astype(float) - other
            margin = 1.96 * ahead.std(ddof=1) / np.sqrt(len(ahead))
            difference = f"{100 * ahead.mean():+.2f} +- {100 * margin:.2f}"
            accuracies = " ".join(f"{each[model].mean():.4f}" for each in simple)
            table.append([name, model, f"{other.mean():.4f}", difference, accuracies, ""])
    heading = ["set", "model", "accuracy", "GPT ahead by, points", "of each draw", "seconds"]
    print(format_table(heading, table, left=(0, 1)))


if __name__ == "__main__":
    main()
