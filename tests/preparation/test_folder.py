"""The output folder: held by one preparation, published whole, nobody's data touched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prepared_files import (
    SMALL,
    SMALL_LABELS,
    contents,
    images,
    mistake,
)

from prepare_data import main
from smallgpt.errors import UserError
from smallgpt.preparation.folder import row_line
from smallgpt.tokens.codebook import Codebook

ROOT = Path(__file__).parent.parent.parent


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


def test_a_row_that_would_be_too_long_to_be_read_again_is_refused(monkeypatch):
    monkeypatch.setattr("smallgpt.preparation.folder.MOST_LINE_BYTES", 60)
    assert (
        row_line({"tokens": "猫 " * 10})
        == json.dumps({"tokens": "猫 " * 10}, ensure_ascii=False) + "\n"
    )
    with pytest.raises(UserError, match="a row would be longer than 60 bytes") as caught:
        row_line({"tokens": "猫 " * 13})
    assert len(str(caught.value)) < 300
