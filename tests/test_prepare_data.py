"""prepare_data: the files of each command, the split, and how mistakes are told."""

import gzip
import itertools
import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from prepare_data import main
from smallgpt.errors import SettingsError, UserError
from smallgpt.options.preparation import DigitsSettings, ImagesSettings, TokensSettings
from smallgpt.options.training import TrainSettings
from smallgpt.preparation.folder import row_line
from smallgpt.preparation.images import prepare_digits, prepare_images
from smallgpt.preparation.token_rows import prepare_tokens
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.reading import dataset_from_records, read_dataset
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training.data import read_data

ROOT = Path(__file__).parent.parent
IMAGE_FILES = {
    "train.jsonl",
    "test.jsonl",
    "vocab.json",
    "prepared.json",
    "codebook.npz",
    "codebook.png",
    "reconstructions.png",
}
DIGITS = load_digits()


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def both(folder: Path) -> tuple[list[dict], list[dict]]:
    return read_rows(folder / "train.jsonl"), read_rows(folder / "test.jsonl")


def bodies(rows: list[dict]) -> set[str]:
    return {row["tokens"].split(" <CLS>")[0] for row in rows}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def mistake(*argv: object) -> str:
    """The words of a mistake, which are few lines and never a traceback."""
    with pytest.raises(UserError) as info:
        main([str(part) for part in argv])
    assert info.value.exit_code == (2 if isinstance(info.value, SettingsError) else 1)
    return str(info.value)


# ------------------------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    prepare_digits(DigitsSettings(output_dir=str(folder)))
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


def test_digits_give_the_same_files_again(digits, capsys):
    before = contents(digits)
    assert main(["digits", "--output_dir", str(digits)]) == 0
    assert contents(digits) == before
    said = capsys.readouterr().out
    assert said.rstrip().splitlines()[-1].strip() == (
        f"python train_gpt.py --data_path {digits}/train.jsonl --vocab_path {digits}/vocab.json "
        f"--output_dir outputs"
    )


