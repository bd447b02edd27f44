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
    argv = ["tokens", "--input", str(path), "--output_dir", str(folder)]
    assert mistake(*argv).startswith(f"{folder} was prepared by `prepare_data.py images`: ")
    assert main([*argv, "--overwrite"]) == 0
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


@pytest.fixture
def prepared(tmp_path, write_rows) -> list[str]:
    """The command line of a preparation that was done; its folder is the last word."""
    rows = ({"tokens": f"a b{n}", "label": n % 2} for n in range(20))
    argv = ["tokens", "--input", str(write_rows(*rows)), "--output_dir", str(tmp_path / "out")]
    assert main(argv) == 0
    return argv


def test_the_same_preparation_again_leaves_its_files_as_they_are(prepared, capsys, monkeypatch):
    folder = Path(prepared[-1])

    def state() -> dict[str, tuple[bytes, int]]:
        return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}

    before = state()
    assert main(prepared) == 0
    assert f"{folder} holds the same rows already" in capsys.readouterr().out
    assert state() == before
    # The input under another name of the same file; so is the folder.
    monkeypatch.chdir(folder.parent)
    assert main(["tokens", "--input", "./rows.jsonl", "--output_dir", "out"]) == 0
    assert state()["train.jsonl"] == before["train.jsonl"]


def test_other_settings_are_refused_before_any_work_and_named(prepared):
    folder = Path(prepared[-1])
    before = contents(folder)
    Path(prepared[2]).unlink()  # the rows are not even read
    assert mistake(*prepared, "--seed", 7, "--min_count", 2) == (
        f"{folder} was prepared with other settings (--min_count was none, is 2; --seed was 42, "
        f"is 7): give another --output_dir, or replace it with --overwrite"
    )
    text = mistake("tokens", "--input", "a/b.jsonl", "c", "d", "e", "--output_dir", folder)
    assert "rows.jsonl, is a/b.jsonl c d ...): give another --output_dir" in text
    assert "no such file" in mistake(*prepared)
    assert contents(folder) == before


def test_rows_that_would_change_are_refused_with_the_names_of_their_files(prepared, write_rows):
    folder = Path(prepared[-1])
    before = contents(folder)
    write_rows(*({"tokens": f"a b{n}", "label": n % 2} for n in range(30)))
    text = mistake(*prepared)
    assert text.startswith(f"{folder}: train.jsonl, test.jsonl, vocab.json would change ")
    assert text.endswith("give another --output_dir, or replace it with --overwrite")
    assert contents(folder) == before
    assert main([*prepared, "--overwrite"]) == 0
    replaced = contents(folder)
    assert replaced.keys() == before.keys() and replaced["train.jsonl"] != before["train.jsonl"]
    assert "overwrite" not in replaced["prepared.json"].decode()
    assert main(prepared) == 0
    (folder / "vocab.json").write_text("{}")  # changed by hand
    assert mistake(*prepared).startswith(f"{folder}: vocab.json would change ")


def test_a_preparation_that_lacks_files_is_completed(prepared):
    folder = Path(prepared[-1])
    before = contents(folder)
    (folder / "test.jsonl").unlink()
    assert main(prepared) == 0
    assert contents(folder) == before
    # Stopped while it was published: training rows come last, and without them nothing is lost.
    (folder / "train.jsonl").unlink()
    assert main([*prepared, "--seed", "7"]) == 0
    assert contents(folder)["train.jsonl"] != before["train.jsonl"]


@pytest.mark.parametrize("settings", [{}, None, [7], {"seed": 42, "of_another_version": 1}])
def test_options_that_a_version_did_not_store_are_at_their_defaults(prepared, settings):
    path = Path(prepared[-1]) / "prepared.json"
    summary = json.loads(path.read_text())
    if isinstance(settings, dict):
        settings["input"] = prepared[2:3]
    path.write_text(json.dumps({**summary, "settings": settings}))
    assert main(prepared) == 0
    assert json.loads(path.read_text()) == summary


def test_another_version_may_draw_its_pictures_differently(tmp_path, npz):
    folder = images(tmp_path / "out", "--input", npz())
    made = contents(folder)
    (folder / "codebook.png").write_bytes(b"another matplotlib")
    images(folder, "--input", npz())
    assert contents(folder) == made


def test_a_failure_changes_nothing(tmp_path, npz, monkeypatch):
    folder = images(tmp_path / "out", "--input", npz())
    before = contents(folder)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Codebook, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        images(folder, "--input", npz(SMALL[:60], SMALL_LABELS[:60]), "--overwrite")
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
            "    with publishing(settings) as stage:\n"
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
