"""Text report of a comparison, and its verdicts in plain sentences."""

from __future__ import annotations

import json
from typing import Any

from smallgpt.console import format_duration, format_table, plural, printable, shorten
from smallgpt.evaluation.paired import DIFFERENCE_LEVEL
from smallgpt.evaluation.verdicts import percent, span

_LONGEST_SETTING = 40  # columns of a terminal
_FEWEST_TOLD = 1e-4  # smaller p values are told as smaller than this
_KINDS = (
    "intervals (95 %): Wilson's of an accuracy; of differences Tango's for accuracies, Student's t "
    "for the rest and where rows count by groups"
)


def verdict(comparison: dict[str, Any]) -> str:
    """Which of two models is better, in one sentence: by labels where there are any, else tokens.

    They are told apart where the p value (corrected, of several comparisons) is at most 5 % and
    the interval leaves out "no difference".
    """
    second, first = comparison["model"], comparison["against"]
    labels, tokens = comparison["labels"], comparison["tokens"]
    if labels:
        accuracy, loss = labels["accuracy"], labels["label_loss"]
        if is_told(accuracy, 0):
            if accuracy["difference"] > 0:
                return f"{second} is better than {first}: {_points(accuracy)}, {_p(accuracy)}"
            turned = _turned(accuracy)
            return f"{first} is better than {second}: {_points(turned)}, {_p(accuracy)}"
        text = (
            f"{first} and {second} are not told apart by their label accuracy: "
            f"{_points(accuracy)}, {_p(accuracy)}"
        )
        if loss and is_told(loss, 0):
            better = second if loss["difference"] < 0 else first
            text += f"; {better} has the lower label loss: {_nats(loss)}, {_p(loss)}"
        return text
    if tokens:
        found = tokens["all"]
        if is_told(found, 1):
            better, other = (second, first) if found["ratio"] < 1 else (first, second)
            return f"{better} is better than {other}: perplexity {_ratio(found)}, {_p(found)}"
        return f"{first} and {second} are not told apart: perplexity {_ratio(found)}, {_p(found)}"
    return f"{first} and {second} cannot be compared: {comparison['no_tokens']}"


def _turned(test: dict[str, Any]) -> dict[str, Any]:
    """A difference, of the first model from the second."""
    low, high = test["interval"]
    return {"difference": -test["difference"], "interval": [-high, -low]}


def is_told(test: dict[str, Any], no_difference: float) -> bool:
    """Whether a test tells two models apart; `no_difference` is 0, or 1 of a ratio."""
    if test["p_value"] is None:
        return False
    low, high = test["interval"]
    corrected = test.get("corrected_p_value", test["p_value"])
    return corrected <= DIFFERENCE_LEVEL and not low <= no_difference <= high


def describe_comparison(found: dict[str, Any]) -> str:
    """The report of compare.json."""
    sides, comparisons = found["compared"], found["comparisons"]
    rows = "" if found["data"] is None else f"\nrows  {printable(found['data'])}"
    parts = [
        _names(sides) + rows,
        _differences(found),
        _figures(sides),
        *map(printable, found["notes"]),
    ]
    for each in comparisons:
        parts.append(_tests(each, found["group_by"]))
    if comparisons:
        parts.append(_KINDS)
    if len(comparisons) > 1:
        parts.append(
            f"p values are corrected for {len(comparisons)} comparisons with "
            f"{sides[0]['letter']} (Holm); intervals are not"
        )
    parts.append("\n".join(each["verdict"] for each in comparisons))
    if not comparisons:
        parts.append(
            "figures that each run measured in training: whether one model is better needs the "
            "same rows for all of them, --test_data FILE"
        )
    return "\n\n".join(part for part in parts if part)


def _names(sides: list[dict[str, Any]]) -> str:
    """Letter and path of each model, and the command that made it."""
    lines = []
    for side in sides:
        lines.append(f"{side['letter']}  {printable(side['path'])}")
        if side["command"]:
            lines.append(f"   {printable(side['command'])}")
        learned, rows = side["figures"].get("learned_rows"), side["figures"].get("records")
        if learned:
            lines.append(
                f"   !!! it has learned {learned:,} of these {plural(rows, 'row')}: its figures "
                f"say little of new ones"
            )
    return "\n".join(lines)


def _differences(found: dict[str, Any]) -> str:
    """Version, data and options in which the models differ."""
    sides = found["compared"]
    rows = []
    names = dict.fromkeys(name for side in sides for name in side["data"])
    about = {"version": [side["version"] for side in sides]}
    about |= {name: [side["data"].get(name) for side in sides] for name in names}
    for name, values in about.items():
        if any(value != values[0] for value in values):
            rows.append([name, *(value or "unknown" for value in values)])
    for name, values in found["settings"].items():
        cells = zip(sides, values, strict=True)
        rows.append([name, *(setting_text(v) if s["model"] else "unknown" for s, v in cells)])
    if not rows:
        return "no option differs"
    header = ["what differs", *(side["letter"] for side in sides)]
    return format_table(header, rows, left=range(len(header)))


