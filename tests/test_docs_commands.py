"""Commands and flags that documents show are those of the command line."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from prepare_data import COMMANDS
from smallgpt.distribution import VERSION
from smallgpt.options.benchmark import BenchmarkSettings
from smallgpt.options.export import ExportSettings
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.option import options_of
from smallgpt.options.reader import read_settings
from smallgpt.options.serve import ListeningSettings
from smallgpt.options.training import TrainSettings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "quick_start.sh"])
SCRIPTS = {
    "train_gpt.py": TrainSettings,
    "inference.py": InferenceSettings,
    "export_model.py": ExportSettings,
    "serve.py": ListeningSettings,
    "benchmark.py": BenchmarkSettings,
}
OF_ALL = {"--help", "--version"}
# Flags of other programs: tensorboard, python -m venv, pytest-xdist, ruff, tests/fuzz.py, npm.
FOREIGN = {
    "--logdir",
    "--clear",
    "--check",
    "--write",
    "--maxprocesses",
    "--dist",
    "--minutes",
    "--prefix",
    "--silent",
}


def settings_of(words: list[str]) -> tuple[type, list[str]]:
    """The settings class of a command, and its flags."""
    script, *flags = words
    if script == "prepare_data.py":
        return COMMANDS[flags[0]][0], flags[1:]
    return SCRIPTS[script], flags


def commands(page: Path) -> list[str]:
    """The commands in the code blocks of a page: continued lines joined, variables replaced."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S)
    if page.suffix == ".sh":
        blocks = [text]
    found = []
    for block in blocks:
        block = re.sub(r" *\\\n\s*", " ", block)
        variables = dict(re.findall(r'^\s*(\w+)="(.*)"$', block, flags=re.M))
        variables |= dict(re.findall(r"\bfor (\w+) in (\w+)", block))
        for line in block.splitlines():
            for name, value in variables.items():
                line = re.sub(rf"\${name}\b", value, line)
            match = re.search(r'^\s*(?:\$ |step .*)?(?:python|"\$PY") (\w+\.py\b.*)', line)
            match = match or re.search(r"(?:\bdo|;|&&|\|) python (\w+\.py\b.*)", line)
            if match and match[1].split()[0] in {*SCRIPTS, "prepare_data.py"}:
                found.append(re.split(r" [|;&]|\s\d?>|\s{3}", match[1])[0])
    return found


SHOWN = [(page, command) for page in PAGES for command in commands(page)]


def test_there_are_commands_in_the_pages():
    assert len(SHOWN) > 40


@pytest.mark.parametrize(
    "page, command",
    SHOWN,
    ids=[f"{page.relative_to(ROOT)}: {command[:60]}" for page, command in SHOWN],
)
def test_a_command_that_a_page_shows_is_understood(page, command):
    words = shlex.split(command, comments=True)
    words = [word for word in words if word != "..."]
    if OF_ALL & set(words) or words == ["prepare_data.py"]:
        return
    settings_class, flags = settings_of(words)
    read_settings(settings_class, flags, prog=words[0], description="")


def known_flags() -> set[str]:
    classes = [*SCRIPTS.values(), *(each for each, _ in COMMANDS.values())]
    return {f"--{name}" for each in classes for name in options_of(each)} | OF_ALL | FOREIGN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_flag_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_]+(?![\w-])", text))
    assert named - known_flags() == set()


@pytest.mark.parametrize(
    ("word", "code", "told"),
    [("--version", 0, f"smallgpt {VERSION}\n"), ("tset", 2, "unknown word: tset\n")],
)
def test_quick_start_tells_its_version_and_names_a_wrong_word(word, code, told):
    done = subprocess.run(
        [ROOT / "quick_start.sh", word], capture_output=True, text=True, check=False
    )
    assert done.returncode == code and told in done.stdout + done.stderr
