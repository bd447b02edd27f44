"""Pictures from figures, drawn with matplotlib and written atomically as PNG.

No function here touches pyplot or the backend, so they work without a display, in threads and
inside somebody else's notebook.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from console import printable, shorten, text_width
from run_folder import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_MOST_PATCHES_DRAWN = 1024
_MAT = 0.9  # behind the images, so that black and white ones both show their border
_GRID_LINE = (0.55, 0.68, 0.85)  # a blue that no grey patch has
_TILE_INCHES = 0.85
_SHEET_INCHES = 11  # wide at most
_CAPTION_LETTERS, _MOST_CAPTION_LETTERS = 22, 36  # in a line; the more only for long words
_DPI = 150
_MOST_LABELS_DRAWN = 40
_MOST_BARS = 200  # of more labels accuracies are a curve
_MOST_CONFUSED_DRAWN = 29  # of many labels; with one line for all others counts fit into the cells
_DARK, _LIGHT = "#30638e", "#9cc3e0"
_MOST_TICKS, _TICK_LETTERS = 90, 44
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


# ------------------------------------------------------------------------------- images


def draw_image_sheet(
    path: str | Path,
    images: np.ndarray | Sequence[np.ndarray],
    captions: Sequence[str],
    value_range: tuple[float, float],
    columns: int,
    title: str,
) -> None:
    """Draw images side by side, each over its caption.

    Args:
        path: PNG to write.
        images: N images of shape HxWxC, C = 1 or 3.
        captions: N texts; long ones are broken into lines and never cut, tiles and the number
            of columns give way.
        value_range: pixel values of black and of white.
        columns: images in one row, if their captions leave room for so many.
        title: text above the sheet.
    """
    captions = [printable(caption) for caption in captions]
    tiles = [_as_rgb(image, value_range) for image in images]
    longest = max((len(word) for caption in captions for word in caption.split()), default=0)
    line = min(max(longest, _CAPTION_LETTERS), _MOST_CAPTION_LETTERS)
    texts = ["\n".join(textwrap.wrap(caption, line)) for caption in captions]
    height, width, _ = tiles[0].shape
    # Tiles are drawn enlarged, so that gaps and captions can be finer than a pixel of theirs.
    scale = max(1, -(-64 // width))
    height, width = height * scale, width * scale
    gap = width // 8
    pixels_per_inch = (width + gap) / _TILE_INCHES
    text_width, text_height = (round(size * pixels_per_inch) for size in _text_inches(texts))
    step_x, step_y = max(width, text_width) + gap, height + text_height + gap
    columns = max(1, min(columns, len(tiles), int(_SHEET_INCHES * pixels_per_inch / step_x)))
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * step_y + gap, columns * step_x + gap, 3), _MAT)
    margin = (step_x - gap - width) // 2  # an image stands in the middle over a wide caption
    places = [
        (index // columns * step_y + gap, index % columns * step_x + gap + margin)
        for index in range(len(tiles))
    ]
    for tile, (y, x) in zip(tiles, places, strict=True):
        canvas[y : y + height, x : x + width] = tile.repeat(scale, 0).repeat(scale, 1)
    figure, axes = _picture_figure(canvas, canvas.shape[1] / pixels_per_inch, title)
    for text, (y, x) in zip(texts, places, strict=True):
        _write(axes, x + width / 2, y + height + gap / 4, text, ha="center", va="top")
    _save(figure, path)


def draw_reconstructions(
    path: str | Path,
    originals: np.ndarray | Sequence[np.ndarray],
    reconstructions: np.ndarray | Sequence[np.ndarray],
    captions: Sequence[str],
    value_range: tuple[float, float],
    columns: int,
    title: str,
) -> None:
    """Draw each image above what its codes make of it, and its caption below the pair.

    Args:
        path: PNG to write.
        originals, reconstructions: N images each, of shape HxWxC, C = 1 or 3.
        captions: N texts.
        value_range: pixel values of black and of white.
        columns: pairs in one row.
        title: text above the sheet.
    """
    pairs = []
    for original, reconstruction in zip(originals, reconstructions, strict=True):
        upper, lower = _as_rgb(original, value_range), _as_rgb(reconstruction, value_range)
        seam = np.full((-(-len(upper) // 16), upper.shape[1], 3), _MAT)
        pairs.append(np.concatenate([upper, seam, lower]))
    draw_image_sheet(path, pairs, captions, (0, 1), columns, title)


def draw_codebook(
    path: str | Path, patches: np.ndarray, value_range: tuple[float, float], title: str
) -> None:
    """Draw the patches of a codebook in the order of their codes, 32 in a row.

    Of a large codebook only evenly spaced codes are drawn, and the title says so. The number
    at the left is the code of the row's first patch.

    Args:
        path: PNG to write.
        patches: K patches of shape pxpxC, C = 1 or 3.
        value_range: pixel values of black and of white.
        title: text above the picture.
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
        y = row * step + gap + side / 2
        _write(axes, -step / 5, y, str(row * columns * every), ha="right", va="center")
    _save(figure, path)


