"""augmentation: variants are small, repeatable changes of their image."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from augmentation import vary_images

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
