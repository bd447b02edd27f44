"""How a server starts and ends: signals, streams, failures, uvicorn, what is missing."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
import threading
import time

import pytest
import uvicorn
from running_server import JSON, RunningServer, start, start_serve
from trained_models import body_of

from inference import load_trained_model
from smallgpt.options.serve import ServeSettings
from smallgpt.serving.app import create_app
from smallgpt.serving.served import ServedModel

MANY = {"prompt": ["<IMG>"] * 500, "n": 16}
ENDLESS = {"prompt": ["<IMG>"] * 60, "n": 128}


# ------------------------------------------------------------------------------- the end


def test_sigterm_loses_no_request_that_was_taken(own_server):
    server = own_server("bars")
    answers, lock = [], threading.Lock()

    def ask_on() -> None:
        with contextlib.closing(server.connect()) as connection:
            while True:
                try:
                    connection.request(
                        "POST", "/predict", json.dumps({"input_data": [body_of(1)] * 50}), JSON
                    )
                except ConnectionError:
                    return  # it was not taken
                try:
                    answer = connection.getresponse()
                except ConnectionResetError:
                    return  # it was sent as the server closed, and not read
                told = json.loads(answer.read())
                with lock:
                    answers.append((answer.status, told))
                if answer.status != 200:
                    return

    askers = [threading.Thread(target=ask_on) for _ in range(8)]
    for asker in askers:
        asker.start()
    server.wait_until(lambda: len(answers) > 40)
    assert server.stop() == 0
    for asker in askers:
        asker.join(timeout=60)
        assert not asker.is_alive()
    for status, told in answers:
        assert status in (200, 503)
        if status == 200:
            assert [each["prediction"] for each in told["predictions"]] == ["1"] * 50
    logged = re.findall(r'path="/predict" status=(\d+)', server.log)
    assert sorted(map(int, logged)) == sorted(status for status, _ in answers)


def test_while_requests_end_others_are_sent_elsewhere(own_server):
    server = own_server("bars")
    found = {}

    def stream() -> None:
        found["events"] = server.events("/v1/completions", {**MANY, "stream": True})

    streaming = threading.Thread(target=stream)
    streaming.start()
    server.wait_until(lambda: server.metric("smallgpt_growing") > 0)
    server.process.send_signal(signal.SIGTERM)
    server.wait_until(lambda: server.ask("GET", "/readyz")[0] == 503)
    assert server.ask("GET", "/healthz")[0] == 200
    status, told, headers = server.ask("POST", "/predict", b"{}", JSON)
    assert status == 503 and headers["Retry-After"] == "1" and headers["Connection"] == "close"
    assert told["error"]["type"] == "unavailable_error"
    streaming.join(timeout=60)
    assert found["events"][-1] == "[DONE]"
    reasons = [c["finish_reason"] for e in found["events"][:-1] for c in e["choices"]]
    assert len([reason for reason in reasons if reason]) == 500 * 16
    assert server.ended() == 0


def test_a_stream_that_outlives_the_grace_time_is_ended_with_the_reason(own_server):
    server = own_server("bars", "--grace_seconds", "0.3")
    found = {}

    def stream() -> None:
        found["events"] = server.events("/v1/completions", {**ENDLESS, "stream": True})

    def wait() -> None:
        found["answer"] = server.post("/v1/completions", ENDLESS)

    threads = [threading.Thread(target=stream), threading.Thread(target=wait)]
    for thread in threads:
        thread.start()
    server.wait_until(lambda: server.metric("smallgpt_running") == 3)
    assert server.stop() == 0
    for thread in threads:
        thread.join(timeout=60)
    assert found["events"][-1] == "[DONE]"
    assert found["events"][-2]["error"]["type"] == "unavailable_error"
    assert found["answer"][0] == 503


def test_ctrl_c_ends_it_alike(own_server):
    server = own_server("bars")
    assert server.stop(signal.SIGINT) == 130
    assert server.log.splitlines()[-1] == "error: stopped by Ctrl-C"
    assert "Traceback" not in server.log


def test_a_client_that_is_idle_does_not_keep_it(own_server):
    server = own_server("bars")
    with server.socket(), contextlib.closing(server.connect()) as kept:
        kept.request("GET", "/healthz")
        kept.getresponse().read()
        assert server.stop() == 0


# ------------------------------------------------------------------------------- failures


@pytest.fixture
def failing(model_of):
    """A server in this process, and a function that lets its model fail so many times."""
    trained = load_trained_model(model_of("bars"), precision="fp32", engine="onnx")
    served = ServedModel(trained, 256)
    app = create_app(served, ServeSettings(), "bars", None)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, lifespan="on", loop="asyncio")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    asked = RunningServer.__new__(RunningServer)
    asked.port = server.servers[0].sockets[0].getsockname()[1]
    yield asked, served
    server.should_exit = True
    thread.join(timeout=60)


def test_a_failure_of_the_model_is_told_and_the_server_goes_on(failing, monkeypatch, caplog):
    server, served = failing
    with monkeypatch.context() as broken:

        def fail(*values):
            raise RuntimeError(f"secret {body_of(0)}")

        broken.setattr(type(served._engine), "label_logits", fail)
        status, told = server.post("/predict", {"input_data": body_of(0)})
    assert status == 500 and told["error"]["type"] == "server_error"
    assert "secret" not in json.dumps(told)
    logged = [record.getMessage() for record in caplog.records]
    assert "the engine failed: RuntimeError" in logged and "secret" not in "".join(logged)
    assert server.post("/predict", {"input_data": body_of(0)})[1]["prediction"] == "0"


def test_a_failure_in_mid_stream_is_its_last_event(failing, monkeypatch):
    server, served = failing
    go_on = served.go_on

    async def breaking(wish):
        count = 0
        async for piece in go_on(wish):
            yield piece
            count += 1
            if count == 2:
                raise RuntimeError("secret")

    with monkeypatch.context() as broken:
        broken.setattr(served, "go_on", breaking)
        events = server.events("/v1/completions", {"prompt": "<IMG>", "n": 4, "stream": True})
    assert events[-1] == "[DONE]"
    assert events[-2]["error"]["type"] == "server_error"
    assert "secret" not in json.dumps(events)
    events = server.events("/v1/completions", {"prompt": "<IMG>", "n": 4, "stream": True})
    assert events[-2]["choices"]


# ------------------------------------------------------------------------------- the start


def refused(*words, environment=None) -> tuple[int, str]:
    """Exit code and the one line of a server that does not start."""
    process = start_serve(*words, environment=environment)
    out, err = process.communicate(timeout=60)
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return process.returncode, err


def test_what_is_wrong_is_told_in_a_line(model_of, tmp_path):
    model = model_of("bars")
    code, told = refused("--model_path", tmp_path / "none")
    assert code == 1 and "none" in told
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, told = refused("--model_path", model, "--port", port)
    assert code == 1 and f"--port {port}" in told
    code, told = refused("--model_path", model, "--host", "no.such.host.invalid", "--no_token")
    assert code == 1 and "no.such.host.invalid" in told
    code, told = refused("--model_path", model, "--host", "203.0.113.7", "--no_token")
    assert code == 1 and "203.0.113.7" in told
    code, told = refused("--model_path", model, "--prot", "1")
    assert code == 2 and "did you mean --port" in told
    code, told = refused("--model_path", model, "--token_file", tmp_path / "none")
    assert code == 1 and "none" in told


def test_mistakes_in_the_environment_name_the_variable(model_of):
    environment = {"SMALLGPT_PORT": "many"}
    code, told = refused("--model_path", model_of("bars"), environment=environment)
    assert code == 2 and "SMALLGPT_PORT" in told


def test_without_the_extra_the_line_names_it(model_of, tmp_path):
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    hide = "import sys, importlib.util as u\nfind = u.find_spec\n"
    hide += "u.find_spec = lambda name, *a: None if name == 'prometheus_client' else find(name, *a)"
    program = f"{hide}\nimport serve\nserve.run_command(serve.main)"
    process = start([sys.executable, "-c", program, "--model_path", model_of("bars")])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.count("\n") == 1
    assert "prometheus_client" in err and "[serve]" in err


def test_help_imports_nothing_heavy():
    program = "import sys, serve\ntry: serve.main(['--help'])\nexcept SystemExit: pass\n"
    program += "print({'fastapi', 'uvicorn', 'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    process = start([sys.executable, "-c", program])
    out, _ = process.communicate(timeout=60)
    assert out.splitlines()[-1] == "set()" and "SMALLGPT_MAX_BODY" in out


# ------------------------------------------------------------------------------- uvicorn


def start_uvicorn(*words: object, **environment: str):
    """`uvicorn serve:app`, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "serve:app", "--port", port, *words]
    return start(command, environment), port


