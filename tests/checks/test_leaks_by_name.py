"""Labels that bodies name: as label tokens, as tokens, as words of a text."""

import numpy as np
import pytest
from checked_rows import VOCABULARY, WORDS, leaks_of, make_rows, somewhere
from tokenizers import Tokenizer, models, pre_tokenizers

from smallgpt.checks.leaks import find_leaks
from smallgpt.checks.sides import Sides
from smallgpt.rows.reading import dataset_from_records, read_dataset
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary


def test_body_token_that_spells_the_label_is_label_in_body():
    rows = make_rows(
        lambda body, number, random: (
            somewhere(body, "[Green]", random) if number == 1 and random.random() < 0.15 else body
        )
    )
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["label"]) == ("label_in_body", "green")
    assert leak["tokens"] == ["[Green]"]


def test_word_that_spells_the_label_but_stands_everywhere_is_no_leak():
    assert (
        leaks_of(make_rows(lambda body, number, random: somewhere(body, "[Green]", random))) == []
    )


def test_name_of_two_words_is_found_as_two_tokens_side_by_side():
    vocabulary = Vocabulary(
        ["<PAD>", "<CLS>", "<EOS>", *WORDS, "New", "York", "<CLS_new_york>", "<CLS_old>"]
    )
    random = np.random.default_rng(0)
    records = []
    for number in range(400):
        body = ["New", *[WORDS[i] for i in random.integers(60, size=6)], "York"]
        if number % 8 == 0:
            body[3:3] = ["New", "York"]
        records.append({"tokens": body, "label": ["new_york", "old"][number % 2]})
    (leak,) = leaks_of(dataset_from_records(records, vocabulary, max_length=64))
    assert (leak["kind"], leak["label"]) == ("label_in_body", "new_york")
    assert (leak["tokens"], leak["rows"]) == (["New York"], 50)
    assert "50 rows with the tokens New York have the label new_york" in leak["message"]


TEXTS = [
    "the offer ends today so buy now",
    "see you at noon for lunch",
    "spam is not a spammer and antispam is no spam",
    "the train to New York leaves at nine",
    "垃圾邮件还是普通邮件",
]


@pytest.mark.parametrize("kind", ["byte pairs", "few byte pairs", "characters"])
@pytest.mark.parametrize(
    ("name", "word", "other"),
    [
        ("spam", "spam", "spammer"),
        ("spam", "SPAM", "antispam"),
        ("new_york", "New York", "New Yorker"),
        ("垃圾", "垃圾", None),
    ],
)
def test_name_of_a_label_in_a_text_is_found_as_a_word_of_its_own(kind, name, word, other):
    special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]
    texts = [*TEXTS * 3, TEXTS[2].upper()]
    if kind == "characters":
        tokenizer = TextTokenizer.learn_characters(texts, special)
    else:
        size = 460 if kind == "byte pairs" else 270
        tokenizer = TextTokenizer.learn_bpe(texts, special, size)
    tokenizer = tokenizer.with_special([f"<CLS_{name}>", "<CLS_other>"])
    vocabulary = Vocabulary(tokenizer.tokens, tokenizer)
    words = " ".join(TEXTS[:2]).split()
    random = np.random.default_rng(0)

    def rows(put, share):
        records = []
        for number in range(300):
            text = list(random.choice(words, 8))
            if number % 2 and random.random() < share:
                text.insert(random.integers(1, 8), put)
            records.append({"text": " ".join(text), "label": ["other", name][number % 2]})
        return dataset_from_records(records, vocabulary, max_length=200)

    found = leaks_of(rows(word, 0.15))
    assert [(leak["kind"], leak["label"]) for leak in found] == [("label_in_body", name)]
    assert 10 < found[0]["rows"] < 40 and found[0]["share"] == 1
    if other is not None:
        assert "label_in_body" not in [leak["kind"] for leak in leaks_of(rows(other, 0.15))]


def test_word_that_the_tokenizer_has_whole_is_one_token():
    tokenizer = TextTokenizer.learn_bpe(TEXTS * 3, ["<PAD>", "<UNK>", "<CLS>", "<EOS>"], 460)
    tokenizer = tokenizer.with_special(["<CLS_spam>", "<CLS_ham>"])
    vocabulary = Vocabulary(tokenizer.tokens, tokenizer)
    texts = ["buy spam now {}", "see you at {}"]
    records = [
        {"text": texts[i % 2].format(i), "label": ["spam", "ham"][i % 2]} for i in range(100)
    ]
    found = leaks_of(dataset_from_records(records, vocabulary, max_length=64))
    (leak,) = [leak for leak in found if leak["kind"] == "label_in_body"]
    assert (leak["label"], leak["tokens"]) == ("spam", ["Ġspam"])


def test_name_that_the_tokenizer_cannot_read_stands_in_no_row():
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", "<CLS_a>", "<CLS_spam>"]
    tokenizer = TextTokenizer(backend).with_special(special)
    records = [
        {"text": "b " * (2 + i // 2) + "a" * (i % 2), "label": ["spam", "a"][i % 2]}
        for i in range(100)
    ]
    vocabulary = Vocabulary(tokenizer.tokens, tokenizer)
    found = leaks_of(dataset_from_records(records, vocabulary, max_length=64))
    assert [leak["label"] for leak in found if leak["kind"] == "label_in_body"] == ["a"]


def test_label_token_before_the_tail_is_label_in_body(write_rows):
    path = write_rows(
        {"tokens": "w1 w2", "label": "red"},
        {"tokens": "w1 <CLS_red> w2", "label": "red"},
        {"tokens": "w3 w2", "label": "green"},
        {"tokens": "w1 unknown"},
    )
    rows = read_dataset(path, VOCABULARY, max_length=64, on_bad_row="keep")
    (leak,) = find_leaks(Sides(rows, rows.subset(slice(0, 0)), str(path)))[0]
    assert (leak["kind"], leak["rows"]) == ("label_in_body", 1)
    assert leak["examples"] == [f"{path}:2"]
