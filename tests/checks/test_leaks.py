"""Leaks: each planted kind is found and told once, clean data stays quiet."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.naive_bayes import MultinomialNB
from tokenizers import Tokenizer, models, pre_tokenizers

import prepare_data
from smallgpt.checks import leaks_by_place, naive_bayes, rest_of_row
from smallgpt.checks.leak_search import MOST_FINDINGS, Bodies
from smallgpt.checks.leaks import find_leaks
from smallgpt.checks.sides import Sides
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.reading import dataset_from_records, read_dataset
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary

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
    return dataset_from_records(records, VOCABULARY, max_length=64)


def leaks_of(rows: TokenLabelDataset) -> list[dict]:
    return find_leaks(Sides(*split_dataset(rows, 0.2, 1), "a.jsonl"))[0]


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
    rows = dataset_from_records(
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


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    one_length=st.booleans(),
    places=st.lists(st.integers(0, 23), unique=True, max_size=6),
)
def test_rest_of_a_row_is_told_as_by_a_model_fitted_without_the_places(seed, one_length, places):
    rows = make(nothing, rows=80, one_length=one_length, seed=seed)
    bodies = Bodies.of(Sides(rows, rows.subset(slice(0, 0)), "a"))
    longest = int(bodies.lengths_N.max())
    places = np.array(places if not one_length else [p for p in places if p < longest], int)
    counts = np.zeros((80, len(VOCABULARY) * (longest if one_length else 1)))
    for row in range(80):
        body = rows.body(row).tolist()
        for place, token in enumerate(body):
            if not {place, longest + len(body) - 1 - place} & set(places.tolist()):
                counts[row, token + one_length * place * len(VOCABULARY)] += 1
    counts_NxF = csr_array(counts[:, counts.any(axis=0)])
    half_N, asked = bodies.halves(), np.arange(0, 80, 3)
    truth = rows.classes_N.astype(int)
    told = np.zeros(80, bool)
    certain = np.zeros(80, bool)
    for known_N in (half_N, ~half_N):
        model = MultinomialNB(alpha=0.1).fit(counts_NxF[known_N], truth[known_N])
        scores = np.sort(model.predict_joint_log_proba(counts_NxF[~known_N]), axis=1)
        told[~known_N] = model.predict(counts_NxF[~known_N]) == truth[~known_N]
        certain[~known_N] = scores[:, -1] - scores[:, -2] > 1e-9
    right = rest_of_row.RestOfRow(bodies).right(asked, places)
    assert (right == told[asked])[certain[asked]].all()


def test_rows_are_counted_once_however_many_labels_a_place_gives_away(monkeypatch):
    calls = []
    counting = naive_bayes.class_counts
    monkeypatch.setattr(
        rest_of_row, "class_counts", lambda *rows: calls.append(1) or counting(*rows)
    )
    for labels in (6, 20):
        # So many that a token is rare at a place, and so few that it stands elsewhere too.
        words = [f"w{number}" for number in range(50 * labels)]
        vocabulary = Vocabulary(
            ["<PAD>", "<CLS>", "<EOS>", *words, *[f"<CLS_{number}>" for number in range(labels)]]
        )
        random = np.random.default_rng(0)
        records = []
        for number in range(labels * 100):
            label, body = number % labels, random.choice(words, random.integers(14, 22)).tolist()
            if random.random() < 0.6:
                body[label % 12] = words[label]
            records.append({"tokens": body, "label": label})
        rows = dataset_from_records(records, vocabulary, max_length=64)
        calls.clear()
        found, search = find_leaks(Sides(*split_dataset(rows, 0.2, 1), "a"))
        assert {leak["kind"] for leak in found} == {"position_gives_label"}
        assert len(found) + search["left_out"].get("position_gives_label", 0) >= labels // 2
        assert len(calls) == 2  # once for each half


@pytest.mark.parametrize("shape", ["one long row", "one large label"])
def test_memory_does_not_grow_with_places_or_tokens_times_labels(shape):
    """A table of 6,000 places or 3,000 tokens by 3,000 labels would take 144 or 72 MB."""
    words = [f"w{number}" for number in range(3_000)]
    labels = [str(number) for number in range(3_000)]
    vocabulary = Vocabulary(
        ["<PAD>", "<CLS>", "<EOS>", *words, *[f"<CLS_x{label}>" for label in labels]]
    )
    random = np.random.default_rng(0)
    bodies = random.choice(words, (6_000, 4)).tolist()
    records = [
        {"tokens": body, "label": f"x{number % 3_000}"} for number, body in enumerate(bodies)
    ]
    if shape == "one long row":
        records[0]["tokens"] = words
    else:
        records += [{"tokens": body, "label": "x0"} for body in bodies * 2]
    rows = dataset_from_records(records, vocabulary, max_length=4_000)
    tracemalloc.start()
    leaks_of(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_too_short_rows_are_counted_as_by_a_table():
    random = np.random.default_rng(3)
    for _ in range(30):
        rows = make(nothing, rows=int(random.integers(2, 60)), seed=int(random.integers(1000)))
        bodies = Bodies.of(Sides(rows, rows.subset(slice(0, 0)), "a"))
        known_N = random.random(len(rows)) < 0.5
        longest = int(bodies.lengths_N.max())
        expected = []
        for place in range(longest):
            short = bodies.lengths_N <= place
            of_known = np.bincount(bodies.classes_N[short & known_N], minlength=1)
            best = of_known.argmax() if of_known.any() else 2
            expected.append(int((bodies.classes_N[short & ~known_N] == best).sum()))
        found = leaks_by_place._right_of_too_short(bodies, known_N, longest, most_frequent=2)
        assert found.tolist() == expected


# ------------------------------------------------------------------------------- across


def two_files(write_rows, train, validation, group_by=None):
    sides = [
        read_dataset(write_rows(*rows, name=name), VOCABULARY, max_length=64, group_by=group_by)
        for rows, name in ((train, "train.jsonl"), (validation, "validation.jsonl"))
    ]
    return find_leaks(Sides(*sides, "train.jsonl", "validation.jsonl"), group_by)[0]


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
    data = read_dataset(
        write_rows(
            *rows, *[{"tokens": f"w{i} w50", "meta": {"filename": i}} for i in range(9, 40)]
        ),
        VOCABULARY,
        max_length=64,
        group_by="meta.filename",
    )
    assert find_leaks(Sides(*split_dataset(data, 0.3, 0), "a"), "meta.filename")[0] == []


# ------------------------------------------------------------------------------- clean data


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> TokenLabelDataset:
    """The digits as `prepare_data.py digits` makes them."""
    folder = tmp_path_factory.mktemp("digits")
    prepare_data.main(["digits", "--output_dir", str(folder)])
    vocabulary = Vocabulary.load(folder / "vocab.json")
    return read_dataset(folder / "train.jsonl", vocabulary, max_length=64)


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
    monkeypatch.setattr("smallgpt.checks.leak_search.MOST_TOKENS", 4000)
    rows = make(lambda body, number, random: ["X", *body] if number == 1 else body, rows=1000)
    found, search = find_leaks(Sides(*split_dataset(rows, 0.2, 1), "a"))
    assert 200 < search["rows"] < 500 and search["of"] == 1000
    assert [leak["kind"] for leak in found] == ["token_gives_label"]


def test_unlabelled_rows_have_no_label_to_give_away():
    rows = dataset_from_records(
        [{"tokens": f"w{i % 60} w{i % 7}"} for i in range(100)], VOCABULARY, max_length=64
    )
    assert find_leaks(Sides(rows, rows.subset(slice(0, 0)), "a"))[0] == []
