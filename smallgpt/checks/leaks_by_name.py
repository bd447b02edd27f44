"""Leak `label_in_body`: the body of a row contains the name of its label."""

from __future__ import annotations

from typing import Any

import numpy as np

from smallgpt.checks.label_names import find_label_names
from smallgpt.checks.leak_state import EXAMPLES, LeakSearch
from smallgpt.checks.leaks_by_token import findings_of_tokens
from smallgpt.checks.thresholds import MIN_COVERAGE_OF_LABEL_TEXT, MIN_GAIN_OF_LABEL_TEXT
from smallgpt.console import plural
from smallgpt.rows.label_tail import LABEL_BEFORE_TAIL

_KIND = "label_in_body"
_REMEDY = "remove it from `tokens`, or the model reads the answer instead of the row"


def label_tokens_in_bodies(search: LeakSearch) -> list[dict[str, Any]]:
    """Label tokens `<CLS_k>` before the label tail: bad rows that reading kept."""
    refused = [
        f"{file}:{bad.line}"
        for file, rows in search.sides.files()
        for bad in rows.bad_rows
        if bad.reason == LABEL_BEFORE_TAIL
    ]
    if not refused:
        return []
    return [
        {
            "kind": _KIND,
            "message": f"a label token before the label tail in {plural(len(refused), 'row')}",
            "rows": len(refused),
            "examples": refused[:EXAMPLES],
            "remedy": _REMEDY,
        }
    ]


def label_names_in_bodies(search: LeakSearch) -> list[dict[str, Any]]:
    """Tokens or words that are a label's name and occur in rows of that label."""
    bodies = search.bodies
    if bodies.class_count < 2:
        return []
    names = find_label_names(bodies)
    signs = names.rows.judged(bodies.classes_N)
    pairs = signs.leaking(MIN_COVERAGE_OF_LABEL_TEXT, MIN_GAIN_OF_LABEL_TEXT)
    own = [signs.class_P[pair] in names.classes[signs.sign_P[pair]] for pair in pairs]
    found = findings_of_tokens(
        search, signs, pairs[np.array(own, bool)], names.rows, names.spellings.__getitem__
    )
    return [{"kind": _KIND, **finding, "remedy": _REMEDY} for finding in found]