def setting_text(value: Any) -> str:
    """The value of an option as config.yaml has it, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shorten(printable(text), _LONGEST_SETTING)


def _figures(sides: list[dict[str, Any]]) -> str:
    """Figures of the models side by side."""

    def cells(name: str, form: str) -> list[str]:
        values = [side["figures"].get(name) for side in sides]
        return ["" if value is None else format(value, form) for value in values]

    table = [
        ["rows", *cells("records", ",")],
        ["not scored", *cells("unscored", ",")],
        ["label accuracy", *map(_accuracy, sides)],
        ["label loss", *cells("label_loss", ".4f")],
        ["calibration error", *cells("ece", ".3f")],
        ["answers right", *cells("exact_match", ".3f")],
        ["token F1", *cells("token_f1", ".3f")],
        ["perplexity of all tokens", *cells("perplexity", ".3f")],
        ["  of the body", *cells("body_perplexity", ".3f")],
        ["  of the label", *cells("label_perplexity", ".3f")],
        ["trained for", *map(_duration, sides)],
    ]
    table = [line for line in table if any(line[1:]) and line[1:] != ["0"] * len(sides)]
    header = [sides[0]["measured_on"], *(side["letter"] for side in sides)]
    return format_table(header, table, left=range(len(header)))


def _accuracy(side: dict[str, Any]) -> str:
    figures = side["figures"]
    if "accuracy" not in figures:
        return ""
    interval = figures.get("accuracy_interval")
    return percent(figures["accuracy"]) + (f" ({span(*interval)})" if interval else "")


def _duration(side: dict[str, Any]) -> str:
    seconds = side["training_seconds"]
    return "" if seconds is None else format_duration(seconds)


def _tests(comparison: dict[str, Any], group_by: str | None) -> str:
    """The paired tests of one comparison, as a table, and what could not be compared."""
    labels, tokens, lines = comparison["labels"], comparison["tokens"], []
    table = []
    if labels:
        accuracy = labels["accuracy"]
        table.append(["label accuracy", _points(accuracy), _p(accuracy)])
        if labels["label_loss"]:
            table.append(["label loss", _nats(labels["label_loss"]), _p(labels["label_loss"])])
    for name, words in (("all", "perplexity of all tokens"), ("body", "perplexity of the body")):
        if tokens and name in tokens:
            table.append([words, _ratio(tokens[name]), _p(tokens[name])])
    rows = plural(comparison["rows"], "row")
    heading = f"{comparison['model']} against {comparison['against']}, on the same {rows}"
    lines.append(format_table([heading, "difference (95 % interval)", ""], table, left=(0, 1, 2)))
    if labels:
        lines.append(_counts(comparison))
    if comparison["groups"]:
        lines.append(
            f"rows of one {printable(group_by or '')} count as one: "
            f"{plural(comparison['groups'], 'group')}"
        )
    if comparison["left_out"]:
        lines.append(f"{plural(comparison['left_out'], 'row')} left out: not scored by both")
    for what, reason in (
        ("labels", comparison.get("no_labels")),
        ("label losses", comparison.get("no_label_loss")),
        ("perplexities", comparison["no_tokens"]),
    ):
        if reason:
            lines.append(f"{what} are not compared: {reason}")
    return "\n".join(lines)


def _counts(comparison: dict[str, Any]) -> str:
    """Who told which rows: what McNemar's test is made of."""
    found, first, second = (
        comparison["labels"]["accuracy"],
        comparison["against"],
        comparison["model"],
    )
    text = (
        f"labels right: only {first} {plural(found['only_first'], 'row')}, only {second} "
        f"{plural(found['only_second'], 'row')}, both {found['both']:,}, neither "
        f"{found['neither']:,} (McNemar's exact test)"
    )
    if "groups" in found:
        text += (
            f"; by groups {first} is ahead in {found['groups_first_ahead']:,}, {second} in "
            f"{found['groups_second_ahead']:,}"
        )
    return text


def _points(test: dict[str, Any]) -> str:
    low, high = test["interval"]
    return f"{100 * test['difference']:+.1f} points ({100 * low:.1f} .. {100 * high:.1f})"


def _nats(test: dict[str, Any]) -> str:
    return f"{test['difference']:+.4f}" + _ends(test["interval"], ".4f")


def _ratio(test: dict[str, Any]) -> str:
    return f"ratio {test['ratio']:.3f}" + _ends(test["interval"], ".3f")


def _ends(interval: list[float] | None, form: str) -> str:
    return "" if interval is None else f" ({interval[0]:{form}} .. {interval[1]:{form}})"


def _p(test: dict[str, Any]) -> str:
    value = test.get("corrected_p_value", test["p_value"])
    if value is None:
        return "too few rows to tell"
    return f"p = {value:.3g}" if value >= _FEWEST_TOLD else f"p < {_FEWEST_TOLD}"
