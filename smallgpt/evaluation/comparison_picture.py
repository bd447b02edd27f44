"""Picture of a comparison: differences of models from the first, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from smallgpt.charts import BLUE, VERMILION, new_figure, plain_text, save_chart, short_name
from smallgpt.evaluation.comparison_report import is_told

_NAME_COLUMNS = 40
_UNCLEAR = "#555555"


@dataclass(frozen=True)
class _Panel:
    """One figure, of each comparison its test or None."""

    title: str
    tests: list[dict[str, Any] | None]
    value: str = "difference"  # the entry of a test that is drawn
    no_difference: float = 0
    scale: float = 1
    higher_is_better: bool = False


def draw_comparison(path: Path, found: dict[str, Any]) -> None:
    """Draw the differences of compare.json: a panel a figure, a line a model.

    Blue with a full dot is better than the first model, orange with a square worse, and grey with
    an empty dot is not told apart from it.
    """
    first, comparisons = found["compared"][0], found["comparisons"]
    labels = [each["labels"] or {} for each in comparisons]
    tokens = [each["tokens"] or {} for each in comparisons]
    panels = [
        _Panel(
            "label accuracy, points\n(right is better)",
            [each.get("accuracy") for each in labels],
            scale=100,
            higher_is_better=True,
        ),
        _Panel("label loss, nats\n(left is better)", [each.get("label_loss") for each in labels]),
        _Panel(
            "perplexity of all tokens, ratio\n(left is better)",
            [each.get("all") for each in tokens],
            value="ratio",
            no_difference=1,
        ),
    ]
    panels = [panel for panel in panels if any(panel.tests)]
    if not panels:
        return
    figure = new_figure(2.5 + 3.2 * len(panels), 1.7 + 0.45 * len(comparisons))
    figure.suptitle(
        f"Difference from {first['letter']}, {_name(first)}, with 95 % interval", **plain_text()
    )
    axes_of = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    sides = {side["letter"]: side for side in found["compared"]}
    names = [f"{each['model']}  {_name(sides[each['model']])}" for each in comparisons]
    for axes, panel in zip(axes_of, panels, strict=True):
        _draw_panel(axes, panel)
    axes_of[0].set_yticks(range(len(names)), names, **plain_text())
    axes_of[0].set_ylim(len(names) - 0.5, -0.5)
    save_chart(figure, path)


def _draw_panel(axes: Axes, panel: _Panel) -> None:
    scale = panel.scale
    axes.axvline(scale * panel.no_difference, color="black", linewidth=0.8, linestyle="--")
    for place, test in enumerate(panel.tests):
        if test is None:
            continue
        value = test[panel.value]
        color, marker, face = _UNCLEAR, "o", "white"
        if is_told(test, panel.no_difference):
            better = (value > panel.no_difference) == panel.higher_is_better
            color, marker = (BLUE, "o") if better else (VERMILION, "s")
            face = color
        if test["interval"] is not None:
            ends = [scale * end for end in test["interval"]]
            axes.plot(ends, [place, place], color=color, linewidth=2, zorder=1)
        axes.scatter(
            [scale * value], [place], marker=marker, edgecolor=color, facecolor=face, zorder=2
        )
    axes.set_title(panel.title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.15)


def _name(side: dict[str, Any]) -> str:
    """The path of a model, shortened to fit beside an axis."""
    return short_name(side["path"].removesuffix("/best_model"), _NAME_COLUMNS)