def _as_rgb(image_HxWxC: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """An image as float RGB from 0 to 1."""
    low, high = value_range
    scaled = np.clip((image_HxWxC.astype(np.float64) - low) / (high - low), 0, 1)
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3))


def _text_inches(texts: Sequence[str]) -> tuple[float, float]:
    """Width and height in which each of the captions fits."""
    from matplotlib.figure import Figure

    figure = Figure(dpi=_DPI)
    axes = figure.add_subplot()
    with _glyphs_may_lack():
        boxes = [
            _write(axes, 0, 0, text, ha="left", va="top").get_window_extent() for text in set(texts)
        ]
    return max(box.width for box in boxes) / _DPI, max(box.height for box in boxes) / _DPI


def _picture_figure(canvas: np.ndarray, width: float, title: str) -> tuple[Figure, Axes]:
    """A figure that shows `canvas` `width` inches wide, with room for texts around it."""
    from matplotlib.figure import Figure

    height = width * canvas.shape[0] / canvas.shape[1]
    side, above, below = 0.45, 0.5, 0.15
    full_width, full_height = max(width + 2 * side, 6.5), height + above + below
    figure = Figure(figsize=(full_width, full_height), dpi=_DPI)
    left = (full_width - width) / 2
    axes = figure.add_axes(
        (left / full_width, below / full_height, width / full_width, height / full_height)
    )
    extent = (0, canvas.shape[1], canvas.shape[0], 0)
    axes.imshow(canvas, interpolation="nearest", aspect="auto", extent=extent)
    axes.set_axis_off()
    top = 1 - 0.22 / full_height
    figure.text(
        0.5, top, title, ha="center", va="center", size=10, family=_fonts(), parse_math=False
    )
    return figure, axes


# ------------------------------------------------------------------------------- charts


def draw_training_curves(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Draw loss.png, perplexity.png and accuracy.png from the rows of metrics.jsonl.

    A model that only names labels has no perplexity.
    """
    training = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    if not validation:
        return
    loss = [("training", training, "loss")]
    accuracy = []
    of_tokens = "loss" in validation[0]  # else of a model that only names labels
    if of_tokens:
        loss.append(("validation", validation, "loss"))
        accuracy.append(("next token", validation, "next_token_accuracy"))
    if "label_loss" in validation[0]:
        loss.append(("validation, label only", validation, "label_loss"))
        accuracy.append(("label", validation, "label_accuracy"))
    unit = "nats per token" if of_tokens else "nats per label"
    _draw_curves(folder / "loss.png", "Loss", unit, loss)
    if of_tokens:
        _draw_curves(
            folder / "perplexity.png",
            "Validation perplexity",
            "perplexity",
            [("validation", validation, "perplexity")],
        )
    _draw_curves(folder / "accuracy.png", "Validation accuracy", "share right", accuracy)


def _draw_curves(
    path: Path, title: str, unit: str, curves: list[tuple[str, list[dict[str, Any]], str]]
) -> None:
    figure, axes = _chart(7, 4.5)
    for name, rows, key in curves:
        if not rows:  # a run of fewer steps than log_steps has no training rows
            continue
        steps = [row["step"] for row in rows]
        marker = "o" if len(rows) <= 40 and rows[0]["kind"] == "validation" else None
        axes.plot(steps, [row.get(key) for row in rows], label=name, marker=marker, markersize=3.5)
    axes.set(title=title, xlabel="step", ylabel=unit)
    if all(key.endswith("accuracy") for _, _, key in curves):
        axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(frameon=False)
    _save(figure, path)


def draw_class_accuracy(
    path: str | Path, per_class: dict[str, dict[str, Any]], accuracy: float
) -> None:
    """Draw the share of each label's rows that were told right; of very many labels the curve.

    Args:
        path: PNG to write.
        per_class: label -> its figures, of which recall is drawn where it has rows.
        accuracy: of all rows, drawn as a line.
    """
    recalls = {label: row["recall"] for label, row in per_class.items() if row["support"]}
    if len(recalls) > _MOST_BARS:
        figure, axes = _chart(8, 4.5)
        axes.fill_between(range(len(recalls)), sorted(recalls.values()), step="mid", color=_LIGHT)
        axes.set_xlim(-0.5, len(recalls) - 0.5)
        _name_accuracy_axes(axes, accuracy, f"{len(recalls):,} labels, from the worst to the best")
        _save(figure, path)
        return
    width = min(max(5, (0.45 if len(recalls) <= 20 else 0.25) * len(recalls) + 2), 24)
    figure, axes = _chart(width, 3.7 + _name_room(recalls))
    axes.bar(range(len(recalls)), list(recalls.values()))
    _name_ticks(axes.set_xticks, list(recalls), upright=True)
    _name_accuracy_axes(axes, accuracy, "true label")
    _save(figure, path)


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
    """Draw how often answers are right against how sure the model was, over the rows in each bin.

    Args:
        path: PNG to write.
        curves: name and filled bins (`metrics.reliability`) of each kind of confidence; the
            first one's are drawn with their intervals.
        title: text above the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 6.5), dpi=_DPI, layout="constrained")
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
        handle.set_sizes([30])
    upper.grid(alpha=0.3)
    lower.grid(axis="y", alpha=0.3)
    _save(figure, path)