@pytest.fixture(scope="module")
def augmented(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augmented")
    prepare_digits(DigitsSettings(output_dir=str(folder), augment=3))
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
    settings = TrainSettings(
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
    assert main(["digits", "--augment", "3", "--output_dir", str(augmented)]) == 0
    assert contents(augmented) == before


def test_pictures_are_pictures(digits):
    for name in ("codebook.png", "reconstructions.png"):
        with Image.open(digits / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("L").getcolors()) > 16


# ------------------------------------------------------------------------------- images

SMALL = DIGITS.images[:120].astype(np.uint8)
SMALL_LABELS = DIGITS.target[:120]
QUICK = ("--patch_size", "2", "--codebook_size", "40")


@pytest.fixture
def npz(tmp_path):
    def write(images=SMALL, labels=SMALL_LABELS, name="images.npz") -> Path:
        path = tmp_path / name
        np.savez(path, images=images, **({} if labels is None else {"labels": labels}))
        return path

    return write


def images(folder: Path, *argv: object) -> Path:
    assert main(["images", *map(str, argv), *QUICK, "--output_dir", str(folder)]) == 0
    return folder


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
         "--codebook_size", "8", "--patch_size", "4"]
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
    assert {row["label"] for row in test} == {"red_ball", "blue"}
    codebook = Codebook.load(folder / "codebook.npz")
    assert (codebook.height, codebook.width, codebook.channels) == (5, 7, 3)
    for row in train + test:
        name, _, number = row["meta"]["file"].partition("/")
        assert name.replace(" ", "_") == row["label"]
        assert row["meta"]["index"] == int(number[0]) + (10 if name == "red ball" else 0)
        image, count = codebook.image_from_tokens(row["tokens"].split())
        assert count == 3 * 4
        brightest = image.reshape(-1, 3).mean(axis=0).argmax()
        assert brightest == (0 if row["label"] == "red_ball" else 2)


def test_pixels_as_tokens_lose_nothing(tmp_path, npz, capsys):
    path = npz(SMALL // 4)
    argv = ["--input", str(path), "--patch_size", "1", "--output_dir", str(tmp_path / "out")]
    assert main(["images", *argv]) == 0
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
    main(["images", *argv, "--patch_size", "1"])
    assert "--max_length 1603 --n_positions 1603" in capsys.readouterr().out


# ------------------------------------------------------------------------------- output folder


def test_data_of_one_s_own_is_never_overwritten(tmp_path, npz):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.jsonl").write_text("mine")
    for argv in (["digits"], ["images", "--input", npz()], ["tokens", "--input", npz()]):
        text = mistake(*argv, "--output_dir", tmp_path / "out")
        assert str(tmp_path / "out" / "train.jsonl") in text
        assert "--output_dir" in text
    assert contents(tmp_path / "out") == {"train.jsonl": b"mine"}


def test_another_preparation_leaves_nothing_of_the_one_before(tmp_path, npz, write_rows):
    folder = images(tmp_path / "out", "--input", npz())
    (folder / "notes.txt").write_text("mine")
    (folder / ".prepare.1.tmp").mkdir()  # of a process that was killed
    path = write_rows(*({"tokens": f"a b{n}"} for n in range(10)))
    assert main(["tokens", "--input", str(path), "--output_dir", str(folder)]) == 0
    made = {"train.jsonl", "test.jsonl", "vocab.json", "prepared.json", "notes.txt"}
    assert contents(folder).keys() == made


def test_files_that_no_preparation_made_are_neither_replaced_nor_deleted(tmp_path, write_rows):
    path = write_rows(*({"tokens": f"a b{n}"} for n in range(10)))
    folder = tmp_path / "out"
    argv = ["tokens", "--input", str(path), "--output_dir", str(folder)]
    assert main(argv) == 0
    made = contents(folder)
    assert json.loads(made["prepared.json"])["files"] == sorted(made)
    (folder / ".prepare.2024.mine.tmp").write_text("mine")
    assert main(argv) == 0
    for older in (False, True):
        if older:  # an earlier version listed no files
            summary = json.loads(made["prepared.json"])
            del summary["files"]
            (folder / "prepared.json").write_text(json.dumps(summary))
        for name in ("val.jsonl", "tokenizer.json", "codebook.npz"):
            (folder / name).write_text("mine")
            before = contents(folder)
            assert f"{folder / name} is there already and was not made" in mistake(*argv)
            assert contents(folder) == before
            (folder / name).unlink()
    assert main(argv) == 0
    assert contents(folder) == {**made, ".prepare.2024.mine.tmp": b"mine"}
    for name in made.keys() - {"prepared.json"}:
        (folder / name).unlink()
    (folder / "prepared.json").write_text('{"flour": "sifted"}')
    assert f"{folder / 'prepared.json'} is there already" in mistake(*argv)


def test_a_failure_changes_nothing(tmp_path, npz, monkeypatch):
    folder = images(tmp_path / "out", "--input", npz())
    before = contents(folder)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Codebook, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        images(folder, "--input", npz(SMALL[:60], SMALL_LABELS[:60]))
    assert contents(folder) == before


def test_a_second_preparation_into_one_folder_is_refused_and_disturbs_nothing(tmp_path, write_rows):
    folder = tmp_path / "out"
    path = write_rows(*({"tokens": f"a b{n}"} for n in range(10)))
    argv = ["tokens", "--input", str(path), "--output_dir", str(folder)]
    holder = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys\n"
            "from smallgpt.preparation.folder import holding_output, publishing\n"
            "from smallgpt.options.preparation import TokensSettings\n"
            "@holding_output\n"
            "def prepare(settings):\n"
            "    with publishing(settings.output_dir) as stage:\n"
            "        print(stage, flush=True)\n"
            "        sys.stdin.read()\n"
            "        raise SystemExit\n"
            "prepare(TokensSettings(output_dir=sys.argv[1]))\n",
            str(folder),
        ],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        stage = Path(holder.stdout.readline().strip())
        assert mistake(*argv) == (
            f"{folder}: another command uses this folder; wait for it or give another --output_dir"
        )
        assert stage.is_dir()
        holder.stdin.close()
    assert not folder.exists()
    assert main(argv) == 0
    assert contents(folder).keys() == {"train.jsonl", "test.jsonl", "vocab.json", "prepared.json"}


def test_a_lock_file_of_others_in_the_folder_stays_as_it_is(tmp_path, write_rows):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".lock").write_text("4711")
    path = write_rows(*({"tokens": f"a b{n}"} for n in range(10)))
    assert main(["tokens", "--input", str(path), "--output_dir", str(folder)]) == 0
    assert (folder / ".lock").read_text() == "4711"


