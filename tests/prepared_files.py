"""What the tests of preparations share: rows of prepared folders, small images, mistakes."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from prepare_data import main
from smallgpt.errors import SettingsError, UserError

IMAGE_FILES = {
    "train.jsonl",
    "test.jsonl",
    "vocab.json",
    "prepared.json",
    "codebook.npz",
    "codebook.png",
    "reconstructions.png",
}
DIGITS = load_digits()
SMALL = DIGITS.images[:120].astype(np.uint8)
SMALL_LABELS = DIGITS.target[:120]
_QUICK = ("--patch_size", "2", "--codebook_size", "40", "--augment", "0")


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def both(folder: Path) -> tuple[list[dict], list[dict]]:
    return read_rows(folder / "train.jsonl"), read_rows(folder / "test.jsonl")


def bodies(rows: list[dict]) -> set[str]:
    return {row["tokens"].split(" <CLS>")[0] for row in rows}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def mistake(*argv: object) -> str:
    """The words of a mistake, which are few lines and never a traceback."""
    with pytest.raises(UserError) as info:
        main([str(part) for part in argv])
    assert info.value.exit_code == (2 if isinstance(info.value, SettingsError) else 1)
    return str(info.value)


def images(folder: Path, *argv: object) -> Path:
    """Prepare images by the command line, quickly."""
    assert main(["images", *map(str, argv), *_QUICK, "--output_dir", str(folder)]) == 0
    return folder
