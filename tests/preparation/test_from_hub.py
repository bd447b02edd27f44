"""prepare_data.py with names on the hub: data sets, tokenizers, codebooks; public and private."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import LocalHub, Repository, closed_address, environment
from pretrained_models import save_byte_level
from trained_models import BEST_MODEL

ROOT = Path(__file__).parents[2]
# Several commands in one process: loading the libraries takes longer than what they do.
PROGRAM = """
import contextlib, io, json, os, sys
import prepare_data
from smallgpt.command import run_command

told = []
for token, words in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    sys.argv = ["prepare_data.py", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_command(prepare_data.main)
        except SystemExit as left:
            code = left.code
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""
ROWS = [{"text": f"the cat {number} sat", "label": ("no", "yes")[number % 2]}
        for number in range(40)]  # fmt: skip


def prepare(variables, *commands):
    """Exit code, standard output and error of each command, a pair of token and words."""
    words = json.dumps([[token, [*map(str, words)]] for token, words in commands])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, words], cwd=ROOT, env=variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def text(source, folder, *more):
    return ["text", "--input", source, "--output_dir", folder, *more]


def rows_of(folder):
    """The ids of each training row."""
    lines = (folder / "train.jsonl").read_text().splitlines()
    return [json.loads(line)["input_ids"] for line in lines]


@pytest.fixture(scope="module")
def hub():
    with LocalHub() as hub:
        yield hub


def test_data_sets_of_the_hub_are_read(hub, tmp_path):
    pytest.importorskip("datasets", reason="datasets is not installed: the extra `datasets`")
    from pyarrow import Table, parquet

    stored = io.BytesIO()
    parquet.write_table(Table.from_pylist(ROWS), stored)
    parts = {f"data/{name}-00000-of-00001.parquet": stored.getvalue() for name in ("train", "test")}
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    data = hub.repositories
    data["datasets", "me/rows"] = Repository({"train.jsonl": lines, "README.md": b"# Rows\n"})
    data["datasets", "me/private"] = Repository(parts, private=True)
    refused = prepare(
        hub.environment(tmp_path / "other"),
        (None, text("hub:me/private/train", tmp_path / "no")),
        ("wrong", text("hub:me/private/train", tmp_path / "no")),
        ("writer", text("hub:me/none", tmp_path / "no")),
    )
    for (code, _, err), words in zip(
        refused, ("or a private one: set HF_TOKEN", "the token is not valid", "no such name"),
        strict=True,
    ):  # fmt: skip
        assert code == 1 and words in err and len(err.splitlines()) == 1
    given = prepare(
        hub.environment(tmp_path / "home"),
        (None, text("hub:me/rows", tmp_path / "rows")),
        ("reader", text("hub:me/private/train", tmp_path / "private")),
        ("reader", text("hub:me/private", tmp_path / "no")),
        ("reader", text("hub:me/private/trian", tmp_path / "no")),
    )
    assert [code for code, _, _ in given] == [0, 0, 1, 1]
    assert given[0][2] == given[1][2] == ""
    assert "has the splits" in given[2][2] and "me/private/t" in given[2][2]
    assert "trian" in given[3][2] and len(given[3][2].splitlines()) == 1
    # The same texts, however they are stored.
    one, other = ((tmp_path / name / "vocab.json").read_bytes() for name in ("rows", "private"))
    assert one == other
    assert rows_of(tmp_path / "rows") == rows_of(tmp_path / "private")
    assert not (tmp_path / "no").exists()
    ((code, _, err),) = prepare(
        environment(closed_address(), tmp_path / "third"),
        (None, text("hub:me/rows", tmp_path / "no")),
    )
    assert code == 1 and err.endswith("no network (or HF_HUB_OFFLINE is set)\n")


def test_a_tokenizer_of_the_hub_makes_the_rows_of_its_folder(hub, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    save_byte_level(tmp_path / "checkpoint")
    hub.add_folder("me/checkpoint", tmp_path / "checkpoint", private=True)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    told = prepare(
        hub.environment(tmp_path / "home"),
        (None, text(rows, tmp_path / "no", "--tokenizer", "me/checkpoint")),
        ("writer", text(rows, tmp_path / "hub", "--tokenizer", "me/checkpoint")),
        (None, text(rows, tmp_path / "here", "--tokenizer", tmp_path / "checkpoint")),
    )
    assert [code for code, _, _ in told] == [1, 0, 0]
    assert "a private one: set HF_TOKEN" in told[0][2] and len(told[0][2].splitlines()) == 1
    assert "--init_from me/checkpoint" in told[1][1]
    for name in ("train.jsonl", "vocab.json", "tokenizer.json"):
        assert (tmp_path / "hub" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_a_codebook_of_the_hub_is_that_of_its_model(hub, bars, tmp_path):
    model = bars / BEST_MODEL
    hub.add_folder("me/images", model)
    hub.repositories["models", "me/text"] = Repository({"vocab.json": b"{}"})
    program = (
        "import sys\n"
        "from smallgpt.errors import UserError\n"
        "from smallgpt.preparation.image_codebook import load_codebook\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        found = load_codebook(name)\n"
        "        print(found.codebook.digest, len(found.vocabulary), found.path)\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    names = ("me/images", str(model), "me/none", "me/text", "none.npz")
    done = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, env=hub.environment(tmp_path),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    of_hub, of_folder, none, text, file = done.stdout.splitlines()
    assert of_hub.split()[:2] == of_folder.split()[:2] and of_hub.endswith("me/images")
    assert "me/none: neither a folder here nor a codebook that the Hugging Face hub gave" in none
    assert "codebook.npz: no such file" in text and "none.npz: no such file" in file
