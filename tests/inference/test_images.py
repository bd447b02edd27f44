"""Pictures given to a model: labels as for prepared rows, conversions told, broken ones kept."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from plain_settings import plain_settings
from prepared_files import DIGITS, idx, images

from inference import load_trained_model, main
from smallgpt.errors import SettingsError, UserError
from smallgpt.inference.images import image_rows, without_unknown_labels
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.reader import check_settings
from smallgpt.tokens.vocabulary import Vocabulary

PIXELS, LABELS = DIGITS.images[:300].astype(np.uint8), DIGITS.target[:300]  # 0..16
HELD_OUT = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Prepared digits, and a model of them with random weights."""
    folder = tmp_path_factory.mktemp("world")
    np.savez(folder / "all.npz", images=PIXELS, labels=LABELS)
    data = images(folder / "data", "--input", folder / "all.npz", "--test_last", HELD_OUT)
    np.savez(folder / "test.npz", images=PIXELS[-HELD_OUT:], labels=LABELS[-HELD_OUT:])
    vocabulary = Vocabulary.load(data / "vocab.json")
    shape = plain_settings(n_layer=1, n_head=2, n_embd=16, n_positions=21, max_length=21)
    torch.manual_seed(0)
    model = build_model(shape, vocabulary).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    save_model_folder(model, folder / "model", vocabulary, shape, data / "codebook.npz")
    return folder


def run(world, *flags: object) -> int:
    argv = ["--model_path", world / "model", "--device", "cpu", "--precision", "fp32", *flags]
    return main([str(part) for part in argv])


def predictions(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def as_png(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))


