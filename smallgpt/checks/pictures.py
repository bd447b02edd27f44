"""Charts of a data report (data_report.png)."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from smallgpt.charts import (
    DARK,
    LIGHT,
    NAME_SIZE,
    new_figure,
    plain_text,
    save_chart,
    short_name,
    text_inches,
    whole_numbers,
)

_PANEL_INCHES = 5.6
_MOST_LABELS_DRAWN = 24


def draw_data_report(path: str | Path, report: dict[str, Any]) -> None:
    """Draw label counts, lengths, vocabulary use and baselines of `report_data` as a PNG."""
    panels = [_draw_label_counts] if any(report["labels"].values()) else []
    panels += [_draw_lengths, _draw_token_ranks] if report["rows"] else []
    panels += [_draw_accuracies] if _accuracies(report) else []
    columns = min(2, max(1, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure = new_figure(_PANEL_INCHES * columns, 3.7 * lines + 0.5)
    title = f"{report['rows']:,} rows"
    if report["errors"]["count"]:
        title += f", {report['errors']['count']:,} more that cannot be read"
    if report["leaks"]:
        title += f"; leaks found: {', '.join(dict.fromkeys(x['kind'] for x in report['leaks']))}"
    figure.suptitle(fill(title, int(9 * _PANEL_INCHES * columns)), size=12)
    for place, draw in enumerate(panels, 1):
        axes = figure.add_subplot(lines, columns, place)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, report)
    save_chart(figure, path)


def _draw_label_counts(axes: Axes, report: dict[str, Any]) -> None:
    """Rows of each label, training rows darker; of many labels the largest and smallest."""
    counts = {name: count for name, count in report["labels"].items() if count}
    names, title = list(counts), f"Rows per label ({len(counts):,})"
    places = list(range(len(names)))
    if len(names) > _MOST_LABELS_DRAWN:
        names = sorted(names, key=counts.__getitem__, reverse=True)
        half = _MOST_LABELS_DRAWN // 2
        names = names[:half] + names[-half:]
        places = [*range(half), *range(half + 2, 2 * half + 2)]
        title += f", the {half} largest and the {half} smallest"
        axes.text(
            half + 0.5, 0.02, f"and {len(counts) - 2 * half:,} more between", rotation=90, size=8,
            ha="center", va="bottom", transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    sides = [report["splits"][side]["labels"] for side in ("train", "validation")]
    train, validation = ([side[name] for name in names] for side in sides)
    axes.bar(places, train, color=DARK, label="training")
    axes.bar(places, validation, bottom=train, color=LIGHT, label="validation")
    shown = [short_name(name, 18) for name in names]
    upright = text_inches(shown)[0] > 0.75 * _PANEL_INCHES / len(shown)
    axes.set_xticks(places, shown, rotation=90 if upright else 0, size=NAME_SIZE, **plain_text())
    whole_numbers(axes.yaxis)
    axes.set(title=title, ylabel="rows")
    axes.margins(x=0.01)
    _add_legend(axes)


def _add_legend(axes: Axes) -> None:
    """A legend in a line above what is drawn."""
    axes.margins(y=0.18)
    axes.legend(ncols=3, loc="upper right", fontsize=9, frameon=False)


def _draw_lengths(axes: Axes, report: dict[str, Any]) -> None:
    lengths = report["lengths"]
    edges, counts = lengths["histogram"]["edges"], lengths["histogram"]["counts"]
    widths = np.diff(edges)
    align: Literal["edge", "center"] = "edge" if widths.max() > 1 else "center"
    axes.bar(edges[:-1], counts, width=widths * 0.92, align=align, color=LIGHT)
    whole_numbers(axes.yaxis)
    if len(counts) == 1:
        axes.set_xlim(edges[0] - 5, edges[0] + 5)
        axes.set_xticks([edges[0]])
        axes.set(title=f"Row lengths: all {edges[0]:,} tokens")
    else:
        if widths[0] != widths[-1]:  # a few rows are far longer
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.set_yscale("symlog", linthresh=1)  # one row among thousands is to be seen
            axes.yaxis.set_major_formatter("{x:,.0f}")
        lines = (("median", "median", "--"), ("90 % ≤", "p90", "-."), ("99 % ≤", "p99", ":"))
        for name, figure, style in lines:
            axes.axvline(
                lengths[figure], ymax=0.87, color="black", linewidth=1.2, linestyle=style,
                label=f"{name} {lengths[figure]:,g}",
            )  # fmt: skip
        _add_legend(axes)
        axes.set(title="Row lengths")
    axes.set(xlabel="tokens in a row", ylabel="rows")


def _draw_token_ranks(axes: Axes, report: dict[str, Any]) -> None:
    words = report["vocabulary"]
    used = words["size"] - words["never_used"]
    axes.set(
        title=f"Vocabulary: {used:,} of {words['size']:,} tokens used, {words['used_once']:,} once",
        ylabel="times it stands in the rows",
    )
    counts = words["counts"]
    if counts:
        axes.bar(range(len(counts)), list(counts.values()), color=DARK)
        names = [short_name(token, 18) for token in counts]
        axes.set_xticks(range(len(names)), names, rotation=90, size=NAME_SIZE, **plain_text())
        whole_numbers(axes.yaxis)
        axes.margins(x=0.01)
        return
    axes.loglog(words["ranks"], words["counts_of_ranks"], color=DARK, marker="o", markersize=2.5)
    # Whole decades, which have numbers.
    axes.set_xlim(0.8, 1.3 * max([10, *words["ranks"]]))
    axes.set_ylim(0.8, 1.5 * max([10, *words["counts_of_ranks"]]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("rank of the token")
    axes.grid(alpha=0.3)


def _accuracies(report: dict[str, Any]) -> dict[str, float]:
    return {
        name.removesuffix("_accuracy").replace("_", " "): value
        for name, value in report["baselines"].items()
        if name.endswith("_accuracy")
    }


def _draw_accuracies(axes: Axes, report: dict[str, Any]) -> None:
    values = _accuracies(report)
    places = range(len(values))
    axes.barh(places, list(values.values()), color=DARK)
    for place, value in zip(places, values.values(), strict=True):
        axes.text(min(value, 1) + 0.01, place, f"{value:.3f}", va="center", fontsize=9)
    axes.set_yticks(places, list(values))
    axes.invert_yaxis()
    axes.set(title="Baselines on the validation rows", xlabel="accuracy", xlim=(0, 1.12))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="x", alpha=0.3)
