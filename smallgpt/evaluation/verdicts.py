"""Verdicts of the reports: labels against guessing, a model against baselines, its confidence."""

from __future__ import annotations

from typing import Any

from smallgpt.console import plural
from smallgpt.evaluation.calibration import FEWEST_TO_FIT
from smallgpt.evaluation.statistics import difference_interval, exact_interval

# Of fewer rows a calibration error is mostly luck: of 100 rows a perfectly calibrated model of
# accuracy 0.9 shows 0.057, of 27 rows 0.103 (docs/measurements.md).
FEWEST_TO_TELL_CALIBRATION = 100
# The slower baselines are measured on a sample of so many rows (checks/baselines.py).
_MOST_BASELINE_ROWS = 2_000


# ------------------------------------------------------------------------------- against guessing


def chance_lines(figures: dict[str, Any]) -> list[str]:
    """The warning that labels are not above chance, [] where they are."""
    if figures["above_chance"]:
        return []
    if figures["above_chance"] is None:
        lowest = figures.get("chance_lowest_p_value", 1)
        if lowest == 1:
            return ["all labelled rows have one label: whether it is told from others is unknown"]
        rows = figures["labelled_records"]
        right = round(figures["accuracy"] * rows)
        return [
            f"too few labelled rows to tell the labels from guesses: {right:,} of {rows:,} right, "
            f"and even with all right guessing would do as well 1 time in {1 / lowest:.0f}"
        ]
    verdict = "NOT CLEARLY BETTER THAN GUESSES"
    if accuracy_interval(figures)[1] < figures["chance_accuracy"]:
        verdict = "WORSE THAN GUESSES"
    lines = [
        f"!!! THE LABELS ARE {verdict}: accuracy {with_interval(figures)}, "
        f"guessing gets {percent(figures['chance_accuracy'])}"
    ]
    if "perplexity" in figures:
        lines.append(
            f"!!! perplexity {figures['perplexity']:.2f} says nothing of the labels, which are "
            f"one token of each row"
        )
    return ["\n".join(lines)]


def accuracy_interval(figures: dict[str, Any]) -> list[float]:
    """Exact interval of the accuracy; the stored one for old models without `labelled_records`."""
    rows = figures.get("labelled_records")
    if not rows:
        return figures["accuracy_interval"]
    return exact_interval(round(figures["accuracy"] * rows), rows)


def with_interval(figures: dict[str, Any]) -> str:
    """The accuracy and its interval."""
    return f"{percent(figures['accuracy'])} ({span(*accuracy_interval(figures))})"


# ------------------------------------------------------------------------------- against baselines


def best_baseline(validation: dict[str, Any], kind: str) -> tuple[str, float] | None:
    """Name and value of the best baseline of a kind, accuracy or perplexity."""
    known = {
        name.removesuffix(f"_{kind}").replace("_", " "): value
        for name, value in validation["baselines"].items()
        if name.endswith(f"_{kind}")
    }
    if not known:
        return None
    name = (
        max(known, key=known.__getitem__)
        if kind == "accuracy"
        else min(known, key=known.__getitem__)
    )
    return name, known[name]


def against_baseline(validation: dict[str, Any], kind: str) -> str:
    """better, unclear or worse: the model beside the best baseline; "" without one.

    Decided by 95 % intervals. The baselines predict the same rows, but which of them is not kept:
    the interval of two independent shares errs towards unclear. That of a perplexity is the
    model's own; a row is hard or easy for both, so their difference varies less.
    """
    best = best_baseline(validation, kind)
    if best is None or kind not in validation:
        return ""
    if kind == "accuracy":
        rows = validation.get("labelled_records", validation["rows"])
        others = min(rows, _MOST_BASELINE_ROWS)
        right = validation["accuracy"] * rows
        low, high = difference_interval(right, rows, best[1] * others, others)
    else:
        ends = validation.get("perplexity_interval") or [validation["perplexity"]] * 2
        low, high = best[1] - ends[1], best[1] - ends[0]
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def baseline_ahead(validation: dict[str, Any]) -> str:
    """That a baseline has the better figure, however little; "" where none has.

    Of the labels where there are any, else of the tokens.
    """
    kind = "accuracy" if "accuracy" in validation else "perplexity"
    best = best_baseline(validation, kind)
    if best is None or kind not in validation:
        return ""
    (name, value), own = best, validation[kind]
    if (value > own) != (kind == "accuracy") or value == own:
        return ""
    told = [_told(kind, x) for x in (value, own)]
    clearly = "" if against_baseline(validation, kind) == "worse" else ", which may be luck"
    return f"the baseline {name} is ahead, {kind} {told[0]} against {told[1]}{clearly}"


