"""Leak `position_gives_label`: a place of the row, or its length, predicts the label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from smallgpt.checks.leak_state import SEED, Bodies, LeakSearch, short_name
from smallgpt.checks.rest_of_row import RestOfRow
from smallgpt.checks.signs import JudgedSigns, SignsInRows
from smallgpt.checks.thresholds import (
    MAX_P,
    MIN_GAIN_OF_PLACE,
    MIN_REST_ERROR,
    MIN_REST_ERROR_BELOW_IT,
    MIN_ROWS,
    TIMES_BETTER_THAN_REST,
    WIDE_COVERAGE,
)
from smallgpt.console import progress_bar

_LENGTH_BINS = 64  # more distinct lengths are binned into ranges
_MOST_SCORES = 200_000_000  # rows times labels when the rest of the row predicts all labels
_KIND = "position_gives_label"
_REMEDY = (
    "remove it if it is not there when the label is asked (a serial number, a file's header, a "
    "fixed length for each class)"
)


@dataclass(frozen=True)
class Places:
    """The token at each place of each body, and the body's length.

    Places 0..longest-1 count from the start of the body, longest..2*longest-1 from its end, and
    2*longest is its length. Bodies of one length have only the first of these, which suffice.
    """

    longest: int
    size: int
    row_M: np.ndarray
    sign_M: np.ndarray  # place * size + value, which is a token id or the number of a length
    several_lengths: bool
    ranges: bool  # whether numbers of lengths are those of ranges

    @classmethod
    def of(cls, bodies: Bodies) -> Places:
        """All places of all bodies."""
        lengths_N, rows = bodies.lengths_N, len(bodies.lengths_N)
        different, longest = len(np.unique(lengths_N)), bodies.longest
        ranges = different > _LENGTH_BINS
        value_N = lengths_N
        if ranges:
            edges = np.quantile(lengths_N, np.linspace(0, 1, _LENGTH_BINS + 1)[1:-1])
            value_N = np.searchsorted(np.unique(edges), lengths_N, side="left")
        size = max(len(bodies.vocabulary), int(value_N.max()) + 1)
        place_M, id_M, row_M = bodies.place_M, bodies.id_M, bodies.row_M
        if different > 1:
            end_M = longest + bodies.places_from_end()
            place_M = np.concatenate([place_M, end_M, np.full(rows, 2 * longest)])
            id_M = np.concatenate([id_M, id_M, value_N])
            row_M = np.concatenate([row_M, row_M, np.arange(rows)])
        return cls(longest, size, row_M, place_M * size + id_M, different > 1, ranges)

    def record(self, place: int) -> dict[str, Any]:
        """A place as entries of data_report.json."""
        if place == 2 * self.longest:
            return {"place": "length"}
        if place >= self.longest:
            return {"place": place - self.longest, "counted_from": "end"}
        return {"place": place, "counted_from": "start"}

    def describe(self, place: int) -> str:
        """A place in words, for a message."""
        if place == 2 * self.longest:
            return "the length of the body"
        if place >= self.longest:
            return f"the token {place - self.longest + 1} from the end of the body"
        return f"the token at place {place} of the body (counted from 0)"


def places_that_give_labels(search: LeakSearch) -> list[dict[str, Any]]:
    """The place that predicts all labels, or else tokens at a place that predict one label."""
    bodies = search.bodies.without(search.given_away_N)  # a single token's leak is reported once
    if len(bodies.classes_N) < 2 * MIN_ROWS or bodies.class_count < 2:
        return []
    places = Places.of(bodies)
    tables = _lookup_tables(places, bodies)
    deciding = np.flatnonzero((tables.gain_P >= MIN_GAIN_OF_PLACE) & (tables.p_P <= MAX_P))
    if len(deciding):
        return _place_of_all_labels(search, bodies, places, tables, deciding)
    return _places_of_single_labels(bodies, places)


def _place_of_all_labels(
    search: LeakSearch, bodies: Bodies, places: Places, tables: JudgedSigns, deciding: np.ndarray
) -> list[dict[str, Any]]:
    """The finding of the best deciding place, if the rest of the row predicts far worse."""
    best = int(deciding[tables.right_P[deciding].argmax()])
    # Whether a row reaches a place predicts as much as its length, which is easier to understand.
    of_length = 2 * places.longest
    if of_length in deciding and tables.right_P[of_length] >= 0.98 * tables.right_P[best]:
        best = of_length
    evidence, rows = tables.evidence(best), len(bodies.classes_N)
    asked, most = np.arange(rows), max(MIN_ROWS, _MOST_SCORES // bodies.class_count)
    if rows > most:
        asked = np.sort(np.random.default_rng(SEED).choice(rows, most, replace=False))
        search.figures["rest_of_row_rows"] = most
    rest = 1 - float(RestOfRow(bodies).right(asked, deciding).mean())
    if rest < max(MIN_REST_ERROR, TIMES_BETTER_THAN_REST * (1 - evidence["share"])):
        return []
    return [
        {
            "kind": _KIND,
            "message": f"{places.describe(best)} alone tells {evidence['share']:.1%} of the "
            f"labels, in rows that the lookup has not seen; the rest of the row tells "
            f"{1 - rest:.1%}",
            "label": None,
            **places.record(best),
            "places_in_all": len(deciding),
            **{key: evidence[key] for key in ("rows", "share", "lower_bound", "gap_closed")},
            "majority_class": float(np.bincount(bodies.classes_N).max() / rows),
            "rest_of_row": 1 - rest,
            "p_value": evidence["p_value"],
            "examples": bodies.examples(np.arange(rows)),
            "remedy": _REMEDY,
        }
    ]


def _places_of_single_labels(bodies: Bodies, places: Places) -> list[dict[str, Any]]:
    """A finding for each label that a token at a place, or a length, gives away."""
    rows = SignsInRows(places.row_M, places.sign_M)
    signs = rows.judged(bodies.classes_N)
    by_class = signs.by_class(signs.leaking())
    if not by_class:
        return []
    rows_of = rows.rows_with(signs.sign_P[[pairs[0] for pairs in by_class.values()]])
    rest_of_row = RestOfRow(bodies)
    found = []
    with progress_bar("places against the rest of the row", len(by_class), "label") as bar:
        for of_class, pairs in by_class.items():
            bar.update()
            sign, evidence = int(signs.sign_P[pairs[0]]), signs.evidence(pairs[0])
            leaking = np.unique(signs.sign_P[pairs] // places.size)
            rest = 1 - float(rest_of_row.right(rows_of[sign], leaking).mean())
            wide = evidence["of_label"] >= WIDE_COVERAGE
            needed = MIN_REST_ERROR if wide else MIN_REST_ERROR_BELOW_IT
            if rest < max(needed, TIMES_BETTER_THAN_REST * (1 - evidence["share"])):
                continue
            place, value = divmod(sign, places.size)
            what = "in one range" if places.ranges else str(value)
            if place < 2 * places.longest:
                what = bodies.vocabulary.tokens[value]
            label = bodies.vocabulary.label_names[of_class]
            found.append(
                {
                    "kind": _KIND,
                    "message": f"where {places.describe(place)} is {short_name(what)}, "
                    f"{evidence['share']:.1%} of {evidence['rows']:,} rows have the label "
                    f"{short_name(label)}, {evidence['of_label']:.0%} of its rows are among them; "
                    f"the rest of these rows tells {1 - rest:.1%}",
                    "label": label,
                    **places.record(place),
                    "value": what,
                    "places_in_all": len(leaking),
                    "rest_of_row": 1 - rest,
                    **evidence,
                    "examples": bodies.examples(rows_of[sign]),
                    "remedy": _REMEDY,
                }
            )
    return found


def _lookup_tables(places: Places, bodies: Bodies) -> JudgedSigns:
    """How well each place alone predicts the class: a pair per place, its sign is the place.

    A lookup table from one half of the rows is tested on the other. A row too short for the place
    counts as if it held one more token there.
    """
    classes_N, size, longest = bodies.classes_N, places.size, places.longest
    classes = int(classes_N.max()) + 1
    count = int(places.sign_M.max()) // size + 1
    known_N = bodies.halves()
    known_M = known_N[places.row_M]
    most_frequent = int(np.bincount(classes_N).argmax())
    pairs, times = np.unique(
        places.sign_M[known_M] * classes + classes_N[places.row_M[known_M]], return_counts=True
    )
    order = np.lexsort((times, pairs // classes))
    sign, of_class = pairs[order] // classes, pairs[order] % classes
    last = np.append(sign[1:] != sign[:-1], True)
    sign, of_class = sign[last], of_class[last]
    asked, truth = places.sign_M[~known_M], classes_N[places.row_M[~known_M]]
    at = np.minimum(np.searchsorted(sign, asked), len(sign) - 1)
    answer = np.where(sign[at] == asked, of_class[at], most_frequent)
    right_P = np.bincount(asked // size, weights=answer == truth, minlength=count)
    if places.several_lengths:
        right = _right_of_too_short(bodies, known_N, longest, most_frequent)
        right_P[:longest] += right
        right_P[longest : 2 * longest] += right
    rows_P = np.full(count, int((~known_N).sum()))
    return JudgedSigns.of(
        np.arange(count), np.full(count, most_frequent), rows_P, right_P, classes_N
    )


def _right_of_too_short(
    bodies: Bodies, known_N: np.ndarray, longest: int, most_frequent: int
) -> np.ndarray:
    """For each place 0..longest-1 the rows outside `known_N` too short for it and predicted right.

    Predicted is the most frequent class of the too short known rows; without any, `most_frequent`.
    """
    classes = int(bodies.classes_N.max()) + 1
    known = np.flatnonzero(known_N)
    known = known[np.argsort(bodies.lengths_N[known], kind="stable")]
    lengths, classes_K = bodies.lengths_N[known], bodies.classes_N[known]
    # How many rows of its class come before each row in the order of lengths.
    order = np.argsort(classes_K, kind="stable")
    starts = np.flatnonzero(np.diff(classes_K[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    nth_K = np.empty(len(order), np.int64)
    nth_K[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    # The most frequent class so far, the first of ties: the largest of these keys.
    best_K = np.maximum.accumulate((nth_K + 1) * classes + classes - 1 - classes_K)
    reached = np.searchsorted(lengths, np.arange(longest), side="right")
    best_P = np.where(
        reached > 0, classes - 1 - best_K[np.maximum(reached, 1) - 1] % classes, most_frequent
    )
    asked = ~known_N
    key = np.sort(bodies.classes_N[asked] * (longest + 1) + bodies.lengths_N[asked])
    upto = np.searchsorted(key, best_P * (longest + 1) + np.arange(longest), side="right")
    return upto - np.searchsorted(key, best_P * (longest + 1))
