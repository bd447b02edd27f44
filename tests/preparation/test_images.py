"""Digits and images: the rows, the split, variants, and how mistakes are told."""

import gzip
import itertools
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from plain_settings import plain_settings
from prepared_files import (
    DIGITS,
    IMAGE_FILES,
    SMALL,
    SMALL_LABELS,
    bodies,
    both,
    contents,
    idx,
    images,
    mistake,
)

from prepare_data import main
from smallgpt.errors import UserError
from smallgpt.options.preparation import DigitsSettings, ImagesSettings
from smallgpt.preparation.images import prepare_digits, prepare_images
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.reading import dataset_from_records, read_dataset
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training.data import read_data

_REFERENCE = ("--codebook_size", "500")  # as many codes as the reference vocabulary has


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    prepare_digits(DigitsSettings(output_dir=str(folder), codebook_size=500, augment=0))
    return folder


def test_digits_have_the_reference_vocabulary(digits):
    special = ["<PAD>", "<UNK>", "<IMG>", "</IMG>", "<CLS>", "<EOS>"]
    tokens = special + [f"<Z_{code:03}>" for code in range(500)]
    tokens += [f"<CLS_{label}>" for label in range(10)]
    expected = {token: number for number, token in enumerate(tokens)}
    assert json.loads((digits / "vocab.json").read_text()) == expected
    assert len(expected) == 516
    assert {path.name for path in digits.iterdir()} == IMAGE_FILES


def test_digits_rows_are_whole_and_in_order(digits):
    vocabulary = Vocabulary.load(digits / "vocab.json")
    train, test = both(digits)
    assert len(train) + len(test) == 1797
    for name, rows in (("train.jsonl", train), ("test.jsonl", test)):
        read = read_dataset(digits / name, vocabulary, max_length=21)
        assert read.counts.lines() == []
        assert set(read.lengths_N.tolist()) == {21}
        places = [row["meta"]["index"] for row in rows]
        assert places == sorted(places)
        assert [row["label"] for row in rows] == DIGITS.target[places].tolist()


def test_digits_split_is_stratified_and_shares_nothing(digits):
    train, test = both(digits)
    totals = Counter(DIGITS.target.tolist())
    for label, count in Counter(row["label"] for row in test).items():
        assert abs(count - 0.2 * totals[label]) <= 2
    assert not bodies(train) & bodies(test)
    pixels = [
        {DIGITS.images[row["meta"]["index"]].tobytes() for row in rows} for rows in (train, test)
    ]
    assert not pixels[0] & pixels[1]


def test_digits_tokens_decode_to_the_digits(digits):
    codebook = Codebook.load(digits / "codebook.npz")
    summary = json.loads((digits / "prepared.json").read_text())
    for name, rows in zip(("train", "test"), both(digits), strict=True):
        originals = DIGITS.images[[row["meta"]["index"] for row in rows]][..., None]
        images = np.array([codebook.image_from_tokens(row["tokens"].split())[0] for row in rows])
        error = ((images - originals) ** 2).mean() ** 0.5 / 16
        assert error == pytest.approx(summary[name]["rmse"], rel=1e-5)
        assert error < 0.045
        assert summary[name]["rows"] == summary[name]["labelled"] == len(rows)


def test_digits_rows_name_the_codebook_beside_them(digits):
    codebook = Codebook.load(digits / "codebook.npz")
    train, test = both(digits)
    assert {row["meta"]["codebook_digest"] for row in train + test} == {codebook.digest}
    summary = json.loads((digits / "prepared.json").read_text())
    assert codebook.familiarity.rmse == summary["train"]["rmse"] > 0
    assert (codebook.low, codebook.high, codebook.white) == (0, 16, 16)


def test_digits_give_the_same_files_again(digits, capsys):
    before = contents(digits)
    assert main(["digits", *_REFERENCE, "--augment", "0", "--output_dir", str(digits)]) == 0
    assert contents(digits) == before
    said = capsys.readouterr().out
    assert said.rstrip().splitlines()[-1].strip() == (
        f"python train_gpt.py --data_path {digits}/train.jsonl --vocab_path {digits}/vocab.json "
        f"--output_dir outputs"
    )


