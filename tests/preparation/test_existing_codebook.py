"""prepare_data.py images --codebook: rows for a model that exists."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from prepared_files import SMALL, SMALL_LABELS, bodies, both, images, mistake

from prepare_data import main
from smallgpt.errors import SettingsError
from smallgpt.options.preparation import ImagesSettings
from smallgpt.options.reader import check_settings
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Digits prepared with a codebook of their own."""
    folder = tmp_path_factory.mktemp("first")
    np.savez(folder / "images.npz", images=SMALL, labels=SMALL_LABELS)
    return images(folder / "out", "--input", folder / "images.npz")


def pictures(folder, values=SMALL, labels=SMALL_LABELS):
    """A folder of PNG files, white 255, with a subfolder per class."""
    for number, (image, label) in enumerate(zip(values, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        pixels = np.round(image * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / str(label) / f"{number:03}.png")
    return folder


def prepare(out, source, codebook, *flags):
    argv = ["--input", source, "--codebook", codebook, "--augment", 0, "--output_dir", out]
    assert main(["images", *map(str, [*argv, *flags])]) == 0
    return out


def test_the_same_images_as_pictures_give_the_same_rows(first, tmp_path, capsys):
    folder = prepare(tmp_path / "again", pictures(tmp_path / "in"), first)
    said = capsys.readouterr().out
    assert "pixel values from 0, black, to 255, white, scaled to 0 to 16" in said
    rows, first_rows = ([*train, *test] for train, test in (both(folder), both(first)))
    assert bodies(rows) == bodies(first_rows)
    for name in ("vocab.json", "codebook.npz"):
        assert (folder / name).read_bytes() == (first / name).read_bytes()
    digest = Codebook.load(first / "codebook.npz").digest
    assert {row["meta"]["codebook_digest"] for row in rows} == {digest}
    assert json.loads((folder / "prepared.json").read_text())["settings"]["codebook"] == str(first)


def test_a_codebook_alone_names_labels_anew(first, tmp_path):
    shutil.copy(first / "codebook.npz", tmp_path)
    np.savez(tmp_path / "in.npz", images=SMALL[:20], labels=["cat", "dog"] * 10)
    folder = prepare(tmp_path / "out", tmp_path / "in.npz", tmp_path / "codebook.npz")
    assert Vocabulary.load(folder / "vocab.json").labels == ["cat", "dog"]


def test_labels_that_the_model_lacks_are_added_at_the_end_and_told(first, tmp_path, capsys):
    np.savez(tmp_path / "in.npz", images=SMALL[:20], labels=["7", "cat"] * 10)
    folder = prepare(tmp_path / "out", tmp_path / "in.npz", first)
    own, known = Vocabulary.load(folder / "vocab.json"), Vocabulary.load(first / "vocab.json")
    assert own.tokens == [*known.tokens, "<CLS_cat>"]
    assert f"1 label that {first} does not know (cat) added at the end" in capsys.readouterr().out


def test_a_label_of_two_words_is_no_new_one_the_second_time(first, tmp_path):
    np.savez(tmp_path / "in.npz", images=SMALL[:20], labels=["7", "big cat"] * 10)
    folder = prepare(tmp_path / "out", tmp_path / "in.npz", first)
    again = prepare(tmp_path / "again", tmp_path / "in.npz", folder)
    assert (again / "vocab.json").read_bytes() == (folder / "vocab.json").read_bytes()


def test_other_size_and_a_test_set_of_one_s_own_are_converted(first, tmp_path, capsys):
    large = SMALL.repeat(2, axis=1).repeat(2, axis=2)
    np.savez(tmp_path / "test.npz", images=large[:10], labels=SMALL_LABELS[:10])
    source = pictures(tmp_path / "in", SMALL[10:30], SMALL_LABELS[10:30])
    folder = prepare(tmp_path / "out", source, first, "--test_input", tmp_path / "test.npz")
    assert len(both(folder)[1]) == 10
    assert "10 images of 16x16 pixels resized to 8x8" in capsys.readouterr().out


def test_inverted_pictures_are_told(first, tmp_path, capsys):
    prepare(tmp_path / "out", pictures(tmp_path / "in", 16 - SMALL[:20], SMALL_LABELS[:20]), first)
    assert "do not look like the training images: are they inverted?" in capsys.readouterr().out


def test_the_next_command_starts_from_the_model(first, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(first, model)
    (model / "config.json").write_text("{}")
    source = pictures(tmp_path / "in")
    prepare(tmp_path / "out", source, model)
    assert capsys.readouterr().out.rstrip().endswith(f"--init_from {model}")
    prepare(tmp_path / "other", source, first)
    assert "--init_from" not in capsys.readouterr().out


def test_mistakes_about_the_codebook_are_told(first, tmp_path):
    source = pictures(tmp_path / "in")
    given = ("images", "--input", source, "--output_dir", tmp_path / "out", "--codebook")
    assert "no such file" in mistake(*given, tmp_path / "nowhere")
    text = mistake(*given, first, "--patch_size", "auto", "--color", "auto")
    assert text == f"--color --patch_size: --codebook {first} decides that: drop it"
    with pytest.raises(SettingsError, match="--codebook_size does not go with --codebook"):
        check_settings(ImagesSettings(input="x", codebook=str(first), codebook_size=9))
    shutil.copy(first / "codebook.npz", tmp_path)
    (tmp_path / "vocab.json").write_text(Vocabulary.for_images(3, ["0"]).to_json())
    assert "not its vocabulary" in mistake(*given, tmp_path / "codebook.npz")
    assert not (tmp_path / "out").exists()