@pytest.fixture
def under_uvicorn(model_of):
    """A function: a server that uvicorn runs, with settings from the environment."""
    running = []

    def serve(**environment: str) -> RunningServer:
        server = RunningServer.__new__(RunningServer)
        environment = {"SMALLGPT_ENGINE": "onnx", **environment}
        path = {"SMALLGPT_MODEL_PATH": str(model_of("bars"))}
        server.process, server.port = start_uvicorn(**path, **environment)
        server.keep_log()
        running.append(server)
        server.wait_until(lambda: server.ask("GET", "/readyz")[0] == 200)
        return server

    yield serve
    for each in running:
        each.process.kill()
        each.ended()


def test_uvicorn_serves_the_same_app(under_uvicorn):
    server = under_uvicorn(SMALLGPT_MAX_BODY="2048", SMALLGPT_LOG_FORMAT="json")
    assert server.post("/predict", {"input_data": body_of(0)})[1]["prediction"] == "0"
    assert server.ask("POST", "/predict", b" " * 2049, JSON)[0] == 413
    assert server.ask("GET", "/v1/models", None, {"Host": "evil.example"})[0] == 403
    found = {}
    asked = {"prompt": ["<IMG>"] * 16, "n": 16, "stream": True}
    body = json.dumps(asked)
    assert len(body) < 2048
    streaming = threading.Thread(
        target=lambda: found.update(events=server.events("/v1/completions", asked))
    )
    streaming.start()
    server.wait_until(lambda: server.metric("smallgpt_running") == 2)
    server.stop()
    streaming.join(timeout=60)
    assert found["events"][-1] == "[DONE]" and "error" not in found["events"][-2]
    told = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    assert [each["status"] for each in told if each.get("path") == "/predict"] == [200, 413]


