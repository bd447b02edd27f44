"""Text report of an evaluation, and of the validation in training.

Labels come first, with chance beside them: a low perplexity has made people trust models whose
labels were no better than guesses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smallgpt.console import format_table, plural, printable, share_bar, shorten
from smallgpt.evaluation.answers import describe_answers
from smallgpt.evaluation.metrics import confusion_cells
from smallgpt.evaluation.statistics import exact_interval
from smallgpt.evaluation.verdicts import (
    accuracy_interval,
    baseline_lines,
    best_baseline,
    chance_lines,
    describe_confidence,
    how_chosen,
    percent,
    span,
    too_few_to_tell_calibration,
    why_not_calibrated,
    with_interval,
)
from smallgpt.rows.read_counts import unknown_line

MOST_LABELS_SHOWN, WORST_LABELS_SHOWN = 30, 15
MOST_NAMES, MOST_CONFUSIONS = 10, 5
_BAR_WIDTH = 20
_KIND = "exact, Clopper-Pearson"  # of all intervals of an accuracy in a report; told once
_OTHER_SCRIPT = 1.1  # bytes a character from which bits a character are told too
_LONGEST_NAME = 44  # columns of a terminal


def describe_figures(figures: dict[str, Any], blocks: bool) -> str:
    """The report of metrics.json; `blocks`: the terminal shows block characters."""
    rows = f"{printable(figures['data'])}: {_count_rows(figures)}"
    parts = ["\n".join([rows, _computed_by(figures), *_reading_lines(figures)])]
    if "accuracy" in figures:
        parts += [*chance_lines(figures), _label_summary(figures), _label_table(figures, blocks)]
        parts += [*_confusions(figures), *_not_told(figures, " (metrics.json)")]
        parts.append(_coverage_table(figures))
    elif "answers" not in figures and figures.get("model_labels", 1):
        parts.append(
            "label figures need rows with labels; this file has none (--label_column names their "
            "column, --mode classify names labels)"
        )
    if "answers" in figures:
        parts.append(describe_answers(figures))
    if "perplexity" in figures:
        parts.append(_token_table(figures))
    if figures["validation"]:
        parts.append(_validation_table(figures["validation"]))
    return "\n\n".join(part for part in parts if part)


def describe_validation(validation: dict[str, Any]) -> str:
    """Summary of the validation metrics stored with a model, for the end of a run."""
    rows = plural(validation["rows"], "validation row")
    if "accuracy" in validation:
        kind, lines = "accuracy", chance_lines(validation)
        told = (
            f"label accuracy {with_interval(validation)}, chance "
            f"{percent(validation['chance_accuracy'])}"
        )
    else:
        kind, lines = "perplexity", []
        told = f"perplexity {validation['perplexity']:.2f}"
    best = best_baseline(validation, kind)
    if best:
        value = percent(best[1]) if kind == "accuracy" else f"{best[1]:.2f}"
        told += f", best baseline {value} ({best[0]})"
    if kind == "accuracy":
        told += f"; 95 % interval: {_KIND}"
    lines += [f"best model on {rows}: {told}", how_chosen(validation), *baseline_lines(validation)]
    if "accuracy" in validation:
        lines += [*_not_told(validation), describe_confidence(validation)]
    return "\n".join(filter(None, lines))


def _count_rows(figures: dict[str, Any]) -> str:
    """The number of rows of each kind."""
    answers = figures.get("answers", 0)
    kinds = [
        (figures.get("labelled_records", 0), "labelled"),
        (answers, "with an instruction"),
        (figures["unlabelled"] - answers, "without a label"),
        (figures["unscored"], "could not be scored"),
    ]
    told = ", ".join(f"{count:,} {kind}" for count, kind in kinds if count)
    tokens = f", {plural(figures['tokens'], 'predicted token')}" if "tokens" in figures else ""
    return f"{plural(figures['records'], 'row')} ({told}){tokens}"


def _computed_by(figures: dict[str, Any]) -> str:
    """What computed the figures: the last digits depend on it."""
    names = ("device", "engine", "precision")
    return "; ".join(f"{name}: {figures[name]}" for name in names)


def _reading_lines(figures: dict[str, Any]) -> list[str]:
    """How many rows were cut or learned before, and how many tokens were unknown."""
    found = []
    if figures["rows_cut"]:
        found.append(
            f"{plural(figures['rows_cut'], 'row')} cut to the trained length, "
            f"{plural(figures['tokens_left_out'], 'token')} left out"
        )
    if figures["unknown_tokens"]:
        names = figures["unknown_names"]
        found.append(unknown_line(figures["unknown_tokens"], names, figures["learned_unknown"]))
    if figures["learned_rows"]:
        learned = f"{figures['learned_rows']:,} of {plural(figures['records'], 'row')}"
        found.append(
            f"!!! {learned} have the tokens of a row in {printable(figures['learned_from'])}, from "
            f"which the model learned: expect less on new rows"
        )
    if "abstained" in figures:
        found.append(
            f"no answer to {figures['abstained']:,} of {plural(figures['records'], 'row')}: "
            f"confidence below {figures['abstain_below']}"
        )
    return found


def _label_summary(figures: dict[str, Any]) -> str:
    low, high = accuracy_interval(figures)
    error = f"{figures['ece']:.3f}"
    raw = f"{figures['raw_ece']:.3f} before, temperature {figures['temperature']:.2f}"
    reason = why_not_calibrated(figures["validation"] or {})
    if reason:
        raw = f"not calibrated: {reason}"
    too_few = too_few_to_tell_calibration(figures["labelled_records"])
    if too_few:
        error, raw = "", "; ".join(filter(None, [too_few, reason and raw]))
    top_2 = [["among the top 2", percent(figures["top2_accuracy"]), ""]]
    if len(figures["labels"]) <= 2 and figures["top2_accuracy"] == 1:
        top_2 = []  # of a model of two labels it says nothing
    rows = [
        ["accuracy", percent(figures["accuracy"]), f"95 % interval {span(low, high)} ({_KIND})"],
        *_of_answered(figures),
        ["chance", percent(figures["chance_accuracy"]), "the same answers dealt out at random"],
        *top_2,
        ["macro F1", f"{figures['macro_f1']:.3f}", ""],
        ["calibration error", error, raw],
    ]
    return format_table(["labels", "", ""], rows, left=(0, 2))


def _of_answered(figures: dict[str, Any]) -> list[list[str]]:
    """The accuracy of the answered rows, beside that of all; [] where all are answered."""
    if "answered" not in figures:
        return []
    point = figures["answered"]
    rows = f"{point['answered']:,} of {figures['labelled_records']:,} rows answered"
    if not point["answered"]:
        return [["  of answered rows", "-", rows]]
    interval = f"95 % interval {span(*_interval_at(point))}, {rows} ({percent(point['coverage'])})"
    return [["  of answered rows", percent(point["accuracy"]), interval]]


def _coverage_table(figures: dict[str, Any]) -> str:
    """Accuracy where only rows of at least a confidence are answered, until all are right."""
    if figures["accuracy"] == 1:
        return ""
    rows = []
    for point in figures["coverage"]:
        interval, threshold = span(*_interval_at(point)), f"{point['threshold']}"
        rows.append([percent(point["coverage"]), percent(point["accuracy"]), interval, threshold])
        if point["accuracy"] == 1:
            break
    header = ["rows answered", "right", "95 % interval", "--abstain_below"]
    return format_table(header, rows, left=()) if rows else ""


def _interval_at(point: dict[str, Any]) -> list[float]:
    """The exact interval of the accuracy of answered rows, as that of all rows is told."""
    return exact_interval(round(point["accuracy"] * point["answered"]), point["answered"])


def _label_table(figures: dict[str, Any], blocks: bool) -> str:
    """Precision, recall and F1 of each label; of many labels the worst."""
    per_class = figures["per_class"]
    names, note = list(per_class), ""
    if len(names) > MOST_LABELS_SHOWN:
        # Labels that only occur as predictions have no recall to be bad at.
        asked = [name for name in names if per_class[name]["support"]]
        names = sorted(asked, key=lambda name: per_class[name]["recall"])[:WORST_LABELS_SHOWN]
        note = (
            f"\nthe {len(names)} labels of lowest recall; all {len(per_class):,} stand under "
            f"per_class in metrics.json"
        )
    rows = []
    for name in names:
        row = per_class[name]
        asked, told = row["support"] > 0, row["predicted"] > 0
        rows.append(
            [
                _short(name),
                share_bar(row["recall"], _BAR_WIDTH, blocks) if asked else "",
                f"{row['recall']:.3f}" if asked else "-",
                f"{row['precision']:.3f}" if told else "-",
                f"{row['f1']:.3f}",
                f"{row['support']:,}",
            ]
        )
    header = ["label", "", "recall", "precision", "F1", "rows"]
    return format_table(header, rows) + note


def _confusions(figures: dict[str, Any]) -> list[str]:
    """The most frequent mistakes, each as `7 read as 1: 12 rows`."""
    labels = figures["labels"]
    found = [
        (count, labels[true], labels[told])
        for true, told, count in confusion_cells(figures["confusion_matrix"])
        if true != told
    ]
    found.sort(key=lambda entry: -entry[0])
    lines = [
        f"  {_short(true)} read as {_short(told)}: {plural(count, 'row')}"
        for count, true, told in found[:MOST_CONFUSIONS]
    ]
    if len(found) > len(lines):
        rest = sum(count for count, _, _ in found[MOST_CONFUSIONS:])
        lines.append(f"  and {plural(rest, 'more mistake')} (confusion_matrix.png)")
    return ["\n".join(["most frequent mistakes", *lines])] if lines else ["not one mistake"]


def _not_told(figures: dict[str, Any], where: str = "") -> list[str]:
    """Labels predicted no better than by guessing; `where` is appended to a cut list."""
    if figures["above_chance"] is None:
        return []
    few, too_few = figures["too_few_rows"], set(figures["too_few_rows"])
    bad = [name for name in figures["not_above_chance"] if name not in too_few]
    more = figures.get("names_left_out", {"not_told": 0, "too_few_rows": 0})
    lines = []
    if bad:
        lines.append(
            f"labels not clearly better than guesses: {_names(bad, more['not_told'], where)}"
        )
    if few:
        names = _names(few, more["too_few_rows"], where)
        lines.append(f"labels with too few rows to tell: {names}")
    return ["\n".join(lines)] if lines else []


def _token_table(figures: dict[str, Any]) -> str:
    rows = [["perplexity of all tokens", f"{figures['perplexity']:.3f}"]]
    if "label_perplexity" in figures:  # else nearly all tokens are of the body
        if figures["body_perplexity"] is not None:
            rows.append(["  of the body", f"{figures['body_perplexity']:.3f}"])
        rows.append(["  of the label", f"{figures['label_perplexity']:.3f}"])
    if "bits_per_byte" in figures:
        rows.append(["bits a byte of the texts", f"{figures['bits_per_byte']:.3f}"])
        # Of texts in the Latin alphabet both are nearly the same.
        if figures["bits_per_character"] > _OTHER_SCRIPT * figures["bits_per_byte"]:
            rows.append(["bits a character", f"{figures['bits_per_character']:.3f}"])
    rows.append(["next token right", percent(figures["next_token_accuracy"])])
    return format_table(["tokens", ""], rows)


def _validation_table(validation: dict[str, Any]) -> str:
    """Model and baselines, measured on the same validation rows."""
    columns: dict[str, Callable[[float], str]] = {}
    own = {}
    if "accuracy" in validation:
        columns["label accuracy"], own["label accuracy"] = percent, with_interval(validation)
    if "perplexity" in validation:
        columns["perplexity"] = "{:.2f}".format
        own["perplexity"] = columns["perplexity"](validation["perplexity"])
    rows = [["this model", *(own[column] for column in columns)]]
    for name, value in validation["baselines"].items():
        words = name.replace("_", " ")
        for column, shown in columns.items():
            kind = column.split()[-1]
            if words.endswith(f" {kind}"):
                cells = [shown(value) if column == other else "" for other in columns]
                rows.append([words.removesuffix(f" {kind}"), *cells])
    lines = [
        f"for comparison, measured in training on its {validation['rows']:,} validation rows, "
        f"not on this file",
        how_chosen(validation),
        format_table(["", *columns], rows, left=(0, 1) if "label accuracy" in columns else (0,)),
        *baseline_lines(validation),
    ]
    return "\n".join(filter(None, lines))


def _short(name: str) -> str:
    """A label, shortened to fit into a line."""
    return shorten(printable(name), _LONGEST_NAME)


def _names(names: list[str], left_out: int, where: str) -> str:
    rest = len(names) + left_out - MOST_NAMES
    shown = ", ".join(_short(name) for name in names[:MOST_NAMES])
    return f"{shown} and {rest:,} more{where}" if rest > 0 else shown
