"""Uploads to a hub on this machine: private, one commit, and one line where it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import LocalHub, Repository, closed_address, environment

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, sys
from pathlib import Path
from smallgpt.errors import UserError
from smallgpt.files.hub_upload import check_upload, upload_folder

token, name, folder, public, overwrite, check = json.loads(sys.argv[1])
if token:
    os.environ["HF_TOKEN"] = token
try:
    if check:
        check_upload(name, public)
    print(upload_folder(Path(folder), name, public, overwrite, "a commit"))
except UserError as error:
    print(error)
"""


@pytest.fixture
def hub():
    with LocalHub() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("README.md", "config.json", "model.safetensors", "decision.json"):
        (folder / name).write_text(f"content of {name}")
    (folder / "README.md").write_text("---\ntags:\n- smallgpt\n---\n")
    return folder


@pytest.fixture
def upload(folder, tmp_path):
    """A function that uploads the folder in a process; returns what it prints."""

    def run(hub, name="me/model", token="writer", *, public=False, overwrite=False, check=True):
        where = hub if isinstance(hub, str) else hub.address
        words = json.dumps([token, name, str(folder), public, overwrite, check])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, words], cwd=ROOT, env=environment(where, tmp_path),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_repository_is_private_and_gets_one_commit(hub, folder, upload):
    assert upload(hub) == f"{hub.address}/me/model"
    made = hub.model("me/model")
    assert made.private and made.commits == ["a commit"]
    assert made.files == {".gitattributes": b""} | contents(folder)


def test_the_same_weights_get_a_new_commit_and_others_are_refused(hub, folder, upload):
    upload(hub)
    hub.model("me/model").files["LICENSE"] = b"mine"
    (folder / "README.md").write_text("---\ntags:\n- new\n---\n")
    upload(hub)
    made = hub.model("me/model")
    assert len(made.commits) == 2 and made.files["LICENSE"] == b"mine"
    assert made.files["README.md"] == contents(folder)["README.md"]
    before = dict(made.files)
    (folder / "model.safetensors").write_text("other weights")
    (folder / "decision.json").unlink()
    told = upload(hub)
    assert "me/model is there and holds something else" in told and "--overwrite" in told
    assert made.files == before and len(told.splitlines()) == 1
    upload(hub, overwrite=True)  # what belongs to the old weights goes
    assert made.files == {".gitattributes": b""} | contents(folder) and len(made.commits) == 3


def test_a_public_repository_needs_the_word(hub, upload):
    assert upload(hub, public=True) and not hub.model("me/model").private
    for check in (True, False):
        assert "is there and public" in upload(hub, check=check)
    hub.repositories["models", "me/mine"] = Repository({".gitattributes": b""}, private=True)
    upload(hub, "me/mine", public=True)
    assert not hub.model("me/mine").private


@pytest.mark.parametrize(
    ("token", "name", "words"),
    [
        (None, "me/model", "no token: set HF_TOKEN, or log in once"),
        ("wrong", "me/model", "the token is not valid"),
        ("reader", "me/model", "the token may only read"),
        ("writer", "you/model", "has no right to do that there"),
        ("writer", "you/secret", "has no right to do that there"),
    ],
)
def test_whoever_may_not_write_is_told_in_one_line(hub, upload, token, name, words):
    hub.repositories["models", "you/secret"] = Repository({}, private=True)
    told = upload(hub, name, token)
    assert told.startswith(f"{name}: ") and words in told and len(told.splitlines()) == 1
    assert list(hub.repositories) == [("models", "you/secret")]


def test_no_network_and_a_broken_hub_are_told_in_one_line(hub, upload):
    assert upload(closed_address()) == "me/model: no network (or HF_HUB_OFFLINE is set)"
    hub.broken = True
    told = upload(hub)
    assert told == "me/model: the hub answered with an error of its own (500): try again later"


def test_an_upload_that_failed_before_its_commit_can_be_made_again(hub, upload):
    hub.repositories["models", "me/model"] = Repository({".gitattributes": b""}, private=True)
    upload(hub)
    assert hub.model("me/model").commits == ["a commit"]
