"""Trained models of every kind that has graphs, and a function that exports them."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pretrained_models import save_byte_level, train_settings
from trained_models import BEST_MODEL
from training_runs import small_settings, write_rule_rows

import export_model
from train_gpt import train


@pytest.fixture(scope="session")
def model_of(bars, made_once) -> Callable[[str], Path]:
    """A function: the model folder of a kind.

    `bars`, or rows whose direction is the label (`letters`, `head` ..., `no labels`), or `texts`,
    `instructions` and `adapter`, which start from a pretrained GPT-2.
    """

    def make(kind: str, folder: Path) -> None:
        if kind in ("texts", "instructions", "adapter"):
            (folder / "checkpoint").mkdir()
            save_byte_level(folder / "checkpoint")
            own = {"lora_rank": 4} if kind == "adapter" else {}
            if kind == "instructions":
                own = {"task": "instruct"}
            settings = train_settings(folder, folder / "checkpoint", **own)
            if kind == "instructions":
                rows = [{"instruction": f"say {n % 7}", "output": "the cat"} for n in range(24)]
                text = "".join(json.dumps(row) + "\n" for row in rows)
                Path(settings.data_path).write_text(text)
            train(settings)
            return
        settings = small_settings(folder)
        if kind == "no labels":
            data, _ = write_rule_rows(folder)
            rows = [json.loads(line) for line in data.read_text().splitlines()]
            data.write_text("".join(json.dumps({"tokens": row["tokens"]}) + "\n" for row in rows))
            vocab = folder / "vocab.json"
            kept = [token for token in json.loads(vocab.read_text()) if "CLS" not in token]
            vocab.write_text(json.dumps({token: i for i, token in enumerate(kept)}))
            train(settings)
            return
        if kind == "letters":
            train(settings)
            return
        hidden = 8 if kind == "head of two layers" else None
        train(dataclasses.replace(settings, classifier="head", classifier_hidden=hidden))

    def folder_of(kind: str) -> Path:
        if kind == "bars":
            return bars / BEST_MODEL
        return made_once(f"exported {kind}", functools.partial(make, kind)) / BEST_MODEL

    return folder_of


@pytest.fixture(scope="session")
def exported(model_of, made_once) -> Callable[[str, str], Path]:
    """A function: the export of a kind of model in a format, checked on its validation rows."""

    def folder_of(kind: str, format: str = "onnx") -> Path:
        def make(folder: Path) -> None:
            words = ["--model_path", model_of(kind), "--output_dir", folder / "out"]
            loose = ["--least_agreement", "0.5"]
            more = {"onnx": [], "hub": ["--dry_run"]}.get(format, loose)
            export_model.main([*map(str, words), "--format", format, *more])

        return made_once(f"{format} of {kind}", make) / "out"

    return folder_of
