"""The command prepare_data.py: its flags, mistakes in them, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_program import run_here

from prepare_data import main
from smallgpt.errors import SettingsError

ROOT = Path(__file__).parent.parent


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
        (["tokens", "--help"], 0),
        ([], 2),
        (["digits", "--seed", "x"], 2),
        (["images", "--input", "nowhere"], 1),
        (["images", "--input", "prepare_data.py"], 1),
        (["tokens", "--input", "prepare_data.py"], 1),
    ],
)
def test_exit_codes_without_a_traceback(tmp_path, argv, code, monkeypatch):
    argv = [*argv, "--output_dir", str(tmp_path / "out")] if len(argv) > 1 else argv
    monkeypatch.chdir(ROOT)
    done = run_here(main, *argv)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") == (code != 0)
    assert bool(done.stdout) == (code == 0)


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), (["tokens", "--input", "nowhere"], 1)])
def test_the_script_leaves_with_its_code(argv, code):
    done = subprocess.run(
        [sys.executable, "prepare_data.py", *argv],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, bool(done.stdout)) == (code, code == 0), done.stderr


def test_inputs_of_a_repeated_flag_add_up(tmp_path, write_rows):
    files = [
        write_rows(*({"tokens": f"{name} {i}"} for i in range(10)), name=f"{name}.jsonl")
        for name in "ab"
    ]
    argv = ["tokens", "--input", str(files[0]), "--input", str(files[1])]
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 0
    vocabulary = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert {"a", "b"} <= vocabulary.keys()


def test_help_shows_a_command_of_two_lines_as_it_is_typed(capsys):
    main(["--help"])
    assert "train-images-idx3-ubyte.gz \\\n        --labels" in capsys.readouterr().out
