"""Charts: figure, fonts, saving as PNG. Whoever draws nothing need not import matplotlib."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import (
    findfont,
    findSystemFonts,
    fontManager,
    get_font,
    get_font_names,
)
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from smallgpt.console import forgiving, printable, shorten
from smallgpt.files.reading import first_bytes
from smallgpt.files.writing import atomic_write

DPI = 150
_SOFTWARE = "smallgpt"  # names its maker in a PNG
DARK, LIGHT = "#30638e", "#9cc3e0"
# Told apart with any colour vision (Okabe and Ito 2008); marks and lines differ besides.
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
NAME_SIZE = 8  # points
_MARGIN = 0.12  # inches of white around a chart, for pages with a dark background
_FONT = "DejaVu Sans"
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
    layout = ConstrainedLayoutEngine(w_pad=_MARGIN, h_pad=_MARGIN)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def whole_numbers(axis: Axis) -> None:
    """Ticks of a linear axis at whole numbers, with thousands separated."""
    axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter("{x:,.0f}")


def drawable(text: str) -> str:
    """Text of the user's for a picture: what is invisible or in no font is escaped (`\\u597d`)."""
    text = printable(text)
    missing = {letter for letter in text if not _has_glyph(letter)}
    if missing:
        _tell_of_missing_font()
    return "".join(ascii(letter)[1:-1] if letter in missing else letter for letter in text)


def short_name(name: str, columns: int) -> str:
    """A name of the user's for an axis, cut in the middle: many differ at their end only."""
    return shorten(drawable(name), columns, "…")


def plain_text() -> dict[str, Any]:
    """Text properties for names of the user's: fonts with their letters, and `$` is no formula."""
    return {"family": _fonts(), "parse_math": False}


def text_inches(texts: Sequence[str], size: float = NAME_SIZE) -> tuple[float, float]:
    """Width and height in which each of some names of the user's fits; `size` in points."""
    axes = Figure(dpi=DPI).add_subplot()
    boxes = [
        axes.text(0, 0, text, size=size, **plain_text()).get_window_extent() for text in set(texts)
    ]
    return max(box.width for box in boxes) / DPI, max(box.height for box in boxes) / DPI


def _fonts() -> list[str]:
    installed = set(get_font_names())
    return [_FONT, *[name for name in _FURTHER_FONTS if name in installed]]


@cache
def _has_glyph(letter: str) -> bool:
    """Whether one of the fonts has a letter."""
    if get_font(findfont(_FONT)).get_char_index(ord(letter)):
        return True
    _find_new_fonts()
    return any(get_font(findfont(name)).get_char_index(ord(letter)) for name in _fonts())


@cache
def _find_new_fonts() -> None:
    """Add fonts installed since matplotlib first ran: it remembers those it found then."""
    known = {entry.fname for entry in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in known:
            with suppress(Exception):  # of a kind that matplotlib cannot draw
                fontManager.addfont(path)


@cache
def _tell_of_missing_font() -> None:
    print(
        "pictures: letters that no font has are written as \\u597d; for Chinese, Japanese and "
        "Korean install a font, for example fonts-noto-cjk",
        file=forgiving(sys.stderr),
    )


def save_chart(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=DPI, metadata={"Software": _SOFTWARE})


def is_own_chart(path: str | Path) -> bool:
    """Whether a file is a PNG that `save_chart` wrote."""
    return f"tEXtSoftware\0{_SOFTWARE}".encode() in first_bytes(Path(path))
