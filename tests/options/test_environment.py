"""Settings of the server from the environment and from flags."""

import pytest

from smallgpt.errors import SettingsError, UserError
from smallgpt.options.reader import read_settings
from smallgpt.options.serve import ListeningSettings, ServeSettings


def read(*argv, of=ListeningSettings, **environment):
    return read_settings(of, argv, prog="serve.py", description="", environment=environment)


def mistakes(*argv, of=ListeningSettings, **environment):
    with pytest.raises(SettingsError) as raised:
        read(*argv, of=of, **environment)
    return raised.value.mistakes


def test_a_flag_beats_the_environment_and_that_the_default():
    settings = read("--port", "9000", SMALLGPT_PORT="7000", SMALLGPT_MAX_BODY="5000")
    assert (settings.port, settings.max_body, settings.max_queue) == (9000, 5000, 256)


def test_every_option_has_a_variable():
    settings = read(
        SMALLGPT_MODEL_PATH="a/b", SMALLGPT_NO_TOKEN="true", SMALLGPT_CLIENT_SECONDS="2.5",
        SMALLGPT_MAX_PROMPT_TOKENS="none", SMALLGPT_LOG_FORMAT="json",
    )  # fmt: skip
    assert settings.model_path == "a/b" and settings.no_token and settings.client_seconds == 2.5
    assert settings.max_prompt_tokens is None and settings.log_format == "json"


def test_an_empty_variable_is_none():
    assert read(SMALLGPT_PORT="", SMALLGPT_TOKEN="") == ListeningSettings()


def test_variables_of_others_are_left_alone():
    """Such as those that Kubernetes sets for a service called smallgpt."""
    others = {"SMALLGPT_SERVICE_HOST": "10.0.0.1", "SMALLGPT_PORT_8000_TCP_ADDR": "10.0.0.1"}
    assert read(PORT="1", smallgpt_port="1", **others) == ListeningSettings()


def test_all_mistakes_are_told_each_with_its_variable():
    told = mistakes(
        "--max_queue", "0", SMALLGPT_PORT="70000", SMALLGPT_ENGIN="x", SMALLGPT_NO_TOKEN="perhaps"
    )
    assert len(told) == 4
    for part in (
        "--max_queue: 0 is out of range",
        "SMALLGPT_PORT: 70000 is out of range",
        "unknown variable SMALLGPT_ENGIN; did you mean SMALLGPT_ENGINE?",
        "SMALLGPT_NO_TOKEN: expected true or false",
    ):
        assert any(part in line for line in told), part


def test_contradictions_name_what_was_given_where_it_was_given():
    (told,) = mistakes("--no_token", SMALLGPT_TOKEN="long-enough")
    assert told == "--no_token lets anyone ask: drop it, or SMALLGPT_TOKEN"
    (told,) = mistakes(SMALLGPT_ENGINE="torch", SMALLGPT_PRECISION="int8")
    assert told == "SMALLGPT_ENGINE torch does not compute in SMALLGPT_PRECISION int8"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "some-machine"])
def test_a_host_that_others_reach_wants_a_token_or_its_absence_by_name(host):
    (told,) = mistakes("--host", host)
    assert "--no_token" in told
    for given in (["--no_token"], ["--token", "long-enough"], ["--token_file", "some"]):
        assert read("--host", host, *given).host == host
    assert read("--host", host, SMALLGPT_TOKEN="long-enough").secret() == "long-enough"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_none(host):
    assert read("--host", host).secret() is None


def test_under_uvicorn_the_host_does_not_count():
    assert read(of=ServeSettings).secret() is None


@pytest.mark.parametrize("token", ["short", "has a space in it", "ключ-ключ-ключ"])
def test_a_token_has_to_be_one(token):
    (told,) = mistakes("--token", token)
    assert token not in told


def test_the_token_of_a_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("long-enough\n")
    assert read("--token_file", str(path)).secret() == "long-enough"
    path.write_text("\n")
    with pytest.raises(UserError, match="fewer than 8"):
        read("--token_file", str(path)).secret()
    with pytest.raises(UserError):
        read("--token_file", str(tmp_path / "none")).secret()
    assert len(mistakes("--token_file", str(path), "--token", "long-enough")) == 1
