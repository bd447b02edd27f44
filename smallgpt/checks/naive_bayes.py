"""Multinomial naive Bayes on sparse counts, for many labels and many features.

    model = NaiveBayes.fit(counts_NxF, classes_N, smoothing=0.1)
    classes_M = model.predict(counts_MxF)

scikit-learn's predicts the same from a dense table labels x features: with 10,000 labels and their
2-grams more than memory holds. Here large tables are sparse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

_SMOOTHING = 0.1  # 0.01 and 1 do worse or no better
_SCORES = 4_000_000  # rows x labels scored at once: 32 MB
# A dense table features x labels is faster if at least this share is filled; 160 MB at most.
_TABLE, _FILLED = 20_000_000, 1 / 16


@dataclass(frozen=True)
class NaiveBayes:
    """The most probable class by P(class) times the product of P(feature | class)^count.

    P(feature | class) = (count + smoothing) / (total of the class + smoothing * features).
    `total_L` and `features` include features left out of `counts_FxL` because no row to be
    predicted has them.
    """

    counts_FxL: csr_array  # summed over the rows of each class
    total_L: np.ndarray
    rows_L: np.ndarray  # a class without rows is never predicted
    features: int
    smoothing: float = _SMOOTHING

    @classmethod
    def fit(
        cls, counts_NxF: csr_array, classes_N: np.ndarray, smoothing: float = _SMOOTHING
    ) -> NaiveBayes:
        """Fit on rows of known class (numbers from 0)."""
        counts_FxL = class_counts(counts_NxF, classes_N, int(classes_N.max()) + 1)
        total_L = np.asarray(counts_FxL.sum(axis=0)).ravel()
        return cls(counts_FxL, total_L, np.bincount(classes_N), counts_NxF.shape[1], smoothing)

    def predict(self, counts_MxF: csr_array) -> np.ndarray:
        """The most probable class of each row; the first of ties."""
        with np.errstate(divide="ignore"):
            prior_L = np.log(self.rows_L) - np.log(self.rows_L.sum())
        all_L = self.total_L + self.smoothing * self.features
        if self.counts_FxL.shape[0] * len(prior_L) <= min(_TABLE, self.counts_FxL.nnz / _FILLED):
            table_FxL = np.log(self.counts_FxL.toarray() + self.smoothing) - np.log(all_L)
            none_L = np.zeros(len(prior_L))
        else:
            # What a feature adds if the class has it; otherwise all features add the same.
            table_FxL = self.counts_FxL.copy()
            table_FxL.data = np.log1p(table_FxL.data / self.smoothing)
            none_L = np.log(self.smoothing) - np.log(all_L)
        in_row_M = np.asarray(counts_MxF.sum(axis=1)).ravel()
        step = max(1, _SCORES // len(prior_L))
        best = [np.zeros(0, np.int64)]
        for start in range(0, counts_MxF.shape[0], step):
            part = slice(start, start + step)
            scores_BxL = counts_MxF[part] @ table_FxL
            if not isinstance(scores_BxL, np.ndarray):
                scores_BxL = scores_BxL.toarray()
            scores_BxL += in_row_M[part, None] * none_L
            scores_BxL += prior_L
            best.append(scores_BxL.argmax(axis=1))
        return np.concatenate(best)


def class_counts(counts_NxF: csr_array, classes_N: np.ndarray, classes: int) -> csr_array:
    """Counts summed over the rows of each class, sparse features x classes, float64."""
    rows = len(classes_N)
    of_class_NxL = csr_array((np.ones(rows), classes_N, np.arange(rows + 1)), shape=(rows, classes))
    return (counts_NxF.T.tocsr() @ of_class_NxL).tocsr()
