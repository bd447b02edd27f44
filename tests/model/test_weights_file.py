"""A file of weights that is replaced while it is read: header and tensors are of one file."""

import multiprocessing
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from smallgpt.model.weights_file import read_tensors


def replace_for_ever(folder: Path) -> None:
    """Put a new file in the place of `weights` again and again, 0 and 1 by turns."""
    while True:
        for name in ("0", "1"):
            shutil.copyfile(folder / name, folder / "new")
            (folder / "new").replace(folder / "weights")


def test_header_and_tensors_are_of_one_file(tmp_path):
    for name in ("0", "1"):
        save_file({"weight": torch.full((1000,), float(name))}, tmp_path / name, {"says": name})
    shutil.copyfile(tmp_path / "0", tmp_path / "weights")
    writer = multiprocessing.get_context("fork").Process(target=replace_for_ever, args=(tmp_path,))
    writer.start()
    seen = set()
    try:
        for _ in range(1000):
            tensors, metadata = read_tensors(tmp_path / "weights")
            assert (tensors["weight"] == float(metadata["says"])).all()
            seen.add(metadata["says"])
    finally:
        writer.kill()
        writer.join()
    assert seen == {"0", "1"}
