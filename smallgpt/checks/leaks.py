"""Leak detection: what in the rows gives the label away, with the evidence.

    findings, search = find_leaks(Sides(train, validation, "train.jsonl", "validation.jsonl"))

A leak gives a model good scores though it has learned nothing. Limits: thresholds.py.

A new kind of leak is a function in a file `leaks_....py`, added to KINDS. It takes the search and
returns findings; each is a dict for data_report.json with `kind`, `message`, `rows` (how many rows
it concerns), `examples` (`file:line` of a few), `remedy` (what to do), and further evidence.
"""

from __future__ import annotations

from typing import Any

from smallgpt.checks.leak_state import MOST_FINDINGS, LeakSearch
from smallgpt.checks.leaks_across import duplicates_across, groups_across
from smallgpt.checks.leaks_by_name import label_names_in_bodies, label_tokens_in_bodies
from smallgpt.checks.leaks_by_place import places_that_give_labels
from smallgpt.checks.leaks_by_token import tokens_that_give_labels
from smallgpt.checks.sides import Sides
from smallgpt.checks.thresholds import THRESHOLDS

# The order matters: tokens that are a label's name, and rows that a token gives away, are left out
# of later searches, so that one leak is reported once.
KINDS = (
    label_tokens_in_bodies,
    label_names_in_bodies,
    tokens_that_give_labels,
    places_that_give_labels,
    groups_across,
    duplicates_across,
)


def find_leaks(
    sides: Sides, group_by: str | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All leaks of labels or of validation rows, at most MOST_FINDINGS of each kind, largest first.

    `group_by` is for messages only. Also returns figures of the search: `rows` searched, `of` all
    labelled rows, `thresholds`, `left_out` (further leaks by kind) and, if the rest of the row was
    predicted for a sample only, its size `rest_of_row_rows`.
    """
    search = LeakSearch(sides, group_by)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for find in KINDS:
        for leak in find(search):
            by_kind.setdefault(leak["kind"], []).append(leak)
    kept, left_out = [], {}
    for kind, leaks in by_kind.items():
        kept += sorted(leaks, key=lambda leak: -leak["rows"])[:MOST_FINDINGS]
        if len(leaks) > MOST_FINDINGS:
            left_out[kind] = len(leaks) - MOST_FINDINGS
    return kept, {
        "rows": len(search.bodies.classes_N),
        "of": int((sides.joined("classes_N") >= 0).sum()),
        "thresholds": THRESHOLDS,
        "left_out": left_out,
        **search.figures,
    }