def draw_confusion_matrix(path: Path, confusions: Any, labels: list[str]) -> None:
    """Draw counts of true label (row) against predicted label (column).

    Of very many labels those of the most frequent mistakes are drawn, the others as one.

    Args:
        path: PNG to write.
        confusions: `confusion_matrix` of metrics.json.
        labels: their names.
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
    figure, axes = _chart(size + room, size + room)
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
    _save(figure, path)


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


def _name_room(labels: Iterable[str]) -> float:
    """Inches that the names of an axis' ticks take when they stand across it."""
    return 0.08 * max(text_width(_tick_name(label)) for label in labels)


def _tick_name(label: str) -> str:
    """A label that fits beside an axis."""
    return shorten(printable(label), _TICK_LETTERS, "…")


def _name_ticks(set_ticks: Callable[..., Any], labels: list[str], upright: bool) -> None:
    """Name the ticks of an axis by labels; of very many, evenly spaced ones."""
    every = -(-len(labels) // _MOST_TICKS)
    shown = [_tick_name(label) for label in labels[::every]]
    long = max(len(label) for label in shown) > 3 or len(shown) > 30
    set_ticks(
        range(0, len(labels), every),
        shown,
        rotation=90 if upright and long else 0,
        size=8 if len(labels) > 30 else None,
        family=_fonts(),
        parse_math=False,
    )


def _chart(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    return figure, figure.add_subplot()


# ------------------------------------------------------------------------------- the data


def draw_data_report(path: str | Path, report: dict[str, Any]) -> None:
    """Draw a data report: rows per label, row lengths, use of the vocabulary, baselines.

    Args:
        path: PNG to write.
        report: as `data_report.report_data` makes it; panels without figures are left out.
    """
    from matplotlib.figure import Figure

    labels = {name: count for name, count in report["labels"].items() if count}
    accuracies = {
        name.removesuffix("_accuracy").replace("_", " "): value
        for name, value in report["baselines"].items()
        if name.endswith("_accuracy")
    }
    panels = [_draw_label_counts] if labels else []
    panels += [_draw_lengths, _draw_token_ranks] if report["rows"] else []
    panels += [_draw_accuracies] if accuracies else []
    columns = min(2, max(1, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(5.6 * columns, 3.6 * lines + 0.5), dpi=_DPI, layout="constrained")
    title = f"{report['rows']:,} rows"
    if report["errors"]["count"]:
        title += f", {report['errors']['count']:,} more that cannot be read"
    if report["leaks"]:
        title += f"; leaks found: {', '.join(dict.fromkeys(x['kind'] for x in report['leaks']))}"
    figure.suptitle(title, size=12)
    for place, draw in enumerate(panels, 1):
        axes = figure.add_subplot(lines, columns, place)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, report, accuracies if draw is _draw_accuracies else labels)
    _save(figure, path)


def _draw_label_counts(axes: Axes, report: dict[str, Any], counts: dict[str, int]) -> None:
    """Rows of each label, the training rows darker; of many labels the largest and smallest."""
    names, title = list(counts), f"Rows per label ({len(counts):,})"
    places = list(range(len(names)))
    if len(names) > _MOST_LABELS_DRAWN:
        names = sorted(names, key=counts.get, reverse=True)
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
    axes.bar(places, train, color=_DARK, label="training")
    axes.bar(places, validation, bottom=train, color=_LIGHT, label="validation")
    # The middle of a long name goes: many differ at their end only.
    shown = [shorten(printable(name), 18, "…") for name in names]
    shown = [name.replace("$", r"\$") for name in shown]
    size, turn = 9 if len(names) <= 20 else 6, 90 if max(map(len, shown), default=0) > 4 else 0
    axes.set_xticks(places, shown, rotation=turn, fontsize=size, family=_fonts())
    axes.set(title=title, ylabel="rows")
    axes.margins(x=0.01, y=0.15)
    axes.legend(frameon=False, ncols=2, loc="upper right", fontsize=8)


def _draw_lengths(axes: Axes, report: dict[str, Any], _: dict[str, Any]) -> None:
    """Histogram of row lengths, the median marked."""
    lengths = report["lengths"]
    edges, counts = lengths["histogram"]["edges"], lengths["histogram"]["counts"]
    width = edges[1] - edges[0]
    axes.bar(edges[:-1], counts, width=width * 0.92, align="edge" if width > 1 else "center",
             color=_DARK)  # fmt: skip
    if len(counts) == 1:
        axes.set_xlim(edges[0] - 5, edges[0] + 5)
        axes.set_xticks([edges[0]])
        axes.set(title=f"Row lengths: all {edges[0]} tokens")
    else:
        axes.axvline(lengths["median"], color="black", linewidth=0.9, linestyle="--")
        axes.set(title=f"Row lengths (dashed: median {lengths['median']:g})")
    axes.set(xlabel="tokens in a row", ylabel="rows")


def _draw_token_ranks(axes: Axes, report: dict[str, Any], _: dict[str, Any]) -> None:
    """How often each token stands, from the most frequent to the rarest."""
    words = report["vocabulary"]
    axes.loglog(words["ranks"], words["counts_of_ranks"], color=_DARK, marker="o", markersize=2.5)
    used = words["size"] - words["never_used"]
    axes.set(
        title=f"Vocabulary: {used:,} of {words['size']:,} tokens used, {words['used_once']:,} once",
        xlabel="rank of the token",
        ylabel="times it stands in the rows",
    )
    axes.grid(alpha=0.3)


def _draw_accuracies(axes: Axes, report: dict[str, Any], values: dict[str, float]) -> None:
    """What simpler models reach on the validation rows."""
    places = range(len(values))
    axes.barh(places, list(values.values()), color=_DARK)
    for place, value in zip(places, values.values(), strict=True):
        axes.text(min(value, 1) + 0.01, place, f"{value:.3f}", va="center", fontsize=9)
    axes.set_yticks(places, list(values))
    axes.invert_yaxis()
    axes.set(title="Baselines on the validation rows", xlabel="accuracy", xlim=(0, 1.12))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="x", alpha=0.3)


# ------------------------------------------------------------------------------- shared


def _write(axes: Axes, x: float, y: float, text: str, ha: str, va: str) -> Text:
    """Write a small text at a place of the axes' data; `$` in it means nothing special."""
    return axes.text(x, y, text, ha=ha, va=va, size=8, family=_fonts(), parse_math=False)


@cache
def _fonts() -> list[str]:
    """matplotlib's font, then an installed one for the characters that it lacks."""
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    return ["DejaVu Sans", *[name for name in _FURTHER_FONTS if name in installed]]


@contextmanager
def _glyphs_may_lack() -> Iterator[None]:
    """No warning for characters that no installed font has: they are drawn as a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _save(figure: Figure, path: str | Path) -> None:
    with _glyphs_may_lack(), atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=_DPI)
