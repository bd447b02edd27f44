"""What all pictures share: figure, fonts, ticks, saving."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from smallgpt.files.writing import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DPI = 150
DARK, LIGHT = "#30638e", "#9cc3e0"
# matplotlib's own font has no Chinese, Japanese or Korean; use one that is installed.
_FURTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
)


def new_chart(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.add_subplot()


@cache
def fonts() -> list[str]:
    """matplotlib's font, then an installed one for the characters that it lacks."""
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    return ["DejaVu Sans", *[name for name in _FURTHER_FONTS if name in installed]]


@contextmanager
def missing_glyphs_allowed() -> Iterator[None]:
    """No warning for characters that no installed font has: they are drawn as a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def save_chart(figure: Figure, path: str | Path) -> None:
    with missing_glyphs_allowed(), atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=DPI)
