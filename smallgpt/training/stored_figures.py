"""The validation metrics that are stored with a model."""

from __future__ import annotations

from typing import Any

_NAMES = (
    "loss",
    "perplexity",
    "perplexity_interval",
    "body_perplexity",
    "next_token_accuracy",
    "label_loss",
    "calibrated_label_loss",
    "label_perplexity",
    "labelled_records",
    "accuracy",
    "accuracy_interval",
    "top2_accuracy",
    "macro_f1",
    "chance_accuracy",
    "chance_lowest_p_value",
    "above_chance",
    "not_above_chance",
    "too_few_rows",
    "calibration",
    "chosen_among",
    "best_value",
)
_MOST_LABELS = 200  # of a list of labels; beyond, their number


def stored_figures(validation: dict[str, Any]) -> dict[str, Any]:
    """The metrics to store, by name.

    With very many labels `not_above_chance` and `too_few_rows` are cut to the first ones, and
    `names_left_out` counts the others: those not told from chance, those of too few rows.
    """
    stored = {name: validation[name] for name in _NAMES if name in validation}
    few = stored.get("too_few_rows", [])
    too_few = set(few)
    bad = [name for name in stored.get("not_above_chance", []) if name not in too_few]
    if max(len(bad), len(few)) > _MOST_LABELS:
        kept, kept_few = bad[:_MOST_LABELS], few[:_MOST_LABELS]
        stored |= {
            "not_above_chance": kept + kept_few,
            "too_few_rows": kept_few,
            "names_left_out": {
                "not_told": len(bad) - len(kept),
                "too_few_rows": len(few) - len(kept_few),
            },
        }
    return stored


def with_figures(stored: dict[str, Any], validation: dict[str, Any]) -> dict[str, Any]:
    """What is stored with a model, its metrics replaced by others of the same model."""
    replaced = {*_NAMES, "names_left_out"} - {"best_value"}
    return {name: stored[name] for name in stored if name not in replaced} | (
        stored_figures(validation)
    )
