"""Pictures of an evaluation: labels and their confusions, confidence and coverage, mistakes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from smallgpt.charts import (
    BLUE,
    LIGHT,
    NAME_SIZE,
    VERMILION,
    new_chart,
    new_figure,
    plain_text,
    save_chart,
    short_name,
    text_inches,
)
from smallgpt.console import plural
from smallgpt.evaluation.abstention import CoverageCurve, curve_of
from smallgpt.evaluation.folder import (
    CLASSES_PNG,
    CONFUSION_PNG,
    COVERAGE_PNG,
    MISTAKES_PNG,
    RELIABILITY_PNG,
)
from smallgpt.evaluation.metrics import confusion_cells
from smallgpt.evaluation.statistics import wilson_interval
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.pictures import draw_image_sheet

_MOST_BARS, _WORST_DRAWN = 40, 30  # of more labels those with the worst accuracy
_MOST_CONFUSED_DRAWN = 24  # of more labels; with one row and column for all others
_CELL_INCHES, _BAR_INCHES = 0.45, 0.24
_NAME_COLUMNS = 28
_MOST_MISTAKES = 32


def draw_evaluation(
    folder: Path,
    figures: dict[str, Any],
    predictions: Collection[dict[str, Any]],
    mistakes: Callable[[], Mistakes] | None,
) -> None:
    """Draw the pictures of labelled rows into `folder`.

    `mistakes` finds the mistakes when all else is drawn; None for rows that are no images.
    """
    if "accuracy" not in figures:
        return
    draw_confusion_matrix(folder / CONFUSION_PNG, figures["confusion_matrix"], figures["labels"])
    draw_class_accuracy(folder / CLASSES_PNG, figures["per_class"], figures["accuracy"])
    curves = [(f"raw, error {figures['raw_ece']:.3f}", figures["raw_reliability"])]
    if figures["temperature"] != 1:
        calibrated = f"calibrated, error {figures['ece']:.3f}"
        curves.insert(0, (calibrated, figures["reliability"]))
    draw_reliability(folder / RELIABILITY_PNG, curves, "Confidence and how often it was right")
    draw_coverage(folder / COVERAGE_PNG, curve_of(predictions), figures.get("answered"))
    if mistakes is not None and figures["accuracy"] < 1:
        draw_mistakes(folder / MISTAKES_PNG, mistakes())


def draw_class_accuracy(
    path: str | Path, per_class: dict[str, dict[str, Any]], accuracy: float
) -> None:
    """Accuracy (recall) of each label as bars; of many labels the worst, below a curve of all."""
    recalls = {label: row["recall"] for label, row in per_class.items() if row["support"]}
    many = len(recalls) > _MOST_BARS
    shown = sorted(recalls, key=recalls.__getitem__)[:_WORST_DRAWN] if many else list(recalls)
    heights = [2.0] * many + [_BAR_INCHES * max(6, len(shown))]
    figure = new_figure(7, sum(heights) + 1.4 * len(heights))
    *above, axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    title = f"Accuracy by true label (dashed: all rows, {accuracy:.3f})"
    for curve in above:
        curve.fill_between(range(len(recalls)), sorted(recalls.values()), step="mid", color=LIGHT)
        curve.axhline(accuracy, color="black", linewidth=0.8, linestyle="--")
        curve.set(
            title=title, xlabel=f"{len(recalls):,} labels, from the worst to the best",
            ylabel="share right", xlim=(-0.5, len(recalls) - 0.5), ylim=(0, 1.02),
        )  # fmt: skip
        title = f"The {len(shown)} worst of {len(recalls):,}"
    places = range(len(shown))
    axes.barh(places, [recalls[label] for label in shown], color=LIGHT)
    for place, label in enumerate(shown):
        rows = per_class[label]["support"]
        right = f"{round(recalls[label] * rows):,} of {rows:,}"
        axes.text(0.01, place, right, va="center", size=NAME_SIZE)
    axes.axvline(accuracy, color="black", linewidth=0.8, linestyle="--")
    names = [short_name(label, _NAME_COLUMNS) for label in shown]
    axes.set_yticks(places, names, size=NAME_SIZE, **plain_text())
    axes.set(title=title, xlabel="share right", xlim=(0, 1.02), ylim=(len(shown) - 0.4, -0.6))
    save_chart(figure, path)


def draw_reliability(
    path: str | Path,
    curves: Sequence[tuple[str, Sequence[dict[str, Any]]]],
    title: str,
) -> None:
    """Reliability diagram, accuracy against confidence, above the number of rows in each bin.

    `curves` are name and filled bins (`calibration.reliability`) of each kind of confidence; the
    first is drawn with its intervals.
    """
    figure = new_figure(5.5, 6.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="ideal")
    # The second one is hollow: what lies below shows through.
    styles = [(BLUE, BLUE, "o", ""), (VERMILION, "none", "s", "////")]
    for place, ((name, bins), style) in enumerate(zip(curves, styles, strict=False)):
        color, face, marker, hatch = style
        confidence = [row["confidence"] for row in bins]
        accuracy = [row["accuracy"] for row in bins]
        counts = np.array([row["count"] for row in bins])
        # Bins of one row jump from 0 to 1: small marks and no lines between them.
        upper.scatter(
            confidence, accuracy, 14 + 150 * counts / counts.sum(), facecolor=face,
            edgecolor=color, linewidth=1.3, marker=marker, label=name, zorder=3 + place,
        )  # fmt: skip
        if place == 0:
            low, high = zip(*(row["accuracy_interval"] for row in bins), strict=True)
            upper.vlines(confidence, low, high, color=color, alpha=0.6)
        width = (bins[0]["to"] - bins[0]["from"]) / len(curves)
        lower.bar(
            [row["from"] + width * (place + 0.05) for row in bins], counts, width=0.9 * width,
            align="edge", facecolor=face, edgecolor=color, hatch=hatch,
        )  # fmt: skip
    upper.set(title=title, ylabel="share right (line: 95 % interval)", ylim=(-0.03, 1.03))
    lower.set(xlabel="confidence", ylabel="rows", xlim=(-0.03, 1.03), yscale="log")
    most = max(row["count"] for _, bins in curves for row in bins)
    lower.set_ylim(0.7, 2 * most)
    lower.yaxis.set_major_formatter("{x:,.0f}")
    legend = figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):  # what `scatter` draws
            handle.set_sizes([30])
    upper.grid(alpha=0.3)
    lower.grid(axis="y", alpha=0.3)
    save_chart(figure, path)


def draw_coverage(
    path: str | Path, curve: CoverageCurve, answered: dict[str, Any] | None = None
) -> None:
    """Accuracy of the answered rows against their share, above the lowest confidence answered.

    `answered` (`CoverageCurve.answered_at`) is marked, unless no row is.
    """
    share_K = curve.answered_K / curve.rows
    accuracy_K = curve.right_K / curve.answered_K
    low_K, high_K = wilson_interval(curve.right_K, curve.answered_K)
    figure = new_figure(5.5, 6.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.fill_between(share_K, low_K, high_K, color=LIGHT, alpha=0.5, label="95 % interval")
    upper.plot(share_K, accuracy_K, color=BLUE, label="answered rows")
    upper.axhline(
        accuracy_K[-1], color="black", linewidth=0.8, linestyle="--",
        label=f"all rows, {accuracy_K[-1]:.3f}",
    )  # fmt: skip
    lower.plot(share_K, curve.confidence_K, color=BLUE)
    # Of few rows the interval is so wide that it would leave no room for the others.
    bottom = min(low_K[share_K >= 0.5].min(), accuracy_K[share_K >= 0.1].min())
    if answered is not None and answered["answered"]:
        bottom = min(bottom, answered["accuracy"])
        mark = {"color": VERMILION, "marker": "D", "linestyle": "none", "zorder": 3}
        label = f"confidence from {answered['threshold']}: {answered['accuracy']:.3f}"
        upper.plot(answered["coverage"], answered["accuracy"], label=label, **mark)
        lower.plot(answered["coverage"], answered["threshold"], **mark)
    upper.set_ylim(bottom - 0.05 * (1 - bottom), 1 + 0.05 * (1 - bottom))
    upper.set(title="Accuracy of the rows that are answered", ylabel="share right")
    lower.set(xlabel="share of rows answered (coverage)", xlim=(-0.03, 1.03), ylim=(-0.05, 1.05))
    lower.set_ylabel("lowest\nconfidence")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    save_chart(figure, path)


def draw_confusion_matrix(path: Path, confusions: Any, labels: list[str]) -> None:
    """Confusion matrix, true label (row) against predicted label (column).

    `confusions` is `confusion_matrix` of metrics.json. Of many labels those of the most frequent
    mistakes are drawn, the others as one.
    """
    save_chart(_confusion_figure(confusions, labels), path)


def _confusion_figure(confusions: Any, labels: list[str]) -> Figure:
    title = "Confusion matrix"
    if len(labels) > _MOST_CONFUSED_DRAWN + 1:
        title += f": labels of the most frequent mistakes, of {len(labels):,}"
    counts_LxL, labels = _most_confused(confusion_cells(confusions), labels)
    share_LxL = counts_LxL / np.maximum(counts_LxL.sum(axis=1, keepdims=True), 1)
    names = [short_name(label, _NAME_COLUMNS) for label in labels]
    room, _ = text_inches(names)
    size = max(3.2, _CELL_INCHES * len(names))
    upright = room > 0.9 * size / len(names)
    figure, axes = new_chart(size + room + 0.8, size + (room if upright else 0.2) + 0.9)
    shade = PowerNorm(0.5, 0, 1)  # a few mistakes among many rows are to be seen
    axes.imshow(share_LxL, cmap="Blues", norm=shade)
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90 if upright else 0, size=NAME_SIZE, **plain_text())
    axes.set_yticks(places, names, size=NAME_SIZE, **plain_text())
    edges = np.arange(len(names) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set(title=title, xlabel="predicted label", ylabel="true label")
    for (row, column), count in np.ndenumerate(counts_LxL):
        if count:
            color = "white" if shade(share_LxL[row, column]) > 0.7 else "black"
            text = f"{count}" if count < 100_000 else f"{count / 1000:.0f}k"  # fits into the cell
            axes.text(column, row, text, ha="center", va="center", color=color, size=9)
    return figure


def _most_confused(
    cells: list[tuple[int, int, int]], labels: list[str]
) -> tuple[np.ndarray, list[str]]:
    """Counts among the labels; of many, among those of the most frequent mistakes and the rest."""
    # Mistakes first, the most frequent first; then the labels of most rows.
    by_count = sorted(cells, key=lambda cell: (cell[0] == cell[1], -cell[2]))
    found = list(dict.fromkeys(label for cell in by_count for label in cell[:2]))
    if len(found) > _MOST_CONFUSED_DRAWN + 1:
        found = found[:_MOST_CONFUSED_DRAWN]
    shown = sorted(found)
    names = [labels[label] for label in shown]
    if len(shown) < len(labels):
        names.append("(all others)")
    place_of = {label: place for place, label in enumerate(shown)}
    counts_LxL = np.zeros((len(names), len(names)), np.int64)
    for true, told, count in cells:
        counts_LxL[place_of.get(true, -1), place_of.get(told, -1)] += count
    return counts_LxL, names


@dataclass(frozen=True)
class Mistakes:
    """The images of the most confident mistakes of labelled rows of images, M of them.

    Attributes:
        images: as pixels, M arrays of H x W x C, decoded from their tokens.
        captions: what was read as what.
        confidences, lines: of their rows; the most confident comes first.
        count: how many mistakes there are.
        labelled: in how many labelled rows.
        value_range: what pixel value is black, and what is white.
    """

    images: list[np.ndarray]
    captions: list[str]
    confidences: list[float]
    lines: list[int]
    count: int
    labelled: int
    value_range: tuple[float, float]

    @classmethod
    def of(
        cls,
        predictions: Collection[dict[str, Any]],
        dataset: TokenLabelDataset,
        codebook: Codebook,
    ) -> Mistakes:
        """The mistakes in objects of predictions.jsonl, which are of the rows of `dataset`."""
        labelled = [row for row in predictions if row["label"] is not None]
        wrong = [row for row in labelled if row["prediction"] != row["label"]]
        shown = sorted(wrong, key=lambda row: -row["confidence"])[:_MOST_MISTAKES]
        index_of = {int(line): index for index, line in enumerate(dataset.lines_N)}
        images, captions = [], []
        for row in shown:
            ids = dataset.row(index_of[row["line"]]).tolist()
            tokens = [dataset.vocabulary.tokens[token] for token in ids]
            images.append(codebook.image_from_tokens(tokens)[0])
            captions.append(
                f"{row['label']} read as {row['prediction']}, {100 * row['confidence']:.0f} %"
            )
        return cls(
            images,
            captions,
            [row["confidence"] for row in shown],
            [row["line"] for row in shown],
            len(wrong),
            len(labelled),
            (codebook.low, codebook.high),
        )

    @classmethod
    def joined(cls, parts: Sequence[Mistakes]) -> Mistakes:
        """The mistakes of all parts of the rows, at least one part."""
        each = [
            (-confidence, line, image, caption)
            for part in parts
            for confidence, line, image, caption in zip(
                part.confidences, part.lines, part.images, part.captions, strict=True
            )
        ]
        each.sort(key=lambda mistake: mistake[:2])
        shown = each[:_MOST_MISTAKES]
        return cls(
            [image for _, _, image, _ in shown],
            [caption for _, _, _, caption in shown],
            [-falling for falling, _, _, _ in shown],
            [line for _, line, _, _ in shown],
            sum(part.count for part in parts),
            sum(part.labelled for part in parts),
            parts[0].value_range,
        )


def draw_mistakes(path: Path, mistakes: Mistakes) -> None:
    """Draw the images of the most confident mistakes; at least one."""
    title = f"{plural(mistakes.count, 'mistake')} in {plural(mistakes.labelled, 'row')}"
    if len(mistakes.images) < mistakes.count:
        title = f"The {len(mistakes.images)} most confident of {title}"
    draw_image_sheet(
        path, mistakes.images, mistakes.captions, mistakes.value_range, columns=8, title=title
    )
