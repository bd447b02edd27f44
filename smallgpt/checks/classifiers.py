"""Classifiers of the baselines and the features they use: n-grams, (place, token), pixels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC, LinearSVC

from smallgpt.checks.naive_bayes import NaiveBayes
from smallgpt.checks.sides import lookup, places_within, tokens_of
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary

LINEAR_MACHINE = partial(LinearSVC, max_iter=30, random_state=0)
NEAREST_NEIGHBOUR = partial(KNeighborsClassifier, 1, metric="cosine", algorithm="brute")
RBF_MACHINE = partial(SVC, C=5.0)
_MOST_CATEGORIES = 255  # of a column of HistGradientBoostingClassifier


class RowFeatures:
    """Sparse counts of a row's features: token 1- and 2-grams, or pairs of place and token."""

    def __init__(self, rows: TokenLabelDataset, by_place: bool):
        """Features of the training rows; 2-grams that occur once are dropped."""
        self.by_place = by_place
        self.name = "on pairs of place and token" if by_place else "on token 1- and 2-grams"
        key_M, _ = self._keys(rows)
        self.keys_F, count_F = np.unique(key_M, return_counts=True)
        self.weights = None
        if not by_place:
            self.keys_F = self.keys_F[(count_F > 1) | (self.keys_F < len(rows.vocabulary))]
            self.weights = TfidfTransformer(sublinear_tf=True).fit(self._counts(rows))

    def of(self, rows: TokenLabelDataset) -> csr_array:
        """Features of rows, sparse NxF; a feature that no training row has is left out."""
        counts_NxF = self._counts(rows)
        return counts_NxF if self.weights is None else self.weights.transform(counts_NxF)

    def _keys(self, rows: TokenLabelDataset) -> tuple[np.ndarray, np.ndarray]:
        """Key of each feature of each body, and its row."""
        ids_M, row_M = tokens_of(rows.without_tails())
        size = len(rows.vocabulary)
        if self.by_place:
            return places_within(row_M) * size + ids_M, row_M
        first_M = np.flatnonzero(row_M[1:] == row_M[:-1])
        pair_M = (ids_M[first_M] + 1) * size + ids_M[first_M + 1]
        return np.concatenate([ids_M, pair_M]), np.concatenate([row_M, row_M[first_M]])

    def _counts(self, rows: TokenLabelDataset) -> csr_array:
        key_M, row_M = self._keys(rows)
        column_M = lookup(self.keys_F, np.arange(1, len(self.keys_F) + 1), key_M) - 1
        known_M = column_M >= 0
        # scikit-learn's linear models take 32-bit indices only.
        places = row_M[known_M].astype(np.int32), column_M[known_M].astype(np.int32)
        ones, shape = np.ones(known_M.sum(), np.float32), (len(rows), len(self.keys_F))
        counts_NxF = coo_array((ones, places), shape=shape).tocsr()
        counts_NxF.indices = counts_NxF.indices.astype(np.int32)
        counts_NxF.indptr = counts_NxF.indptr.astype(np.int32)
        return counts_NxF


class TokenOfPlace:
    """Rows of one body length as a column a place: the token's number among those seen there."""

    name = "on the token of each place"

    def __init__(self, rows: TokenLabelDataset):
        """Columns for the tokens of these rows, which must suit."""
        self._seen = [np.unique(column) for column in _bodies(rows).T]

    @staticmethod
    def suits(rows: TokenLabelDataset) -> bool:
        """Whether all bodies have one length, and no place more tokens than a tree can part."""
        if len(np.unique(rows.body_lengths_N)) > 1:
            return False
        most = max(len(np.unique(column)) for column in _bodies(rows).T)
        return most <= _MOST_CATEGORIES

    def new_model(self) -> HistGradientBoostingClassifier:
        """Trees that ask which token stands at a place."""
        return HistGradientBoostingClassifier(
            max_iter=300,
            early_stopping=False,
            random_state=0,
            categorical_features=[True] * len(self._seen),
        )

    def of(self, rows: TokenLabelDataset) -> np.ndarray:
        """Columns NxP; NaN for a token that was not seen there, or where a row has ended."""
        ids_M, row_M = tokens_of(rows.without_tails())
        place_M = places_within(row_M)
        numbers_NxP = np.full((len(rows), len(self._seen)), np.nan)
        for place, seen in enumerate(self._seen):
            ids, of_rows = ids_M[place_M == place], row_M[place_M == place]
            known = np.isin(ids, seen)
            numbers_NxP[of_rows[known], place] = np.searchsorted(seen, ids[known])
        return numbers_NxP


def _bodies(rows: TokenLabelDataset) -> np.ndarray:
    """Ids of bodies of one length, as a matrix."""
    return np.stack([rows.body(index) for index in range(len(rows))])


class PixelFeatures:
    """Rows of image tokens decoded to pixels, scaled to 0..1."""

    def __init__(self, codebook: Codebook, vocabulary: Vocabulary):
        self.codebook = codebook
        self.count = codebook.height * codebook.width * codebook.channels
        self.name = f"on {self.count} decoded values"
        codes = {token: code for code, token in enumerate(codebook.code_tokens)}
        self.code_V = np.array([codes.get(token, -1) for token in vocabulary.tokens])

    def of(self, rows: TokenLabelDataset) -> np.ndarray:
        """Pixels NxD; missing patches get code 0, the darkest, and surplus codes are left out."""
        ids_M, row_M = tokens_of(rows.without_tails())
        code_M = self.code_V[ids_M]
        code_M, row_M = code_M[code_M >= 0], row_M[code_M >= 0]
        place_M = places_within(row_M)
        codes_NxP = np.zeros((len(rows), self.codebook.patches_per_image), np.int64)
        inside_M = place_M < codes_NxP.shape[1]
        codes_NxP[row_M[inside_M], place_M[inside_M]] = code_M[inside_M]
        low, high = self.codebook.low, self.codebook.high
        return (self.codebook.decode(codes_NxP).reshape(len(rows), -1) - low) / (high - low)


def by_place_is_better(known: TokenLabelDataset) -> bool:
    """Whether naive Bayes predicts more labels of a held-out fifth by pairs of place and token."""
    if len(np.unique(known.body_lengths_N)) > 1:  # no images, where the place of a patch matters
        return False
    order = np.random.default_rng(0).permutation(len(known))
    held_out, rest = (known.subset(part) for part in np.split(order, [len(known) // 5]))
    if not len(held_out):
        return False
    ngrams, placed = (
        naive_bayes_accuracy(RowFeatures(rest, by_place), rest, held_out)
        for by_place in (False, True)
    )
    return placed > ngrams


def naive_bayes_accuracy(
    features: RowFeatures, known: TokenLabelDataset, asked: TokenLabelDataset
) -> float:
    """Accuracy on the `asked` rows of naive Bayes fitted on the `known` ones."""
    model = NaiveBayes.fit(features.of(known), known.classes_N)
    return float((model.predict(features.of(asked)) == asked.classes_N).mean())


def accuracy_of(
    new_model: Callable[[], Any],
    features: RowFeatures | TokenOfPlace | PixelFeatures,
    known: TokenLabelDataset,
    asked: TokenLabelDataset,
) -> float:
    """Accuracy on the asked rows of a scikit-learn model fitted on the known rows."""
    with warnings.catch_warnings():
        # A baseline need not converge fully, and a label may have a single row.
        warnings.filterwarnings("ignore", message="Liblinear failed to converge")
        warnings.filterwarnings("ignore", message="The number of unique classes")
        model = new_model().fit(features.of(known), known.classes_N)
        return float(model.score(features.of(asked), asked.classes_N))
