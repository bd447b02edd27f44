"""Places and lengths that give labels away."""

import tracemalloc

import numpy as np
import pytest
from checked_rows import LABELS, VOCABULARY, WORDS, at, leaks_of, make_rows, nothing

from smallgpt.checks import leaks_by_place
from smallgpt.checks.leak_state import Bodies
from smallgpt.checks.sides import Sides
from smallgpt.rows.reading import dataset_from_records
from smallgpt.tokens.vocabulary import Vocabulary


@pytest.mark.parametrize("one_length", [False, True])
@pytest.mark.parametrize(
    ("place", "counted_from", "words"), [(3, "start", "place 3"), (-2, "end", "from the end")]
)
def test_place_that_gives_the_label_is_found(place, counted_from, words, one_length):
    rows = make_rows(
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
    rows = make_rows(
        lambda body, number, random: at(body, 3, "w7") if number == 1 else body, rows=1500
    )
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["label"]) == ("position_gives_label", "green")
    assert (leak["place"], leak["value"]) == (3, "w7")


def test_order_of_tokens_that_all_labels_have_is_found_by_place():
    rows = make_rows(lambda body, number, random: [WORDS[number], WORDS[3 - number], *body])
    (leak,) = leaks_of(rows)
    assert (leak["kind"], leak["place"]) == ("position_gives_label", 0)


@pytest.mark.parametrize("spread", [0, 3])
def test_length_that_gives_the_label_is_found(spread):
    rows = make_rows(
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
        rows = make_rows(nothing, rows=int(random.integers(2, 60)), seed=int(random.integers(1000)))
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
