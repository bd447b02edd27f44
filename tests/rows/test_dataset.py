"""Rows in arrays: looked at, taken in part, told apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_rows import dataset_of, read, texts_of

from smallgpt.tokens.vocabulary import Vocabulary


@pytest.mark.parametrize(("size", "bytes_each"), [(13, 2), (65_536, 2), (65_537, 4)])
def test_tokens_take_two_bytes_each_while_their_ids_fit(size, bytes_each):
    vocabulary = Vocabulary(["<PAD>", *[str(number) for number in range(1, size)]])
    dataset = dataset_of(vocabulary, {"input_ids": [1, size - 1]})
    assert dataset.tokens.itemsize == bytes_each
    assert dataset.row(0).tolist() == [1, size - 1]


@given(st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=9), min_size=1), st.data())
def test_gather_puts_rows_one_after_another(vocabulary, rows, data):
    dataset = dataset_of(vocabulary, *[{"input_ids": row} for row in rows])
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    ids_N, lengths_B = dataset.gather(np.array(indices))
    assert ids_N.tolist() == [token for index in indices for token in rows[index]]
    assert lengths_B.tolist() == [len(rows[index]) for index in indices]
    assert (ids_N.dtype, lengths_B.dtype) == (np.int64, np.int64)


@given(st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=9), min_size=1), st.data())
def test_targets_are_shifted_once_within_each_row(vocabulary, rows, data):
    dataset = dataset_of(vocabulary, *[{"input_ids": row} for row in rows])
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    inputs_M, targets_M, counts_B = dataset.shifted(np.array(indices))
    assert inputs_M.tolist() == [token for index in indices for token in rows[index][:-1]]
    assert targets_M.tolist() == [token for index in indices for token in rows[index][1:]]
    assert counts_B.tolist() == [len(rows[index]) - 1 for index in indices]


def test_subset_holds_the_chosen_rows_in_the_order_asked_for(vocabulary, write_rows):
    rows = [{"tokens": f"{a} {b}", "label": 1, "n": a} for a in "ABC" for b in "AB"]
    dataset = read(write_rows(*rows), vocabulary, keep_records=True)
    chosen = dataset.subset(np.array([4, 1]))
    assert texts_of(chosen) == ["C A <CLS> <CLS_1> <EOS>", "A B <CLS> <CLS_1> <EOS>"]
    assert chosen.lines_N.tolist() == [5, 2]
    assert [record["n"] for record in chosen.records] == ["C", "A"]
    assert chosen.gather(np.array([1]))[0].tolist() == [6, 7, 4, 11, 5]


@pytest.mark.parametrize(
    ("tokens", "body"),
    [
        ("A B", "A B"),
        ("A <CLS> B", "A <CLS> B"),
        ("<CLS> A B", "<CLS> A B"),
        ("<IMG> A B C D A B </IMG>", "<IMG> D A B </IMG>"),
        ("A B C D A B", "B C D A B"),
        ("A B <IMG> C D A B", "<IMG> C D A B"),  # of the 8 that fit without a tail the third
        ("A <IMG> B C D A B", "B C D A B"),
    ],
)
def test_a_row_is_asked_after_its_body_whatever_its_tail_says(vocabulary, tokens, body):
    tails = ["", " <EOS>", " <CLS>", " <CLS> <EOS>", " <CLS> <CLS> <EOS>", " <CLS> <CLS_1> <EOS>"]
    for tail in tails:
        for label in (None, "1"):
            record = {"tokens": tokens + tail, "label": label}
            dataset = dataset_of(vocabulary, record, max_length=8, for_label=True)
            assert vocabulary.decode(dataset.body(0)) == body
            bodies = dataset.without_tails()
            assert vocabulary.decode(bodies.row(0)) == body


def test_an_unlabelled_row_of_language_takes_its_full_length(vocabulary):
    record = {"tokens": "A B C D A B C D A"}
    assert texts_of(dataset_of(vocabulary, record, max_length=8)) == ["B C D A B C D A"]


def test_equal_bodies_have_equal_keys_whatever_their_tail(vocabulary):
    keys = dataset_of(
        vocabulary,
        {"tokens": "A B", "label": 1},
        {"tokens": "A B <CLS> <CLS> <EOS>", "label": 0},
        {"tokens": "A B"},
        {"tokens": "A B <EOS>"},
        {"tokens": "B A", "label": 1},
        {"tokens": "A B B", "label": 1},
    ).body_keys()
    assert len(set(keys[:4])) == 1
    assert len(set(keys)) == 3


def test_fingerprint_is_that_of_the_data_alone(vocabulary, write_rows):
    rows = [{"tokens": "A B", "label": 1}, {"tokens": "B A C", "label": 0}]
    fingerprint = read(write_rows(*rows), vocabulary).fingerprint()
    assert read(write_rows(b"", *rows, name="b.jsonl"), vocabulary).fingerprint() == fingerprint
    assert dataset_of(vocabulary, *rows).fingerprint() == fingerprint


@pytest.mark.parametrize(
    "rows",
    [
        ["A B:1", "B A C:0", "A A:1"],
        ["A B:1"],
        ["B A C:0", "A B:1"],
        ["A B:0", "B A C:0"],
        ["A B:", "B A C:0"],
        ["A C:1", "B A C:0"],
        ["A B B:1", "A C:0"],
        ["A B <CLS>:", "B A C:0"],
    ],
)
def test_fingerprint_changes_with_any_change_of_the_data(vocabulary, rows):
    def fingerprint(texts, max_length=64):
        pairs = [text.split(":") for text in texts]
        records = [{"tokens": tokens, "label": label or None} for tokens, label in pairs]
        return dataset_of(vocabulary, *records, max_length=max_length).fingerprint()

    assert fingerprint(rows) != fingerprint(["A B:1", "B A C:0"])
    assert fingerprint(["A A A A A A:1"], 8) != fingerprint(["A A A A A A:1"], 9)


def test_fingerprint_of_a_part_tells_which_part(vocabulary):
    dataset = dataset_of(vocabulary, *[{"tokens": "A B"}] * 4)
    parts = [dataset.subset(np.array(part)) for part in ([0, 1], [0, 2], [1, 0])]
    assert len({part.fingerprint() for part in parts}) == 3
    short = dataset_of(vocabulary, {"tokens": "A B"}, {"tokens": "C D"}).subset(np.array([0]))
    assert short.fingerprint() != dataset_of(vocabulary, {"tokens": "A B C D"}).fingerprint()
