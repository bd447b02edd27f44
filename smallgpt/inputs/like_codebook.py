"""Images as a codebook takes them: its size, colour and range of pixel values, every change told.

The range, since a picture of 0..255 and an array of 0..1 or 0..16 may show the same:
- Pictures (PNG, JPEG ...) reach from 0, black, to 255, white.
- Arrays (.npz, IDX, Python) within the codebook's own range are in that range; but fractions up
  to 1 reach from 0 to 1 where the codebook's white is larger.
- Other arrays reach from 0 to 255, beyond that to 65,535; with values below 0 from -1 to 1, beyond
  that from their smallest value to their largest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from smallgpt.console import plural
from smallgpt.inputs.labelled_images import LabelledImages
from smallgpt.inputs.picture_folder import is_grey_image
from smallgpt.tokens.codebook import Codebook

_TOLD = 0.1  # a line is due when more than this share of the images is unlike
_MOST_INVERTED = 1000  # images tried inverted


def like_codebook(codebook: Codebook, source: LabelledImages) -> LabelledImages:
    """The images as `codebook` encodes them, with notes on what was converted."""
    images_NxHxWxC, notes = converted(codebook, source.images_NxHxWxC, source.white)
    return replace(source, images_NxHxWxC=images_NxHxWxC, notes=[*source.notes, *notes])


def in_color(source: LabelledImages, color: str) -> LabelledImages:
    """The images as "grey" or "rgb", with a note on those that were not."""
    images_NxHxWxC, notes = _in_color(source.images_NxHxWxC, color)
    return replace(source, images_NxHxWxC=images_NxHxWxC, notes=[*source.notes, *notes])


def converted(
    codebook: Codebook, images_NxHxWxC: np.ndarray, white: float | None = None
) -> tuple[np.ndarray, list[str]]:
    """Images (uint8 or float32) in the codebook's size, colour and range; a line for each change.

    `white`: the pixel value of white, where the source says so.
    """
    images_NxHxWxC, notes = _in_color(images_NxHxWxC, codebook.color)
    count, height, width, _ = images_NxHxWxC.shape
    if (height, width) != (codebook.height, codebook.width):
        notes.append(
            f"{plural(count, 'image')} of {width}x{height} pixels resized to "
            f"{codebook.width}x{codebook.height}"
        )
        size = (codebook.width, codebook.height)
        images_NxHxWxC = np.stack([_resized(image, size) for image in images_NxHxWxC])
    black, white = _range_of(images_NxHxWxC, codebook, white)
    if (black, white) != (codebook.low, codebook.white):
        notes.append(
            f"pixel values from {black:g}, black, to {white:g}, white, scaled to "
            f"{codebook.low:g} to {codebook.white:g}"
        )
        images_NxHxWxC = _scaled(images_NxHxWxC, (black, white), codebook)
    return images_NxHxWxC, notes


def _in_color(images_NxHxWxC: np.ndarray, color: str) -> tuple[np.ndarray, list[str]]:
    """Images as "grey" or "rgb", and a line if that changed any."""
    channels = images_NxHxWxC.shape[3]
    if channels == (1 if color == "grey" else 3):
        return images_NxHxWxC, []
    if channels == 1:
        notes = [f"{plural(len(images_NxHxWxC), 'grey image')} read as rgb"]
        return images_NxHxWxC.repeat(3, axis=3), notes
    coloured = sum(not is_grey_image(image) for image in images_NxHxWxC)
    notes = [f"{plural(coloured, 'coloured image')} read as grey"] if coloured else []
    return np.stack([_grey(image) for image in images_NxHxWxC]), notes


def _grey(image_HxWx3: np.ndarray) -> np.ndarray:
    """A coloured image as grey (HxWx1), with the weights of Pillow (ITU-R 601-2)."""
    if image_HxWx3.dtype == np.uint8:
        return np.asarray(Image.fromarray(image_HxWx3).convert("L"))[..., None]
    if is_grey_image(image_HxWx3):
        return image_HxWx3[..., :1]
    return image_HxWx3 @ np.array([[0.299], [0.587], [0.114]], np.float32)


def _resized(image_HxWxC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image resized to (width, height), as pictures are; its values stay within their range."""
    channels = [
        np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.LANCZOS))
        for channel in np.moveaxis(image_HxWxC, 2, 0)
    ]
    return np.stack(channels, axis=2).clip(image_HxWxC.min(), image_HxWxC.max())


def _range_of(
    images_NxHxWxC: np.ndarray, codebook: Codebook, white: float | None
) -> tuple[float, float]:
    """The pixel values of black and white by the rules above."""
    if white is not None:
        return 0.0, white
    darkest, brightest = float(images_NxHxWxC.min()), float(images_NxHxWxC.max())
    if darkest < codebook.low:
        return (-1.0, 1.0) if -1 <= darkest <= brightest <= 1 else (darkest, brightest)
    fractions = images_NxHxWxC.dtype != np.uint8 and codebook.low == 0 and 0 < brightest <= 1
    if fractions and codebook.white > 1:
        return 0.0, 1.0
    if brightest <= codebook.white:
        return codebook.low, codebook.white
    return 0.0, next((most for most in (255.0, 65_535.0) if brightest <= most), brightest)


def _scaled(
    images_NxHxWxC: np.ndarray, source: tuple[float, float], codebook: Codebook
) -> np.ndarray:
    """Images with black and white of `source` in the codebook's range."""
    black, white = source
    scale = np.float32((codebook.white - codebook.low) / (white - black))
    scaled = (images_NxHxWxC - np.float32(black)) * scale + np.float32(codebook.low)
    if codebook.low == 0 and codebook.white in range(2, 256):
        # Its own images were whole numbers: 0..16 saved as a picture comes back exactly.
        return scaled.round().clip(0, 255).astype(np.uint8)
    return scaled


def unlike_training(codebook: Codebook, images_NxHxWxC: np.ndarray, codes_NxP: np.ndarray) -> str:
    """A line if many images are unlike the training images of the codebook, and why; else "".

    What a model says of such images means little.
    """
    familiar = codebook.familiarity
    if familiar is None:
        return ""
    unlike_N = familiar.unlike(codebook.errors(images_NxHxWxC, codes_NxP), codes_NxP)
    if unlike_N.sum() <= _TOLD * len(unlike_N):
        return ""
    count = int(unlike_N.sum())
    some = np.flatnonzero(unlike_N)[:_MOST_INVERTED]
    if codebook.looks_inverted(images_NxHxWxC[some], codes_NxP[some]).mean() > 0.5:
        why = "are they inverted? (white - pixel would look like them)"
    elif (familiar.surprise(codes_NxP[some]) < familiar.least).mean() > 0.5:
        why = "little but background: too small in the frame, or too dark?"
    else:
        why = "another size in the frame, another brightness, another subject?"
    return (
        f"{count:,} of {plural(len(unlike_N), 'image')} {'does' if count == 1 else 'do'} not look "
        f"like the training images: {why}"
    )
