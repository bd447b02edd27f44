"""Measure how well few validation rows choose an evaluation, and how far their figures are off.

    python tests/measure_luck.py FOLDER_OF_PREPARED_ROWS EPOCHS

A small model learns from the training rows, of which there should be few, and is evaluated about
25 times on the test rows. Some of these are then drawn as if they were all the validation rows
there are; the remaining ones tell the truth about the evaluation that those choose: the last one,
or by rules of so many standard errors (see choice.py; -inf: the first of the lowest).
docs/measurements.md has the figures.
"""

from __future__ import annotations

import functools
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import smallgpt.training.run as run_module
from smallgpt.console import format_table
from smallgpt.evaluation.scoring import Scores, score_rows
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.training import choice
from smallgpt.training.cross_fitting import CrossFit
from train_gpt import TrainSettings, train

SEEDS, DRAWS, COUNTS = (1, 2, 3, 4), 50, (27, 100, 300)
METRICS, RULES = ("label_loss", "label_accuracy"), (-math.inf, 0.0, 0.5, 1.0, 2.0)
FIGURES = ("accuracy", "label_loss", "ece")
recorded: list[tuple[TokenLabelDataset, Scores]] = []  # of each evaluation of a run


def recording(forward: Any, rows: TokenLabelDataset, *args: Any, **options: Any) -> Scores:
    """`score_rows`, whose results are kept."""
    recorded.append((rows, score_rows(forward, rows, *args, **options)))
    return recorded[-1][1]


def choose(
    chosen: np.ndarray, others: np.ndarray
) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Each way to choose, with the figures in truth, on the rows that chose, and cross-fitted."""
    pool = recorded[0][0]
    rows, rest = pool.subset(chosen), pool.subset(others)
    folds = CrossFit(rows, "label_loss").fold_N
    evaluations = [s.subset(chosen).cross_fitted_results(rows, folds) for _, s in recorded]

    @functools.cache
    def true_and_told(number: int) -> list[dict[str, Any]]:
        results = evaluations[number]
        true = recorded[number][1].subset(others).figures(rest, results.temperature)
        return [true, results.validation_figures(rows)]

    true, told = true_and_told(len(evaluations) - 1)
    yield "", "the last", [true, told, told]
    for metric in METRICS:
        for rule in RULES:
            choice.STANDARD_ERRORS = rule
            cross_fit = CrossFit(rows, metric)
            best = max(i for i, each in enumerate(evaluations) if cross_fit.add(each))
            fitted = cross_fit.figures(evaluations[best].temperature)
            assert fitted is not None
            yield metric, f"{rule:g}", [*true_and_told(best), fitted]


def main() -> None:
    source, chance = Path(sys.argv[1]), np.random.default_rng(1)
    found: dict[tuple[str, str, str], list[list[list[float]]]] = defaultdict(list)
    run_module.score_rows = recording
    for seed in SEEDS:
        recorded.clear()
        with tempfile.TemporaryDirectory() as name:
            train(TrainSettings(
                data_path=str(source / "train.jsonl"), val_data_path=str(source / "test.jsonl"),
                vocab_path=str(source / "vocab.json"), n_layer=2, n_head=4, n_embd=64, seed=seed,
                num_epochs=int(sys.argv[2]), early_stopping_patience=0, output_dir=f"{name}/run",
            ))  # fmt: skip
        for count in COUNTS:
            for _ in range(DRAWS):
                order = chance.permutation(len(recorded[0][0]))
                for metric, rule, three in choose(order[:count], order[count:]):
                    figures = [[each[name] for name in FIGURES] for each in three]
                    found[str(count), metric, rule].append(figures)
    heading, table = ["rows", "chosen by", "standard errors", "figures", *FIGURES], []
    for how, draws in found.items():
        true_Dx3, *told = np.moveaxis(np.array(draws), 1, 0)
        table.append([*how, "truth", *map("{:.4f}".format, true_Dx3.mean(0))])
        for name, told_Dx3 in zip(("its rows", "cross-fitted"), told, strict=True):
            error_Dx3 = told_Dx3 - true_Dx3
            means = zip(error_Dx3.mean(0), (error_Dx3**2).mean(0) ** 0.5, strict=True)
            table.append([*how, name, *(f"{mean:+.3f}, rms {rms:.3f}" for mean, rms in means)])
    print(format_table(heading, table))


if __name__ == "__main__":
    main()
