"""Measure what `<UNK>` for rare events is worth on later sessions that have new events.

    python tests/measure_unknown.py

Logs are made up: names by Zipf's law, a third of them launched at some time, a label that follows
from the events of a session. The first half of the time is learned from, the second is tested on.
`telling`: whether rare events, all alike, say something about the label. docs/measurements.md has
the figures.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from plain_settings import plain_settings

import prepare_data
from smallgpt.console import format_table
from smallgpt.engines.trained import TrainedModel, load_trained_model
from smallgpt.evaluation.scoring import score_rows
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.reading import read_dataset
from train_gpt import train

NAMES, SESSIONS = 5000, 2000
RARE = 300  # names from this rank on are rare
HEADING = ("telling", "seed", "min_count", "token_dropout", "accuracy", "label loss", "ece")
MORE = ("perplexity", "of frequent events", "<UNK> a row")


def write_log(folder: Path, seed: int, telling: bool) -> None:
    """past.jsonl and later.jsonl."""
    chance = np.random.default_rng(seed)
    share = 1 / np.arange(1, NAMES + 1)
    launched = np.where(chance.random(NAMES) < 0.7, 0, chance.random(NAMES))
    follower = chance.integers(0, 200, NAMES)
    weight = np.where(chance.random(NAMES) < 0.3, chance.choice([-1, 1], NAMES), 0)
    weight[RARE:] = telling
    for name, first, last in (("past", 0, 0.5), ("later", 0.5, 1)):
        with open(folder / f"{name}.jsonl", "w") as file:
            for at in np.sort(chance.uniform(first, last, SESSIONS)):
                there = share * (launched <= at)
                drawn = chance.choice(NAMES, chance.integers(8, 20), p=there / there.sum())
                for i in range(1, len(drawn)):
                    if chance.random() < 0.5 and launched[follower[drawn[i - 1]]] <= at:
                        drawn[i] = follower[drawn[i - 1]]
                score = weight[drawn].sum() - telling * 2.5
                label = chance.random() < 1 / (1 + math.exp(-1.5 * score))
                row = {"tokens": " ".join(f"E{n}" for n in drawn), "label": int(label)}
                file.write(json.dumps(row) + "\n")


def measured(folder: Path, min_count: int, token_dropout: float, seed: int) -> list[float]:
    """The figures of HEADING from `accuracy` on, and those of MORE."""
    data, past = folder / f"data{min_count}", str(folder / "past.jsonl")
    if not data.exists():
        prepare_data.main([
            "tokens", "--input", past, "--output_dir", str(data), "--test_fraction", "0.1",
            "--min_count", str(min_count),
        ])  # fmt: skip
    settings = plain_settings(
        data_path=f"{data}/train.jsonl", val_data_path=f"{data}/test.jsonl",
        vocab_path=f"{data}/vocab.json", n_layer=2, n_head=4, n_embd=64, num_epochs=6, seed=seed,
        token_dropout=token_dropout, output_dir=str(folder / "run"), overwrite=True,
    )  # fmt: skip
    trained = load_trained_model(train(settings).folder.final_model)
    vocabulary = trained.vocabulary
    rows = read_dataset(
        folder / "later.jsonl", vocabulary, max_length=settings.max_length, unknown_token="unk"
    )
    figures = score_rows(trained.engines.torch, rows).figures(rows, trained.temperature)
    frequent = json.loads((folder / "data5" / "vocab.json").read_text())
    ids = torch.tensor([vocabulary.ids[name] for name in frequent if name.startswith("E")])
    return [
        *(figures[name] for name in ("accuracy", "label_loss", "ece", "perplexity")),
        perplexity_of(trained, rows, ids),
        (rows.tokens == vocabulary.unk_id).sum() / len(rows),
    ]


def perplexity_of(trained: TrainedModel, rows: TokenLabelDataset, wanted: torch.Tensor) -> float:
    """Perplexity of the tokens `wanted` alone, wherever they stand."""
    losses = []
    with torch.no_grad():
        for number in range(0, len(rows), 4):
            ids = torch.from_numpy(rows.row(number).astype(np.int64))
            log_probs = trained.model(ids[None]).logits[0, :-1].log_softmax(-1)
            losses.append(-log_probs.gather(1, ids[1:, None])[torch.isin(ids[1:], wanted)])
    return float(torch.cat(losses).mean().exp())


def main() -> None:
    table = []
    for telling in (False, True):
        for seed in (1, 2, 3):
            with tempfile.TemporaryDirectory() as name:
                write_log(Path(name), seed, telling)
                for min_count, dropout in ((5, 0), (2, 0), (1, 0), (2, 0.1), (1, 0.1)):
                    figures = measured(Path(name), min_count, dropout, seed)
                    table.append(
                        [str(telling), str(seed), str(min_count), str(dropout)]
                        + [f"{each:.3f}" for each in figures]
                    )
    print(format_table([*HEADING, *MORE], table))


if __name__ == "__main__":
    main()
