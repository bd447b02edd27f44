"""How one draws as the training images are: their background, their strokes, their place.

A drawing is read as the training images were made: MNIST's digits fill 20 of 28 pixels, others all
of the frame. What is measured here on the validation images tells a page which.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.inference.model_facts import VALIDATION_DATA, ModelFacts
from smallgpt.inference.validation_rows import read_validation_rows
from smallgpt.tokens.codebook import Codebook

_MOST_IMAGES = 500
_NEAR = 0.2  # of the range: so far from the background a pixel still belongs to it
# Images whose border is background in so many of their pixels stand on a plain one.
_PLAIN = 0.75
_ALMOST = 0.05
_BRUSH = 0.08  # of the frame, where nothing is known
_BRUSHES = (0.04, 0.25)
# A stroke of width w and length l has the area w x l and an outline of 2 l, along which the sum of
# the differences to the left and above is 4 / pi times as long, averaged over all directions.
_OUTLINE = 4 / np.pi


def drawing_of(trained: TrainedModel, codebook: Codebook) -> dict[str, Any]:
    """The part `drawing` of page.json.

    `paper`, the colour of the background (0..255 a channel); `brush`, the width of a stroke as a
    share of the frame; `box`, where the subject stands (`fill`, its longer side as a share of the
    frame, and its centre of mass), None where the images have no plain background or the
    validation rows are gone.
    """
    # A thinner stroke than a pixel would be grey.
    brush = round(min(max(_BRUSH, 1 / min(codebook.height, codebook.width)), _BRUSHES[1]), 3)
    images_NxHxWxC = _validation_images(trained, codebook)
    if images_NxHxWxC is None:
        return {"paper": [0, 0, 0], "brush": brush, "box": None}
    scaled = (images_NxHxWxC - codebook.low) / (codebook.high - codebook.low)
    border_MxC = np.concatenate(
        [scaled[:, [0, -1]].reshape(-1, codebook.channels),
         scaled[:, :, [0, -1]].reshape(-1, codebook.channels)]
    )  # fmt: skip
    paper_C = np.median(border_MxC, axis=0)
    # Patches of a codebook are averages: almost black is black.
    paper_C = np.where(paper_C < _ALMOST, 0, np.where(paper_C > 1 - _ALMOST, 1, paper_C))
    paper = [round(255 * float(value)) for value in np.broadcast_to(paper_C, 3)]
    plain = (np.abs(border_MxC - paper_C).max(axis=1) <= _NEAR).mean()
    ink_NxHxW = np.abs(scaled - paper_C).max(axis=3).clip(0, 1)
    ink_NxHxW = ink_NxHxW[(ink_NxHxW > _NEAR).any(axis=(1, 2))]
    if plain < _PLAIN or not len(ink_NxHxW):
        return {"paper": paper, "brush": brush, "box": None}
    return {"paper": paper, "brush": _stroke(ink_NxHxW), "box": _box(ink_NxHxW)}


def _validation_images(trained: TrainedModel, codebook: Codebook) -> np.ndarray | None:
    """Images of the validation rows, from their codes; None where these rows are gone."""
    try:
        facts = ModelFacts.of(trained.folder)
    except UserError:  # an export
        return None
    rows = read_validation_rows(trained, facts) if VALIDATION_DATA in facts.data else None
    if rows is None:
        return None
    code_of = {trained.vocabulary.ids[token]: k for k, token in enumerate(codebook.code_tokens)}
    images = []
    for index in range(min(len(rows.dataset), _MOST_IMAGES)):
        ids = rows.dataset.gather(np.array([index]))[0].tolist()
        codes = [code_of[each] for each in ids if each in code_of]
        if len(codes) == codebook.patches_per_image:
            images.append(codes)
    return codebook.decode(np.array(images)) if images else None


def _stroke(ink_NxHxW: np.ndarray) -> float:
    """The usual width of a stroke, as a share of the shorter side."""
    padded = np.pad(ink_NxHxW, ((0, 0), (1, 1), (1, 1)))
    outline_N = np.abs(np.diff(padded, axis=1)).sum((1, 2))
    outline_N = outline_N + np.abs(np.diff(padded, axis=2)).sum((1, 2))
    width = float(np.median(2 * _OUTLINE * ink_NxHxW.sum((1, 2)) / outline_N))
    return round(float(np.clip(width / min(ink_NxHxW.shape[1:]), *_BRUSHES)), 3)


def _box(ink_NxHxW: np.ndarray) -> dict[str, float]:
    """Where the subject stands, as shares of the frame."""
    _, height, width = ink_NxHxW.shape
    fills = []
    for ink_HxW in ink_NxHxW / ink_NxHxW.max(axis=(1, 2), keepdims=True):
        fills.append(max(_extent(ink_HxW.max(1)), _extent(ink_HxW.max(0))) / max(height, width))
    mass_N = ink_NxHxW.sum((1, 2))
    y_N = (ink_NxHxW.sum(2) * (np.arange(height) + 0.5)).sum(1) / mass_N / height
    x_N = (ink_NxHxW.sum(1) * (np.arange(width) + 0.5)).sum(1) / mass_N / width
    found = {"fill": np.median(fills), "x": np.median(x_N), "y": np.median(y_N)}
    return {name: round(float(value), 3) for name, value in found.items()}


def _extent(ink_T: np.ndarray) -> float:
    """From the first to the last place with ink; these two count as far as they are filled."""
    marked = np.flatnonzero(ink_T > _NEAR)
    first, last = marked[0], marked[-1]
    if first == last:
        return float(ink_T[first])
    return float(last - first - 1 + ink_T[first] + ink_T[last])
