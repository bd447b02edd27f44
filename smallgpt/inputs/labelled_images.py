"""Labelled images in memory, and the checks that all image readers share.

Files are not trusted: sizes in a header are checked before memory is allocated, nothing is
unpickled, and every flaw is a UserError that names the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.tokens.codebook import LARGEST_VALUE, MOST_IMAGE_VALUES
from smallgpt.tokens.labels import LabelNames

MOST_IMAGES = 10_000_000  # each also takes a label and a row
# Of all images, decoded and held in memory: more than a small model can learn from.
MOST_IMAGE_BYTES = 2**31
FEWER_IMAGES = ": give fewer or smaller images"  # the remedy for more


class Unreadable(NamedTuple):
    """A picture that could not be read."""

    file: str
    label: str | None
    reason: str


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images as they were read."""

    images_NxHxWxC: np.ndarray  # uint8, or float32 for other numbers; C is 1 or 3
    labels: list[str] | None  # of each image, as in its token; None if the source has none
    white: float | None = None  # pixel value of white, where the format says so
    files: list[str] | None = None  # path of each image below its folder; None for other formats
    notes: list[str] = field(default_factory=list)  # about the reading, one line each
    # With `keep_unreadable`, by their place (from 0) among all pictures, the readable included.
    unreadable: dict[int, Unreadable] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images_NxHxWxC)


@dataclass(frozen=True)
class ImageOptions:
    """Arguments of `read_images` that a reader gets beside the path."""

    names: LabelNames
    labels_path: Path | None = None
    size: tuple[int, int] | None = None  # width and height that pictures are resized to
    color: str = "auto"
    keep_unreadable: bool = False  # else an unreadable picture is an error


def check_image_count(path: Path, count: int) -> None:
    """Refuse more than MOST_IMAGES images."""
    if count > MOST_IMAGES:
        raise UserError(f"{path}: {count:,} images; at most {MOST_IMAGES:,} are read")


def check_label_count(path: Path, images: int, labels_path: Path, labels: int) -> None:
    """Refuse labels that differ in number from the images."""
    if images != labels:
        raise UserError(
            f"{labels_path} has {plural(labels, 'label')} for {plural(images, 'image')} in "
            f"{path}: they do not belong together"
        )


def checked_images(path: Path, images: np.ndarray) -> np.ndarray:
    """Images as uint8 or float32 NxHxWxC; a missing channel axis is added.

    Raises:
        UserError: another shape, too many or too large images, or values that are not finite.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype.kind not in "buif":
        raise UserError(
            f"{path}: images must be numbers of shape N x H x W or N x H x W x C with C = 1 "
            f"(grey) or 3 (rgb), not {images.dtype} of shape {images.shape}"
        )
    if 0 in images.shape:
        raise UserError(f"{path}: no images in it (shape {images.shape})")
    check_image_count(path, len(images))
    if math.prod(images.shape[1:]) > MOST_IMAGE_VALUES:
        raise UserError(
            f"{path}: images of {images.shape[1]:,} x {images.shape[2]:,} pixels; one may have at "
            f"most {MOST_IMAGE_VALUES:,} values"
        )
    if images.dtype == np.uint8 or images.dtype == bool:
        return images.astype(np.uint8, copy=False)
    low, high = images.min(), images.max()
    if images.dtype.kind in "iu" and low >= 0 and high <= 255:
        return images.astype(np.uint8)
    if not (low >= -LARGEST_VALUE and high <= LARGEST_VALUE):  # also NaN and infinity
        raise UserError(
            f"{path}: pixel values from {low:g} to {high:g}; they must be finite and within "
            f"{LARGEST_VALUE:,.0f}: scale them, to 0..1 for example"
        )
    return images.astype(np.float32) + np.float32(0)  # + 0 turns -0.0 into 0.0


def label_name(label: str | int, place: str, names: LabelNames) -> str:
    """The text of a label as it was spelled first.

    Raises:
        UserError: no valid label, or its token is another label's.
    """
    try:
        return names.add(label, place)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None


def file_labels(labels: Sequence[str | int], path: Path, names: LabelNames) -> list[str]:
    """`label_name` of each label of a file."""
    return [label_name(label, f"{path}: label {i}", names) for i, label in enumerate(labels, 1)]
