"""Writing of safetensors files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from smallgpt.files.writing import naming_file


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file; the same contents give the same bytes.

    Raises:
        OSError: the disk is full or failed, for which safetensors has an error of its own.
    """
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    if metadata:
        _sort_metadata(path)
    # safetensors lets the owner alone read its files; ours follow the umask.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file; its library shuffles the keys."""
    with naming_file(path), open(path, "r+b") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        if len(text) != size:  # the tensors begin where they began
            raise RuntimeError(f"{path}: safetensors writes its header in another way than this")
        handle.seek(8)
        handle.write(text)
