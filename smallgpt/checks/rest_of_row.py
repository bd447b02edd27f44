"""Class prediction from the rest of a row: naive Bayes with some places left out."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csr_array

from smallgpt.checks.leak_state import Bodies
from smallgpt.checks.naive_bayes import NaiveBayes, class_counts
from smallgpt.checks.sides import places_within


class RestOfRow:
    """Naive Bayes on rows without some of their places; each half is predicted from the other.

    Features are (place, token) where all bodies have one length, else the bag of tokens. Whole rows
    are counted once; each call subtracts only what stands at its places.
    """

    def __init__(self, bodies: Bodies):
        self.bodies = bodies
        self.longest = bodies.longest
        self.classes = int(bodies.classes_N.max()) + 1
        sign_M = bodies.id_M
        if (bodies.lengths_N == self.longest).all():
            sign_M = sign_M + bodies.place_M * len(bodies.vocabulary)
        signs, self.column_M = np.unique(sign_M, return_inverse=True)
        self.rows_V = np.bincount(self.column_M, minlength=len(signs))
        self.starts_N = np.append(0, np.cumsum(bodies.lengths_N))
        shape = len(bodies.classes_N), len(signs)
        ones = np.ones(len(self.column_M), np.float32)
        counts_NxF = csr_array((ones, self.column_M, self.starts_N), shape=shape)
        half_N = bodies.halves()
        self.halves = []
        for known_N in (half_N, ~half_N):
            classes_N = bodies.classes_N[known_N]
            counts_FxL = class_counts(counts_NxF[known_N], classes_N, self.classes)
            rows_L = np.bincount(classes_N, minlength=self.classes)
            total_L = np.asarray(counts_FxL.sum(axis=0)).ravel()
            self.halves.append((known_N, counts_FxL, rows_L, total_L))
        # Each token has two places, from the start and from the end: entries of `order` are token
        # indices, for places from the end plus the number of tokens.
        self.end_M = self.longest + bodies.places_from_end()
        place_2M = np.concatenate([bodies.place_M, self.end_M])
        self.order = np.argsort(place_2M, kind="stable")
        self.bounds = np.searchsorted(place_2M[self.order], np.arange(2 * self.longest + 1))

    def right(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Whether each class is predicted right without `places` (ascending, as in `Places`)."""
        bodies = self.bodies
        left_out = np.zeros(2 * self.longest + 1, bool)
        left_out[places] = True
        parts = [
            self.order[self.bounds[place] : self.bounds[place + 1]]
            for place in places[places < 2 * self.longest]
        ]
        end, gone = np.divmod(np.concatenate([np.zeros(0, np.int64), *parts]), len(bodies.id_M))
        # A token left out from both ends counts once. (np.unique would take twice as long.)
        gone = gone[(end == 0) | ~left_out[bodies.place_M[gone]]]
        left_V = self.rows_V - np.bincount(self.column_M[gone], minlength=len(self.rows_V))
        features = max(1, int((left_V > 0).sum()))
        gone_row = bodies.row_M[gone]
        gone_class = bodies.classes_N[gone_row]

        lengths = bodies.lengths_N[rows]
        row_M = np.repeat(np.arange(len(rows)), lengths)
        token_M = np.repeat(self.starts_N[rows], lengths) + places_within(row_M)
        stays_M = ~(left_out[bodies.place_M[token_M]] | left_out[self.end_M[token_M]])
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
            inside = at >= 0
            gone_FxL = csr_array(
                coo_array(
                    (np.ones(inside.sum()), (at[inside], of_class[inside])),
                    shape=(len(columns), self.classes),
                )
            )
            model = NaiveBayes(
                (counts_FxL[columns] - gone_FxL).tocsr(),
                total_L - np.bincount(of_class, minlength=self.classes),
                rows_L,
                features,
            )
            predicted = model.predict(asked_BxF[asked])
            right_B[asked] = predicted == bodies.classes_N[rows[asked]]
        return right_B