def test_uvicorn_wants_the_token_of_the_environment(under_uvicorn):
    server = under_uvicorn(SMALLGPT_TOKEN="correct-horse", SMALLGPT_HOST="ignored")
    assert server.ask("GET", "/v1/models")[0] == 401
    assert (
        server.ask("GET", "/v1/models", None, {"Authorization": "Bearer correct-horse"})[0] == 200
    )


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("SMALLGPT_MAX_QUEUE", "0", "SMALLGPT_MAX_QUEUE"),
        ("SMALLGPT_MODLE_PATH", "x", "did you mean SMALLGPT_MODEL_PATH"),
        ("SMALLGPT_TOKEN", "short", "SMALLGPT_TOKEN has fewer than 8 characters"),
        ("SMALLGPT_MODEL_PATH", "/no/such/model", "/no/such/model"),
    ],
)
def test_uvicorn_ends_with_a_line_where_something_is_wrong(variable, value, part):
    process, _ = start_uvicorn(**{variable: value})
    _, err = process.communicate(timeout=60)
    assert process.returncode in (1, 2)
    assert part in err and "Traceback" not in err


def test_the_app_needs_no_main_thread(model_of):
    """As where a test, or another program, runs it beside its own work."""
    trained = load_trained_model(model_of("bars"), precision="fp32", engine="onnx")
    app = create_app(ServedModel(trained, 16), ServeSettings(), "bars", None)

    async def live() -> None:
        async with app.router.lifespan_context(app):
            pass

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
