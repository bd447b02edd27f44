"""augmentation: variants are small, repeatable changes of their image or text."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from smallgpt.preparation.augmentation import vary_images, vary_text

DIGITS = load_digits().images.astype(np.uint8)[:300, :, :, None]


def middle_of_mass(image: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(image.shape)
    return np.array([(rows * image).sum(), (columns * image).sum()]) / image.sum()


def test_same_seed_and_variant_give_the_same_images_and_others_do_not():
    first = vary_images(DIGITS, 1, 1)
    assert first.dtype == np.uint8
    assert first.shape == DIGITS.shape
    assert np.array_equal(first, vary_images(DIGITS, 1, 1))
    assert not np.array_equal(first, vary_images(DIGITS, 1, 2))
    assert not np.array_equal(first, vary_images(DIGITS, 2, 1))
    assert (first != DIGITS).any(axis=(1, 2, 3)).all()


def test_nothing_moves_further_than_promised():
    image = np.zeros((500, 101, 101, 1), np.float32)
    image[:, 48:53, 48:53] = 1.0  # a spot in the middle, which turning and scaling leave there
    places = np.array([middle_of_mass(one[..., 0]) for one in vary_images(image, 0, 1)])
    moved = places - 50
    assert np.abs(moved).max() <= 0.08 * 101 + 0.1
    assert np.abs(moved).max(axis=0).min() > 0.07 * 101  # and the room is used
    assert np.abs(moved.mean(axis=0)).max() < 0.01 * 101


def test_angles_and_scales_stay_within_bounds():
    image = np.zeros((400, 101, 101, 1), np.float32)
    image[:, 48:53, 20:81] = 1.0  # a bar of 61 x 5
    angles, lengths = [], []
    for one in vary_images(image, 3, 1):
        rows, columns = np.nonzero(one[..., 0] > 0.5)
        values, vectors = np.linalg.eigh(np.cov(columns, rows))
        x, y = vectors[:, 1]
        angles.append(abs(np.degrees(np.arctan(y / x))))
        lengths.append(np.sqrt(12 * values[1]))
    assert 8 < max(angles) <= 11
    assert 61 * np.exp(-0.17) < min(lengths) < 61 * np.exp(-0.07)
    assert 61 * np.exp(0.07) < max(lengths) < 61 * np.exp(0.17)


@pytest.mark.parametrize("value", [0, 200])
def test_what_moves_in_has_the_value_of_the_border(value):
    plain = np.full((20, 9, 12, 3), value, np.uint8)
    assert (vary_images(plain, 0, 1) == value).all()


def test_colours_move_together():
    grey = np.repeat(DIGITS, 3, axis=3)
    varied = vary_images(grey, 0, 1)
    assert np.array_equal(varied[..., 0], varied[..., 1])
    assert np.array_equal(varied[..., 0], varied[..., 2])


# ---- texts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        (
            "The room, at 2.5 m, was small. We'd come again!\nBye",
            ["The room,", "at 2.5 m,", "was small.", "We'd come again!", "Bye"],
        ),
        ("房间很好，不错。 下次！！再来", ["房间很好，", "不错。", "下次！！", "再来"]),
        ("有点 吵 CPU 2.5GHz,很快", ["有点", "吵 CPU 2.5GHz,", "很快"]),
    ],
)
def test_a_variant_of_a_text_is_made_of_its_whole_clauses(text, clauses):
    source = random.Random(1)
    variants = {vary_text(text, source) for _ in range(500)}
    assert len(variants) > 10
    for variant in variants:
        rest = variant
        for clause in clauses:
            rest = rest.replace(clause, "", 1)
        assert not rest.strip(), f"{variant!r} has {rest!r} that is no clause"
    kept = sum(clause in variant for variant in variants for clause in clauses)
    assert 0.7 < kept / len(clauses) / len(variants) < 0.9
    first = Counter(next(c for c in clauses if variant.startswith(c)) for variant in variants)
    assert set(first) == set(clauses)


def test_clauses_that_need_a_space_between_them_get_one():
    source = random.Random(1)
    variants = {vary_text("It was small. We left", source) for _ in range(50)}
    assert "We left It was small." in variants
    assert not any("leftIt" in variant for variant in variants)


@given(st.text(min_size=1).filter(str.strip), st.integers(0, 100))
def test_a_variant_is_never_empty_and_adds_nothing_but_spaces(text, seed):
    variant = vary_text(text, random.Random(seed))
    assert variant.strip() == variant != ""
    assert variant == vary_text(text, random.Random(seed))
    added = Counter(variant) - Counter(text)
    assert set(added) <= {" "}
