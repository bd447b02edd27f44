"""Tokens whose presence, absence or count gives the label away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from smallgpt.checks.bodies import _Bodies
from smallgpt.checks.label_names import _label_names
from smallgpt.checks.thresholds import (
    MAX_P,
    MIN_COVERAGE,
    MIN_COVERAGE_OF_LABEL_TEXT,
    MIN_GAIN,
    MIN_GAIN_OF_LABEL_TEXT,
    MIN_ROWS,
    MOST_FINDINGS,
    short_name,
)
from smallgpt.console import plural
from smallgpt.evaluation.statistics import wilson_interval

# ------------------------------------------------------------------------------- signs


@dataclass(frozen=True)
class _Signs:
    """Signs and one class each: how well the sign tells the class. Arrays over pairs.

    Attributes:
        sign_P, class_P: the pair.
        rows_P: rows with the sign; right_P: those of them that have the class.
        lower_P: lower end of the 95 % interval of right / rows.
        gain_P: share of the gap between the class's share of all rows and 1 that `lower_P` closes.
        coverage_P: share of the class's rows that have the sign.
        p_P: chance of so many right ones, times the number of pairs looked at; 1 where rows or gain
            are too little for any limit.
    """

    sign_P: np.ndarray
    class_P: np.ndarray
    rows_P: np.ndarray
    right_P: np.ndarray
    lower_P: np.ndarray
    gain_P: np.ndarray
    coverage_P: np.ndarray
    p_P: np.ndarray

    @classmethod
    def judge(
        cls, sign_P: np.ndarray, class_P: np.ndarray, rows_P: np.ndarray, right_P: np.ndarray,
        classes_N: np.ndarray,
    ) -> _Signs:  # fmt: skip
        of_class_L = np.bincount(classes_N, minlength=int(class_P.max(initial=0)) + 1)
        base_P = of_class_L[class_P] / len(classes_N)
        lower_P, _ = wilson_interval(right_P, rows_P)
        gain_P = (lower_P - base_P) / (1 - base_P)
        looked_at = max(1, int((rows_P >= MIN_ROWS).sum()))
        p_P = np.ones(len(sign_P))
        asked = np.flatnonzero((rows_P >= MIN_ROWS) & (gain_P >= MIN_GAIN_OF_LABEL_TEXT))
        chance = _chance(right_P[asked], rows_P[asked], base_P[asked])
        p_P[asked] = np.minimum(1, chance * looked_at)
        coverage_P = right_P / np.maximum(of_class_L[class_P], 1)
        return cls(sign_P, class_P, rows_P, right_P, lower_P, gain_P, coverage_P, p_P)

    @classmethod
    def present(cls, sign_M: np.ndarray, class_M: np.ndarray, classes_N: np.ndarray) -> _Signs:
        """Of signs that each row has at most once: `sign_M` in a row of class `class_M`."""
        classes = int(classes_N.max()) + 1
        pairs, right_P = np.unique(sign_M * classes + class_M, return_counts=True)
        sign_P, class_P = pairs // classes, pairs % classes
        _, place_P = np.unique(sign_P, return_inverse=True)
        rows_P = np.bincount(place_P, weights=right_P).astype(np.int64)[place_P]
        return cls.judge(sign_P, class_P, rows_P, right_P, classes_N)

    def leaking(self, coverage: float = MIN_COVERAGE, gain: float = MIN_GAIN) -> np.ndarray:
        """Numbers of the pairs beyond all limits, the widest first."""
        strong_P = (self.rows_P >= MIN_ROWS) & (self.coverage_P >= coverage)
        found = np.flatnonzero(strong_P & (self.gain_P >= gain) & (self.p_P <= MAX_P))
        return found[np.argsort(-self.right_P[found], kind="stable")]

    def by_class(self, pairs: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Some pairs, class by class in the order in which the classes stand first."""
        of_class = self.class_P[pairs]
        order = np.argsort(of_class, kind="stable")
        starts = np.flatnonzero(np.diff(of_class[order], prepend=-1))
        parts = np.split(pairs[order], starts[1:])
        for first in np.argsort(order[starts]):
            yield int(self.class_P[parts[first][0]]), parts[first]

    def evidence(self, pair: int) -> dict[str, Any]:
        return {
            "rows": int(self.rows_P[pair]),
            "share": float(self.right_P[pair] / self.rows_P[pair]),
            "lower_bound": float(self.lower_P[pair]),
            "gap_closed": float(self.gain_P[pair]),
            "of_label": float(self.coverage_P[pair]),
            "p_value": float(self.p_P[pair]),
        }


def _chance(right: np.ndarray, rows: np.ndarray, base: np.ndarray) -> np.ndarray:
    """P(at least `right` of `rows`) where each is right with probability `base`."""
    from scipy.special import bdtrc

    return np.where(right > 0, bdtrc(right - 1.0, rows, base), 1.0)


# ------------------------------------------------------------------------------- tokens


