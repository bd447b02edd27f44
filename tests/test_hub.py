"""Names on the hub that cannot be had: one line, and at once where there is no network."""

import socket

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from console import UserError
from hub import hub_errors


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
    from text_tokenizer import TextTokenizer

    with pytest.raises(UserError, match="no network") as caught:
        TextTokenizer.pretrained(name, ["<PAD>"])
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)
    assert len(no_network) <= 2  # a proxy's name, or the hub's


@pytest.mark.parametrize("name", ["./here", "/no/such/folder", "~/models", "a/b/c", "../x"])
def test_what_can_only_be_a_folder_is_not_asked_for_on_the_hub(no_network, name):
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
