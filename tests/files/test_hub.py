"""Names on the hub that cannot be had: one line, and at once where there is no network."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import hub_of
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

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


def test_of_a_repository_neither_code_nor_pickles_are_taken(tmp_path):
    wanted = {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": b"weights",
              "settings.yaml": b"max_length: 7", "tokenizer.json": b"{}"}  # fmt: skip
    others = ("pytorch_model.bin", "modeling.py", "onnx/model.safetensors", "a.pkl")
    program = (
        "from smallgpt.files.hub import folder_of\n"
        "for what in ('tokenizer', 'model'):\n"
        "    folder = folder_of('owner/model', what)\n"
        "    print(*sorted(path.name for path in folder.iterdir()))\n"
        "print((folder / 'config.json').read_text())"
    )
    with hub_of(wanted | dict.fromkeys(others, b"x"), tmp_path) as (environment, asked):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    expected = ["config.json tokenizer.json", " ".join(sorted(wanted)), '{"model_type": "gpt2"}']
    assert done.stdout.splitlines() == expected, done.stderr
    assert not any(name in path for path in asked for name in (".bin", ".py", "onnx"))
