"""Readers of the files of a pretrained checkpoint and of an adapter."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from functools import cache, partial
from pathlib import Path

from hostile.reader import folder_reader
from hostile.texts import CLAUSES, TEXT_SPECIAL, text_vocabulary
from plain_settings import plain_settings
from pretrained_models import save_byte_level

from smallgpt.engines.trained import load_trained_model
from smallgpt.inference.next_tokens import next_tokens
from smallgpt.model.folder import save_model_folder
from smallgpt.model.lora import add_adapter
from smallgpt.model.pretrained import load_pretrained, with_pretrained_shape
from smallgpt.tokens.text_tokenizer import TextTokenizer


@cache
def _pretrained_files() -> dict[str, bytes]:
    """The files of a tiny Llama as transformers writes it."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        save_byte_level(folder, "llama")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _start_from(folder: Path) -> None:
    """As `train_gpt.py --init_from` before its first step."""
    settings = plain_settings(init_from=str(folder), max_length=16)
    settings = with_pretrained_shape(settings)
    load_pretrained(settings, text_vocabulary(), str)


def _prepare_with_tokenizer_of(folder: Path) -> None:
    """As `prepare_data.py text --tokenizer` with a folder."""
    found = TextTokenizer.pretrained(str(folder), TEXT_SPECIAL)
    for text in CLAUSES:
        found.decode(found.encode(text))


@cache
def _adapter_files() -> dict[str, bytes]:
    """The files of an adapter, with its base in a subfolder."""
    settings = plain_settings(
        init_from="base", max_length=16, n_positions=48, n_layer=2, n_head=4, n_embd=32, lora_rank=2
    )
    vocabulary = text_vocabulary()
    with tempfile.TemporaryDirectory() as parent, contextlib.chdir(parent):
        base = Path("base")
        base.mkdir()
        for name, content in _pretrained_files().items():
            (base / name).write_bytes(content)
        start = load_pretrained(settings, vocabulary, str)
        adapter = add_adapter(start, settings, str)
        save_model_folder(start.model, Path("adapter"), vocabulary, settings, None, None, adapter)
        files = {f"base/{path.name}": path.read_bytes() for path in base.iterdir()}
        return files | {path.name: path.read_bytes() for path in Path("adapter").iterdir()}


def _read_adapter(folder: Path) -> None:
    with contextlib.chdir(folder):
        next_tokens(load_trained_model(folder, "cpu", "fp32"), "the cat")


_reader = partial(folder_reader, files=_pretrained_files, slow=True)
READERS = (
    _reader(
        "pretrained: config.json",
        "config.json",
        read=_start_from,
        words=("attn_implementation", "dtype", "rope_scaling", "auto_map", "model_type", "gpt2"),
    ),
    _reader("pretrained: weights", "model.safetensors", read=_start_from),
    _reader("pretrained: generation_config.json", "generation_config.json", read=_start_from),
    _reader(
        "pretrained: tokenizer_config.json",
        "tokenizer_config.json",
        read=_start_from,
        words=("auto_map", "tokenizer_class", "chat_template", "{{ 1 }}", "eos_token", "sep_token"),
    ),
    _reader("pretrained: tokenizer.json", "tokenizer.json", read=_prepare_with_tokenizer_of),
    *(
        folder_reader(f"adapter: {file}", file, _adapter_files, _read_adapter, slow=True)
        for file in ("adapter_config.json", "adapter_model.safetensors", "settings.yaml")
        if importlib.util.find_spec("peft")
    ),
)
