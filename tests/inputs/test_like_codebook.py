"""Images converted to a codebook's size, colour and range."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from prepared_files import DIGITS

from smallgpt.inputs.image_formats import read_images
from smallgpt.inputs.like_codebook import converted
from smallgpt.tokens.codebook import Codebook

PIXELS = DIGITS.images[:400].astype(np.uint8)[..., None]  # 0..16


@pytest.fixture(scope="module")
def codebook():
    return Codebook.fit(PIXELS[:300], patch_size=2, size=100, seed=0, max_images=300)


def test_images_of_the_codebook_s_kind_are_left_as_they_are(codebook):
    for images in (PIXELS, PIXELS.astype(np.float32), PIXELS[:1] // 2):
        same, notes = converted(codebook, images)
        assert same is images and notes == []


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (PIXELS / np.float32(16), "from 0, black, to 1, white, scaled to 0 to 16"),
        (np.round(PIXELS * (255 / 16)).astype(np.uint8), "to 255, white, scaled to 0 to 16"),
        (PIXELS * np.float32(65_535 / 16), "to 65535, white, scaled to 0 to 16"),
        (PIXELS / np.float32(8) - 1, "from -1, black, to 1, white, scaled to 0 to 16"),
        (PIXELS * np.float32(3) - 40, "from -40, black, to 8, white, scaled to 0 to 16"),
    ],
)
def test_another_range_is_scaled_and_told(codebook, images, words):
    scaled, (note,) = converted(codebook, images)
    assert words in note
    assert np.abs(scaled - PIXELS.astype(float)).max() < 0.04
    assert np.array_equal(codebook.encode(scaled), codebook.encode(PIXELS))


def test_pictures_reach_from_0_to_255_however_dark_they_are(codebook, tmp_path):
    Image.fromarray(np.full((8, 8), 15, np.uint8)).save(tmp_path / "dark.png")
    read = read_images(tmp_path, codebook=codebook)
    assert (read.images_NxHxWxC == 1).all()  # 15 / 255 * 16, rounded


def test_a_codebook_of_standardised_values_keeps_fractions(codebook):
    standardised = replace(codebook, low=-2.0, high=2.6, white=2.6)
    fractions = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    same, notes = converted(standardised, fractions)
    assert same is fractions and notes == []


def test_black_is_0_in_arrays_without_values_below_it(codebook):
    fractions = PIXELS / np.float32(8) - 1
    signed = Codebook.fit(fractions[:300], patch_size=2, size=100, seed=0, max_images=300)
    scaled, (note,) = converted(signed, PIXELS * np.float32(255 / 16))
    assert "from 0, black, to 255, white, scaled to -1 to 1" in note
    assert np.abs(scaled - fractions).max() < 1e-5


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_another_size_is_resized_as_pictures_are(codebook, dtype):
    large = PIXELS[:3].repeat(3, axis=1).repeat(2, axis=2).astype(dtype)
    resized, (note,) = converted(codebook, large)
    assert note == "3 images of 16x24 pixels resized to 8x8"
    assert resized.dtype == dtype
    assert resized.min() >= 0 and resized.max() <= 16
    expected = Image.fromarray(large[1, ..., 0]).resize((8, 8), Image.Resampling.LANCZOS)
    assert np.abs(resized[1, ..., 0] - np.asarray(expected).clip(0, 16)).max() < 1e-5


def test_colour_and_grey_are_converted_both_ways(codebook):
    grey_as_rgb = PIXELS[:5].repeat(3, axis=3)
    images, notes = converted(codebook, grey_as_rgb)
    assert np.array_equal(images, PIXELS[:5]) and notes == []  # nothing was lost
    coloured = grey_as_rgb.copy()
    coloured[2, 0, 0] = (0, 10, 0)
    for dtype in (np.uint8, np.float32):
        images, notes = converted(codebook, coloured.astype(dtype))
        assert notes == ["1 coloured image read as grey"]
        assert images[2, 0, 0, 0] == pytest.approx(5.87, abs=0.2)
    of_colour = replace(codebook, channels=3)
    images, notes = converted(of_colour, PIXELS[:2])
    assert np.array_equal(images, PIXELS[:2].repeat(3, axis=3))
    assert notes == ["2 grey images read as rgb"]
