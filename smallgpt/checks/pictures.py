"""Charts of a data report (data_report.png)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from smallgpt.charts import DARK, LIGHT, new_figure, plain_text, save_chart
from smallgpt.console import printable, shorten

_MOST_LABELS_DRAWN = 40


def draw_data_report(path: str | Path, report: dict[str, Any]) -> None:
    """Draw label counts, lengths, vocabulary use and baselines of `report_data` as a PNG."""
    panels = [_draw_label_counts] if any(report["labels"].values()) else []
    panels += [_draw_lengths, _draw_token_ranks] if report["rows"] else []
    panels += [_draw_accuracies] if _accuracies(report) else []
    columns = min(2, max(1, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure = new_figure(5.6 * columns, 3.6 * lines + 0.5)
    title = f"{report['rows']:,} rows"
    if report["errors"]["count"]:
        title += f", {report['errors']['count']:,} more that cannot be read"
    if report["leaks"]:
        title += f"; leaks found: {', '.join(dict.fromkeys(x['kind'] for x in report['leaks']))}"
    figure.suptitle(title, size=12)
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
    # Long names are cut in the middle: many differ at their end only.
    shown = [shorten(printable(name), 18, "…") for name in names]
    size, turn = 9 if len(names) <= 20 else 6, 90 if max(map(len, shown), default=0) > 4 else 0
    axes.set_xticks(places, shown, rotation=turn, fontsize=size, **plain_text())
    axes.set(title=title, ylabel="rows")
    axes.margins(x=0.01, y=0.15)
    axes.legend(frameon=False, ncols=2, loc="upper right", fontsize=8)


def _draw_lengths(axes: Axes, report: dict[str, Any]) -> None:
    lengths = report["lengths"]
    edges, counts = lengths["histogram"]["edges"], lengths["histogram"]["counts"]
    widths = np.diff(edges)
    align: Literal["edge", "center"] = "edge" if widths.max() > 1 else "center"
    axes.bar(edges[:-1], counts, width=widths * 0.92, align=align, color=DARK)
    if len(counts) == 1:
        axes.set_xlim(edges[0] - 5, edges[0] + 5)
        axes.set_xticks([edges[0]])
        axes.set(title=f"Row lengths: all {edges[0]} tokens")
    else:
        if widths[0] != widths[-1]:  # a few rows are far longer
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.set_yscale("symlog", linthresh=1)  # one row among thousands is to be seen
            axes.yaxis.set_major_formatter("{x:,.0f}")
        for figure, style in (("median", "--"), ("p90", "-."), ("p99", ":")):
            axes.axvline(lengths[figure], color="black", linewidth=0.9, linestyle=style)
        names = f"median {lengths['median']:,g}, 90 % {lengths['p90']:,}, 99 % {lengths['p99']:,}"
        axes.set(title=f"Row lengths ({names})")
    axes.set(xlabel="tokens in a row", ylabel="rows")


def _draw_token_ranks(axes: Axes, report: dict[str, Any]) -> None:
    words = report["vocabulary"]
    axes.loglog(words["ranks"], words["counts_of_ranks"], color=DARK, marker="o", markersize=2.5)
    used = words["size"] - words["never_used"]
    axes.set(
        title=f"Vocabulary: {used:,} of {words['size']:,} tokens used, {words['used_once']:,} once",
        xlabel="rank of the token",
        ylabel="times it stands in the rows",
    )
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
