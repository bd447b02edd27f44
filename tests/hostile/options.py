"""Readers of command lines, settings and vocabularies."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from hostile.reader import Reader
from plain_settings import plain_settings

import inference
import prepare_data
import train_gpt
from smallgpt.errors import UserError
from smallgpt.options.config_file import to_yaml
from smallgpt.options.reader import read_settings
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.vocabulary import Vocabulary

WORDS = ("<IMG>", *(f"<Z_{code:03d}>" for code in range(6)), "</IMG>", "<CLS>", "<CLS_0>", "<EOS>")
VOCABULARY = Vocabulary.for_images(6, ["0", "1"])
COMMAND_WORDS = (
    "train_gpt.py", "--data_path", "--n_layer", "--resume", "--config", "--seed=", "--help", "--",
    "-", "--init_from", "none", "5e-5", "--no", "text", "digits",
)  # fmt: skip


def _run_command_line(folder: Path) -> None:
    """Run a command, one word a line in its file; a valid one fails for lack of data."""
    words = (folder / "words").read_bytes().decode(errors="surrogateescape").split("\n")
    words = [word.replace("HERE", str(folder)) for word in words]
    for main in (train_gpt.main, inference.main, prepare_data.main):
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.chdir(folder),
            contextlib.suppress(UserError, SystemExit),
        ):
            main([*words, "--output_dir", str(folder / "out")])


def _read_config(folder: Path) -> None:
    read_settings(
        TrainSettings,
        ["--config", str(folder / "config.yaml")],
        prog="train_gpt.py",
        description="",
        default_config=folder / "absent.yaml",
    )


CONFIG_WORDS = (
    "n_layer: ", "seed: ", "data_path: ", "none", "true", ".inf", ".nan", "5e-5", "2001-01-01",
    "1:30", "0b11", "0o17", "~", "|\n  x", "'", "# x",
)  # fmt: skip


READERS = (
    Reader(
        "command line",
        "words",
        lambda: b"--data_path\nHERE/none.jsonl\n--n_layer\n2\n--seed=7",
        _run_command_line,
        words=COMMAND_WORDS,
        slow=True,
        names_file=False,
    ),
    Reader(
        "config.yaml",
        "config.yaml",
        lambda: to_yaml(plain_settings()).encode(),
        _read_config,
        words=CONFIG_WORDS,
        names_file=False,
    ),
    Reader(
        "vocab.json",
        "vocab.json",
        lambda: VOCABULARY.to_json().encode(),
        lambda folder: Vocabulary.load(folder / "vocab.json"),
        words=WORDS,
    ),
)
