"""Measure how far validation figures lie from the truth: of the best evaluation, and cross-fitted.

    python tests/measure_luck.py FOLDER_OF_PREPARED_ROWS

A small model learns from 243 rows in 60 epochs and is evaluated after each on all the others. Some
of these are then drawn as if they were all the validation rows there are; the remaining ones tell
the truth about the evaluation that those choose. docs/measurements.md has the figures.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import smallgpt.training.run as run_module
from smallgpt.console import format_table
from smallgpt.evaluation.scoring import Scores, score_rows
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.training.cross_fitting import CrossFit
from train_gpt import TrainSettings, train

TRAINED_ON, EPOCHS, SEEDS, DRAWS = 243, 60, (1, 2, 3, 4), 60
FIGURES = ("accuracy", "label_loss", "ece")
recorded: list[tuple[TokenLabelDataset, Scores]] = []  # of each evaluation of a run


def recording(model: Any, rows: TokenLabelDataset, *args: Any, **options: Any) -> Scores:
    """`score_rows`, whose results are kept."""
    recorded.append((rows, score_rows(model, rows, *args, **options)))
    return recorded[-1][1]


def split(source: Path, folder: Path) -> None:
    """few.jsonl and pool.jsonl of all rows that were prepared."""
    lines = [
        line
        for name in ("train.jsonl", "test.jsonl")
        for line in (source / name).read_text().splitlines(keepends=True)
    ]
    order = np.random.default_rng(1).permutation(len(lines))
    for name, chosen in (("few", order[:TRAINED_ON]), ("pool", order[TRAINED_ON:])):
        (folder / f"{name}.jsonl").write_text("".join(lines[i] for i in chosen))


def told_and_true(metric: str, chosen: np.ndarray, others: np.ndarray) -> Iterator[list[float]]:
    """FIGURES of the best evaluation on the rows that chose it, cross-fitted, and on the others."""
    pool = recorded[0][0]
    rows, rest = pool.subset(chosen), pool.subset(others)
    cross_fit, best_value = CrossFit(rows, metric), np.inf
    for _, scores in recorded:
        results = scores.subset(chosen).cross_fitted_results(rows, cross_fit.fold_N)
        cross_fit.add(results)
        figures = results.validation_figures(rows)
        value = figures["label_loss"] if metric == "label_loss" else -figures["accuracy"]
        if value < best_value:
            best_value, best, best_scores = value, figures, scores
    temperature = best["calibration"]["temperature"]
    true = best_scores.subset(others).figures(rest, temperature)
    for each in (best, cross_fit.figures(temperature), true):
        yield [each[name] for name in FIGURES]


def main() -> None:
    source, chance = Path(sys.argv[1]), np.random.default_rng(1)
    found: dict[tuple[str, int], list[list[list[float]]]] = {}
    run_module.score_rows = recording
    with tempfile.TemporaryDirectory() as name:
        split(source, Path(name))
        for seed in SEEDS:
            recorded.clear()
            train(TrainSettings(
                data_path=f"{name}/few.jsonl", val_data_path=f"{name}/pool.jsonl",
                vocab_path=str(source / "vocab.json"), n_layer=2, n_head=4, n_embd=64, seed=seed,
                num_epochs=EPOCHS, early_stopping_patience=0, output_dir=f"{name}/run",
                overwrite=True,
            ))  # fmt: skip
            for count in (27, 200):
                for _ in range(DRAWS):
                    order = chance.permutation(len(recorded[0][0]))
                    for metric in ("label_loss", "label_accuracy"):
                        each = list(told_and_true(metric, order[:count], order[count:]))
                        found.setdefault((metric, count), []).append(each)
    heading, table = ["chosen by", "rows", "figures", *FIGURES, "all right"], []
    for (metric, count), draws in found.items():
        draws_Dx3x3 = np.array(draws)
        true_Dx3 = draws_Dx3x3[:, 2]
        table.append([metric, str(count), "truth", *map("{:.3f}".format, true_Dx3.mean(0)), ""])
        for told_Dx3, of in ((draws_Dx3x3[:, 0], "best"), (draws_Dx3x3[:, 1], "cross-fitted")):
            error_Dx3 = told_Dx3 - true_Dx3
            means = zip(error_Dx3.mean(0), (error_Dx3**2).mean(0) ** 0.5, strict=True)
            words = [f"{mean:+.3f}, rms {rms:.3f}" for mean, rms in means]
            table.append([metric, str(count), of, *words, f"{(told_Dx3[:, 0] == 1).mean():.0%}"])
    print(format_table(heading, table))


if __name__ == "__main__":
    main()