@pytest.fixture(scope="module")
def augmented(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augmented")
    prepare_digits(DigitsSettings(output_dir=str(folder), codebook_size=500, augment=3))
    return folder


def test_variants_stand_beside_their_image_and_in_training_rows_alone(digits, augmented):
    train, test = both(augmented)
    plain_train, plain_test = both(digits)
    sources = {}
    for row in train:
        assert row["meta"]["source"] == row["meta"]["index"]
        sources.setdefault(row["meta"]["source"], []).append(row)
    assert abs(len(sources) - len(plain_train)) <= 5  # other codes, other rows that coincide
    assert len(test) + len(sources) == len(plain_test) + len(plain_train) == 1797
    assert len(train) > 3.9 * len(sources)
    for rows in sources.values():
        assert rows[0]["meta"][VARIANT] == 0
        assert len({row["meta"][VARIANT] for row in rows}) == len(rows) <= 4
        assert len({row["label"] for row in rows}) == 1
    assert not any({"source", VARIANT} & row["meta"].keys() for row in test)
    assert bodies(train).isdisjoint(bodies(test))


def test_variants_look_like_their_image(augmented):
    codebook = Codebook.load(augmented / "codebook.npz")
    train, _ = both(augmented)
    originals, others, strangers = [], [], []
    for first, second in itertools.pairwise(train):
        image = codebook.image_from_tokens(first["tokens"].split())[0]
        image = image[..., 0] if image.ndim == 3 else image
        other = codebook.image_from_tokens(second["tokens"].split())[0]
        other = other[..., 0] if other.ndim == 3 else other
        error = float(((image.astype(float) - other) ** 2).mean())
        same = first["meta"]["source"] == second["meta"]["source"]
        (others if same else strangers).append(error)
        originals.append(first["tokens"] == second["tokens"])
    assert np.mean(others) < 0.7 * np.mean(strangers)
    assert np.mean(originals) < 0.01


def test_variants_train_with_their_source_and_are_never_held_out(augmented):
    vocabulary = Vocabulary.load(augmented / "vocab.json")
    rows = read_dataset(augmented / "train.jsonl", vocabulary, max_length=21)
    train, held_out = split_dataset(rows, 0.2, 42)
    assert not held_out.augmented_N.any()
    assert set(train.sources_N).isdisjoint(held_out.sources_N)
    assert len(set(train.sources_N)) + len(held_out) == len(set(rows.sources_N))


def test_variants_that_an_older_version_marked_are_refused_with_the_remedy(augmented, tmp_path):
    for name in ("vocab.json", "prepared.json"):
        (tmp_path / name).write_bytes((augmented / name).read_bytes())
    text = (augmented / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(text.replace(f'"{VARIANT}"', '"variant"'))
    settings = plain_settings(
        data_path=str(tmp_path / "train.jsonl"), vocab_path=str(tmp_path / "vocab.json")
    )
    told = []
    with pytest.raises(UserError, match=r"train\.jsonl: .*prepare the data again"):
        read_data(settings, told.append)
    assert told == []
    (tmp_path / "prepared.json").unlink()
    rows = read_data(settings, told.append)
    assert not rows[0].has_variants
    assert "every one of them" in told[0]


def test_augmenting_twice_gives_the_same_files(augmented):
    before = contents(augmented)
    assert main(["digits", *_REFERENCE, "--augment", "3", "--output_dir", str(augmented)]) == 0
    assert contents(augmented) == before


def test_pictures_are_pictures(digits):
    for name in ("codebook.png", "reconstructions.png"):
        with Image.open(digits / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("L").getcolors()) > 16


# ------------------------------------------------------------------------------- images


def test_idx_packed_plain_and_npz_give_the_same_rows(tmp_path, npz):
    for name, pack in (("plain", bytes), ("packed", gzip.compress)):
        (tmp_path / f"{name}-images").write_bytes(pack(idx(SMALL)))
        (tmp_path / f"{name}-labels").write_bytes(pack(idx(SMALL_LABELS)))
    made = [
        images(tmp_path / f"to-{name}", "--input", tmp_path / f"{name}-images",
               "--labels", tmp_path / f"{name}-labels")
        for name in ("plain", "packed")
    ]  # fmt: skip
    made.append(images(tmp_path / "to-npz", "--input", npz()))
    for name in IMAGE_FILES - {"prepared.json"}:
        assert len({(folder / name).read_bytes() for folder in made}) == 1, name


def test_test_last_holds_out_exactly_those(tmp_path, npz):
    folder = images(tmp_path / "out", "--input", npz(), "--test_last", 30)
    train, test = both(folder)
    assert [row["meta"]["index"] for row in train] == list(range(90))
    assert [row["meta"]["index"] for row in test] == list(range(90, 120))


def test_codebook_does_not_know_the_test_images(tmp_path, npz):
    other = SMALL.copy()
    other[90:] = other[90:].transpose(0, 2, 1)
    folders = [
        images(tmp_path / name, "--input", npz(pictures, name=f"{name}.npz"), "--test_last", 30)
        for name, pictures in (("one", SMALL), ("other", other))
    ]
    codebooks, trains, tests = (
        [(folder / name).read_bytes() for folder in folders]
        for name in ("codebook.npz", "train.jsonl", "test.jsonl")
    )
    assert codebooks[0] == codebooks[1]
    assert trains[0] == trains[1]
    assert tests[0] != tests[1]


def test_training_rows_like_a_test_row_of_one_s_own_are_left_out(tmp_path, npz, capsys):
    test = npz(SMALL[[3, 3, 50]], SMALL_LABELS[[3, 3, 50]], "test.npz")
    folder = images(tmp_path / "out", "--input", npz(), "--test_input", test)
    train, held_out = both(folder)
    assert [row["meta"]["index"] for row in held_out] == [0, 1, 2]
    assert {row["meta"]["index"] for row in train} == set(range(120)) - {3, 50}
    assert "2 training rows with the tokens of a test row left out" in capsys.readouterr().out


def test_equal_images_and_equal_rows_stay_on_one_side(tmp_path, npz):
    pictures = np.concatenate([SMALL, SMALL[:60]])
    folder = images(
        tmp_path / "out", "--input", npz(pictures, np.tile(SMALL_LABELS, 2)[:180]),
        "--codebook_size", 3, "--patch_size", 4,
    )  # fmt: skip
    train, test = both(folder)
    assert test
    assert not bodies(train) & bodies(test)
    held_out = {row["meta"]["index"] for row in test}
    assert {i for i in range(60) if i in held_out} == {i - 120 for i in held_out if i >= 120}


def test_coarse_codes_move_equal_test_rows_to_training(tmp_path, npz, capsys):
    main(
        ["images", "--input", str(npz()), "--output_dir", str(tmp_path / "out"),
         "--codebook_size", "8", "--patch_size", "4", "--augment", "0"]
    )  # fmt: skip
    train, test = both(tmp_path / "out")
    assert "with the tokens of a training row moved to training" in capsys.readouterr().out
    assert len(train) + len(test) == 120
    assert len(test) < 24
    assert not bodies(train) & bodies(test)


def test_folder_of_rgb_pictures(tmp_path):
    random = np.random.default_rng(0)
    for name, color in (("red ball", 0), ("blue", 2)):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(0, 60, (5, 7, 3), dtype=np.uint8)
            pixels[..., color] += 150
            Image.fromarray(pixels).save(tmp_path / "in" / name / f"{number}.png")
    folder = images(tmp_path / "out", "--input", tmp_path / "in")
    train, test = both(folder)
    assert len(train) == 16
    assert {row["label"] for row in test} == {"red ball", "blue"}
    codebook = Codebook.load(folder / "codebook.npz")
    assert (codebook.height, codebook.width, codebook.channels) == (5, 7, 3)
    assert codebook.white == 255 > codebook.high  # no pixel of these pictures is white
    for row in train + test:
        name, _, number = row["meta"]["file"].partition("/")
        assert name == row["label"]
        assert f"<CLS_{name.replace(' ', '_')}>" in row["tokens"]
        assert row["meta"]["index"] == int(number[0]) + (10 if name == "red ball" else 0)
        image, count = codebook.image_from_tokens(row["tokens"].split())
        assert count == 3 * 4
        brightest = image.reshape(-1, 3).mean(axis=0).argmax()
        assert brightest == (0 if row["label"] == "red ball" else 2)


def test_pixels_as_tokens_lose_nothing(tmp_path, npz, capsys):
    path = npz(SMALL // 4)
    argv = ["--input", str(path), "--patch_size", "1", "--augment", "0"]
    assert main(["images", *argv, "--output_dir", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert summary["codebook"]["size"] == 5
    assert summary["vocabulary_size"] == 6 + 5 + 10
    assert summary["train"] == {"rows": 95, "labelled": 95, "rmse": 0.0, "psnr_db": None}
    assert "5 distinct patches" in capsys.readouterr().out
    (row, *_), _ = both(tmp_path / "out")
    codes = [int(token[3:-1]) for token in row["tokens"].split()[1:65]]
    assert codes == (SMALL[row["meta"]["index"]] // 4).ravel().tolist()


def test_unlabelled_images_give_rows_without_a_tail(tmp_path, npz, capsys):
    folder = images(tmp_path / "out", "--input", npz(labels=None))
    train, _ = both(folder)
    assert all(row["tokens"].endswith("</IMG> <EOS>") and "label" not in row for row in train)
    assert Vocabulary.load(folder / "vocab.json").labels == []
    assert "no labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "first", "order"),
    [
        ([10, 9, 2], 10, ["2", "9", "10"]),
        (["007", "12", "3"], "007", ["3", "007", "12"]),
        (["dog", "cat", "3"], "dog", ["3", "cat", "dog"]),
    ],
)
def test_labels_are_numbers_only_where_all_are(tmp_path, npz, labels, first, order):
    folder = images(
        tmp_path / "out", "--input", npz(SMALL[:9], np.repeat(labels, 3)), "--test_fraction", 0.4
    )
    train, test = both(folder)
    rows = sorted(train + test, key=lambda row: row["meta"]["index"])
    assert rows[0]["label"] == first
    vocabulary = Vocabulary.load(folder / "vocab.json")
    assert vocabulary.labels == order
    dataset_from_records(rows, vocabulary, max_length=99)


def test_rows_beyond_the_default_length_change_the_next_command(tmp_path, npz, capsys):
    large = np.random.default_rng(0).integers(0, 2, (10, 40, 40)) * 255
    argv = ["--input", str(npz(large, None)), "--output_dir", str(tmp_path / "out")]
    main(["images", *argv, "--patch_size", "1", "--augment", "0"])
    assert "--max_length 1603 --n_positions 1603" in capsys.readouterr().out


def test_settings_from_python_work_like_flags(tmp_path, npz):
    folder = images(tmp_path / "flags", "--input", npz())
    settings = ImagesSettings(
        input=str(npz()), patch_size=2, codebook_size=40, augment=0,
        output_dir=str(tmp_path / "python"),
    )  # fmt: skip
    summary = prepare_images(settings)
    assert json.loads((tmp_path / "python" / "prepared.json").read_text()) == summary
    for name in IMAGE_FILES - {"prepared.json"}:
        assert (tmp_path / "python" / name).read_bytes() == (folder / name).read_bytes()


def test_image_mistakes_are_told_in_plain_words(tmp_path, npz):
    source, out = npz(), ("--output_dir", tmp_path / "out")
    given = ("images", "--input", source, *out)
    assert "no such file" in mistake("images", "--input", tmp_path / "nowhere", *out)
    assert "--input PATH" in mistake("images", *out)
    assert "--patch_size 9" in mistake(*given, "--patch_size", 9)
    assert "none of 120" in mistake(*given, "--test_last", 120)
    assert "both name the test set" in mistake(*given, "--test_last", 9, "--test_input", source)
    (tmp_path / "folder").mkdir()
    assert "last class" in mistake("images", "--input", tmp_path / "folder", "--test_last", 9, *out)
    wide = npz(np.zeros((3, 8, 9)), None, "wide.npz")
    text = mistake(*given, "--test_input", wide)
    assert "8x8 grey uint8" in text
    assert "9x8 grey float32" in text
    unlabelled = npz(labels=None, name="unlabelled.npz")
    assert "give --labels" in mistake("images", "--input", unlabelled, "--test_input", source, *out)
    same = npz(np.ones((9, 8, 8)), None, "same.npz")
    assert "no test rows are left" in mistake("images", "--input", same, *out)
    coarse = mistake(*given, "--patch_size", 8, "--codebook_size", 2)
    assert "no test rows are left" in coarse
    assert "--codebook_size" in coarse
    assert "no training rows are left" in mistake(*given, "--test_input", source)
    assert "is a file" in mistake("digits", "--output_dir", source)
    assert not (tmp_path / "out").exists()
