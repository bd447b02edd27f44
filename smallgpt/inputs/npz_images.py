"""Reader of .npz images: arrays `images` and perhaps `labels`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from smallgpt.errors import UserError
from smallgpt.files.npz import read_npz
from smallgpt.files.reading import open_input
from smallgpt.inputs.labelled_images import (
    FEWER_IMAGES,
    MOST_IMAGE_BYTES,
    ImageOptions,
    LabelledImages,
    check_label_count,
    checked_images,
    file_labels,
)


def is_npz(path: Path) -> bool:
    """Whether a file is a zip archive, as .npz files are."""
    with open_input(path) as handle:
        return handle.read(2) == b"PK"


def read_npz_images(path: Path, options: ImageOptions) -> LabelledImages:
    """Read an .npz file; `labels` are whole numbers or texts."""
    arrays = read_npz(path, MOST_IMAGE_BYTES, FEWER_IMAGES)
    if "images" not in arrays:
        there = ", ".join(map(repr, arrays)) or "nothing"
        raise UserError(
            f"{path}: no array `images` (it has {there}); save it with "
            f"numpy.savez(path, images=..., labels=...)"
        )
    images_NxHxWxC = checked_images(path, arrays["images"])
    if "labels" not in arrays:
        return LabelledImages(images_NxHxWxC, None)
    labels = arrays["labels"]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise UserError(
            f"{path}: `labels` must be one whole number or text per image, not "
            f"{labels.dtype} of shape {labels.shape}"
        )
    check_label_count(path, len(images_NxHxWxC), path, len(labels))
    if labels.dtype.kind == "U" and labels.dtype.itemsize:
        # numpy accepts any 32 bits as a character, and fails when it converts them to str.
        letters = np.ascontiguousarray(labels).view(labels.dtype.byteorder + "u4")
        if letters.max(initial=0) > sys.maxunicode:
            raise UserError(f"{path}: `labels` holds letters that are no Unicode")
    return LabelledImages(images_NxHxWxC, file_labels(labels.tolist(), path, options.names))
