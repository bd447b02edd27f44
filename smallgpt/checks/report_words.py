"""The data report as text for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from smallgpt.checks.leak_state import short_name
from smallgpt.console import format_table, plural
from smallgpt.rows.bad_rows import bad_rows_remedy, some_of_each_kind
from smallgpt.rows.lengths import describe_lengths


def say_report(report: dict[str, Any], say: Callable[[str], object]) -> None:
    """Pass the report and its baselines to `say` as text."""
    for text in (describe_report(report), describe_baselines(report)):
        if text:
            say(text)


def describe_report(report: dict[str, Any]) -> str:
    """The report in a few lines, without repairs and cuts, which reading the rows has reported."""
    sides, words = report["splits"], report["vocabulary"]
    lines = [
        f"data: {sides['train']['rows']:,} training and {sides['validation']['rows']:,} validation "
        f"rows of {_span(report['lengths'])} tokens; "
        f"{words['size'] - words['never_used']:,} of {words['size']:,} tokens of {words['file']} "
        f"used, {words['used_once']:,} once"
    ]
    lengths = describe_lengths(report["lengths"])
    if lengths:
        lines.append(lengths)
    if report["variants"]:
        lines.append(
            f"{plural(report['variants'], 'variant')} of the training rows beside them, not in "
            f"these figures; of a row and its variants an epoch visits one"
        )
    used = {name: count for name, count in sides["train"]["labels"].items() if count}
    if used:
        smallest, largest = min(used, key=used.__getitem__), max(used, key=used.__getitem__)
        line = (
            f"labels: {len(used):,}, from {plural(used[smallest], 'training row')} "
            f"({short_name(smallest)}) to {used[largest]:,} ({short_name(largest)})"
        )
        if used[smallest] == used[largest]:
            line = f"labels: {len(used):,}, {plural(used[largest], 'training row')} each"
        lines.append(line)
        if report["unlabelled"]:
            lines.append(f"{plural(report['unlabelled'], 'row')} without a label")
    duplicates = report["duplicates"]
    if duplicates["within"]:
        line = f"{plural(duplicates['within'], 'row')} with the tokens of an earlier row"
        if duplicates["across"] and not _has(report, "duplicate_across"):
            flattering = plural(duplicates["across"], "validation row")
            line += (
                f"; equal rows stay on one side of the split, or {flattering} would stand among "
                f"the training rows too"
            )
        lines.append(line)
    if report["conflicting_labels"]:
        first = report["conflicting_labels_shown"][0][:3]
        shown = ", ".join(f"{row['row']} has {short_name(row['label'])}" for row in first)
        lines.append(
            f"warning: {plural(report['conflicting_labels'], 'body', 'bodies')} with more than one "
            f"label, the first: {shown}"
        )
    for leak in report["leaks"]:
        lines.append(f"warning: leak: {leak['kind']}: {leak['message']}")
        if leak["examples"]:
            lines.append(f"  for example {', '.join(leak['examples'][:3])}")
        lines.append(f"  {leak['remedy']}")
    for kind, count in report["leaks_search"]["left_out"].items():
        lines.append(f"warning: leak: {kind}: {count:,} more of this kind")
    search = report["leaks_search"]
    if search["rows"] < search["of"]:
        lines.append(f"leaks looked for in {search['rows']:,} of {search['of']:,} labelled rows")
    asked = search.get("rest_of_row_rows")
    if asked is not None:
        lines.append(f"what the rest of a row tells was asked of {asked:,} of these rows")
    return "\n".join(lines)


def describe_baselines(report: dict[str, Any]) -> str:
    """A table of baselines, and a line for each left out or measured on a sample."""
    rows = [[name.replace("_", " "), f"{value:.4g}"] for name, value in report["baselines"].items()]
    lines = [format_table(["baseline on the same split", ""], rows)] if rows else []
    for name, note in report["baselines_note"].items():
        if name not in report["baselines"] or " of " in note.rpartition("fitted on")[2]:
            lines.append(f"{name.replace('_', ' ')}: {note.rpartition('; ')[2]}")
    return "\n".join(lines)


def describe_errors(report: dict[str, Any], most: int, listed_in: Path | None) -> str:
    """The remedy, some of the first `most` bad rows, where all are listed (None: in no file)."""
    errors = report["errors"]
    lines = some_of_each_kind(
        (f"{bad['file']}:{bad['line']}", bad["reason"]) for bad in errors["shown"][:most]
    )
    if errors["count"] > len(lines):
        line = f"... and {errors['count'] - len(lines):,} more; "
        which = f"the first {len(errors['shown']):,}" if errors["left_out"] else "all"
        if listed_in is None:
            lines.append(f"{line}with an --output_dir without a run {which} are listed there")
        else:
            lines.append(f"{line}{which} are listed in {listed_in}")
    reasons = [bad["reason"] for bad in errors["shown"]]
    remedy = bad_rows_remedy(reasons, report["rows"])
    return "\n".join([f"{plural(errors['count'], 'bad row')}: {remedy}", *lines])


def _has(report: dict[str, Any], kind: str) -> bool:
    return any(leak["kind"] == kind for leak in report["leaks"])


def _span(lengths: dict[str, Any]) -> str:
    shortest, longest = lengths["shortest"], lengths["longest"]
    return f"{longest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
