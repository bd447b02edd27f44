"""Training curves: loss, perplexity and accuracy by step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from smallgpt.charts import BLUE, GREEN, VERMILION, new_chart, save_chart, whole_numbers

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
