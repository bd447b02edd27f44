"""Pictures given from Python as arrays; and the notebook of docs/python.md, cell by cell."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from prepared_files import DIGITS, images

from inference import classify, classify_file, embeddings, generate, load_trained_model, next_tokens
from smallgpt.errors import SettingsError, UserError
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.options.training import TrainSettings
from smallgpt.rows.row import parse_row
from smallgpt.tokens.vocabulary import Vocabulary

PYTHON_PAGE = Path(__file__).parent.parent.parent / "docs" / "python.md"
PIXELS, LABELS = DIGITS.images[:150].astype(np.uint8), DIGITS.target[:150]  # 0..16


def learn_labels(model: torch.nn.Module, vocabulary: Vocabulary, rows: list[dict]) -> None:
    """Have a model learn a few rows by heart, their labels first of all."""
    ids_BxT = torch.tensor([vocabulary.encode(row["tokens"]) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(12):
        logits_BxTxV = model(ids_BxT).logits[:, :-1]
        loss_BxT = torch.nn.functional.cross_entropy(
            logits_BxTxV.transpose(1, 2), ids_BxT[:, 1:], reduction="none"
        )
        (loss_BxT[:, -2].mean() + 0.1 * loss_BxT.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of a user: prepared digits, and a model that knows the first forty by heart."""
    folder = tmp_path_factory.mktemp("world")
    np.savez(folder / "all.npz", images=PIXELS, labels=LABELS)
    data = images(folder / "data" / "digits", "--input", folder / "all.npz", "--test_last", 10)
    vocabulary = Vocabulary.load(data / "vocab.json")
    shape = TrainSettings(n_layer=1, n_head=8, n_positions=21, max_length=21, dropout=0.0)
    torch.manual_seed(0)
    model = build_model(shape, vocabulary)
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    rows = sorted(rows, key=lambda row: row["meta"]["index"])[:40]
    learn_labels(model, vocabulary, rows)
    save_model_folder(
        model.eval(), folder / "outputs" / "best_model", vocabulary, shape, data / "codebook.npz"
    )
    return folder


@pytest.fixture(scope="module")
def trained(world):
    return load_trained_model(world / "outputs" / "best_model", "cpu", "fp32")


def test_pictures_get_the_labels_of_their_prepared_rows(trained, world, tmp_path, capsys):
    path = world / "data" / "digits" / "test.jsonl"
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


def test_pictures_stand_beside_other_rows(trained, world):
    (row,) = (world / "data" / "digits" / "test.jsonl").read_text().splitlines()[:1]
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
    shape = TrainSettings(n_layer=1, n_head=2, n_embd=16, n_positions=21, max_length=21)
    model = build_model(shape, vocabulary).eval()
    save_model_folder(model, tmp_path / "model", vocabulary, shape, data / "codebook.npz")
    rgb = load_trained_model(tmp_path / "model", "cpu", "fp32")
    assert len(classify(rgb, coloured[:3])) == 3
    assert isinstance(classify(rgb, coloured[0]), tuple)
    with pytest.raises(UserError, match="the channels of a picture stand last"):
        classify(rgb, np.moveaxis(coloured[0], 2, 0))


@pytest.mark.parametrize("shape", [(8, 8, 4), (10, 12, 2)])
def test_a_picture_with_an_alpha_channel_is_not_read_as_many_grey_ones(world, shape):
    trained = load_trained_model(world / "outputs/best_model", "cpu", "fp32")
    with pytest.raises(UserError, match=r"one channel or three; without its alpha"):
        classify(trained, np.zeros(shape, np.uint8))


# ------------------------------------------------------------------------------- the notebook


def cells() -> list[str]:
    """The Python blocks of the section "The cells of a notebook"."""
    section = PYTHON_PAGE.read_text(encoding="utf-8").partition("\n## The cells of a notebook\n")[2]
    return re.findall(r"^```python\n(.*?)^```", section.partition("\n## ")[0], flags=re.M | re.S)


def test_every_cell_of_the_notebook_runs_and_shows_what_it_says(world, monkeypatch):
    monkeypatch.chdir(world)
    names: dict = {}
    compared = 0
    for cell in cells():
        lines = cell.splitlines()
        for statement in ast.parse(cell).body:
            source = ast.get_source_segment(cell, statement)
            if not isinstance(statement, ast.Expr):
                exec(source, names)
                continue
            found = eval(source, names)
            _, _, said = lines[statement.end_lineno - 1].rpartition("  # ")
            try:
                shown = ast.literal_eval(said)
            except (ValueError, SyntaxError):  # words
                continue
            assert found == shown, source
            compared += 1
    assert compared >= 6