def test_of_many_preparations_at_once_one_holds_the_folder(tmp_path):
    """Each takes the folder and leaves it, folder and lock file deleted, again and again."""
    program = (
        "import os, sys\n"
        "from smallgpt.errors import UserError\n"
        "from smallgpt.preparation.folder import holding_output\n"
        "from smallgpt.options.preparation import TokensSettings\n"
        "@holding_output\n"
        "def prepare(settings):\n"
        "    os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))\n"
        "    os.unlink(sys.argv[2])\n"
        "held = 0\n"
        "while held < 100:\n"
        "    try:\n"
        "        prepare(TokensSettings(output_dir=sys.argv[1]))\n"
        "        held += 1\n"
        "    except (UserError, FileNotFoundError):\n"
        "        pass\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "out"), str(tmp_path / "witness")]
    runs = [subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] in ([], [Path("out")])


def test_settings_from_python_work_like_flags(tmp_path, npz):
    folder = images(tmp_path / "flags", "--input", npz())
    settings = ImagesSettings(
        input=str(npz()), patch_size=2, codebook_size=40, output_dir=str(tmp_path / "python")
    )
    summary = prepare_images(settings)
    assert json.loads((tmp_path / "python" / "prepared.json").read_text()) == summary
    for name in IMAGE_FILES - {"prepared.json"}:
        assert (tmp_path / "python" / name).read_bytes() == (folder / name).read_bytes()


# ------------------------------------------------------------------------------- mistakes


def test_image_mistakes_are_told_in_plain_words(tmp_path, npz):
    source, out = npz(), ("--output_dir", tmp_path / "out")
    given = ("images", "--input", source, *out)
    assert "no such file" in mistake("images", "--input", tmp_path / "nowhere", *out)
    assert "--input PATH" in mistake("images", *out)
    assert "--patch_size 9" in mistake(*given, "--patch_size", 9)
    assert "none of 120" in mistake(*given, "--test_last", 120)
    assert "--color" in mistake(*given, "--color", "rgb")
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


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "no command given"),
        (["digit"], "did you mean digits?"),
        (["imgaes", "--input", "x"], "did you mean images?"),
        (["xyz"], "choose one of digits, images, tokens"),
        (["--input", "x"], "the command comes before --input"),
        (["digits", "--codebook_sice", "9"], "--codebook_size"),
        (["digits", "--patch_size", "9"], "out of range"),
    ],
)
def test_a_wrong_command_line_names_what_was_meant(argv, words):
    with pytest.raises(SettingsError) as info:
        main(argv)
    assert words in str(info.value)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["tokens", "--help"], 0),
        ([], 2),
        (["digits", "--seed", "x"], 2),
        (["images", "--input", "nowhere"], 1),
        (["images", "--input", "prepare_data.py"], 1),
        (["tokens", "--input", "prepare_data.py"], 1),
    ],
)
def test_exit_codes_without_a_traceback(tmp_path, argv, code):
    argv = [*argv, "--output_dir", str(tmp_path / "out")] if len(argv) > 1 else argv
    done = subprocess.run(
        [sys.executable, "prepare_data.py", *argv],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") == (code != 0)
    assert bool(done.stdout) == (code == 0)


# ------------------------------------------------------------------------------- tokens


def tokens(folder: Path, *argv: object) -> tuple[list[dict], list[dict]]:
    assert main(["tokens", *map(str, argv), "--output_dir", str(folder)]) == 0
    return both(folder)


def vocabulary_of(folder: Path) -> list[str]:
    return Vocabulary.load(folder / "vocab.json").tokens


def test_tokens_vocabulary_is_ordered_by_frequency_then_spelling(tmp_path, write_rows):
    rows = [{"tokens": f"z z z y y n{number}", "label": number % 2} for number in range(20)]
    train, _ = tokens(tmp_path / "out", "--input", write_rows(*rows))
    rare = sorted(row["tokens"].split()[5] for row in train)
    assert vocabulary_of(tmp_path / "out") == [
        "<PAD>", "<UNK>", "<CLS>", "<EOS>", "z", "y", *rare, "<CLS_0>", "<CLS_1>",
    ]  # fmt: skip


def test_tokens_special_ones_stand_only_where_rows_use_them(tmp_path, write_rows):
    plain = [{"tokens": f"a b{number % 4} c{number // 4}"} for number in range(16)]
    tokens(tmp_path / "plain", "--input", write_rows(*plain))
    assert vocabulary_of(tmp_path / "plain")[:3] == ["<PAD>", "<UNK>", "<EOS>"]
    framed = [{"tokens": f"<IMG> {row['tokens']} </IMG>", "label": "x"} for row in plain]
    tokens(tmp_path / "framed", "--input", write_rows(*framed))
    special = ["<PAD>", "<UNK>", "<IMG>", "</IMG>", "<CLS>", "<EOS>"]
    assert vocabulary_of(tmp_path / "framed")[:6] == special


def test_tokens_rare_ones_become_unk_and_are_told(tmp_path, write_rows, capsys):
    rows = [{"tokens": f"a{number % 5} b{number // 5} once{number}"} for number in range(50)]
    train, test = tokens(tmp_path / "out", "--input", write_rows(*rows), "--min_count", 2)
    words = Counter(word for row in train for word in row["tokens"].split())
    assert {row["tokens"].split()[2] for row in train + test} == {"<UNK>"}
    assert all(count >= 2 for count in words.values())
    assert "50 tokens seen less than 2 times in training written as <UNK> in 50 places" in (
        capsys.readouterr().out
    )
    summary = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert summary["test"]["unknown_tokens"] == len(test) == 10


def test_tokens_of_test_rows_alone_become_unk(tmp_path, write_rows):
    rows = [{"tokens": f"a only{number}"} for number in range(30)]
    train, test = tokens(tmp_path / "out", "--input", write_rows(*rows))
    # Of the test rows <UNK> makes equal bodies, which no training row has.
    assert {row["tokens"] for row in test} == {"a <UNK>"}
    assert all("<UNK>" not in row["tokens"] for row in train)


def test_tokens_rows_made_equal_by_unk_stay_on_one_side(tmp_path, write_rows, capsys):
    rows = [{"tokens": f"a{number % 10} b{number // 10}"} for number in range(100)]
    rows += [{"tokens": f"a0 b0 once{number}"} for number in range(20)]
    train, test = tokens(tmp_path / "out", "--input", write_rows(*rows), "--min_count", 2)
    assert "moved to training" in capsys.readouterr().out
    assert test
    assert not bodies(train) & bodies(test)


def test_tokens_tails_are_put_in_order_and_other_keys_stay(tmp_path, write_rows, capsys):
    rows = [
        {"id": 5, "tokens": f"{tokens}", "label": "cat", "meta": {"x": [1.5, None, "ü"]}, "z": {}}
        for tokens in ("a b", "a c <CLS>", "b c <CLS> <CLS> <EOS>", "b <CLS> <CLS_cat> <EOS>")
    ]
    rows += [{"tokens": ["d", "e"], "label": 3}, {"tokens": "\ta\u00a0b  d <PAD>"}]
    rows += [{"tokens": f"more {number}", "lone": "\ud800"} for number in range(10)]
    train, test = tokens(tmp_path / "out", "--input", write_rows(*rows))
    written = {json.dumps(row.get("tokens")): row for row in train + test}
    for body in ("a b", "a c", "b c", "b"):
        row = written[json.dumps(f"{body} <CLS> <CLS_cat> <EOS>")]
        assert list(row) == ["id", "tokens", "label", "meta", "z"]
        assert row["meta"] == {"x": [1.5, None, "ü"]}
    assert written[json.dumps(["d", "e", "<CLS>", "<CLS_3>", "<EOS>"])]["label"] == 3
    assert json.dumps("a\u00a0b d") in written
    assert sum(row.get("lone") == "\ud800" for row in train + test) == 10
    said = capsys.readouterr().out
    for words in ("3 label tails completed", "1 broken label tail repaired", "<PAD> at the end"):
        assert words in said


def test_tokens_groups_stay_on_one_side_across_files(tmp_path, write_rows):
    paths = [
        write_rows(
            *({"tokens": f"{name} {number}", "meta": {"source": number}} for number in range(20)),
            name=name,
        )
        for name in ("one", "two")
    ]
    train, test = tokens(tmp_path / "out", "--input", *paths)
    sources = [{row["meta"]["source"] for row in rows} for rows in (train, test)]
    assert not sources[0] & sources[1]
    assert len(train) == 32
    train, test = tokens(tmp_path / "out", "--input", *paths, "--group_by", "none")
    sources = [{row["meta"]["source"] for row in rows} for rows in (train, test)]
    assert sources[0] & sources[1]


def test_tokens_split_is_stratified_and_keeps_the_order(tmp_path, write_rows):
    rows = [
        {"tokens": f"a {number}", "label": "rare" if number % 10 == 0 else "often", "n": number}
        for number in range(200)
    ]
    train, test = tokens(tmp_path / "out", "--input", write_rows(*rows))
    assert Counter(row["label"] for row in test) == {"often": 36, "rare": 4}
    for rows in (train, test):
        assert [row["n"] for row in rows] == sorted(row["n"] for row in rows)


def test_tokens_give_the_same_files_again(tmp_path, write_rows):
    rows = [
        {"tokens": f"a b{number % 9} {number}", "label": f"l{number % 3}"} for number in range(60)
    ]
    settings = TokensSettings(input=(str(write_rows(*rows)),), output_dir=str(tmp_path / "out"))
    summary = prepare_tokens(settings)
    before = contents(tmp_path / "out")
    assert prepare_tokens(settings) == summary
    assert contents(tmp_path / "out") == before
    vocabulary = Vocabulary.load(tmp_path / "out" / "vocab.json")
    for name in ("train.jsonl", "test.jsonl"):
        path = tmp_path / "out" / name
        read = read_dataset(path, vocabulary, max_length=99, unknown_token="error")
        assert read.counts.lines() == []


def test_tokens_bad_rows_are_listed_with_file_and_line(tmp_path, write_rows):
    good = [{"tokens": f"a b{number}"} for number in range(10)]
    bad = [
        (b"{", "not valid JSON"),
        ({"text": "a b"}, "no `tokens`"),
        ({"tokens": 5}, "must be a string"),
        ({"tokens": ["a b", "c"]}, "'a b' is empty or has whitespace"),
        ({"tokens": ["a", ""]}, "'' is empty or has whitespace"),
        ({"tokens": ""}, "no tokens"),
        ({"tokens": "a b", "label": 1.5}, "label must be"),
        ({"tokens": "a b", "label": " "}, "label must be"),
        ({"tokens": "a b", "label": "\ud800"}, "label"),
        ({"tokens": "a <CLS> <CLS_x> <EOS>", "label": "y"}, "the tail says"),
        ({"tokens": "a <CLS_x> b", "label": "y"}, "gives the label away"),
        ({"tokens": "a <CLS> <CLS> <EOS>"}, "names no label"),
        (b"[1]", "expected an object"),
    ]
    path = write_rows(*good, *(row for row, _ in bad))
    argv = ("tokens", "--input", path, "--output_dir", tmp_path / "out")
    lines = mistake(*argv).splitlines()
    for line, (number, (_, words)) in zip(lines, enumerate(bad, 11), strict=False):
        assert line.startswith(f"{path}:{number}: ")
        assert words in line
    assert "--on_bad_row skip" in lines[-1]
    train, test = tokens(tmp_path / "out", "--input", path, "--on_bad_row", "skip")
    assert len(train) + len(test) == 10
    notes = json.loads((tmp_path / "out" / "prepared.json").read_text())["notes"]
    assert "13 bad rows skipped" in notes[0]


def test_tokens_lists_twenty_bad_rows_at_most(tmp_path, write_rows):
    path = write_rows(*({"tokens": ""} for _ in range(30)))
    lines = mistake("tokens", "--input", path, "--output_dir", tmp_path / "out").splitlines()
    assert len(lines) == 22
    assert "10 more bad rows" in lines[20]


def test_tokens_mistakes_are_told_in_plain_words(tmp_path, write_rows):
    out = ("--output_dir", tmp_path / "out")
    ids = write_rows({"tokens": "a b"}, {"input_ids": [1, 2]}, name="ids.jsonl")
    text = mistake("tokens", "--input", ids, *out)
    assert text.startswith(f"{ids}:2: ")
    assert "vocab.json" in text
    assert "--input FILE" in mistake("tokens", *out)
    assert "no such file" in mistake("tokens", "--input", tmp_path / "nowhere", *out)
    assert "no rows" in mistake("tokens", "--input", write_rows(name="empty"), *out)
    bad = write_rows(b"x", name="bad")
    assert "every row is bad" in mistake("tokens", "--input", bad, "--on_bad_row", "skip", *out)
    one = write_rows({"tokens": "a b"}, {"tokens": "a b"}, name="one")
    assert "no test rows are left" in mistake("tokens", "--input", one, *out)
    tokens(tmp_path / "out", "--input", write_rows(*({"tokens": f"a {n}"} for n in range(9))))
    own = tmp_path / "out" / "train.jsonl"
    assert "would be overwritten" in mistake("tokens", "--input", own, *out)


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"tokens": st.lists(st.text(max_size=3), max_size=4) | st.text(max_size=8)},
            optional={"label": st.integers(0, 3) | st.text(max_size=2), "x": st.text(max_size=2)},
        ),
        max_size=12,
    )
)
def test_any_rows_are_prepared_or_refused_in_words(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-rows"
    folder.mkdir(exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["tokens", "--input", str(path), "--output_dir", str(folder / "out")]
    try:
        main([*argv, "--on_bad_row", "skip"])
    except UserError:
        return
    train, test = both(folder / "out")
    vocabulary = Vocabulary.load(folder / "out" / "vocab.json")
    for record in train + test:
        assert dataset_from_records([record], vocabulary, max_length=99)
    assert len({row.get("x") for row in train + test} - {row.get("x") for row in rows}) == 0


def write_lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_two_labels_that_would_become_one_token_are_refused(tmp_path):
    rows = [{"tokens": f"a {n}", "label": "new york"} for n in range(10)]
    one = write_lines(tmp_path / "one.jsonl", *rows)
    other = write_lines(tmp_path / "other.jsonl", *rows, {"tokens": "b", "label": "new_york"})
    text = mistake("tokens", "--input", one, other, "--output_dir", tmp_path / "out")
    assert text == (
        f"{other}:11: the label 'new_york' would become one with 'new york' of {one}:1, "
        f"'<CLS_new_york>': rename one of them"
    )
    rows[3]["label"] = " new\u3000york "
    write_lines(other, *rows)
    assert main(["tokens", "--input", str(other), "--output_dir", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert summary["labels"] == ["new_york"]
    told = f"'new york' of {other}:1, ' new\\u3000york ' of {other}:4"
    assert told in summary["notes"][1]
    # What was prepared is prepared again as it is.
    again = ["tokens", "--input", str(tmp_path / "out" / "train.jsonl")]
    assert main([*again, "--output_dir", str(tmp_path / "again")]) == 0


def test_more_labels_than_a_vocabulary_has_room_for_are_told_in_one_line(tmp_path):
    rows = ({"tokens": "a b", "label": f"l{n}"} for n in range(10_001))
    path = write_lines(tmp_path / "many.jsonl", *rows)
    text = mistake("tokens", "--input", path, "--output_dir", tmp_path / "out")
    assert text.startswith(f"{path}: 10,001 labels, and there may be 10,000 of them")
    assert "\n" not in text


def test_a_row_that_would_be_too_long_to_be_read_again_is_refused(monkeypatch):
    monkeypatch.setattr("smallgpt.preparation.folder.MOST_LINE_BYTES", 60)
    assert (
        row_line({"tokens": "猫 " * 10})
        == json.dumps({"tokens": "猫 " * 10}, ensure_ascii=False) + "\n"
    )
    with pytest.raises(UserError, match="a row would be longer than 60 bytes") as caught:
        row_line({"tokens": "猫 " * 13})
    assert len(str(caught.value)) < 300


def test_inputs_of_a_repeated_flag_add_up(tmp_path):
    files = [
        write_lines(tmp_path / f"{name}.jsonl", *({"tokens": f"{name} {i}"} for i in range(10)))
        for name in "ab"
    ]
    argv = ["tokens", "--input", str(files[0]), "--input", str(files[1])]
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 0
    vocabulary = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert {"a", "b"} <= vocabulary.keys()


def test_group_key_that_no_row_has_is_refused(tmp_path):
    rows = write_lines(tmp_path / "rows.jsonl", *({"tokens": f"a {i}"} for i in range(10)))
    argv = ["tokens", "--input", str(rows), "--group_by", "meta.nope"]
    with pytest.raises(UserError, match=r"no row has the key --group_by meta\.nope"):
        main([*argv, "--output_dir", str(tmp_path / "out")])


def test_rows_of_ids_are_bad_rows_that_can_be_skipped(tmp_path):
    rows = [{"tokens": f"a {i}"} for i in range(10)]
    path = write_lines(tmp_path / "rows.jsonl", *rows, {"input_ids": [1, 2]})
    argv = ["tokens", "--input", str(path), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"rows\.jsonl:11: a row of `input_ids`"):
        main(argv)
    assert main([*argv, "--on_bad_row", "skip"]) == 0


def test_more_different_tokens_than_a_vocabulary_takes_are_told_in_one_line(
    tmp_path, write_rows, monkeypatch
):
    monkeypatch.setattr("smallgpt.tokens.vocabulary.MOST_TOKENS", 100)
    rows = write_rows(*({"tokens": f"w{number} w{number + 1}"} for number in range(120)))
    with pytest.raises(UserError, match="127 tokens, at most 100; write rare tokens") as caught:
        prepare_tokens(TokensSettings(input=(str(rows),), output_dir=str(tmp_path / "out")))
    assert str(rows) in str(caught.value) and "\n" not in str(caught.value)
