"""The search for leaks as a whole: clean data stays quiet, long lists are cut."""

from dataclasses import replace

import numpy as np
import pytest
from checked_rows import LABELS, VOCABULARY, WORDS, leaks_of, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from smallgpt.checks.leak_state import MOST_FINDINGS
from smallgpt.checks.leaks import find_leaks
from smallgpt.checks.sides import Sides
from smallgpt.rows.reading import dataset_from_records
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.vocabulary import Vocabulary


def test_long_list_of_findings_is_capped_and_the_rest_counted():
    labels = [str(number) for number in range(14)]
    vocabulary = Vocabulary(
        ["<PAD>", "<CLS>", "<EOS>", *WORDS, *[f"X{label}" for label in labels]]
        + [f"<CLS_{label}>" for label in labels]
    )
    random = np.random.default_rng(0)
    records = [
        {
            "tokens": [f"X{label}", *[WORDS[i] for i in random.integers(60, size=6)]],
            "label": label,
        }
        for label in labels
        for _ in range(60)
    ]
    rows = dataset_from_records(records, vocabulary, max_length=64)
    found, search = find_leaks(Sides(*split_dataset(rows, 0.2, 1), "a"))
    assert len(found) == MOST_FINDINGS
    assert search["left_out"] == {"token_gives_label": 4}


def test_digits_are_clean(digits):
    found, search = find_leaks(Sides(*split_dataset(digits, 0.2, 42), "a"))
    assert found == []
    assert search["rows"] == search["of"] == len(digits)


def test_digits_of_two_or_three_classes_are_clean(digits):
    """There one patch honestly tells much: the middle of a 0 is empty, that of a 1 is not."""
    for first in range(10):
        for others in (
            [(first + 1) % 10],
            [(first + 3) % 10],
            [(first + 2) % 10, (first + 5) % 10],
        ):
            chosen = np.isin(digits.classes_N, [first, *others])
            assert leaks_of(digits.subset(np.flatnonzero(chosen))) == [], (first, others)


@pytest.mark.parametrize("rows", [20, 60, 200])
def test_few_digits_are_clean(digits, rows):
    chosen = np.random.default_rng(rows).choice(len(digits), rows, replace=False)
    assert leaks_of(digits.subset(np.sort(chosen))) == []


@pytest.mark.parametrize("seed", range(5))
def test_random_labels_are_clean(digits, seed):
    shuffled = np.random.default_rng(seed).permutation(digits.classes_N)
    assert leaks_of(replace(digits, classes_N=shuffled)) == []


def test_leak_planted_in_the_digits_is_found(digits):
    tokens = digits.tokens.copy()
    places = digits.starts_N[digits.classes_N == 3] + 6
    tokens[places] = digits.vocabulary.ids["<Z_250>"]
    (leak,) = leaks_of(replace(digits, tokens=tokens))
    assert (leak["kind"], leak["label"], leak["place"]) == ("position_gives_label", "3", 6)
    tokens = digits.tokens.copy()
    tokens[places[::3]] = digits.vocabulary.unk_id
    (leak,) = leaks_of(replace(digits, tokens=tokens))
    assert (leak["kind"], leak["label"]) == ("token_gives_label", "3")


@settings(max_examples=60)
@given(
    rows=st.integers(4, 120),
    labels=st.integers(1, 4),
    words=st.integers(1, 60),
    longest=st.integers(1, 15),
    rare=st.floats(0.01, 0.9),
    seed=st.integers(0, 10_000),
)
def test_random_rows_of_every_shape_are_clean(rows, labels, words, longest, rare, seed):
    random = np.random.default_rng(seed)
    shares = np.array([1.0, rare, rare, rare][:labels])
    records = [
        {
            "tokens": [WORDS[i] for i in random.integers(words, size=random.integers(longest) + 1)],
            "label": LABELS[random.choice(labels, p=shares / shares.sum())],
        }
        for _ in range(rows)
    ]
    data = dataset_from_records(records, VOCABULARY, max_length=64)
    empty = data.subset(slice(0, 0))
    found, search = find_leaks(Sides(data, empty, "a"))
    assert (found, search["of"]) == ([], rows)


def test_more_rows_than_can_be_looked_at_are_sampled(monkeypatch):
    monkeypatch.setattr("smallgpt.checks.leak_state.MOST_TOKENS", 4000)
    rows = make_rows(lambda body, number, random: ["X", *body] if number == 1 else body, rows=1000)
    found, search = find_leaks(Sides(*split_dataset(rows, 0.2, 1), "a"))
    assert 200 < search["rows"] < 500 and search["of"] == 1000
    assert [leak["kind"] for leak in found] == ["token_gives_label"]


def test_unlabelled_rows_have_no_label_to_give_away():
    rows = dataset_from_records(
        [{"tokens": f"w{i % 60} w{i % 7}"} for i in range(100)], VOCABULARY, max_length=64
    )
    assert find_leaks(Sides(rows, rows.subset(slice(0, 0)), "a"))[0] == []
