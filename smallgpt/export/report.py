"""The report of an export as text: a table with the model and its export side by side."""

from __future__ import annotations

from typing import Any

from smallgpt.console import format_table


def describe_export(report: dict[str, Any]) -> str:
    """The content of export_report.json as lines for a person."""
    size = _megabytes(report["model_bytes"])
    rows = [[f"size, {name}", size, _megabytes(bytes)] for name, bytes in report["files"].items()]
    if not report["checked"]:
        table = format_table(["", "model", f"export ({report['format']})"], rows)
        return f"{table}\n\nnot checked: {report['read_by']}"
    lines = [
        f"checked on {report['data']}, {report['machine']}, {report['threads']} threads; the model "
        f"by transformers in fp32, the export by {report['read_by']}",
        "",
    ]
    if "precisions" not in report:
        lines += _table_and_agreement(rows, report, report["format"])
        return "\n".join(lines)
    lines += [format_table(["", "model", f"export ({report['format']})"], rows)]
    for name, found in report["precisions"].items():
        lines += ["", *_table_and_agreement([], found, name)]
    return "\n".join(lines)


def _table_and_agreement(rows: list[list[str]], found: dict[str, Any], precision: str) -> list[str]:
    """What was found of one precision: a table that `rows` begin, and sentences."""
    rows = [*rows]
    labels, tokens = found.get("labels"), found.get("tokens")
    if labels and "accuracy" in labels:
        rows.append(["accuracy", *(_percent(labels["accuracy"][side]) for side in _SIDES)])
        rows.append(["  95 % interval (Wilson)", *(_interval(labels, side) for side in _SIDES)])
    if tokens:
        rows.append(["perplexity", *(f"{tokens['perplexity'][side]:.4g}" for side in _SIDES)])
    if labels:
        spent = labels["milliseconds_a_row"]
        rows.append(["milliseconds a row", *(f"{spent[side]:.2f}" for side in _SIDES)])
    if tokens:
        spent = tokens["milliseconds_a_token"]
        rows.append(["milliseconds a token", *(f"{spent[side]:.2f}" for side in _SIDES)])
    lines = [format_table(["", "model", f"export ({precision})"], rows), ""]
    if labels:
        change = labels["change_of_winning_share"]
        lines += [
            f"same label: {_percent(labels['agreement'])} of {labels['rows']:,} rows; the winning "
            f"share changes by {change['mean']:.2g} on average, at most by {change['largest']:.2g}"
        ]
    if tokens:
        lines += [
            f"next token: {_percent(tokens['agreement'])} of the probability in common, "
            f"{_percent(tokens['same_likeliest'])} of {tokens['tokens']:,} tokens with the same "
            f"likeliest one"
        ]
    return lines


_SIDES = ("model", "export")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _percent(share: float) -> str:
    """With two digits; 100 % means all."""
    rounded = f"{100 * share:.2f} %"
    return "99.99 %" if share < 1 and rounded == "100.00 %" else rounded


def _interval(labels: dict[str, Any], side: str) -> str:
    low, high = labels["accuracy_interval"][side]
    return f"{100 * low:.1f} .. {100 * high:.1f} %"
