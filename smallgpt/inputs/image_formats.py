"""Reading labelled images of any known format (IDX, .npz, folder of pictures).

    source = read_images("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    source.images_NxHxWxC, source.labels

A new format is a module with a reader and an entry in `FORMATS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smallgpt.errors import SettingsError, UserError
from smallgpt.inputs.idx_images import read_idx_images
from smallgpt.inputs.labelled_images import ImageOptions, LabelledImages
from smallgpt.inputs.like_codebook import in_color, like_codebook
from smallgpt.inputs.npz_images import is_npz, read_npz_images
from smallgpt.inputs.picture_folder import is_picture, read_pictures
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.labels import LabelNames


@dataclass(frozen=True)
class ImageFormat:
    """A format of images and its reader."""

    fits: Callable[[Path], bool]
    read: Callable[[Path, ImageOptions], LabelledImages]
    own_labels: str | None = None  # why no file of labels can be given; None: it can
    of_pictures: bool = False  # whether it takes --image_size, and reads as --color says


# The first that fits is used. IDX comes last: its error for other files names what is expected.
FORMATS = (
    ImageFormat(
        Path.is_dir,
        read_pictures,
        own_labels="a folder, whose subfolders name the classes",
        of_pictures=True,
    ),
    ImageFormat(is_picture, read_pictures, own_labels="a picture", of_pictures=True),
    ImageFormat(is_npz, read_npz_images, own_labels="an .npz, which holds its own labels"),
    ImageFormat(lambda path: True, read_idx_images),
)


def read_images(
    path: str | Path,
    labels_path: str | Path | None = None,
    image_size: int | None = None,
    color: str = "auto",
    names: LabelNames | None = None,
    *,
    codebook: Codebook | None = None,
    keep_unreadable: bool = False,
) -> LabelledImages:
    """Read images and their labels; the format is recognised by the content.

    Args:
        path: an IDX file (plain or .gz), an .npz with `images` NxHxW or NxHxWxC and perhaps
            `labels`, a picture, a folder of pictures, or a folder with one subfolder of pictures
            per class.
        labels_path: IDX file with the labels of an IDX file.
        image_size: pixels a side that pictures of a folder are resized to, regardless of their
            proportions: nothing is cut off and nothing is added.
        color: "grey", "rgb", or "auto": as it is, for pictures rgb if any pixel has colour.
        names: give the same for training and test images, which share label tokens.
        codebook: convert the images to its size, colour and pixel values (`like_codebook.py`).
        keep_unreadable: collect unreadable pictures in `unreadable` as long as others can be read.

    Raises:
        UserError: missing, damaged, oversized or contradictory files.
        SettingsError: options that the format does not take.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder (the images)")
    found = next(each for each in FORMATS if each.fits(path))
    if not found.of_pictures and image_size is not None:
        raise SettingsError([f"{path} is a file: --image_size is for folders of pictures"])
    if found.own_labels is not None and labels_path is not None:
        raise SettingsError([f"{path} is {found.own_labels}: leave {labels_path} out"])
    labels = None if labels_path is None else Path(labels_path)
    size = None if image_size is None else (image_size, image_size)
    if codebook is not None:
        size, color = (codebook.width, codebook.height), codebook.color
    options = ImageOptions(names or LabelNames(), labels, size, color, keep_unreadable)
    source = found.read(path, options)
    if codebook is not None:
        return like_codebook(codebook, source)
    return source if found.of_pictures or color == "auto" else in_color(source, color)
