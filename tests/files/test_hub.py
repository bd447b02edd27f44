"""Names on the hub that cannot be had: one line, and at once where there is no network."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from local_hub import LocalHub, Repository, closed_address, environment

from smallgpt.errors import UserError
from smallgpt.files.hub import hub_errors

ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_network(monkeypatch):
    """Every connection is refused; counts how many were tried."""
    tried = []

    def refuse(*args, **_):
        tried.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tried


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing"])
def test_unknown_name_without_a_network_is_told_after_one_try(no_network, name, monkeypatch):
    from smallgpt.tokens.text_tokenizer import TextTokenizer

    with pytest.raises(UserError, match="no network") as caught:
        TextTokenizer.pretrained(name, ["<PAD>"])
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)
    assert len(no_network) <= 2  # a proxy's name, or the hub's


@pytest.mark.parametrize("name", ["./here", "/no/such/folder", "~/models", "a/b/c", "../x"])
def test_what_can_only_be_a_folder_is_not_asked_for_on_the_hub(
    no_network, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such folder$"), hub_errors(name, "model"):
        pytest.fail("loading began")
    assert no_network == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OfflineModeIsEnabled("x"), "no network"),
        (LocalEntryNotFoundError("x"), "no network"),
        (ConnectionError("could not reach it (OfflineModeIsEnabled)"), "no network"),
        (ValueError("first line\nsecond line"), r"\(first line\)$"),
        (KeyError(), "KeyError"),
        (ImportError("needs sentencepiece"), "needs sentencepiece"),
    ],
)
def test_errors_of_the_libraries_become_one_line(no_network, error, words):
    with pytest.raises(UserError, match=words) as caught, hub_errors("a/b", "model"):
        raise error
    assert "\n" not in str(caught.value)


def test_an_error_behind_another_is_found(no_network):
    with pytest.raises(UserError, match="no network"), hub_errors("a/b", "model"):
        try:
            raise OfflineModeIsEnabled("x")
        except OfflineModeIsEnabled as error:
            raise OSError("cannot load it") from error


def test_a_mistake_told_already_stays_what_it_is(tmp_path):
    with pytest.raises(UserError, match=r"^as it is$"), hub_errors(str(tmp_path), "model"):
        raise UserError("as it is")
    words = "no model that transformers can load"
    with pytest.raises(UserError, match=words), hub_errors(str(tmp_path), "model"):
        raise OSError("no config.json")


# ---- a hub of our own ----------------------------------------------------------------

ATTEMPTS = """
import json, os, sys
from smallgpt.errors import UserError
from smallgpt.files.hub import folder_of

found = []
for name, what, token in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        folder = folder_of(name, what)
        found.append(sorted(path.name for path in folder.iterdir()))
    except UserError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def attempts(environment, *tried):
    """What `folder_of` gives for names, kinds and tokens: the names of the files, or an error."""
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, json.dumps(tried)], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def hub():
    with LocalHub() as hub:
        yield hub


def test_of_a_repository_neither_code_nor_pickles_are_taken(hub, tmp_path):
    wanted = {"config.json", "model.safetensors", "settings.yaml", "tokenizer.json"}
    others = {"pytorch_model.bin", "modeling.py", "onnx/model.safetensors", "a.pkl"}
    files = dict.fromkeys(wanted | others, b"{}")
    hub.repositories["models", "me/code"] = Repository(files)
    hub.asked.clear()
    found = attempts(
        hub.environment(tmp_path), ("me/code", "tokenizer", None), ("me/code", "model", None)
    )
    assert found == [["config.json", "tokenizer.json"], sorted(wanted)]
    assert not any(name in path for path in hub.asked for name in (".bin", ".py", "onnx", ".pkl"))


def test_a_private_name_opens_by_its_token_alone(hub, tmp_path):
    hub.repositories["models", "me/private"] = Repository({"config.json": b"{}"}, private=True)
    missing = "neither a folder here nor a model that the Hugging Face hub gave: no such name, or"
    told = attempts(
        hub.environment(tmp_path),
        ("me/private", "model", None),
        ("me/private", "model", "stranger"),
        ("me/private", "model", "wrong"),
        ("me/none", "model", "writer"),
        ("me/private", "model", "reader"),
    )
    assert told[0] == told[1] == f"me/private: {missing} a private one: set HF_TOKEN"
    assert "the token is not valid: correct HF_TOKEN" in told[2]
    assert told[3] == f"me/none: {missing} a private one: set HF_TOKEN"
    assert told[4] == ["config.json"]
    assert not any("\n" in line for line in told[:4])


def test_without_a_network_only_what_was_loaded_before_is_there(hub, tmp_path):
    for name in ("me/loaded", "me/new"):
        hub.repositories["models", name] = Repository({"config.json": b"{}"})
    assert attempts(hub.environment(tmp_path), ("me/loaded", "model", None)) == [["config.json"]]
    again = attempts(
        environment(closed_address(), tmp_path),
        ("me/loaded", "model", None),
        ("me/new", "model", None),
    )
    assert again[0] == ["config.json"]
    assert again[1].endswith("no network (or HF_HUB_OFFLINE is set)")


def test_an_error_of_the_hub_is_told_as_its_own(tmp_path):
    with LocalHub() as hub:
        hub.broken = True
        (told,) = attempts(hub.environment(tmp_path), ("me/model", "model", None))
    assert "the hub answered with an error of its own (500): try again later" in told
