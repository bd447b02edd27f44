"""Leaks: each planted kind is found and told once, clean data stays quiet."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prepare_data
from dataset import TokenLabelDataset
from leaks import MOST_FINDINGS, find_leaks
from vocabulary import Vocabulary

WORDS = [f"w{number}" for number in range(60)]
LABELS = ["red", "green", "blue", "cat"]
VOCABULARY = Vocabulary(
    ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *WORDS, "X", "X0", "X1", "X2", "X3", "[Green]"]
    + [f"<CLS_{label}>" for label in LABELS]
)


def make(plant, rows=600, labels=4, shares=None, one_length=False, seed=0) -> TokenLabelDataset:
    """Random rows, changed by `plant(body, class, random)`."""
    random = np.random.default_rng(seed)
    records = []
    for _ in range(rows):
        number = int(random.choice(labels, p=shares))
        length = 12 if one_length else random.integers(5, 20)
        body = [WORDS[i] for i in random.integers(60, size=length)]
        records.append({"tokens": plant(body, number, random), "label": LABELS[number]})
    return TokenLabelDataset.from_records(records, VOCABULARY, max_length=64)


def leaks_of(rows: TokenLabelDataset) -> list[dict]:
    return find_leaks(*rows.split(0.2, 1), names=("a.jsonl", "a.jsonl"))[0]


def nothing(body, number, random):
    return body


def somewhere(body, token, random):
    place = random.integers(len(body) + 1)
    return [*body[:place], token, *body[place:]]


def at(body, place, token):
    return [*body[:place], token, *body[place:][1:]]


# ------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("one_length", [False, True])
@pytest.mark.parametrize("labels", [2, 4])
def test_token_that_one_label_has_is_found_and_told_once(labels, one_length):
    rows = make(
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
    rows = make(
        lambda body, number, random: (
            somewhere(body, "X", random) if number == 1 and random.random() < 0.33 else body
        )
    )
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["label"]) == ("token_gives_label", "green")
    assert 0.25 < leak["of_label"] < 0.45


def test_token_of_each_label_is_one_finding_a_label():
    found = leaks_of(make(lambda body, number, random: somewhere(body, f"X{number}", random)))
    assert [leak["kind"] for leak in found] == ["token_gives_label"] * 4
    assert {(leak["label"], *leak["tokens"]) for leak in found} == {
        (label, f"X{number}") for number, label in enumerate(LABELS)
    }


def test_several_tokens_of_one_label_are_one_finding():
    rows = make(
        lambda body, number, random: ["X0", *body, "X1", "X2"] if number == 1 else body, rows=400
    )
    (leak,) = leaks_of(rows)
    assert set(leak["tokens"]) == {"X0", "X1", "X2"} and leak["tokens_in_all"] == 3


def test_token_that_only_one_label_lacks_is_found():
    rows = make(lambda body, number, random: body if number == 1 else somewhere(body, "X", random))
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["label"], leak["tokens"]) == ("token_gives_label", "green", ["X"])
    assert not leak["present"] and "without the token X" in leak["message"]


def test_body_token_that_spells_the_label_is_label_in_body():
    rows = make(
        lambda body, number, random: (
            somewhere(body, "[Green]", random) if number == 1 and random.random() < 0.15 else body
        )
    )
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["label"]) == ("label_in_body", "green")
    assert leak["tokens"] == ["[Green]"]


def test_word_that_spells_the_label_but_stands_everywhere_is_no_leak():
    assert leaks_of(make(lambda body, number, random: somewhere(body, "[Green]", random))) == []


def test_label_token_before_the_tail_is_label_in_body(write_rows):
    path = write_rows(
        {"tokens": "w1 w2", "label": "red"},
        {"tokens": "w1 <CLS_red> w2", "label": "red"},
        {"tokens": "w3 w2", "label": "green"},
        {"tokens": "w1 unknown"},
    )
    rows = TokenLabelDataset.read(path, VOCABULARY, max_length=64, on_bad_row="keep")
    (leak,) = find_leaks(rows, rows.subset(slice(0, 0)), (str(path), str(path)))[0]
    assert (leak["kind"], leak["rows"]) == ("label_in_body", 1)
    assert leak["examples"] == [f"{path}:2"]


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
    rows = TokenLabelDataset.from_records(records, vocabulary, max_length=64)
    found, search = find_leaks(*rows.split(0.2, 1), ("a", "a"))
    assert len(found) == MOST_FINDINGS
    assert search["left_out"] == {"token_gives_label": 4}


# ------------------------------------------------------------------------------- places


@pytest.mark.parametrize("one_length", [False, True])
@pytest.mark.parametrize(
    ("place", "counted_from", "words"), [(3, "start", "place 3"), (-2, "end", "from the end")]
)
def test_place_that_gives_the_label_is_found(place, counted_from, words, one_length):
    rows = make(
        lambda body, number, random: at(body, place % len(body), WORDS[number]),
        one_length=one_length,
    )
    (leak,) = leaks_of(rows)
    assert leak["kind"] == "position_gives_label" and leak["label"] is None
    if one_length:  # then both countings are the same
        assert (leak["place"], leak["counted_from"]) == (place % 12, "start")
    else:
        assert (leak["place"], leak["counted_from"]) == (abs(place + (place < 0)), counted_from)
        assert words in leak["message"]
    assert leak["share"] > 0.99 and leak["rest_of_row"] < 0.5


def test_place_that_gives_one_label_is_found():
    rows = make(lambda body, number, random: at(body, 3, "w7") if number == 1 else body, rows=1500)
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["label"]) == ("position_gives_label", "green")
    assert (leak["place"], leak["value"]) == (3, "w7")


def test_order_of_tokens_that_all_labels_have_is_found_by_place():
    rows = make(lambda body, number, random: [WORDS[number], WORDS[3 - number], *body])
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["place"]) == ("position_gives_label", 0)


@pytest.mark.parametrize("spread", [0, 3])
def test_length_that_gives_the_label_is_found(spread):
    rows = make(
        lambda body, number, random: (body * 5)[
            : 4 + 4 * number + (random.integers(spread + 1) if spread else 0)
        ]
    )
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["place"]) == ("position_gives_label", "length")


def test_length_is_found_among_ever_different_lengths():
    rows = TokenLabelDataset.from_records(
        [
            {
                "tokens": [WORDS[j * j % 59] for j in range(i, i + 80 + 100 * (i % 2) + i % 97)],
                "label": LABELS[i % 2],
            }
            for i in range(600)
        ],
        VOCABULARY,
        max_length=512,
    )
    assert len(np.unique(rows.lengths_N)) > 150
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["place"]) == ("position_gives_label", "length")


# ------------------------------------------------------------------------------- across


def two_files(write_rows, train, validation, group_by=None):
    sides = [
        TokenLabelDataset.read(
            write_rows(*rows, name=name), VOCABULARY, max_length=64, group_by=group_by
        )
        for rows, name in ((train, "train.jsonl"), (validation, "validation.jsonl"))
    ]
    return find_leaks(*sides, ("train.jsonl", "validation.jsonl"), group_by)[0]


def test_rows_that_stand_in_both_files_are_duplicate_across(write_rows):
    train = [{"tokens": f"w1 w{i}", "label": "red"} for i in range(5)]
    validation = [
        {"tokens": "w9 w3"},
        {"tokens": "w1 w3 <CLS> <CLS_red> <EOS>"},
        {"tokens": "w8 w8"},
    ]
    (leak,) = two_files(write_rows, train, validation)
    assert (leak["kind"], leak["rows"]) == ("duplicate_across", 1)
    assert leak["examples"] == ["validation.jsonl:2 and train.jsonl:4"]
    assert two_files(write_rows, train, [validation[0], validation[2]]) == []


def test_group_in_both_files_is_group_across_by_value_not_by_number(write_rows):
    def rows(*files):
        return [
            {"tokens": f"w{i} w{len(file)} w{i}", "meta": {"filename": file}}
            for i, file in enumerate(files)
        ]

    train = rows("aa", "bbb", "cccc", "bbb")
    found = two_files(write_rows, train, rows("x" * 20, "bbb"), group_by="meta.filename")
    (leak,) = [leak for leak in found if leak["kind"] == "group_across"]
    assert (leak["rows"], leak["groups"]) == (1, ['"bbb"'])
    assert leak["examples"] == ["validation.jsonl:2 and train.jsonl:2"]
    assert "meta.filename" in leak["message"]
    apart = rows("x" * 20, "y" * 21, "z" * 22)
    assert two_files(write_rows, train, apart, group_by="meta.filename") == []


def test_split_of_one_file_has_nothing_across(write_rows):
    rows = [{"tokens": f"w{i % 7} w1", "meta": {"filename": i % 5}} for i in range(80)]
    data = TokenLabelDataset.read(
        write_rows(
            *rows, *[{"tokens": f"w{i} w50", "meta": {"filename": i}} for i in range(9, 40)]
        ),
        VOCABULARY,
        max_length=64,
        group_by="meta.filename",
    )
    assert find_leaks(*data.split(0.3, 0), ("a", "a"), "meta.filename")[0] == []


# ------------------------------------------------------------------------------- clean data


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> TokenLabelDataset:
    """The digits as `prepare_data.py digits` makes them."""
    folder = tmp_path_factory.mktemp("digits")
    prepare_data.main(["digits", "--output_dir", str(folder)])
    vocabulary = Vocabulary.load(folder / "vocab.json")
    return TokenLabelDataset.read(folder / "train.jsonl", vocabulary, max_length=64)


def test_digits_are_clean(digits):
    found, search = find_leaks(*digits.split(0.2, 42), ("a", "a"))
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
    data = TokenLabelDataset.from_records(records, VOCABULARY, max_length=64)
    empty = data.subset(slice(0, 0))
    found, search = find_leaks(data, empty, ("a", "a"))
    assert (found, search["of"]) == ([], rows)


def test_more_rows_than_can_be_looked_at_are_sampled(monkeypatch):
    monkeypatch.setattr("leaks.MOST_TOKENS", 4000)
    rows = make(lambda body, number, random: ["X", *body] if number == 1 else body, rows=1000)
    found, search = find_leaks(*rows.split(0.2, 1), ("a", "a"))
    assert 200 < search["rows"] < 500 and search["of"] == 1000
    assert [leak["kind"] for leak in found] == ["token_gives_label"]


def test_unlabelled_rows_have_no_label_to_give_away():
    rows = TokenLabelDataset.from_records(
        [{"tokens": f"w{i % 60} w{i % 7}"} for i in range(100)], VOCABULARY, max_length=64
    )
    assert find_leaks(rows, rows.subset(slice(0, 0)), ("a", "a"))[0] == []
