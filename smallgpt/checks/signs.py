"""Signs of a class (a token, its absence, a token at a place, a length) and their significance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtrc

from smallgpt.checks.thresholds import (
    MAX_P,
    MIN_COVERAGE,
    MIN_GAIN,
    MIN_GAIN_OF_LABEL_TEXT,
    MIN_ROWS,
)
from smallgpt.evaluation.statistics import wilson_interval


@dataclass(frozen=True)
class SignsInRows:
    """Which row has which sign, each pair once."""

    row_M: np.ndarray
    sign_M: np.ndarray

    @classmethod
    def once(cls, row_M: np.ndarray, sign_M: np.ndarray) -> SignsInRows:
        """The distinct pairs, sorted by row."""
        size = int(sign_M.max(initial=0)) + 1
        # Not np.unique, whose hash table takes 50 times as long as sorting keys nearly in order.
        key_M = np.sort(row_M * size + sign_M)
        key_M = key_M[np.diff(key_M, prepend=-1) > 0]
        return cls(key_M // size, key_M % size)

    def rows_with(self, wanted: np.ndarray) -> dict[int, np.ndarray]:
        """The rows that have each of the wanted signs."""
        wanted = np.unique(wanted)
        if not len(wanted):
            return {}
        at_M = np.minimum(np.searchsorted(wanted, self.sign_M), len(wanted) - 1)
        hit = np.flatnonzero(wanted[at_M] == self.sign_M)
        order = hit[np.argsort(at_M[hit], kind="stable")]
        borders = np.searchsorted(at_M[order], np.arange(1, len(wanted)))
        parts = np.split(self.row_M[order], borders)
        return {sign: np.unique(rows) for sign, rows in zip(wanted.tolist(), parts, strict=True)}

    def judged(self, classes_N: np.ndarray) -> JudgedSigns:
        """Statistics of each sign for each class of the rows that have it."""
        classes = int(classes_N.max()) + 1
        pairs, right_P = np.unique(
            self.sign_M * classes + classes_N[self.row_M], return_counts=True
        )
        sign_P, class_P = pairs // classes, pairs % classes
        _, which_P = np.unique(sign_P, return_inverse=True)
        rows_P = np.bincount(which_P, weights=right_P).astype(np.int64)[which_P]
        return JudgedSigns.of(sign_P, class_P, rows_P, right_P, classes_N)


@dataclass(frozen=True)
class JudgedSigns:
    """Pairs of a sign and a class, and how well the sign predicts the class.

    `gain_P` is the share of the gap between the class's share of all rows and 1 that `lower_P`
    closes.
    """

    sign_P: np.ndarray
    class_P: np.ndarray
    rows_P: np.ndarray  # with the sign
    right_P: np.ndarray  # of them those of the class
    lower_P: np.ndarray  # lower end of the 95 % Wilson interval of right / rows
    gain_P: np.ndarray
    coverage_P: np.ndarray  # share of the class's rows that have the sign
    p_P: np.ndarray  # binomial, times the pairs tested; 1 where rows or gain are below all limits

    @classmethod
    def of(
        cls, sign_P: np.ndarray, class_P: np.ndarray, rows_P: np.ndarray, right_P: np.ndarray,
        classes_N: np.ndarray,
    ) -> JudgedSigns:  # fmt: skip
        """Statistics of counted pairs in rows of the classes `classes_N`."""
        of_class_L = np.bincount(classes_N, minlength=int(class_P.max(initial=0)) + 1)
        base_P = of_class_L[class_P] / len(classes_N)
        lower_P, _ = wilson_interval(right_P, rows_P)
        gain_P = (lower_P - base_P) / (1 - base_P)
        looked_at = max(1, int((rows_P >= MIN_ROWS).sum()))
        asked = np.flatnonzero((rows_P >= MIN_ROWS) & (gain_P >= MIN_GAIN_OF_LABEL_TEXT))
        right = right_P[asked]
        # P(at least `right` of the rows), where each is right with the share of its class.
        chance = np.where(right > 0, bdtrc(right - 1.0, rows_P[asked], base_P[asked]), 1.0)
        p_P = np.ones(len(sign_P))
        p_P[asked] = np.minimum(1, chance * looked_at)
        coverage_P = right_P / np.maximum(of_class_L[class_P], 1)
        return cls(sign_P, class_P, rows_P, right_P, lower_P, gain_P, coverage_P, p_P)

    def leaking(self, coverage: float = MIN_COVERAGE, gain: float = MIN_GAIN) -> np.ndarray:
        """Numbers of the pairs that pass all thresholds, most rows first."""
        strong_P = (self.rows_P >= MIN_ROWS) & (self.coverage_P >= coverage)
        found = np.flatnonzero(strong_P & (self.gain_P >= gain) & (self.p_P <= MAX_P))
        return found[np.argsort(-self.right_P[found], kind="stable")]

    def by_class(self, pairs: np.ndarray) -> dict[int, list[int]]:
        """Some pairs grouped by class, in their order."""
        found: dict[int, list[int]] = {}
        for of_class, pair in zip(self.class_P[pairs].tolist(), pairs.tolist(), strict=True):
            found.setdefault(of_class, []).append(pair)
        return found

    def evidence(self, pair: int) -> dict[str, Any]:
        """The statistics of a pair for a finding."""
        return {
            "rows": int(self.rows_P[pair]),
            "share": float(self.right_P[pair] / self.rows_P[pair]),
            "lower_bound": float(self.lower_P[pair]),
            "gap_closed": float(self.gain_P[pair]),
            "of_label": float(self.coverage_P[pair]),
            "p_value": float(self.p_P[pair]),
        }
