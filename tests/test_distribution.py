"""The toolkit as a package: one version, extras with tested versions, use from any folder."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import prepare_data
import train_gpt
from smallgpt.distribution import VERSION

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def pinned(name: str) -> set[str]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return {line.split("==")[0].lower() for line in lines if "==" in line}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[>=;]", each)[0].lower() for each in requirements} - {PROJECT["name"]}


def test_what_the_main_job_needs_is_pinned_and_nothing_else():
    assert pinned("requirements.txt") == names(PROJECT["dependencies"])


def test_what_the_extras_need_is_pinned_and_nothing_else():
    extras = PROJECT["optional-dependencies"].values()
    assert pinned("constraints.txt") == set().union(*map(names, extras))


@pytest.mark.parametrize("script", ["train_gpt", "inference", "export_model", "serve", "benchmark"])
def test_every_command_tells_the_version(script, capsys):
    main = __import__(script).main
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0 and capsys.readouterr().out == f"smallgpt {VERSION}\n"


@pytest.mark.parametrize("words", [["--version"], ["tokens", "--version"]])
def test_prepare_data_tells_the_version(words, capsys):
    try:
        code = prepare_data.main(words)
    except SystemExit as left:
        code = left.code
    assert code == 0 and capsys.readouterr().out == f"smallgpt {VERSION}\n"


def test_a_model_tells_what_made_it(tmp_path, write_rows):
    words = ["<PAD>", "<CLS>", "<EOS>", "a", "b", "<CLS_0>", "<CLS_1>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    bodies = ["a b", "b a", "a a", "b b", "a b a", "b a b", "a a b", "b b a", "a b b", "b a a"]
    rows = write_rows(*({"tokens": body, "label": i % 2} for i, body in enumerate(bodies)))
    argv = [f"--data_path={rows}", f"--vocab_path={tmp_path / 'vocab.json'}", "--num_epochs=1"]
    argv += [f"--output_dir={tmp_path / 'out'}", "--n_layer=1", "--n_head=1", "--n_embd=8"]
    assert train_gpt.main([*argv, "--device=cpu"]) == 0
    for model in ("best_model", "final_model"):
        made_by = json.loads((tmp_path / "out" / model / "made_by.json").read_text())
        assert made_by["smallgpt"] == VERSION
        assert made_by["command"].startswith(f"train_gpt.py --data_path={rows}")
        assert re.fullmatch(r"8 rows \(\w+\)", made_by["data"]["the training data"])
        assert made_by["computed_by"]["device"] == "cpu"


def test_the_installed_package_works_from_any_folder(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    source = tmp_path / "source"  # building writes into it
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "smallgpt", *SCRIPTS):
        (source / name).symlink_to(ROOT / name)
    subprocess.run([*build, "-w", tmp_path, source], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"smallgpt-{VERSION}-")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")

    def run(*words: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    for script in SCRIPTS:
        assert run(Path(script).stem, "--version").stdout == f"smallgpt {VERSION}\n"
    told = run("train_gpt").stderr
    assert "python -m prepare_data digits" in told and "Traceback" not in told


SCRIPTS = ("train_gpt.py", "inference.py", "prepare_data.py", "export_model.py", "serve.py")
