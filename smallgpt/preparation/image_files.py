"""Labelled images from files: IDX (plain or .gz), .npz, or a folder of pictures.

    source = read_images("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    source.images_NxHxWxC, source.labels

Files come from anywhere and are not trusted: a header's promise is checked before memory is
given to it, nothing is unpickled, and every flaw is a UserError that names the file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from smallgpt.errors import SettingsError, UserError
from smallgpt.files.npz import read_npz
from smallgpt.files.reading import open_input
from smallgpt.preparation.idx_files import _read_idx_images
from smallgpt.preparation.labelled_images import (
    FEWER_IMAGES,
    MOST_IMAGE_BYTES,
    LabelledImages,
    _check_counts,
    _checked_images,
    _named,
)
from smallgpt.preparation.pictures import _read_folder
from smallgpt.tokens.labels import LabelNames


def read_images(
    path: str | Path,
    labels_path: str | Path | None = None,
    image_size: int | None = None,
    color: str = "auto",
    names: LabelNames | None = None,
) -> LabelledImages:
    """Read images and their labels; the kind of source is told by its content.

    Args:
        path: an IDX file (plain or .gz), an .npz with `images` NxHxW or NxHxWxC and perhaps
            `labels`, or a folder with one subfolder of pictures per class.
        labels_path: IDX file with the labels of an IDX file.
        image_size: resize the pictures of a folder to this many pixels a side, without
            keeping their proportions: nothing is cut off and nothing is added.
        color: read the pictures of a folder as "grey" or "rgb"; "auto" is rgb if any pixel of
            any picture has colour.
        names: takes in the labels; give the same for training and test images, which share their
            tokens.

    Raises:
        UserError: missing, damaged, oversized or contradictory files.
        SettingsError: options that the kind of source does not know.
    """
    path = Path(path)
    names = names or LabelNames()
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder (the images, --input)")
    if path.is_dir():
        if labels_path is not None:
            raise SettingsError(
                [f"{path} is a folder, whose subfolders name the classes: leave {labels_path} out"]
            )
        return _read_folder(path, names, image_size, color)
    if image_size is not None or color != "auto":
        raise SettingsError(
            [f"{path} is a file: --image_size and --color are for folders of pictures"]
        )
    with open_input(path) as handle:
        is_zip = handle.read(2) == b"PK"
    if is_zip:
        if labels_path is not None:
            raise SettingsError(
                [f"{path} is an .npz, which holds its own labels: leave {labels_path} out"]
            )
        return _read_npz_images(path, names)
    return _read_idx_images(path, None if labels_path is None else Path(labels_path), names)


def _read_npz_images(path: Path, names: LabelNames) -> LabelledImages:
    arrays = read_npz(path, MOST_IMAGE_BYTES, FEWER_IMAGES)
    if "images" not in arrays:
        names = ", ".join(map(repr, arrays)) or "nothing"
        raise UserError(
            f"{path}: no array `images` (it has {names}); save it with "
            f"numpy.savez(path, images=..., labels=...)"
        )
    images_NxHxWxC = _checked_images(path, arrays["images"])
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
    _check_counts(path, len(images_NxHxWxC), path, len(labels))
    if labels.dtype.kind == "U" and labels.dtype.itemsize:
        # numpy takes any 32 bits for a letter, and fails when it makes a text of them.
        letters = np.ascontiguousarray(labels).view(labels.dtype.byteorder + "u4")
        if letters.max(initial=0) > sys.maxunicode:
            raise UserError(f"{path}: `labels` holds letters that are no Unicode")
    return LabelledImages(images_NxHxWxC, _named(labels.tolist(), path, names))
