"""Training curves: loss, perplexity and accuracy by step; the learning curve by rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from smallgpt.charts import BLUE, GREEN, VERMILION, new_chart, save_chart, whole_numbers
from smallgpt.evaluation.row_results import label_loss_name

# Told apart without colours as well.
_STYLES = ((BLUE, "-", "o"), (VERMILION, "--", "s"), (GREEN, "-.", "^"))


def draw_training_curves(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Draw loss.png, accuracy.png and, with figures of tokens, perplexity.png."""
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
    if "label_loss" in validation[-1]:
        # Runs that an older version began lack it in their first rows.
        loss.append(("validation, label only", validation, label_loss_name(validation[-1])))
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
    figure, axes = new_chart(7, 4.5)
    for (name, rows, key), (color, line, mark) in zip(curves, _STYLES, strict=False):
        if not rows:  # a run of fewer steps than log_steps has no training rows
            continue
        steps = [row["step"] for row in rows]
        values = [row.get(key, math.nan) for row in rows]  # NaN leaves a gap
        marker = mark if rows[0]["kind"] == "validation" else None
        axes.plot(
            steps, values, color=color, linestyle=line, marker=marker, markersize=4,
            markevery=-(-len(rows) // 40), label=name,
        )  # fmt: skip
    axes.set(title=title, xlabel="step", ylabel=unit)
    whole_numbers(axes.xaxis)
    if all(key.endswith("accuracy") for _, _, key in curves):
        axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(frameon=False)
    save_chart(figure, path)


def draw_learning_curve(path: Path, found: dict[str, Any]) -> None:
    """Draw the points of learning_curve.json with their intervals, and the curve continued."""
    name, points, later = found["figure"], found["points"], found["continued"]
    figure, axes = new_chart(7, 4.5)
    rows = [point["rows"] for point in points]
    values = [point[name] for point in points]
    for point in points:
        if point["interval"] is not None:
            axes.plot([point["rows"]] * 2, point["interval"], color=BLUE, linewidth=2, alpha=0.6)
    axes.plot(rows, values, color=BLUE, marker="o", label="trained")
    ahead = [points[-1], *later]
    rows_ahead = [point["rows"] for point in ahead]
    ends = [[point["interval"][side] for point in later] for side in (0, 1)]
    now = points[-1]["interval"] or [values[-1]] * 2
    axes.plot(
        rows_ahead, [point[name] for point in ahead], color=VERMILION, linestyle="--", marker="s",
        markerfacecolor="white", label="continued, with 95 % interval", markevery=slice(1, None),
    )  # fmt: skip
    axes.fill_between(
        rows_ahead, [now[0], *ends[0]], [now[1], *ends[1]], color=VERMILION, alpha=0.15, linewidth=0
    )
    axes.set_xscale("log", base=2)
    ticks = rows + rows_ahead[1:]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    on = f"{found['validation_rows']:,} validation rows"
    axes.set(title=f"Learning curve: {name} on {on}", xlabel="training rows")
    axes.set_ylabel("share right" if name == "accuracy" else name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="best")
    save_chart(figure, path)
