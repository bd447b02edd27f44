"""The place of a model: found and checked before anything heavy is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from smallgpt.console import command_hint
from smallgpt.errors import UserError
from smallgpt.files.hub import folder_of, may_be_on_hub
from smallgpt.files.reading import read_bytes

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack")
_MOST_BYTES = 2**27  # of a configuration
_NEVER_LOADED = "weights as a pickle can run any code and are never loaded; convert them to"


def find_model_folder(name: str | Path) -> Path:
    """The folder of a model, downloaded if `name` is one on the Hugging Face hub; then as below.

    Raises:
        UserError: as `check_model_folder`, or the hub gave nothing.
    """
    if not may_be_on_hub(str(name)):
        check_model_folder(Path(name))
        return Path(name)
    try:
        folder = folder_of(str(name), "model")
    except UserError as error:
        remedy = f"if it is to be a folder, `{command_hint('train_gpt.py')}` trains a model"
        raise UserError(f"{error}; {remedy}") from None
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{name}: no weights as safetensors on the Hugging Face hub; {_NEVER_LOADED} "
            f"model.safetensors: {_conversion(folder, str(name), str(name).rpartition('/')[2])}"
        )
    return folder


def check_model_folder(folder: Path) -> None:
    """Refuse what is no model folder by its look, in milliseconds.

    Raises:
        UserError: nothing is there, a file, or a run, whose model is named.
    """
    if os.path.isfile(folder):
        refuse_pickles(folder)
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder}: no model there; train one with `{command_hint('train_gpt.py')}`, or name "
            f"another folder with --model_path"
        )
    whole = is_adapter_folder(folder) or (folder / CONFIG).exists()
    if not whole and (folder / "best_model").is_dir():
        raise UserError(f"{folder}: this is a run; name its model: {folder / 'best_model'}")


def refuse_pickles(path: Path) -> None:
    """Refuse weights that could run code when they are loaded.

    Raises:
        UserError: `path` is such a file, or a folder with such weights and no others.
    """
    if path.is_file():
        if any(path.match(pattern) for pattern in PICKLED_WEIGHTS):
            raise UserError(f"{path}: {_NEVER_LOADED} model.safetensors in a folder")
        raise UserError(f"{path} is a file: name the model's folder")
    if path.is_dir() and not any(path.glob("*.safetensors")):
        pickled = next((found for name in PICKLED_WEIGHTS for found in path.glob(name)), None)
        if pickled is not None:
            remedy = _conversion(path, str(path), str(path))
            raise UserError(f"{pickled}: {_NEVER_LOADED} model.safetensors: {remedy}")


def _conversion(folder: Path, source: str, target: str) -> str:
    """The command that converts pickled weights, for whoever trusts them.

    From `source`, a folder or a name on the hub, to the folder `target`; `folder` has the
    configuration.
    """
    path = folder / CONFIG
    has_labels = path.is_file() and b"ForSequenceClassification" in read_bytes(path, _MOST_BYTES)
    classes = [f"AutoModelFor{'SequenceClassification' if has_labels else 'CausalLM'}"]
    if source != target:
        classes.append("AutoTokenizer")
    return (
        f'if you trust them, python -c "import transformers as t; '
        f"[c.from_pretrained('{source}').save_pretrained('{target}') "
        f'for c in [{", ".join(f"t.{name}" for name in classes)}]]"'
    )


def is_adapter_folder(folder: Path) -> bool:
    """Whether a model folder holds an adapter instead of a whole model."""
    return (folder / ADAPTER_CONFIG).is_file()
