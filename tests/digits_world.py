"""The folder of a user with prepared digits and a tiny model that knows some of them by heart."""

import json
from pathlib import Path

import numpy as np
import torch
from plain_settings import plain_settings
from prepared_files import DIGITS

from prepare_data import main
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.tokens.vocabulary import Vocabulary

PIXELS, LABELS = DIGITS.images[:150].astype(np.uint8), DIGITS.target[:150]  # 0..16


def make_digits_world(folder: Path) -> Path:
    """Write data/digits, and in outputs/best_model a model that knows the first forty by heart."""
    np.savez(folder / "all.npz", images=PIXELS, labels=LABELS)
    data = folder / "data" / "digits"
    prepare = ["images", "--input", folder / "all.npz", "--test_last", 10, "--patch_size", 2]
    prepare += ["--codebook_size", 150, "--augment", 0, "--output_dir", data]
    assert main([str(part) for part in prepare]) == 0
    vocabulary = Vocabulary.load(data / "vocab.json")
    shape = plain_settings(n_layer=1, n_head=8, n_positions=21, max_length=21, dropout=0.0)
    torch.manual_seed(0)
    model = build_model(shape, vocabulary)
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    _learn(model, vocabulary, sorted(rows, key=lambda row: row["meta"]["index"])[:40])
    save_model_folder(
        model.eval(), folder / "outputs" / "best_model", vocabulary, shape, data / "codebook.npz"
    )
    return folder


def _learn(model: torch.nn.Module, vocabulary: Vocabulary, rows: list[dict]) -> None:
    """Have a model learn a few rows by heart, their labels first of all."""
    ids_BxT = torch.tensor([vocabulary.encode(row["tokens"]) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(12):
        logits_BxTxV = model(ids_BxT).logits[:, :-1]
        loss_BxT = torch.nn.functional.cross_entropy(
            logits_BxTxV.transpose(1, 2), ids_BxT[:, 1:], reduction="none"
        )
        (loss_BxT[:, -2].mean() + 0.1 * loss_BxT.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
