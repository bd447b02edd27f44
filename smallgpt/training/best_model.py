"""Which weights are the best so far, and the figures kept with them."""

from __future__ import annotations

from typing import Any

# Of the validation figures, what is stored with the weights.
STORED_FIGURES = (
    "loss",
    "perplexity",
    "body_perplexity",
    "next_token_accuracy",
    "label_loss",
    "label_perplexity",
    "labelled_records",
    "accuracy",
    "accuracy_interval",
    "top2_accuracy",
    "macro_f1",
    "chance_accuracy",
    "above_chance",
    "not_above_chance",
    "too_few_rows",
    "calibration",
)


# Of lists of labels so many names are stored, and how many more there are.
_MOST_NAMES_STORED = 200


def stored_figures(validation: dict[str, Any]) -> dict[str, Any]:
    """What of the figures of an evaluation is kept with the weights.

    Of very many labels `not_above_chance` and `too_few_rows` have the first ones, and
    `names_left_out` counts the others: those not told from chance, those of too few rows.
    """
    stored = {name: validation[name] for name in STORED_FIGURES if name in validation}
    few = stored.get("too_few_rows", [])
    too_few = set(few)
    bad = [name for name in stored.get("not_above_chance", []) if name not in too_few]
    if max(len(bad), len(few)) > _MOST_NAMES_STORED:
        kept, kept_few = bad[:_MOST_NAMES_STORED], few[:_MOST_NAMES_STORED]
        stored |= {
            "not_above_chance": kept + kept_few,
            "too_few_rows": kept_few,
            "names_left_out": {
                "not_told": len(bad) - len(kept),
                "too_few_rows": len(few) - len(kept_few),
            },
        }
    return stored
