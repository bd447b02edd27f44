"""Baselines against sums by hand and against scikit-learn on its own."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.svm import SVC

from smallgpt.checks import baselines
from smallgpt.checks.baselines import STEPS, language_perplexities, measure_baselines
from smallgpt.errors import UserError
from smallgpt.rows.reading import dataset_from_records
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.vocabulary import Vocabulary


def nothing() -> None:
    pass


@pytest.fixture(scope="module")
def split_digits(digits):
    """Training and validation rows of the digits."""
    return split_dataset(digits, 0.2, 42)


# ------------------------------------------------------------------------------- language


def test_unigram_and_bigram_perplexity_by_hand(make):
    train, validation = make("A A B:", "A B:"), make("A B A:", "C A:")
    unigram, bigram = language_perplexities(train, validation)
    # Add-one over 13 entries: A 4/18, B 3/18. Asked: B, A of the first row, A of the second.
    a, b = 4 / 18, 3 / 18
    assert unigram == pytest.approx((b * a * a) ** (-1 / 3))
    # After A stood A once and B twice: 3 times, 2 kinds. After B and C stood nothing.
    assert bigram == pytest.approx(((2 + 2 * b) / 5 * a * a) ** (-1 / 3))


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.sampled_from("ABCD"), min_size=2, max_size=8), min_size=2, max_size=12),
    st.integers(1, 11),
)
def test_perplexities_equal_a_plain_count(vocabulary, rows, cut):
    cut = min(cut, len(rows) - 1)
    sides = [
        dataset_from_records([{"tokens": row} for row in part], vocabulary, max_length=64)
        for part in (rows[:cut], rows[cut:])
    ]
    ones = Counter(token for row in rows[:cut] for token in row)
    twos = Counter(pair for row in rows[:cut] for pair in pairwise(row))
    nll_one, nll_two, count = 0.0, 0.0, 0
    for row in rows[cut:]:
        for last, token in pairwise(row):
            one = (ones[token] + 1) / (sum(ones.values()) + len(vocabulary))
            kinds = sum(first == last for first, _ in twos)
            total = sum(number for (first, _), number in twos.items() if first == last)
            two = (twos[last, token] + kinds * one) / (total + kinds) if total else one
            nll_one, nll_two, count = nll_one - math.log(one), nll_two - math.log(two), count + 1
    unigram, bigram = language_perplexities(*sides)
    assert unigram == pytest.approx(math.exp(nll_one / count))
    assert bigram == pytest.approx(math.exp(nll_two / count))


def test_bigrams_are_a_distribution(make, vocabulary):
    train = make("A B A C:", "B B A:")
    shares = [
        1 / language_perplexities(train, make(f"A {token}:"))[1]
        for token in vocabulary.tokens
        if token not in ("<PAD>", "<CLS>", "<CLS_0>", "<CLS_1>", "<CLS_cat>")
    ]
    never = 1 / language_perplexities(train, make("A D:"))[1]  # as those five, never seen
    assert sum(shares) + 5 * never == pytest.approx(1)


# ------------------------------------------------------------------------------- labels


def test_unlabelled_rows_have_perplexities_only(make):
    figures, notes = measure_baselines(make("A B:", "B A:"), make("A A:"), None, nothing)
    assert set(figures) == set(notes) == {"unigram_perplexity", "bigram_perplexity"}


def test_majority_class_is_that_of_the_training_rows(make):
    train = make("A B:1", "A C:1", "A D:0", "B B:", "B C:", "B D:")
    validation = make("C A:1", "C B:0", "C C:0", "C D:1", "D A:1", "D B:")
    figures, notes = measure_baselines(train, validation, None, nothing)
    assert figures["majority_class_accuracy"] == 3 / 5
    assert notes["majority_class_accuracy"].startswith("always 1")


def test_one_label_leaves_nothing_to_tell_apart(make):
    figures, _ = measure_baselines(make("A B:1", "A C:1"), make("A D:1"), None, nothing)
    assert figures["majority_class_accuracy"] == 1
    assert "naive_bayes_accuracy" not in figures


@pytest.mark.parametrize(
    ("train", "validation"), [([], ["A B:1"]), (["A B:1", "B A:0"], []), ([], [])]
)
def test_empty_side_gives_no_figures(make, train, validation):
    rows = make("A B:1", "B A:0")
    sides = [make(*texts) if texts else rows.subset(slice(0, 0)) for texts in (train, validation)]
    assert measure_baselines(*sides, None, nothing) == ({}, {})


def test_order_in_which_tokens_follow_is_told_by_2_grams(make):
    random = np.random.default_rng(0)
    texts = []
    for _ in range(120):
        label = int(random.integers(2))
        pairs = ["A B", "C D"] if label else ["B A", "D C"]
        texts.append(" ".join(random.choice(pairs, random.integers(3, 7))) + f":{label}")
    figures, _ = measure_baselines(make(*texts[:80]), make(*texts[80:]), None, nothing)
    assert figures["linear_ngram_accuracy"] > 0.95
    assert figures["nearest_neighbour_accuracy"] > 0.8
    assert figures["majority_class_accuracy"] < 0.7


def test_each_part_is_done_once(make):
    calls = []
    rows = make("A B:1", "B A:0", "A C:1", "C A:0")
    measure_baselines(rows, rows, None, lambda: calls.append(1))
    assert len(calls) == STEPS


def test_machines_that_many_labels_leave_without_rows_are_left_out_and_that_is_said():
    labels = [str(number) for number in range(501)]
    vocabulary = Vocabulary(
        ["<PAD>", "<CLS>", "<EOS>", *[f"w{x}" for x in labels], *[f"<CLS_{x}>" for x in labels]]
    )

    def figures(count):
        records = [{"tokens": f"w{x} w1 w{x}", "label": x} for x in labels[:count]]
        rows = dataset_from_records(records, vocabulary, max_length=64)
        return measure_baselines(rows, rows, None, nothing)

    found, notes = figures(500)
    assert found["linear_ngram_accuracy"] > 0.9
    found, notes = figures(501)
    assert found["naive_bayes_accuracy"] == found["nearest_neighbour_accuracy"] == 1
    assert "linear_ngram_accuracy" not in found
    assert notes["linear_ngram_accuracy"].startswith("left out: of 501 labels, more than 500, it")


def test_trees_tell_a_rule_of_places_that_no_ngram_tells(make):
    # The label is whether the first and the last token are equal: neither is telling alone.
    random = np.random.default_rng(0)
    bodies = ["".join(random.choice(list("ABC"), 6)) for _ in range(400)]
    texts = [f"{' '.join(body)}:{int(body[0] == body[-1])}" for body in bodies]
    train, validation = make(*texts[:300]), make(*texts[300:], "A B C A B D:0", "A B:1")
    figures, notes = measure_baselines(train, validation, None, nothing)
    # scikit-learn's trees on one column for each token of each place.
    columns = [np.array([list(body) for body in bodies]) == token for token in "ABC"]
    column_NxF, same_N = np.hstack(columns), [body[0] == body[-1] for body in bodies]
    trees = HistGradientBoostingClassifier(max_iter=300).fit(column_NxF[:300], same_N[:300])
    expected = trees.score(column_NxF[300:], same_N[300:])
    assert figures["boosted_trees_accuracy"] == pytest.approx(expected, abs=0.05)
    assert figures["boosted_trees_accuracy"] > figures["linear_ngram_accuracy"] + 0.2
    assert notes["boosted_trees_accuracy"] == (
        "on the token of each place; fitted on 300 rows, measured on 102"
    )
    assert (
        "boosted_trees_accuracy"
        not in measure_baselines(make("A B:1", "A:0"), validation, None, nothing)[0]
    )


def test_svm_on_decoded_pixels_equals_one_on_the_images(split_digits, digits_folder):
    train, validation = split_digits
    codebook = digits_folder / "codebook.npz"
    figures, notes = measure_baselines(train, validation, codebook, nothing)
    images, labels = load_digits(return_X_y=True)
    known, asked = (
        np.array([record["meta"]["index"] for record in side.records])
        for side in (train, validation)
    )
    expected = SVC(C=5).fit(images[known], labels[known]).score(images[asked], labels[asked])
    assert expected > 0.97
    # The codebook keeps nearly all of the images.
    assert figures["svm_pixels_accuracy"] == pytest.approx(expected, abs=0.015)
    assert "64 decoded values" in notes["svm_pixels_accuracy"]


def test_naive_bayes_of_image_rows_goes_by_place(split_digits):
    train, validation = split_digits
    figures, notes = measure_baselines(train, validation, None, nothing)
    assert "place and token" in notes["naive_bayes_accuracy"]
    size = len(train.vocabulary)

    def one_hot(rows):
        bodies_NxT = np.stack([rows.body(i) for i in range(len(rows))]).astype(int)
        return np.eye(size)[bodies_NxT].reshape(len(rows), -1)

    model = MultinomialNB(alpha=0.1).fit(one_hot(train), train.classes_N)
    expected = model.score(one_hot(validation), validation.classes_N)
    # A token that no training row has at a place counts there and not in ours.
    assert figures["naive_bayes_accuracy"] == pytest.approx(expected, abs=0.02)
    bodies = [np.stack([side.body(i) for i in range(len(side))]) for side in (train, validation)]
    same_MxN = (bodies[1][:, None] == bodies[0][None]).sum(axis=2)
    nearest = train.classes_N[same_MxN.argmax(axis=1)] == validation.classes_N
    assert figures["nearest_neighbour_accuracy"] == pytest.approx(nearest.mean(), abs=0.03)
    assert "svm_pixels_accuracy" not in figures


def test_sample_is_said_and_repeats(split_digits, digits_folder, monkeypatch):
    train, validation = split_digits
    monkeypatch.setattr(baselines, "_NEIGHBOUR_ROWS", 300)
    monkeypatch.setattr(baselines, "_ASKED_ROWS", 100)
    first = measure_baselines(train, validation, digits_folder / "codebook.npz", nothing)
    said = first[1]["nearest_neighbour_accuracy"]
    assert f"fitted on 300 of {len(train):,} rows, measured on 100 of {len(validation)}" in said
    assert measure_baselines(train, validation, digits_folder / "codebook.npz", nothing) == first


def test_broken_codebook_is_told(make, tmp_path):
    path = tmp_path / "codebook.npz"
    path.write_bytes(b"no")
    rows = make("A B:1", "B A:0", "A C:1")
    with pytest.raises(UserError, match=r"codebook\.npz"):
        measure_baselines(rows, rows, path, nothing)
