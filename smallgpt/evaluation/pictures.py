"""Pictures of an evaluation: confusion matrix, accuracy by label, reliability diagram, mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from smallgpt.charts import LIGHT, new_chart, new_figure, plain_text, save_chart
from smallgpt.console import plural, printable, shorten, text_width
from smallgpt.evaluation.folder import CLASSES_PNG, CONFUSION_PNG, MISTAKES_PNG, RELIABILITY_PNG
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.pictures import draw_image_sheet

_MOST_BARS = 200  # with more labels accuracies are a curve
_MOST_CONFUSED_DRAWN = 29  # of many labels; with one row for all others counts fit into the cells
_MOST_TICKS, _TICK_LETTERS = 90, 44
_MOST_MISTAKES = 32


def draw_evaluation(
    folder: Path,
    figures: dict[str, Any],
    predictions: list[dict[str, Any]],
    dataset: TokenLabelDataset,
    codebook_path: Path | None,
) -> None:
    """Draw the pictures of labelled rows into `folder`; mistakes only with an image codebook."""
    if "accuracy" not in figures:
        return
    draw_confusion_matrix(folder / CONFUSION_PNG, figures["confusion_matrix"], figures["labels"])
    draw_class_accuracy(folder / CLASSES_PNG, figures["per_class"], figures["accuracy"])
    curves = [(f"raw, error {figures['raw_ece']:.3f}", figures["raw_reliability"])]
    if figures["temperature"] != 1:
        calibrated = f"calibrated, error {figures['ece']:.3f}"
        curves.insert(0, (calibrated, figures["reliability"]))
    draw_reliability(folder / RELIABILITY_PNG, curves, "Confidence and how often it was right")
    if codebook_path is not None and figures["accuracy"] < 1:
        draw_mistakes(folder / MISTAKES_PNG, predictions, dataset, codebook_path)


def draw_class_accuracy(
    path: str | Path, per_class: dict[str, dict[str, Any]], accuracy: float
) -> None:
    """Accuracy (recall) of each label as bars; above 200 labels a sorted curve."""
    recalls = {label: row["recall"] for label, row in per_class.items() if row["support"]}
    if len(recalls) > _MOST_BARS:
        figure, axes = new_chart(8, 4.5)
        axes.fill_between(range(len(recalls)), sorted(recalls.values()), step="mid", color=LIGHT)
        axes.set_xlim(-0.5, len(recalls) - 0.5)
        _name_accuracy_axes(axes, accuracy, f"{len(recalls):,} labels, from the worst to the best")
        save_chart(figure, path)
        return
    width = min(max(5, (0.45 if len(recalls) <= 20 else 0.25) * len(recalls) + 2), 24)
    figure, axes = new_chart(width, 3.7 + _name_room(recalls))
    axes.bar(range(len(recalls)), list(recalls.values()))
    _name_ticks(axes.set_xticks, list(recalls), upright=True)
    _name_accuracy_axes(axes, accuracy, "true label")
    save_chart(figure, path)


def _name_accuracy_axes(axes: Axes, accuracy: float, across: str) -> None:
    axes.axhline(accuracy, color="black", linewidth=0.8, linestyle="--")
    axes.set(
        title=f"Accuracy per class (dashed: all rows, {accuracy:.3f})",
        xlabel=across,
        ylabel="share right",
        ylim=(0, 1.02),
    )
    axes.grid(axis="y", alpha=0.3)


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
    upper.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    for place, (name, bins) in enumerate(curves):
        color, marker = f"C{place}", "os"[place % 2]
        confidence = [row["confidence"] for row in bins]
        accuracy = [row["accuracy"] for row in bins]
        counts = np.array([row["count"] for row in bins])
        # Bins of one row jump from 0 to 1: small marks and no lines between them.
        sizes = 12 + 150 * counts / counts.sum()
        above = len(curves) - place  # the first curve is the one to see
        upper.scatter(
            confidence, accuracy, sizes, color=color, marker=marker, label=name, zorder=2 + above
        )
        if place == 0:
            low, high = zip(*(row["accuracy_interval"] for row in bins), strict=True)
            upper.vlines(confidence, low, high, color=color, alpha=0.4)
        width = (bins[0]["to"] - bins[0]["from"]) / len(curves)
        lower.bar(
            [row["from"] + width * place for row in bins],
            counts,
            width=0.9 * width,
            align="edge",
            color=color,
        )
    upper.set(title=title, ylabel="share right (line: 95 % interval)", ylim=(-0.03, 1.03))
    lower.set(xlabel="confidence", ylabel="rows", xlim=(0, 1.02), yscale="log")
    lower.set_ylim(bottom=0.7)
    legend = figure.legend(loc="outside lower center", ncols=len(curves), frameon=False)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):  # what `scatter` draws
            handle.set_sizes([30])
    upper.grid(alpha=0.3)
    lower.grid(axis="y", alpha=0.3)
    save_chart(figure, path)


def draw_confusion_matrix(path: Path, confusions: Any, labels: list[str]) -> None:
    """Confusion matrix, true label (row) against predicted label (column).

    `confusions` is `confusion_matrix` of metrics.json. Of very many labels those of the most
    frequent mistakes are drawn, the others as one.
    """
    title = "Confusion matrix"
    if isinstance(confusions, dict):
        title += f": labels of the most frequent mistakes, of {len(labels):,}"
        counts_LxL, labels = _most_confused(confusions["entries"], labels)
    else:
        counts_LxL = np.array(confusions)
    share_LxL = counts_LxL / np.maximum(counts_LxL.sum(axis=1, keepdims=True), 1)
    size = min(max(4, (0.5 if len(labels) <= 30 else 0.25) * len(labels) + 1.5), 24)
    room = _name_room(labels)
    figure, axes = new_chart(size + room, size + room)
    axes.imshow(share_LxL, cmap="Blues", vmin=0, vmax=1)
    _name_ticks(axes.set_xticks, labels, upright=True)
    _name_ticks(axes.set_yticks, labels, upright=False)
    axes.set(title=title, xlabel="predicted label", ylabel="true label")
    if len(labels) <= 30:
        for (row, column), count in np.ndenumerate(counts_LxL):
            if count:
                color = "white" if share_LxL[row, column] > 0.5 else "black"
                axes.text(
                    column, row, f"{count}", ha="center", va="center", color=color, fontsize=8
                )
    save_chart(figure, path)


def _most_confused(cells: list[list[int]], labels: list[str]) -> tuple[np.ndarray, list[str]]:
    """Counts among the labels of the most frequent mistakes, all others as the last one."""
    # Mistakes first, the most frequent first; then the labels of most rows.
    by_count = sorted(cells, key=lambda cell: (cell[0] == cell[1], -cell[2]))
    found = list(dict.fromkeys(label for cell in by_count for label in cell[:2]))
    shown = sorted(found[:_MOST_CONFUSED_DRAWN])
    place_of = {label: place for place, label in enumerate(shown)}
    counts_LxL = np.zeros((len(shown) + 1, len(shown) + 1), np.int64)
    for true, told, count in cells:
        counts_LxL[place_of.get(true, -1), place_of.get(told, -1)] += count
    return counts_LxL, [*(labels[label] for label in shown), "(all others)"]


def draw_mistakes(
    path: Path,
    predictions: list[dict[str, Any]],
    dataset: TokenLabelDataset,
    codebook_path: Path,
) -> None:
    """Draw the images of the most confident mistakes, decoded from their tokens; at least one."""
    codebook = Codebook.load(codebook_path)
    labelled = [row for row in predictions if row["label"] is not None]
    mistakes = [row for row in labelled if row["prediction"] != row["label"]]
    shown = sorted(mistakes, key=lambda row: -row["confidence"])[:_MOST_MISTAKES]
    index_of = {int(line): index for index, line in enumerate(dataset.lines_N)}
    images, captions = [], []
    for row in shown:
        ids = dataset.row(index_of[row["line"]]).tolist()
        tokens = [dataset.vocabulary.tokens[token] for token in ids]
        images.append(codebook.image_from_tokens(tokens)[0])
        captions.append(
            f"{row['label']} read as {row['prediction']}, {100 * row['confidence']:.0f} %"
        )
    title = f"{plural(len(mistakes), 'mistake')} in {plural(len(labelled), 'row')}"
    if len(shown) < len(mistakes):
        title = f"The {len(shown)} most confident of {title}"
    value_range = (codebook.low, codebook.high)
    draw_image_sheet(path, images, captions, value_range, columns=8, title=title)


def _name_room(labels: Iterable[str]) -> float:
    """Inches that tick labels take across their axis."""
    return 0.08 * max(text_width(_tick_name(label)) for label in labels)


def _tick_name(label: str) -> str:
    """A label, shortened to fit beside an axis."""
    return shorten(printable(label), _TICK_LETTERS, "…")


def _name_ticks(set_ticks: Callable[..., Any], labels: list[str], upright: bool) -> None:
    """Label the ticks of an axis; of very many labels, evenly spaced ones."""
    every = -(-len(labels) // _MOST_TICKS)
    shown = [_tick_name(label) for label in labels[::every]]
    long = max(len(label) for label in shown) > 3 or len(shown) > 30
    set_ticks(
        range(0, len(labels), every),
        shown,
        rotation=90 if upright and long else 0,
        size=8 if len(labels) > 30 else None,
        **plain_text(),
    )
