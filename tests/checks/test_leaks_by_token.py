"""Tokens that give a label away: each planted one is found and reported once."""

import numpy as np
import pytest
from checked_rows import LABELS, WORDS, leaks_of, make_rows, somewhere

from smallgpt.rows.reading import dataset_from_records
from smallgpt.tokens.vocabulary import Vocabulary


@pytest.mark.parametrize("one_length", [False, True])
@pytest.mark.parametrize("labels", [2, 4])
def test_token_that_one_label_has_is_found_and_told_once(labels, one_length):
    rows = make_rows(
        lambda body, number, random: somewhere(body, "X", random) if number == 1 else body,
        labels=labels,
        one_length=one_length,
    )
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["label"], leak["tokens"]) == ("token_gives_label", "green", ["X"])
    assert leak["present"] and leak["share"] == leak["of_label"] == 1
    assert leak["rows"] == (rows.classes_N == 1).sum()
    assert 0.95 < leak["lower_bound"] < 1 and leak["p_value"] < 1e-20
    lines = [int(example.removeprefix("a.jsonl:")) for example in leak["examples"]]
    assert len(lines) == 5 and all(rows.classes_N[line - 1] == 1 for line in lines)


def test_token_in_a_third_of_the_rows_of_one_label_is_found():
    rows = make_rows(
        lambda body, number, random: (
            somewhere(body, "X", random) if number == 1 and random.random() < 0.33 else body
        )
    )
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["label"]) == ("token_gives_label", "green")
    assert 0.25 < leak["of_label"] < 0.45


def test_token_of_each_label_is_one_finding_a_label():
    found = leaks_of(make_rows(lambda body, number, random: somewhere(body, f"X{number}", random)))
    assert [leak["kind"] for leak in found] == ["token_gives_label"] * 4
    assert {(leak["label"], *leak["tokens"]) for leak in found} == {
        (label, f"X{number}") for number, label in enumerate(LABELS)
    }


def test_several_tokens_of_one_label_are_one_finding():
    rows = make_rows(
        lambda body, number, random: ["X0", *body, "X1", "X2"] if number == 1 else body, rows=400
    )
    (leak,) = leaks_of(rows)
    assert set(leak["tokens"]) == {"X0", "X1", "X2"} and leak["tokens_in_all"] == 3


def test_token_that_only_one_label_lacks_is_found():
    rows = make_rows(
        lambda body, number, random: body if number == 1 else somewhere(body, "X", random)
    )
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["label"], leak["tokens"]) == ("token_gives_label", "green", ["X"])
    assert not leak["present"] and "without the token X" in leak["message"]


def test_names_in_messages_are_short_and_printable():
    vocabulary = Vocabulary(
        ["<PAD>", "<CLS>", "<EOS>", *WORDS, "\x1b[31m" + "x" * 200]
        + [f"<CLS_{label}>" for label in ("y" * 300, "\x1b[0m")]
    )
    random = np.random.default_rng(0)
    records = [
        {
            "tokens": [*[WORDS[i] for i in random.integers(60, size=6)], *vocabulary.tokens[63:64]]
            if number % 2
            else [WORDS[i] for i in random.integers(60, size=6)],
            "label": vocabulary.labels[number % 2],
        }
        for number in range(200)
    ]
    (leak,) = leaks_of(dataset_from_records(records, vocabulary, max_length=64))
    assert leak["tokens"] == ["\x1b[31m" + "x" * 200]
    assert leak["message"].isprintable() and len(leak["message"]) < 250
