"""Images that are unlike the training images of a codebook are recognised, others are not."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from smallgpt.inputs.like_codebook import unlike_training
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.familiarity import Familiarity

PIXELS = load_digits().images.astype(np.uint8)[..., None]
TRAIN, TEST = PIXELS[:900], PIXELS[900:1200]


@pytest.fixture(scope="module", params=[(2, 100), (4, 200)], ids=["small", "large"])
def codebook(request):
    patch_size, size = request.param
    fitted = Codebook.fit(TRAIN, patch_size, size, seed=0, max_images=300)
    codes = fitted.encode(TRAIN)
    figures = Familiarity.measured(fitted.error(TRAIN, codes), codes, len(fitted))
    return replace(fitted, familiarity=figures)


def told(codebook, images) -> str:
    return unlike_training(codebook, images, codebook.encode(images))


def test_other_images_of_the_same_kind_are_not_told(codebook):
    assert told(codebook, TEST) == ""
    assert sum(told(codebook, TEST[i : i + 1]) != "" for i in range(100)) <= 5
    assert told(replace(codebook, familiarity=None), 16 - TEST) == ""


def test_inverted_images_are_told_by_name_also_a_single_one(codebook):
    line = told(codebook, 16 - TEST)
    assert "of 300 images do not look like the training images: are they inverted?" in line
    single = [told(codebook, 16 - TEST[i : i + 1]) for i in range(20)]
    assert sum("inverted" in line for line in single) >= 12


def test_noise_is_told_without_a_guess_at_inversion(codebook):
    noise = np.random.default_rng(0).integers(0, 17, TEST.shape, dtype=np.uint8)
    assert "another subject?" in told(codebook, noise)


def test_images_of_almost_nothing_are_told(codebook):
    if codebook.patches_per_image == 4:
        return  # four codes an image cannot tell it from a thin digit
    small = np.zeros_like(TEST)
    small[:, :2, :2] = TEST[:, ::4, ::4]
    assert "too small in the frame" in told(codebook, small)


def test_a_dot_on_the_ground_of_training_is_not_called_inverted(codebook):
    if codebook.patches_per_image == 4:
        return  # as above
    random = np.random.default_rng(0)
    y, x, radius = random.uniform((2.5, 2.5, 1.5), (4.5, 4.5, 2.5), (300, 3)).T[..., None, None]
    places = np.arange(8)
    far = np.hypot(places[:, None] - y, places - x)
    dots = (16 * (radius + 0.5 - far)).clip(0, 16).round().astype(np.uint8)[..., None]
    inverted, familiar = codebook.encode(16 - dots), codebook.familiarity
    alike = ~familiar.unlike(codebook.errors(16 - dots, inverted), inverted)
    assert alike.sum() > 10  # by chance
    lines = [told(codebook, dot[None]) for dot in dots[alike]]
    assert any(lines) and not any("inverted" in line for line in lines)


def test_a_large_blob_on_the_ground_of_training_is_not_called_inverted(codebook):
    random = np.random.default_rng(0)
    y, x, radius = random.uniform((3.2, 3.2, 2.5), (3.8, 3.8, 3.5), (300, 3)).T[..., None, None]
    places = np.arange(8)
    far = np.hypot(places[:, None] - y, places - x)
    blobs = (16 * (radius + 0.5 - far)).clip(0, 16).round().astype(np.uint8)[..., None]
    codes, other = codebook.encode(blobs), codebook.encode(16 - blobs)
    fooled = codebook.familiarity.more_like(codebook.errors(16 - blobs, other), other, codes)
    assert fooled.sum() > 100  # most of it is ink: inverted it has more of the usual ground
    lines = [told(codebook, blob[None]) for blob in blobs[fooled]]
    assert any(lines) and not any("inverted" in line for line in lines)


def test_a_few_odd_images_among_many_are_no_news(codebook):
    mixed = TEST.copy()
    mixed[:10] = 16 - mixed[:10]
    assert told(codebook, mixed) == ""
