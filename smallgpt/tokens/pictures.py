"""Draws sheets of images, codebooks, and images beside their reconstructions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smallgpt.charts import DPI, NAME_SIZE, drawable, plain_text, save_chart, text_inches

_MOST_PATCHES_DRAWN = 1024
_MAT = 0.9  # behind the images, so that black and white ones both show their border
_GRID_LINE = (0.55, 0.68, 0.85)  # a blue that no grey patch has
_TILE_INCHES = 0.85
_SHEET_INCHES = 11  # wide at most
_CAPTION_LETTERS, _MOST_CAPTION_LETTERS = 22, 36  # in a line; the second only for long words


def draw_image_sheet(
    path: str | Path,
    images: np.ndarray | Sequence[np.ndarray],
    captions: Sequence[str],
    value_range: tuple[float, float],
    columns: int,
    title: str,
) -> None:
    """Draw N images (HxWxC, C = 1 or 3) side by side, each over its caption, as a PNG.

    Long captions are wrapped, never cut; tiles get smaller and `columns` fewer to fit them.
    `value_range` are the pixel values of black and of white.
    """
    captions = [drawable(caption) for caption in captions]
    tiles = [_as_rgb(image, value_range) for image in images]
    longest = max((len(word) for caption in captions for word in caption.split()), default=0)
    line = min(max(longest, _CAPTION_LETTERS), _MOST_CAPTION_LETTERS)
    texts = ["\n".join(textwrap.wrap(caption, line)) for caption in captions]
    height, width, _ = tiles[0].shape
    # Tiles are enlarged, so that gaps and captions can be finer than one of their pixels.
    scale = max(1, -(-64 // width))
    height, width = height * scale, width * scale
    gap = width // 8
    pixels_per_inch = (width + gap) / _TILE_INCHES
    text_width, text_height = (round(size * pixels_per_inch) for size in text_inches(texts))
    step_x, step_y = max(width, text_width) + gap, height + text_height + gap
    columns = max(1, min(columns, len(tiles), int(_SHEET_INCHES * pixels_per_inch / step_x)))
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * step_y + gap, columns * step_x + gap, 3), _MAT)
    margin = (step_x - gap - width) // 2  # centers an image over a wide caption
    places = [
        (index // columns * step_y + gap, index % columns * step_x + gap + margin)
        for index in range(len(tiles))
    ]
    for tile, (y, x) in zip(tiles, places, strict=True):
        canvas[y : y + height, x : x + width] = tile.repeat(scale, 0).repeat(scale, 1)
    figure, axes = _picture_figure(canvas, canvas.shape[1] / pixels_per_inch, title)
    for text, (y, x) in zip(texts, places, strict=True):
        _write(axes, x + width / 2, y + height + gap / 4, text, ha="center", va="top")
    save_chart(figure, path)


def draw_reconstructions(
    path: str | Path,
    originals: np.ndarray | Sequence[np.ndarray],
    reconstructions: np.ndarray | Sequence[np.ndarray],
    captions: Sequence[str],
    value_range: tuple[float, float],
    columns: int,
    title: str,
) -> None:
    """Draw each image above its reconstruction, captions below; see `draw_image_sheet`."""
    pairs = []
    for original, reconstruction in zip(originals, reconstructions, strict=True):
        upper, lower = _as_rgb(original, value_range), _as_rgb(reconstruction, value_range)
        seam = np.full((-(-len(upper) // 16), upper.shape[1], 3), _MAT)
        pairs.append(np.concatenate([upper, seam, lower]))
    draw_image_sheet(path, pairs, captions, (0, 1), columns, title)


def draw_codebook(
    path: str | Path, patches: np.ndarray, value_range: tuple[float, float], title: str
) -> None:
    """Draw the K patches (pxpxC, C = 1 or 3) of a codebook in the order of their codes, as a PNG.

    32 in a row; the number at the left is the code of the row's first patch. Of a large codebook
    only evenly spaced codes are drawn, and the title says so.
    """
    every = -(-len(patches) // _MOST_PATCHES_DRAWN)
    if every > 1:
        title += f", one in {every} shown"
    tiles = [_as_rgb(patch, value_range) for patch in patches[::every]]
    scale = -(-24 // len(tiles[0]))  # enlarged, so that the lines between patches are thin
    side, gap = len(tiles[0]) * scale, 2
    columns = min(32, len(tiles))
    rows, step = -(-len(tiles) // columns), side + gap
    canvas = np.ones((rows * step + gap, columns * step + gap, 3))
    for index, tile in enumerate(tiles):
        y, x = index // columns * step, index % columns * step
        canvas[y : y + step + gap, x : x + step + gap] = _GRID_LINE
        y, x = y + gap, x + gap
        canvas[y : y + side, x : x + side] = tile.repeat(scale, 0).repeat(scale, 1)
    figure, axes = _picture_figure(canvas, columns * 0.28, title)
    for row in range(rows):
        middle = row * step + gap + side / 2
        _write(axes, -step / 5, middle, str(row * columns * every), ha="right", va="center")
    save_chart(figure, path)


def _as_rgb(image_HxWxC: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """An image as float RGB from 0 to 1."""
    low, high = value_range
    scaled = np.clip((image_HxWxC.astype(np.float64) - low) / (high - low), 0, 1)
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3))


def _picture_figure(canvas: np.ndarray, width: float, title: str) -> tuple[Figure, Axes]:
    """A figure with `canvas` `width` inches wide and margins for text."""
    height = width * canvas.shape[0] / canvas.shape[1]
    side, below = 0.45, 0.25
    full_width = max(width + 2 * side, 6.5)
    title = textwrap.fill(drawable(title), int(11 * full_width))
    above = 0.34 + 0.18 * (1 + title.count("\n"))
    full_height = height + above + below
    figure = Figure(figsize=(full_width, full_height), dpi=DPI)
    left = (full_width - width) / 2
    axes = figure.add_axes(
        (left / full_width, below / full_height, width / full_width, height / full_height)
    )
    extent = (0, canvas.shape[1], canvas.shape[0], 0)
    axes.imshow(canvas, interpolation="nearest", aspect="auto", extent=extent)
    axes.set_axis_off()
    middle = 1 - above / 2 / full_height
    figure.text(0.5, middle, title, ha="center", va="center", size=10, **plain_text())
    return figure, axes


def _write(axes: Axes, x: float, y: float, text: str, ha: str, va: str) -> None:
    """Write a small text at data coordinates; `$` in it is no mathtext."""
    axes.text(x, y, text, ha=ha, va=va, size=NAME_SIZE, **plain_text())
