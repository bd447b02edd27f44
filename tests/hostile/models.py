"""Readers of the files of a trained model's folder."""

from __future__ import annotations

import json
import struct
import tempfile
from functools import cache
from pathlib import Path

from hostile.options import CONFIG_WORDS, VOCABULARY, WORDS
from hostile.reader import folder_reader
from plain_settings import plain_settings

from smallgpt.engines.trained import TrainedModel, load_trained_model
from smallgpt.evaluation.report import _validation_table
from smallgpt.evaluation.verdicts import describe_confidence
from smallgpt.inference.classify import classify
from smallgpt.inference.generate import generate
from smallgpt.inference.next_tokens import next_tokens
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder

SMALL = plain_settings(n_layer=2, n_head=2, n_embd=8, n_positions=16, max_length=16)
VALIDATION = {
    "rows": 30,
    "perplexity": 3.5,
    "baselines": {"majority_class_accuracy": 0.5, "bigram_perplexity": 4.0},
    "accuracy": 0.75,
    "accuracy_interval": [0.5, 0.9],
    "chance_accuracy": 0.5,
    "above_chance": True,
    "not_above_chance": [],
    "too_few_rows": [],
    "calibration": {"temperature": 1.5, "rows": 30, "raw_ece": 0.1, "ece": 0.05},
}


@cache
def _model_files() -> dict[str, bytes]:
    """The files of a tiny model folder."""

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        model = build_model(SMALL, VOCABULARY)
        save_model_folder(model, folder, VOCABULARY, SMALL, None, VALIDATION)
        names = ("config.json", "model.safetensors", "settings.yaml", "vocab.json")
        return {name: (folder / name).read_bytes() for name in names}


@cache
def trained_model() -> TrainedModel:
    with tempfile.TemporaryDirectory() as parent:
        for name, content in _model_files().items():
            (Path(parent) / name).write_bytes(content)
        return load_trained_model(parent, "cpu", "fp32")


def _read_model(folder: Path) -> None:
    """Load a model and use it in each way of inference.py."""
    trained = load_trained_model(folder, "cpu", "fp32")
    token = trained.vocabulary.tokens[-1]
    if trained.validation:
        _validation_table(trained.validation)
    describe_confidence(trained.validation)
    next_tokens(trained, token)
    if trained.max_length > 1:
        generate(trained, token, max_new_tokens=3, batch_size=2, free=True)
    if trained.vocabulary.labels and trained.vocabulary.cls_id is not None:
        classify(trained, "<CLS> <CLS> <CLS>")  # a body of one token, whatever the others are


def _split_weights() -> tuple[bytes, bytes]:
    """Header and tensors of model.safetensors."""
    content = _model_files()["model.safetensors"]
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


def _with_length(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + _split_weights()[1]


def _with_validation(text: bytes) -> bytes:
    header = json.loads(_split_weights()[0])
    header["__metadata__"]["validation"] = text.decode(errors="surrogateescape")
    return _with_length(json.dumps(header).encode())


READERS = (
    folder_reader(
        "model: config.json",
        "config.json",
        _model_files,
        _read_model,
        words=("attn_implementation", "n_layer", "auto_map", "quantization_config", "n_inner"),
    ),
    folder_reader("model: weights", "model.safetensors", _model_files, _read_model),
    folder_reader(
        "model: header of the weights",
        "model.safetensors",
        _model_files,
        _read_model,
        sound=lambda: _split_weights()[0],
        wrap=_with_length,
        words=("F64", "BF16", "I8", "C64", "F8_E4M3", "dtype", "shape", "__metadata__"),
    ),
    folder_reader(
        "model: stored figures",
        "model.safetensors",
        _model_files,
        _read_model,
        sound=lambda: json.dumps(VALIDATION).encode(),
        wrap=_with_validation,
        words=("rows", "baselines", "calibration", "temperature", "accuracy"),
    ),
    folder_reader(
        "model: settings.yaml", "settings.yaml", _model_files, _read_model, words=CONFIG_WORDS
    ),
    folder_reader("model: vocab.json", "vocab.json", _model_files, _read_model, words=WORDS),
)
