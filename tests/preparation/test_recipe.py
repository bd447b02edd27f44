"""recipe: what images decide about colour, patches, codes and variants, and that it is repeated."""

import json

import numpy as np
import pytest
from prepared_files import DIGITS, SMALL, SMALL_LABELS, contents, mistake

from prepare_data import main
from smallgpt.options.preparation import ImagesSettings
from smallgpt.preparation.images import prepare_images
from smallgpt.preparation.recipe import (
    codes_for,
    color_for,
    patch_size_for,
    variants_for,
    variants_for_texts,
)
from smallgpt.tokens.codebook import Codebook


def shapes(count: int = 150, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Squares and crosses of any colour on noise, and which of the two each is."""
    random, y_x = np.random.default_rng(0), np.mgrid[:side, :side]
    kinds = np.arange(count) % 2
    images = random.normal(40, 20, (count, side, side, 3))
    for image, kind in zip(images, kinds, strict=True):
        down, right = np.abs(y_x - random.integers(5, side - 5, 2)[:, None, None])
        inside = (np.maximum(down, right) < 4) if kind else (np.minimum(down, right) < 2)
        image[inside] += random.uniform(60, 200, 3)
    return images.clip(0, 255).astype(np.uint8), kinds


def colored(pattern: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Grey patterns NxHxW (0..1) in a colour each (Nx3)."""
    return (pattern[..., None] * colors[:, None, None]).astype(np.uint8)


def test_patches_are_the_smallest_of_which_an_image_has_few():
    sides = {8: 1, 16: 2, 28: 4, 32: 4, 64: 8, 224: 28, 1: 1}
    assert {side: patch_size_for(side, side) for side in sides} == sides
    assert patch_size_for(8, 64) == 4


def test_many_images_get_few_variants():
    counts = {100: 100, 1000: 100, 1438: 69, 50_000: 4, 99_999: 4, 100_000: 0}
    assert {count: variants_for((count, 28, 28, 1)) for count in counts} == counts
    assert variants_for((1000, 224, 224, 3)) == 14


def test_few_texts_get_many_variants_and_many_texts_none():
    counts = {10: 30, 5_000: 20, 50_000: 4, 100_000: 0}
    assert {count: variants_for_texts(count) for count in counts} == counts


def test_noise_gets_few_codes_and_strokes_get_more():
    noise = np.random.default_rng(0).integers(0, 17, (1000, 8, 8, 1)).astype(np.uint8)
    strokes = DIGITS.images[:1000, ..., None].astype(np.uint8)
    few, many = (codes_for(images, 4, seed=42) for images in (noise, strokes))
    assert few < many


def test_as_few_images_as_can_be_and_images_of_few_patches_get_the_fewest_codes():
    assert codes_for(SMALL[:1, ..., None], 2, seed=42) == 16
    assert codes_for(np.repeat(SMALL[:2, ..., None], 500, axis=0), 2, seed=42) == 16
    black_and_white = (DIGITS.images[:400, ..., None] > 7).astype(np.uint8)
    assert codes_for(black_and_white, 1, seed=42) == 16


def test_colours_that_say_nothing_of_the_labels_are_left_out():
    images, labels = shapes()
    assert color_for(images, [str(label) for label in labels], 42) == (
        "grey",
        "since the colours say nothing of the labels",
    )
    # Ink of one tint, of which some labels have more: grey shows the same.
    random = np.random.default_rng(1)
    tints = random.normal([230, 180, 60], 40, (300, 3)).clip(0, 255)
    ink = colored(DIGITS.images[:300] / 16, tints)
    assert color_for(ink, [str(label) for label in DIGITS.target[:300]], 42)[0] == "grey"


@pytest.mark.parametrize("hues", [[[0], [1]], [[0, 1], [2, 3]]])
def test_colours_that_tell_the_labels_stay(hues):
    random, palette = np.random.default_rng(0), [[220, 90, 90], [90, 220, 90], [90, 90, 220]]
    palette = np.array([*palette, [190, 190, 60]])
    labels = np.arange(100) % 2
    colors = palette[[random.choice(hues[label]) for label in labels]]
    images = colored(DIGITS.images[:100] / 16, colors)
    assert color_for(images, [str(label) for label in labels], 42) == (
        "rgb",
        "since the colours tell of the labels",
    )


def test_colours_stay_where_nothing_tells_whether_they_matter():
    images, labels = shapes()
    words = "since no labels tell whether colours matter"
    assert color_for(images, None, 42) == color_for(images, ["a"] * 150, 42) == ("rgb", words)
    few = [str(label) for label in labels[:40]]
    assert color_for(images[:40], few, 42)[1] == "since too few images tell whether colours matter"
    every = [str(number) for number in range(150)]
    assert color_for(images, every, 42)[0] == "rgb"
    assert color_for(images[..., :1].repeat(3, axis=3), None, 42) == (
        "grey",
        "since no training image has colour",
    )


def test_the_choice_is_told_stored_and_repeated(tmp_path, npz, capsys):
    images, labels = shapes()
    out = tmp_path / "out"
    given = ["images", "--input", str(npz(images, labels)), "--output_dir", str(out)]
    assert main([*given, "--augment", "2"]) == 0
    said = capsys.readouterr().out
    summary = json.loads((out / "prepared.json").read_text())
    chosen = summary["settings"]
    codes = chosen["codebook_size"]
    note = (
        f"recipe: grey, since the colours say nothing of the labels; patches of 2x2 pixels, 64 an "
        f"image; {codes} codes"
    )
    assert note in said.splitlines() and note in summary["notes"]
    assert (chosen["color"], chosen["patch_size"], chosen["augment"]) == ("grey", 2, 2)
    assert Codebook.load(out / "codebook.npz").channels == 1
    before = contents(out)
    # The choice again, and what was chosen as flags, into this folder and into another.
    assert main([*given, "--augment", "2"]) == 0
    assert contents(out) == before
    flags = ["--color", "grey", "--patch_size", "2", "--codebook_size", str(codes)]
    assert main([*given, "--augment", "2", *flags]) == 0
    before["prepared.json"] = (out / "prepared.json").read_bytes()  # nothing was chosen this time
    assert contents(out) == before
    assert json.loads(before["prepared.json"])["settings"] == chosen
    again = ImagesSettings(**{**chosen, "output_dir": str(tmp_path / "again")})
    prepare_images(again)
    for name in ("train.jsonl", "test.jsonl", "vocab.json", "codebook.npz"):
        assert (tmp_path / "again" / name).read_bytes() == before[name], name
    assert "--color was grey, is rgb" in mistake(*given, "--color", "rgb")
    assert "--augment was 2, is 100" in mistake(*given)
    assert contents(out) == before


def test_each_image_gets_variants_unless_told_otherwise(tmp_path, npz, capsys):
    out = tmp_path / "out"
    given = ["images", "--input", str(npz(SMALL[:20], SMALL_LABELS[:20])), "--output_dir", str(out)]
    assert main(given) == 0
    summary = json.loads((out / "prepared.json").read_text())
    assert summary["settings"]["augment"] == 100
    assert 0.9 < summary["train"]["variants"] / (100 * summary["train"]["rows"]) <= 1
    assert "100 variants of each image (--augment 0 where turning" in capsys.readouterr().out
    assert main([*given, "--augment", "0", "--overwrite"]) == 0
    summary = json.loads((out / "prepared.json").read_text())
    assert "variants" not in summary["train"] and summary["settings"]["augment"] == 0


def test_training_images_decide_the_colour_of_a_test_set_of_one_s_own(tmp_path, npz, capsys):
    images, labels = shapes()
    source = npz(images, labels)
    test = npz(images[:10, ::-1], labels[:10], "test.npz")
    out = tmp_path / "out"
    flags = ["--augment", "0", "--codebook_size", "16", "--output_dir", str(out)]
    assert main(["images", "--input", str(source), "--test_input", str(test), *flags]) == 0
    assert json.loads((out / "prepared.json").read_text())["images"]["channels"] == 1
    assert "10 coloured images read as grey" in capsys.readouterr().out