@pytest.fixture(scope="module")
def classes(world):
    """The held-out digits as PNG files of 0..255, a subfolder per class."""
    folder = world / "classes"
    for number, (image, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        if number >= len(PIXELS) - HELD_OUT:
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            as_png(image).save(folder / str(label) / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def of_rows(world, tmp_path_factory):
    """predictions.jsonl and metrics.json of the prepared test rows."""
    out = tmp_path_factory.mktemp("rows") / "out"
    assert run(world, "--test_data", world / "data" / "test.jsonl", "--output_dir", out) == 0
    return predictions(out), json.loads((out / "metrics.json").read_text())


# ------------------------------------------------------------------------------- the same images


def test_an_array_file_gets_the_labels_of_the_prepared_rows(world, of_rows, tmp_path, capsys):
    rows, metrics = of_rows
    assert run(world, "--images", world / "test.npz", "--output_dir", tmp_path / "out") == 0
    assert "scaled" not in capsys.readouterr().err
    found = predictions(tmp_path / "out")
    assert len(found) == HELD_OUT > len({row["prediction"] for row in rows}) > 1
    for own, row in zip(found, rows, strict=True):
        assert own.pop("row") == {"index": own["line"] - 1}
        row = {key: value for key, value in row.items() if key != "row"}
        assert own == row
    own_metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for name in ("accuracy", "perplexity", "records", "confusion_matrix"):
        assert own_metrics[name] == metrics[name]


def test_pictures_of_0_to_255_get_them_too(world, classes, of_rows, tmp_path, capsys):
    flags = ("--mode", "classify", "--output_dir", tmp_path / "out")
    assert run(world, "--images", classes, *flags) == 0
    assert "from 0, black, to 255, white, scaled to 0 to 16" in capsys.readouterr().err
    expected = {row["row"]["meta"]["index"]: row for row in of_rows[0]}
    found = predictions(tmp_path / "out")
    assert [row["row"]["file"] for row in found] == sorted(row["row"]["file"] for row in found)
    for row in found:
        label, _, name = row["row"]["file"].partition("/")
        same = expected.pop(int(name.removesuffix(".png")))
        assert row["label"] == same["label"] == label
        assert row["prediction"] == same["prediction"]
        assert row["probabilities"] == pytest.approx(same["probabilities"], abs=1e-6)
    assert not expected


def test_an_idx_file_takes_its_labels_beside(world, of_rows, tmp_path):
    (tmp_path / "images").write_bytes(idx(PIXELS[-HELD_OUT:]))
    (tmp_path / "labels").write_bytes(idx(LABELS[-HELD_OUT:]))
    flags = ("--images", tmp_path / "images", "--labels", tmp_path / "labels")
    assert run(world, *flags, "--mode", "classify", "--output_dir", tmp_path / "out") == 0
    for own, row in zip(predictions(tmp_path / "out"), of_rows[0], strict=True):
        assert (own["label"], own["prediction"]) == (row["label"], row["prediction"])


def test_arrays_become_the_prepared_rows(world):
    trained = load_trained_model(world / "model", "cpu", "fp32")
    rows = [json.loads(line) for line in (world / "data" / "test.jsonl").read_text().splitlines()]
    expected = [trained.vocabulary.encode(row["tokens"].split(" <CLS>")[0]) for row in rows]
    for array in (PIXELS, PIXELS[..., None], PIXELS / 16, PIXELS[..., None].repeat(3, axis=3)):
        ids, notes = image_rows(trained, array[-HELD_OUT:])
        assert ids == expected
        assert len(notes) == (array.max() <= 1)
    with pytest.raises(UserError, match="no codebook"):
        image_rows(dataclasses.replace(trained, codebook=None), PIXELS)
    with pytest.raises(UserError, match="N x H x W"):
        image_rows(trained, PIXELS[0])


# ------------------------------------------------------------------------------- what people have


def test_a_folder_without_classes_is_classified_and_broken_files_are_kept(world, tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    as_png(PIXELS[-1]).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"\x89PNG broken")
    as_png(PIXELS[-2].repeat(3, axis=0).repeat(2, axis=1)).save(folder / "c\x1b[31m é.png")
    Image.new("RGB", (8, 8), "red").save(folder / "d.png")
    (folder / "notes.txt").write_text("no picture")
    assert run(world, "--images", folder, "--output_dir", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert "left out 1 file of another kind" in err
    line = "1 picture resized to 8x8 (the first: c\\x1b[31m é.png, 16x24), 1 of them stretched"
    assert f"{line} to this shape" in err
    assert "1 coloured picture read as grey" in err
    assert "!!! 1 of 4 rows could not be classified" in out and "b.png: not a picture" in out
    assert "\x1b" not in out + err
    found = predictions(tmp_path / "out")
    assert [row["row"] for row in found] == [
        {"file": name} for name in ("a.png", "b.png", "c\x1b[31m é.png", "d.png")
    ]
    assert [row["prediction"] is None for row in found] == [False, True, False, False]
    line = next(line for line in out.splitlines() if line.startswith("a.png"))
    assert line.split() == ["a.png", found[0]["prediction"], f"{found[0]['confidence']:.4f}"]
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_one_picture_is_classified(world, tmp_path, capsys):
    as_png(PIXELS[-1]).save(tmp_path / "one.png")
    flags = ("--images", tmp_path / "one.png", "--output_dir", tmp_path / "out")
    assert run(world, *flags, "--mode", "classify", "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["row"] == {"file": "one.png"}


def test_inverted_pictures_are_told(world, tmp_path, capsys):
    for number in range(-9, 0):
        as_png(16 - PIXELS[number]).save(tmp_path / f"{number}.png")
    assert run(world, "--images", tmp_path, "--output_dir", tmp_path / "out") == 0
    assert "do not look like the training images: are they inverted?" in capsys.readouterr().err


def test_a_class_of_two_words_is_known(world, tmp_path, capsys):
    vocabulary = Vocabulary(["<PAD>", "<CLS_big_cat>"])
    trained = load_trained_model(world / "model", "cpu", "fp32")
    known = dataclasses.replace(trained, vocabulary=vocabulary)
    found = [(1, {"input_ids": [], "label": "big cat"}, None)]
    assert without_unknown_labels(known, found) == found
    assert capsys.readouterr().err == ""


def test_labels_that_the_model_lacks(world, tmp_path, capsys):
    for label in ("cat", "7"):
        (tmp_path / "in" / label).mkdir(parents=True)
        as_png(PIXELS[-1]).save(tmp_path / "in" / label / "1.png")
    flags = ("--images", tmp_path / "in", "--output_dir")
    assert run(world, *flags, tmp_path / "labels", "--mode", "classify") == 0
    assert "1 picture of labels that the model does not have (cat)" in capsys.readouterr().err
    found = predictions(tmp_path / "labels")
    assert [row["label"] for row in found] == ["7", None]
    assert all(row["prediction"] is not None for row in found)
    assert run(world, *flags, tmp_path / "evaluation") == 0
    scored, unknown = predictions(tmp_path / "evaluation")
    assert scored["label"] == "7"
    assert "cat" in unknown["reason"] and unknown["row"] == {"file": "cat/1.png"}


def test_nothing_readable_is_an_error(world, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match="not one of 4 pictures can be read"):
        run(world, "--images", tmp_path / "in", "--output_dir", tmp_path / "out")
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        run(world, "--images", tmp_path / "nowhere", "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"images": "x", "test_data": "y"}, "--test_data and --images name different inputs"),
        ({"images": "x", "prompt": "y"}, "--images and --prompt name different inputs"),
        ({"mode": "interactive", "images": "x"}, "--images does not go with --mode interactive"),
        ({"labels": "x"}, "--labels needs --images"),
        ({"mode": "generate", "images": "x"}, "--keep SHARE goes with"),
        ({"images": "x", "keep": 0.5}, "--keep SHARE goes with"),
        ({"mode": "generate", "keep": 0.5}, "--keep SHARE goes with"),
        ({"mode": "generate", "images": "x", "keep": 1.0}, "below 1"),
    ],
)
def test_contradictions_about_images_are_told(values, words):
    with pytest.raises(SettingsError, match=words):
        check_settings(InferenceSettings(**values))


# ------------------------------------------------------------------------------- completing


def test_a_picture_is_completed_from_its_upper_part(world, tmp_path, capsys):
    as_png(PIXELS[-1]).save(tmp_path / "half.png")
    trained = load_trained_model(world / "model", "cpu", "fp32")
    (ids,), _ = image_rows(trained, PIXELS[-1:])
    flags = ("--mode", "generate", "--images", tmp_path / "half.png", "--seed", 1)
    for keep, rows in ((0.5, 2), (0.01, 1), (0.99, 3)):
        several = ("--keep", keep, "--num_return_sequences", 3, "--json")
        assert run(world, *flags, *several) == 0
        answer = json.loads(capsys.readouterr().out)
        assert f"kept the upper {rows} of 4 rows of patches" in answer["note"]
        kept = trained.vocabulary.decode(ids[: 1 + 4 * rows])
        assert len(answer["sequences"]) == 3
        for text in answer["sequences"]:
            assert text.startswith(kept)
            assert text.split().index("</IMG>") == 17
    assert run(world, *flags, "--keep", 0.5, "--image", tmp_path / "out.png") == 0
    err = capsys.readouterr().err
    assert f"(4 of 8 rows of pixels, 8 codes) of {tmp_path / 'half.png'}" in err
    with Image.open(tmp_path / "out.png") as drawn:
        assert min(drawn.size) > 100
    with pytest.raises(SettingsError, match="would overwrite the picture"):
        run(world, *flags, "--keep", 0.5, "--image", tmp_path / "half.png", "--overwrite")


def test_only_one_picture_is_completed(world, classes):
    with pytest.raises(UserError, match="40 pictures; --keep completes one picture"):
        run(world, "--mode", "generate", "--images", classes, "--keep", 0.5)