def _told(kind: str, value: float) -> str:
    """An accuracy or a perplexity as it is printed."""
    return percent(value) if kind == "accuracy" else f"{value:.2f}"


def baseline_lines(validation: dict[str, Any]) -> list[str]:
    """A line for each kind of metric in which the model is not clearly ahead of the baselines.

    Where it is, of the metric that matters more: of the labels where there are any.
    """
    lines = []
    for kind, what in (("accuracy", "labels"), ("perplexity", "perplexity")):
        verdict = against_baseline(validation, kind)
        name, value = best_baseline(validation, kind) or ("", 0)
        if verdict == "worse":
            lines.append(f"{what}: WORSE than the baseline {name}, which needs no GPT")
        elif verdict == "unclear":
            own, other = (_told(kind, x) for x in (validation[kind], value))
            both = f"both {own}" if own == other else f"{own} against {other}, which may be luck"
            lines.append(
                f"{what}: not clearly better than the baseline {name}, which needs no GPT: {both}"
            )
        elif verdict and (kind == "accuracy" or "accuracy" not in validation):
            lines.append(f"{what}: clearly better than the best baseline, {name}")
    return lines


# ------------------------------------------------------------------------------- what chose


def how_chosen(validation: dict[str, Any]) -> str:
    """Whether the rows that these figures come from have chosen the model; "" without a choice."""
    among = validation.get("chosen_among")
    if among is None:
        return "the same rows chose this model among its evaluations: expect less on new rows"
    if among == 1:
        return ""
    return (
        f"the best of {among:,} evaluations; so that luck does not count, each row is judged by "
        f"the evaluation that the other rows would have chosen: somewhat lower figures mostly"
    )


# ------------------------------------------------------------------------------- confidence


def describe_confidence(validation: dict[str, Any]) -> str:
    """How well the confidence of a model is calibrated, in one line."""
    reason = why_not_calibrated(validation)
    if reason:
        return f"confidence is not calibrated: {reason}"
    found = validation["calibration"]
    rows = plural(found["rows"], "validation row")
    if found["rows"] < validation.get("labelled_records", 0):
        rows = f"{found['rows']:,} of {plural(validation['labelled_records'], 'validation row')}"
    if found["rows"] < FEWEST_TO_TELL_CALIBRATION:
        return (
            f"confidence: temperature {found['temperature']:.2f}, fitted on {rows}; "
            f"{too_few_to_tell_calibration(found['rows'])}"
        )
    # Whether answers are too sure is known no better than how many of them are right.
    low, high = validation["accuracy_interval"]
    is_unclear = abs(found["raw_ece"] - found["ece"]) < (high - low) / 2
    return (
        f"confidence: calibration error {found['raw_ece']:.3f} before and {found['ece']:.3f} after "
        f"temperature {found['temperature']:.2f}{', no clear difference' if is_unclear else ''}, "
        f"measured on held-out parts of {rows}"
    )


def too_few_to_tell_calibration(rows: int) -> str:
    """That a calibration error of so many rows would be luck, "" where it would not."""
    if rows >= FEWEST_TO_TELL_CALIBRATION:
        return ""
    return f"too few rows to tell its error ({FEWEST_TO_TELL_CALIBRATION} are needed)"


def why_not_calibrated(validation: dict[str, Any]) -> str:
    """The reason, "" where the confidence is calibrated."""
    if not validation:
        return "the model folder holds no validation figures"
    if "calibration" not in validation:
        return "no validation row had a label"
    if validation["calibration"]["temperature"] == 1:
        rows = plural(validation["calibration"]["rows"], "labelled validation row")
        return f"only {rows}, fewer than {FEWEST_TO_FIT}"
    return ""


# ------------------------------------------------------------------------------- numbers


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f} %"


def span(low: float, high: float) -> str:
    """Two shares as the ends of an interval."""
    return f"{100 * low:.1f} .. {100 * high:.1f} %"
