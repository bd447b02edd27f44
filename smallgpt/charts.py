"""Charts: figure, fonts, saving as PNG. Whoever draws nothing need not import matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names

from smallgpt.files.reading import first_bytes
from smallgpt.files.writing import atomic_write

DPI = 150
_SOFTWARE = "smallgpt"  # names its maker in a PNG
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
    """An empty figure with one axes; sizes in inches."""
    figure = new_figure(width, height)
    return figure, figure.add_subplot()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure whose layout makes room for texts; sizes in inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def plain_text() -> dict[str, Any]:
    """Text properties for names of the user's: fonts with their letters, and `$` is no formula."""
    return {"family": _fonts(), "parse_math": False}


@cache
def _fonts() -> list[str]:
    installed = set(get_font_names())
    return ["DejaVu Sans", *[name for name in _FURTHER_FONTS if name in installed]]


@contextmanager
def missing_glyphs_allowed() -> Iterator[None]:
    """No warning for characters that no installed font has: they are drawn as a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def save_chart(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    with missing_glyphs_allowed(), atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=DPI, metadata={"Software": _SOFTWARE})


def is_own_chart(path: str | Path) -> bool:
    """Whether a file is a PNG that `save_chart` wrote."""
    return f"tEXtSoftware\0{_SOFTWARE}".encode() in first_bytes(Path(path))
