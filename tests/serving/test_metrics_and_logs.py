"""What the server tells of itself: metrics for Prometheus, and a log without prompts."""

import json
import logging
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_server import JSON
from trained_models import body_of

from smallgpt.serving.logs import log_failure, set_up_log

SECRET = "<Z_secret>"


def ask_all(server) -> None:
    """Requests of several kinds, some of which fail."""
    server.post("/predict", {"input_data": [body_of(0), body_of(1)]})
    server.post("/predict", {"input_data": SECRET})
    server.post("/v1/completions", {"prompt": "<IMG>", "max_tokens": 3})
    server.events("/v1/completions", {"prompt": "<IMG>", "max_tokens": 2, "stream": True})
    server.ask("GET", "/nothing/" + SECRET.strip("<>"))
    server.ask("BREW", "/predict")


def test_metrics_count_what_was_asked(own_server):
    server = own_server("bars")
    ask_all(server)
    text = server.ask("GET", "/metrics")[1]
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def value(name, **labels):
        return samples[(f"smallgpt_{name}", *sorted(labels.items()))]

    assert value("requests_total", path="/predict", method="POST", status="200") == 1
    assert value("requests_total", path="/predict", method="POST", status="422") == 1
    assert value("requests_total", path="/v1/completions", method="POST", status="200") == 2
    # What anyone can invent has no name of its own.
    assert value("requests_total", path="other", method="GET", status="404") == 1
    assert value("requests_total", path="/predict", method="other", status="405") == 1
    assert value("request_seconds_count", path="/predict") == 3
    assert value("rows_total") == 2
    assert value("tokens_total") == 5
    assert value("running") == 1 and value("waiting") == 0 and value("growing") == 0
    assert value("ready") == 1
    assert any(name == "smallgpt_info" for name, *_ in samples)
    assert ("process_resident_memory_bytes",) in samples


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log_has_a_line_a_request_and_no_prompt(own_server, log_format):
    server = own_server("bars", "--log_format", log_format)
    ask_all(server)
    assert server.stop() == 0
    lines = server.log.splitlines()
    asked = [line for line in lines if "/predict" in line or "/v1/completions" in line]
    assert len(asked) == 5
    without_paths = re.sub(r"/nothing/\S*", "", server.log)
    assert "secret" not in without_paths and "<IMG>" not in server.log
    assert "Z_00" not in server.log
    if log_format == "json":
        told = [json.loads(line) for line in lines]
        found = next(each for each in told if each.get("path") == "/predict")
        assert found["status"] == 200 and found["method"] == "POST" and found["ms"] > 0
        assert found["client"] == "127.0.0.1" and len(found["id"]) == 16


def test_the_log_has_prompts_where_it_is_asked_to(own_server):
    server = own_server("bars", "--log_format", "json", "--log_prompts")
    server.post("/predict", {"input_data": SECRET})
    server.stop()
    told = [json.loads(line) for line in server.log.splitlines()]
    (found,) = [each for each in told if each.get("path") == "/predict"]
    assert json.loads(found["prompt"]) == {"input_data": SECRET}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_bug_is_logged_by_its_place_without_what_a_user_sent(log_format, capsys, monkeypatch):
    for name in ("smallgpt.serving", "uvicorn.error", "uvicorn.access"):  # put back afterwards
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    set_up_log(log_format)
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        log_failure(error, {"path": "/predict"}, with_message=False)
        log_failure(error, {"path": "/predict"}, with_message=True)
    without, with_message = (part for part in re.split("(?=failure)", capsys.readouterr().err)[1:])
    for told in (without, with_message):
        assert "KeyError" in told and "test_metrics_and_logs.py" in told and "/predict" in told
    assert SECRET not in without and SECRET in with_message


def test_no_request_writes_a_line_of_its_own(own_server):
    server = own_server("bars")
    server.ask("GET", "/a%0Afake%20line%0D%1b[2J")
    assert server.stop() == 0
    assert not any(line.startswith("fake") for line in server.log.splitlines())
    assert "\x1b" not in server.log


def test_an_answer_has_the_id_of_its_line(own_server):
    server = own_server("bars")
    _, _, headers = server.ask("POST", "/predict", b"{}", JSON)
    server.stop()
    assert headers["X-Request-Id"] in server.log
    assert headers["Server"] is None
