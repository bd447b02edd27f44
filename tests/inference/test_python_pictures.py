"""Pictures given from Python as arrays."""

import json

import numpy as np
import pytest
import torch
from digits_world import PIXELS
from plain_settings import plain_settings
from prepared_files import images

from inference import classify, classify_file, embeddings, generate, load_trained_model, next_tokens
from smallgpt.errors import SettingsError, UserError
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.rows.row import parse_row
from smallgpt.tokens.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def trained(digits_world):
    return load_trained_model(digits_world / "outputs" / "best_model", "cpu", "fp32")


def test_pictures_get_the_labels_of_their_prepared_rows(trained, digits_world, tmp_path, capsys):
    path = digits_world / "data" / "digits" / "test.jsonl"
    of_file = classify_file(trained, path, tmp_path / "out")
    capsys.readouterr()
    pictures = PIXELS[[row["row"]["meta"]["index"] for row in of_file]]
    for given in (pictures, pictures[..., None], list(pictures), torch.tensor(pictures)):
        for (label, shares), row in zip(classify(trained, given), of_file, strict=True):
            assert label == row["prediction"]
            assert shares == pytest.approx(row["probabilities"], abs=1e-6)
    assert capsys.readouterr().err == ""


def test_one_picture_gets_one_answer(trained):
    for ask in (classify, next_tokens):
        alone = ask(trained, PIXELS[0])
        assert ask(trained, PIXELS[0][..., None]) == alone == ask(trained, PIXELS[:1])[0]
    assert embeddings(trained, PIXELS[0]).shape == (384,)
    assert embeddings(trained, PIXELS[:3]).shape == (3, 384)


def test_pictures_of_other_sizes_and_colours_are_converted_and_told(trained, capsys):
    large = np.kron(PIXELS[3], np.ones((4, 4), np.uint8))
    coloured = np.repeat(PIXELS[2][..., None], 3, axis=2)
    labels = [label for label, _ in classify(trained, [PIXELS[1], large, coloured, PIXELS[0] / 16])]
    assert labels[:3] == ["1", "3", "2"]
    told = capsys.readouterr().err
    assert "1 image of 32x32 pixels resized to 8x8" in told
    # Of one shape, and so of one range: of 16 the first is white, and the last is all but black.
    assert "scaled" not in told and "1 of 2 images does not look like the training images" in told
    assert classify(trained, PIXELS[0] / 16)[0] == "0"
    assert "from 0, black, to 1, white, scaled to 0 to 16" in capsys.readouterr().err


def test_pictures_stand_beside_other_rows(trained, digits_world):
    (row,) = (digits_world / "data" / "digits" / "test.jsonl").read_text().splitlines()[:1]
    mixed = [json.loads(row), PIXELS[1], json.loads(row)["tokens"], PIXELS[0]]
    labels = [label for label, _ in classify(trained, mixed)]
    assert labels[1::2] == ["1", "0"] and labels[0] == labels[2]


def test_a_part_of_a_picture_is_completed(trained):
    many = generate(trained, PIXELS[:3], keep=0.5, seed=4, count=2)
    for index, made in enumerate(many):
        alone = generate(trained, PIXELS[index], keep=0.5, seed=4 + index, count=2)
        assert made == alone and len(made.sequences) == 2
        whole = generate(trained, PIXELS[index], keep=0.99, seed=1).sequences[0]
        for ids in made.sequences:
            assert len(ids) == 21 and ids[:9] == whole[:9]  # <IMG> and two of four rows of codes
            assert parse_row({"input_ids": ids}, trained.vocabulary).change == ""


@pytest.mark.parametrize(
    ("rows", "how", "told"),
    [
        (PIXELS[0], {}, "pictures are whole: keep=0.5"),
        (["<IMG>", "<IMG>"], {"keep": 0.5}, r"rows\[0\]: keep is the share of a picture"),
        (None, {"keep": 0.5}, "give the picture as rows"),
        (np.zeros((2, 8, 8, 5)), {}, r"rows\[0\] is no row: an array of shape \(8, 8, 5\)"),
        (np.zeros((0, 8, 8)), {}, "no rows"),
        (np.full((8, 8), np.nan), {}, "must be finite"),
        (np.array([["a"]]), {}, "must be numbers"),
    ],
)
def test_what_is_no_picture_is_told(trained, rows, how, told):
    with pytest.raises(UserError, match=told):
        generate(trained, rows, **how)


def test_a_share_outside_of_0_and_1_is_refused(trained):
    with pytest.raises(SettingsError, match="keep"):
        generate(trained, PIXELS[0], keep=1.5)


def test_channels_that_may_stand_first_are_refused(trained, tmp_path):
    coloured = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "all.npz", images=coloured, labels=np.arange(40) % 2)
    data = images(tmp_path / "data", "--input", tmp_path / "all.npz")
    vocabulary = Vocabulary.load(data / "vocab.json")
    shape = plain_settings(n_layer=1, n_head=2, n_embd=16, n_positions=21, max_length=21)
    model = build_model(shape, vocabulary).eval()
    save_model_folder(model, tmp_path / "model", vocabulary, shape, data / "codebook.npz")
    rgb = load_trained_model(tmp_path / "model", "cpu", "fp32")
    assert len(classify(rgb, coloured[:3])) == 3
    assert isinstance(classify(rgb, coloured[0]), tuple)
    with pytest.raises(UserError, match="the channels of a picture stand last"):
        classify(rgb, np.moveaxis(coloured[0], 2, 0))


@pytest.mark.parametrize("shape", [(8, 8, 4), (10, 12, 2)])
def test_a_picture_with_an_alpha_channel_is_not_read_as_many_grey_ones(digits_world, shape):
    trained = load_trained_model(digits_world / "outputs/best_model", "cpu", "fp32")
    with pytest.raises(UserError, match=r"one channel or three; without its alpha"):
        classify(trained, np.zeros(shape, np.uint8))