def _tokens(bodies: _Bodies) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Tokens that give a label, one finding a label; and which rows they give away."""
    size, classes_N = len(bodies.tokens), bodies.classes_N
    row_U, id_U = _once(bodies.row_M, bodies.id_M, size)
    found: list[dict[str, Any]] = []
    # A token is told once: of two labels one has it and the other lacks it.
    told_V = np.zeros(size, bool)
    explained_N = np.zeros(len(classes_N), bool)

    def tell(
        kind: str, signs: _Signs, pairs: np.ndarray, parts: Callable[[int], list[int]],
        rows_of: dict[int, np.ndarray], present: bool = True,
    ) -> None:  # fmt: skip
        """A finding for each class of the pairs: the widest is its evidence.

        Args:
            parts: token ids of a sign.
            rows_of: rows that have it.
        """
        for of_class, mine in signs.by_class(pairs):
            mine = [pair for pair in mine if not told_V[parts(signs.sign_P[pair])].all()]
            if not mine:
                continue
            texts = [" ".join(map(bodies.tokens.__getitem__, parts(signs.sign_P[p]))) for p in mine]
            given = []
            for pair in mine:
                told_V[parts(signs.sign_P[pair])] = True
                given_N = np.full(len(classes_N), not present)
                given_N[rows_of[signs.sign_P[pair]]] = present
                given.append(np.flatnonzero(given_N))
                explained_N[given[-1]] = True
            evidence = signs.evidence(mine[0])
            noun = "token" if len(parts(signs.sign_P[mine[0]])) == 1 else "tokens"
            who = f"rows {'with' if present else 'without'} the {noun} {short_name(texts[0])}"
            if len(mine) > 1:
                who += f" ({plural(len(mine) - 1, 'more token')} like it)"
            label = bodies.label(of_class)
            found.append(
                {
                    "kind": kind,
                    "message": f"{evidence['share']:.1%} of the {evidence['rows']:,} {who} have "
                    f"the label {short_name(label)}, {evidence['of_label']:.0%} of its rows are "
                    f"among them",
                    "label": label,
                    "tokens": texts[:MOST_FINDINGS],
                    "tokens_in_all": len(mine),
                    "present": present,
                    **evidence,
                    "examples": bodies.examples(given[0]),
                }
            )

    def itself(token: int) -> list[int]:
        return [token]

    names = _label_names(bodies)
    if len(names.row_H):
        row_H, name_H = _once(names.row_H, names.sign_H, len(names.parts))
        signs = _Signs.present(name_H, classes_N[row_H], classes_N)
        pairs = signs.leaking(MIN_COVERAGE_OF_LABEL_TEXT, MIN_GAIN_OF_LABEL_TEXT)
        own = [signs.class_P[pair] in names.classes[signs.sign_P[pair]] for pair in pairs]
        pairs = pairs[np.array(own, bool)]
        rows_of = _rows_with(signs.sign_P[pairs], name_H, row_H)
        tell("label_in_body", signs, pairs, names.parts.__getitem__, rows_of)
    present = _Signs.present(id_U, classes_N[row_U], classes_N)
    pairs = present.leaking()
    rows_of = _rows_with(present.sign_P[pairs], id_U, row_U)
    tell("token_gives_label", present, pairs, itself, rows_of)
    absent = _absent(present, classes_N)
    if absent is not None:
        pairs = absent.leaking()
        rows_of = _rows_with(absent.sign_P[pairs], id_U, row_U)
        tell("token_gives_label", absent, pairs, itself, rows_of, present=False)
    return found, explained_N


def _once(row_M: np.ndarray, sign_M: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and sign, each pair once, by row."""
    # Not np.unique, whose hash table takes 50 times as long as sorting keys that nearly are sorted.
    key_M = np.sort(row_M * size + sign_M)
    once = key_M[np.diff(key_M, prepend=-1) > 0]
    return once // size, once % size


def _rows_with(wanted: np.ndarray, sign_M: np.ndarray, row_M: np.ndarray) -> dict[int, np.ndarray]:
    """The rows that have each of the wanted signs."""
    wanted = np.unique(wanted)
    if not len(wanted):
        return {}
    at_M = np.minimum(np.searchsorted(wanted, sign_M), len(wanted) - 1)
    hit = np.flatnonzero(wanted[at_M] == sign_M)
    order = hit[np.argsort(at_M[hit], kind="stable")]
    parts = np.split(row_M[order], np.searchsorted(at_M[order], np.arange(1, len(wanted))))
    return {sign: np.unique(rows) for sign, rows in zip(wanted.tolist(), parts, strict=True)}


def _absent(present: _Signs, classes_N: np.ndarray) -> _Signs | None:
    """Lacking a token, for tokens that so many rows have that one class may explain the others.

    Args:
        present: having a token, of each class that has rows with it.
    """
    of_class_L = np.bincount(classes_N)
    lacking_P = len(classes_N) - present.rows_P
    asked_P = (lacking_P >= MIN_ROWS) & (lacking_P <= 1.2 * of_class_L.max())
    if not asked_P.any():
        return None
    token_P, class_P = present.sign_P[asked_P], present.class_P[asked_P]
    right_P, lacking_P = of_class_L[class_P] - present.right_P[asked_P], lacking_P[asked_P]
    # Of the classes that never have a token the largest is the best: the first place in the order
    # of sizes that none of those which have it takes.
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
    return _Signs.judge(token_P[best], class_P[best], lacking_P[best], right_P[best], classes_N)
