"""Places of a row whose token gives the label away."""

from __future__ import annotations

from typing import Any

import numpy as np

from smallgpt.checks.bodies import _Bodies
from smallgpt.checks.naive_bayes import NaiveBayes, class_counts
from smallgpt.checks.signs import _rows_with, _Signs
from smallgpt.checks.thresholds import (
    _SEED,
    MAX_P,
    MIN_GAIN_OF_PLACE,
    MIN_REST_ERROR,
    MIN_REST_ERROR_BELOW_IT,
    MIN_ROWS,
    TIMES_BETTER_THAN_REST,
    WIDE_COVERAGE,
    short_name,
)
from smallgpt.console import progress_bar

_LENGTH_BINS = 64
_MOST_SCORES = 200_000_000  # rows times labels of a place that all labels are told by
_SMOOTHING = 0.1  # of naive Bayes on the rest of a row


# ------------------------------------------------------------------------------- places


def _places(bodies: _Bodies) -> tuple[list[dict[str, Any]], int | None]:
    """The place, or else per label the token at a place, that gives the label.

    Returns:
        findings, and of how many rows the rest was asked if not of all.
    """
    classes_N, rows = bodies.classes_N, len(bodies.classes_N)
    if rows < 2 * MIN_ROWS or len(np.unique(classes_N)) < 2:
        return [], None
    longest = int(bodies.lengths_N.max())
    edges = np.unique(np.quantile(bodies.lengths_N, np.linspace(0, 1, _LENGTH_BINS + 1)[1:-1]))
    exact = len(np.unique(bodies.lengths_N)) <= _LENGTH_BINS
    bin_N = bodies.lengths_N if exact else np.searchsorted(edges, bodies.lengths_N, side="left")
    size = max(len(bodies.tokens), int(bin_N.max()) + 1)
    one_length = bool((bodies.lengths_N == longest).all())
    # Places 0.. from the start, `longest`.. from the end, and last the length.
    place_M, id_M, row_M = [bodies.place_M], [bodies.id_M], [bodies.row_M]
    if not one_length:
        place_M += [longest + bodies.lengths_N[bodies.row_M] - 1 - bodies.place_M]
        place_M += [np.full(rows, 2 * longest)]
        id_M += [bodies.id_M, bin_N]
        row_M += [bodies.row_M, np.arange(rows)]
    sign_M = np.concatenate(place_M) * size + np.concatenate(id_M)
    row_M = np.concatenate(row_M)

    def words(place: int) -> dict[str, Any]:
        if place == 2 * longest:
            return {"place": "length"}
        if place >= longest:
            return {"place": place - longest, "counted_from": "end"}
        return {"place": place, "counted_from": "start"}

    def said(place: int) -> str:
        if place == 2 * longest:
            return "the length of the body"
        if place >= longest:
            return f"the token {place - longest + 1} from the end of the body"
        return f"the token at place {place} of the body (counted from 0)"

    table = _lookups(sign_M, row_M, size, bodies, None if one_length else longest)
    decide = np.flatnonzero((table.gain_P >= MIN_GAIN_OF_PLACE) & (table.p_P <= MAX_P))
    if len(decide):
        best = int(decide[table.right_P[decide].argmax()])
        # Whether a row reaches a place tells as much as its length, which is the plainer word.
        of_length = 2 * longest
        if of_length in decide and table.right_P[of_length] >= 0.98 * table.right_P[best]:
            best = of_length
        share = float(table.right_P[best] / table.rows_P[best])
        asked, sampled = np.arange(rows), None
        most = max(MIN_ROWS, _MOST_SCORES // len(np.unique(classes_N)))
        if rows > most:
            asked = np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False))
            sampled = most
        rest = 1 - float(_RestOfRow(bodies).right(asked, decide).mean())
        if rest < max(MIN_REST_ERROR, TIMES_BETTER_THAN_REST * (1 - share)):
            return [], sampled
        leak = {
            "kind": "position_gives_label",
            "message": f"{said(best)} alone tells {share:.1%} of the labels, in rows that the "
            f"lookup has not seen; the rest of the row tells {1 - rest:.1%}",
            "label": None,
            **words(best),
            "places_in_all": len(decide),
            "rows": int(table.rows_P[best]),
            "share": share,
            "lower_bound": float(table.lower_P[best]),
            "gap_closed": float(table.gain_P[best]),
            "majority_class": float(np.bincount(classes_N).max() / rows),
            "rest_of_row": 1 - rest,
            "p_value": float(table.p_P[best]),
            "examples": bodies.examples(np.arange(rows)),
        }
        return [leak], sampled
    signs = _Signs.present(sign_M, classes_N[row_M], classes_N)
    widest = list(signs.by_class(signs.leaking()))
    rows_of = _rows_with(signs.sign_P[[pairs[0] for _, pairs in widest]], sign_M, row_M)
    rest_of_row = _RestOfRow(bodies) if widest else None
    found = []
    with progress_bar("places against the rest of the row", len(widest), "label") as bar:
        for of_class, mine in widest:
            bar.update()
            places = np.unique(signs.sign_P[mine] // size)
            best, evidence = mine[0], signs.evidence(mine[0])
            has = rows_of[signs.sign_P[best]]
            rest = 1 - float(rest_of_row.right(has, places).mean())
            wide = evidence["of_label"] >= WIDE_COVERAGE
            needed = MIN_REST_ERROR if wide else MIN_REST_ERROR_BELOW_IT
            if rest < max(needed, TIMES_BETTER_THAN_REST * (1 - evidence["share"])):
                continue
            place, value = divmod(int(signs.sign_P[best]), size)
            what = str(value if exact else "in one range")
            if place < 2 * longest:
                what = bodies.tokens[value]
            label = bodies.label(of_class)
            found.append(
                {
                    "kind": "position_gives_label",
                    "message": f"where {said(place)} is {short_name(what)}, "
                    f"{evidence['share']:.1%} of {evidence['rows']:,} rows have the label "
                    f"{short_name(label)}, "
                    f"{evidence['of_label']:.0%} of its rows are among them; the rest of these "
                    f"rows tells {1 - rest:.1%}",
                    "label": label,
                    **words(place),
                    "value": what,
                    "places_in_all": len(places),
                    "rest_of_row": 1 - rest,
                    **evidence,
                    "examples": bodies.examples(has),
                }
            )
    return found, None


def _halves(rows: int) -> np.ndarray:
    """True for one half of the rows, drawn at random."""
    return np.random.default_rng(_SEED).permutation(rows) < rows // 2


def _lookups(
    sign_M: np.ndarray, row_M: np.ndarray, size: int, bodies: _Bodies, longest: int | None
) -> _Signs:
    """How well each place alone tells the class: a table from one half, asked on the other.

    A row too short for the place counts as if it held one more token there.

    Args:
        longest: the number of places from one end; None where all rows have them all.

    Returns:
        a pair per place; its sign is the place, its base the most frequent class.
    """
    classes_N = bodies.classes_N
    classes = int(classes_N.max()) + 1
    places = int(sign_M.max()) // size + 1
    known_N = _halves(len(classes_N))
    known_M = known_N[row_M]
    most_frequent = int(np.bincount(classes_N).argmax())
    pairs, count = np.unique(
        sign_M[known_M] * classes + classes_N[row_M[known_M]], return_counts=True
    )
    order = np.lexsort((count, pairs // classes))
    sign, of_class = pairs[order] // classes, pairs[order] % classes
    last = np.append(sign[1:] != sign[:-1], True)
    sign, of_class = sign[last], of_class[last]
    asked, truth = sign_M[~known_M], classes_N[row_M[~known_M]]
    at = np.minimum(np.searchsorted(sign, asked), len(sign) - 1)
    answer = np.where(sign[at] == asked, of_class[at], most_frequent)
    right_P = np.bincount(asked // size, weights=answer == truth, minlength=places)
    if longest is not None:
        right = _right_of_too_short(bodies, known_N, longest, most_frequent)
        right_P[:longest] += right
        right_P[longest : 2 * longest] += right
    rows_P = np.full(places, int((~known_N).sum()))
    return _Signs.judge(
        np.arange(places), np.full(places, most_frequent), rows_P, right_P, classes_N
    )


def _right_of_too_short(
    bodies: _Bodies, known_N: np.ndarray, longest: int, most_frequent: int
) -> np.ndarray:
    """Of the rows too short for each place, how many have the commonest class of the known ones.

    Args:
        known_N: the rows that tell which class is the commonest; the others are counted.
        most_frequent: the class where no known row is too short.

    Returns:
        counts for the places 0..longest-1.
    """
    classes = int(bodies.classes_N.max()) + 1
    known = np.flatnonzero(known_N)
    known = known[np.argsort(bodies.lengths_N[known], kind="stable")]
    lengths, classes_K = bodies.lengths_N[known], bodies.classes_N[known]
    # How many rows of its class stand before each row in the order of lengths.
    order = np.argsort(classes_K, kind="stable")
    starts = np.flatnonzero(np.diff(classes_K[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    nth_K = np.empty(len(order), np.int64)
    nth_K[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    # The commonest so far, of equal ones the first class: the largest of these keys.
    best_K = np.maximum.accumulate((nth_K + 1) * classes + classes - 1 - classes_K)
    reached = np.searchsorted(lengths, np.arange(longest), side="right")
    best_P = np.where(
        reached > 0, classes - 1 - best_K[np.maximum(reached, 1) - 1] % classes, most_frequent
    )
    asked = ~known_N
    key = np.sort(bodies.classes_N[asked] * (longest + 1) + bodies.lengths_N[asked])
    upto = np.searchsorted(key, best_P * (longest + 1) + np.arange(longest), side="right")
    return upto - np.searchsorted(key, best_P * (longest + 1))


class _RestOfRow:
    """Whether naive Bayes on a row less some places tells its class, held out.

    On tokens at their places where all bodies have one length, else on the bag of tokens. Each half
    of the rows is told by what the other half teaches. What whole rows teach is counted once; for
    each question only what stands at its places is taken off.
    """

    def __init__(self, bodies: _Bodies):
        from scipy.sparse import csr_array

        self.bodies = bodies
        longest = int(bodies.lengths_N.max())
        self.classes = int(bodies.classes_N.max()) + 1
        sign_M = bodies.id_M
        if (bodies.lengths_N == longest).all():
            sign_M = sign_M + bodies.place_M * len(bodies.tokens)
        signs, self.column_M = np.unique(sign_M, return_inverse=True)
        self.rows_V = np.bincount(self.column_M, minlength=len(signs))
        self.starts_N = np.append(0, np.cumsum(bodies.lengths_N))
        shape = len(bodies.classes_N), len(signs)
        ones = np.ones(len(self.column_M), np.float32)
        counts_NxF = csr_array((ones, self.column_M, self.starts_N), shape=shape)
        half_N = _halves(len(bodies.classes_N))
        self.halves = []
        for known_N in (half_N, ~half_N):
            classes_N = bodies.classes_N[known_N]
            counts_FxL = class_counts(counts_NxF[known_N], classes_N, self.classes)
            rows_L = np.bincount(classes_N, minlength=self.classes)
            total_L = np.asarray(counts_FxL.sum(axis=0)).ravel()
            self.halves.append((known_N, counts_FxL, rows_L, total_L))
        # The tokens of each place, counted from either end.
        ends_M = np.repeat(bodies.lengths_N, bodies.lengths_N) - 1 - bodies.place_M
        self.places_M = bodies.place_M, longest + ends_M
        self.orders = [np.argsort(places, kind="stable") for places in self.places_M]
        at = np.arange(longest + 1)
        self.bounds = [
            np.searchsorted(places[order], first + at)
            for places, order, first in zip(self.places_M, self.orders, (0, longest), strict=True)
        ]
        self.longest = longest

    def right(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Whether each of some rows is told rightly by what is left of it.

        Args:
            places: those left out, numbered as in `_places`.

        Returns:
            right_B: bool.
        """
        from scipy.sparse import coo_array, csr_array

        longest = self.longest
        left_out = np.zeros(2 * longest + 1, bool)
        left_out[places] = True
        ends = []
        for first, order, bounds in zip((0, longest), self.orders, self.bounds, strict=True):
            here = places[(places >= first) & (places < first + longest)] - first
            parts = [order[bounds[place] : bounds[place + 1]] for place in here]
            ends.append(np.concatenate([np.zeros(0, np.int64), *parts]))
        from_start, from_end = ends
        # A token that is left out from both ends counts once. (np.unique would take half the time.)
        gone = np.concatenate([from_start, from_end[~left_out[self.places_M[0][from_end]]]])
        left_V = self.rows_V - np.bincount(self.column_M[gone], minlength=len(self.rows_V))
        features = max(1, int((left_V > 0).sum()))
        gone_row = self.bodies.row_M[gone]
        gone_class = self.bodies.classes_N[gone_row]

        lengths = self.bodies.lengths_N[rows]
        row_M = np.repeat(np.arange(len(rows)), lengths)
        token_M = np.repeat(self.starts_N[rows] - (np.cumsum(lengths) - lengths), lengths)
        token_M += np.arange(len(row_M))
        stays_M = ~(left_out[self.places_M[0][token_M]] | left_out[self.places_M[1][token_M]])
        columns, column_M = np.unique(self.column_M[token_M[stays_M]], return_inverse=True)
        asked_BxF = coo_array(
            (np.ones(len(column_M)), (row_M[stays_M], column_M)), shape=(len(rows), len(columns))
        ).tocsr()
        position_V = np.full(len(self.rows_V), -1)
        position_V[columns] = np.arange(len(columns))

        right_B = np.zeros(len(rows), bool)
        for known_N, counts_FxL, rows_L, total_L in self.halves:
            asked = np.flatnonzero(~known_N[rows])
            mine = known_N[gone_row]
            of_class, at = gone_class[mine], position_V[self.column_M[gone[mine]]]
            shape = len(columns), self.classes
            inside = at >= 0
            gone_FxL = csr_array(
                coo_array((np.ones(inside.sum()), (at[inside], of_class[inside])), shape=shape)
            )
            model = NaiveBayes(
                (counts_FxL[columns] - gone_FxL).tocsr(),
                total_L - np.bincount(of_class, minlength=self.classes),
                rows_L,
                features,
                _SMOOTHING,
            )
            told = model.predict(asked_BxF[asked])
            right_B[asked] = told == self.bodies.classes_N[rows[asked]]
        return right_B
