"""Leak `token_gives_label`: having or lacking a token predicts the label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from smallgpt.checks.leak_state import MOST_FINDINGS, LeakSearch, short_name
from smallgpt.checks.signs import JudgedSigns, SignsInRows
from smallgpt.checks.thresholds import MIN_ROWS
from smallgpt.console import plural

_REMEDY = (
    "remove it if it is not there when the label is asked; if it honestly belongs to the row, a "
    "lookup does what the model will"
)


def tokens_that_give_labels(search: LeakSearch) -> list[dict[str, Any]]:
    """For each label a finding of the tokens its rows have, and one of the tokens they lack."""
    bodies = search.bodies
    if bodies.class_count < 2:
        return []
    rows = SignsInRows.once(bodies.row_M, bodies.id_M)
    present = rows.judged(bodies.classes_N)
    absent = _judge_absence(present, bodies.classes_N)
    found = []
    for signs, has in ((present, True), (absent, False)):
        found += findings_of_tokens(
            search, signs, signs.leaking(), rows, lambda token: [token], present=has
        )
    return [{"kind": "token_gives_label", **finding, "remedy": _REMEDY} for finding in found]


def findings_of_tokens(
    search: LeakSearch,
    signs: JudgedSigns,
    pairs: np.ndarray,
    rows: SignsInRows,
    tokens_of: Callable[[int], list[int]],
    present: bool = True,
) -> list[dict[str, Any]]:
    """A finding for each class among `pairs`, with the evidence of its first pair.

    Marks its tokens and rows in `search`, and skips pairs whose tokens are marked: of two labels
    one has the token and the other lacks it. `tokens_of` gives the token ids of a sign; with
    `present` False lacking them is the sign.
    """
    bodies, found = search.bodies, []
    tokens, labels = bodies.vocabulary.tokens, bodies.vocabulary.label_names
    rows_of = rows.rows_with(signs.sign_P[pairs])
    for of_class, mine in signs.by_class(pairs).items():
        mine = [pair for pair in mine if not search.named_V[tokens_of(signs.sign_P[pair])].all()]
        if not mine:
            continue
        texts, given = [], []
        for pair in mine:
            ids = tokens_of(signs.sign_P[pair])
            search.named_V[ids] = True
            texts.append(" ".join(tokens[token] for token in ids))
            has = rows_of[signs.sign_P[pair]]
            given.append(has if present else np.delete(np.arange(len(bodies.classes_N)), has))
            search.given_away_N[given[-1]] = True
        evidence, label = signs.evidence(mine[0]), labels[of_class]
        noun = "token" if len(tokens_of(signs.sign_P[mine[0]])) == 1 else "tokens"
        who = f"rows {'with' if present else 'without'} the {noun} {short_name(texts[0])}"
        if len(mine) > 1:
            who += f" ({plural(len(mine) - 1, 'more token')} like it)"
        found.append(
            {
                "message": f"{evidence['share']:.1%} of the {evidence['rows']:,} {who} have the "
                f"label {short_name(label)}, {evidence['of_label']:.0%} of its rows are among them",
                "label": label,
                "tokens": texts[:MOST_FINDINGS],
                "tokens_in_all": len(mine),
                "present": present,
                **evidence,
                "examples": bodies.examples(given[0]),
            }
        )
    return found


def _judge_absence(present: JudgedSigns, classes_N: np.ndarray) -> JudgedSigns:
    """For each token the class that lacking it predicts best; `present`: pairs for having it."""
    of_class_L = np.bincount(classes_N)
    lacking_P = len(classes_N) - present.rows_P
    # Only tokens so frequent that the rows without them may be of one class.
    asked_P = (lacking_P >= MIN_ROWS) & (lacking_P <= 1.2 * of_class_L.max())
    token_P, class_P = present.sign_P[asked_P], present.class_P[asked_P]
    right_P, lacking_P = of_class_L[class_P] - present.right_P[asked_P], lacking_P[asked_P]
    # Of the classes that never have a token the largest is best: the first rank by size that no
    # class with the token holds.
    by_size_L = np.argsort(-of_class_L, kind="stable")
    rank_L = np.argsort(by_size_L)
    order = np.lexsort((rank_L[class_P], token_P))
    first = np.flatnonzero(np.diff(token_P[order], prepend=-1))
    ends = np.append(first[1:], len(order))
    counted = np.arange(len(order)) - np.repeat(first, ends - first)
    gap_P = np.where(rank_L[class_P][order] != counted, counted, len(of_class_L))
    free_K = np.minimum(np.minimum.reduceat(gap_P, first), ends - first)
    tokens_K, some = token_P[order][first], free_K < len(of_class_L)
    free_class = by_size_L[free_K[some]]
    token_P = np.concatenate([token_P, tokens_K[some]])
    class_P = np.concatenate([class_P, free_class])
    right_P = np.concatenate([right_P, of_class_L[free_class]])
    lacking_P = np.concatenate([lacking_P, lacking_P[order][first][some]])
    best = np.lexsort((class_P, -right_P, token_P))
    best = best[np.diff(token_P[best], prepend=-1) > 0]
    return JudgedSigns.of(token_P[best], class_P[best], lacking_P[best], right_P[best], classes_N)
