"""Naive Bayes on sparse counts against scikit-learn's, in its answers and in its memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.naive_bayes import MultinomialNB

from smallgpt.checks import naive_bayes
from smallgpt.checks.naive_bayes import NaiveBayes


@pytest.fixture(params=["table", "sparse"])
def way(request, monkeypatch):
    if request.param == "sparse":
        monkeypatch.setattr(naive_bayes, "_TABLE", 0)
        monkeypatch.setattr(naive_bayes, "_SCORES", 20)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 30))
def test_answers_are_those_of_scikit_learn(seed, features, rows):
    random = np.random.default_rng(seed)
    counts = random.random((rows, features)) * (random.random((rows, features)) < 0.6)
    counts_NxF = csr_array(counts.astype(np.float32))
    classes_N = random.choice([0, 1, 4, 7], rows)
    asked = csr_array(random.random((9, features)).astype(np.float32))
    scores_MxL = MultinomialNB(alpha=0.1).fit(counts_NxF, classes_N).predict_joint_log_proba(asked)
    model = NaiveBayes.fit(counts_NxF, classes_N, smoothing=0.1)
    for table in (naive_bayes._TABLE, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(naive_bayes, "_TABLE", table)
            columns = np.searchsorted(np.unique(classes_N), model.predict(asked))
        # One of the likeliest: there may be several.
        assert scores_MxL[np.arange(9), columns] == pytest.approx(scores_MxL.max(axis=1))


def test_row_without_known_features_has_the_most_frequent_class(way):
    model = NaiveBayes.fit(csr_array([[1.0, 0], [0, 1], [0, 1]]), np.array([1, 3, 3]), 0.1)
    assert model.predict(csr_array((20, 2))).tolist() == [3] * 20
    assert model.predict(csr_array((0, 2))).tolist() == []


@pytest.mark.parametrize("features", [40_000, 6_000])  # a table of them: 960 or 144 MB
def test_memory_does_not_grow_with_labels_times_features(features):
    labels, rows = 3_000, 9_000
    random = np.random.default_rng(0)
    places = np.repeat(np.arange(rows), 20), random.integers(features, size=rows * 20)
    counts_NxF = csr_array((np.ones(rows * 20), places), shape=(rows, features))
    classes_N = np.arange(rows) % labels
    tracemalloc.start()
    answers = NaiveBayes.fit(counts_NxF, classes_N, 0.1).predict(counts_NxF[:2_000])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (answers == classes_N[:2_000]).mean() > 0.99
    assert peak < 150e6
