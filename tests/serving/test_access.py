"""Who may ask: the token, this machine alone, nobody's page of the web."""

import asyncio
import base64
import contextlib
import json

import pytest
from running_server import JSON, start_serve
from trained_models import body_of

from smallgpt.serving.access import Access

TOKEN = "correct-horse-battery"
ROW = json.dumps({"input_data": body_of(0)})


@pytest.fixture(scope="module")
def guarded(server_of):
    return server_of("bars", "--token", TOKEN)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Token {TOKEN}",
        TOKEN,
        "Bearer \u00e9\u00e9\u00e9\u00e9".encode("latin-1").decode("latin-1"),
        "Basic " + base64.b64encode(b"me:wrong").decode(),
        "Basic !!!",
    ],
)
@pytest.mark.parametrize(
    "path", ["/predict", "/", "/metrics", "/docs", "/openapi.json", "/v1/models", "/nothing"]
)
def test_without_the_token_nothing_is_told(guarded, path, header):
    headers = {} if header is None else {"Authorization": header}
    method = "POST" if path in ("/predict", "/") else "GET"
    status, told, answer = guarded.ask(method, path, ROW if method == "POST" else None, headers)
    assert status == 401
    assert told["error"]["type"] == "authentication_error"
    asks = "Basic" if path in ("/docs", "/openapi.json") else "Bearer"
    assert answer["WWW-Authenticate"].startswith(asks)
    assert TOKEN not in json.dumps(told)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_token(guarded, path):
    assert guarded.ask("GET", path)[0] == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_token_opens_everything(guarded, scheme):
    status, told = guarded.post(
        "/predict", {"input_data": body_of(0)}, Authorization=f"{scheme} {TOKEN}"
    )
    assert (status, told["prediction"]) == (200, "0")
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    assert guarded.ask("GET", "/metrics", None, headers)[0] == 200


def test_a_browser_sends_the_token_as_a_password(guarded):
    typed = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    status, text, _ = guarded.ask("GET", "/docs", None, {"Authorization": f"Basic {typed}"})
    assert status == 200 and "openapi.json" in text


def test_other_pages_of_the_web_get_nothing(bars_server):
    origin = {"Origin": "https://evil.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    status, _, headers = bars_server.ask("OPTIONS", "/predict", None, preflight)
    assert status == 405 and "Access-Control-Allow-Origin" not in headers
    _, _, headers = bars_server.ask("GET", "/v1/models", None, origin)
    assert "Access-Control-Allow-Origin" not in headers
    # What a browser sends without asking first.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        status, told, _ = bars_server.ask("POST", "/predict", ROW, {"Content-Type": kind})
        assert status == 415 and "application/json" in told["error"]["message"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
def test_a_name_that_points_here_opens_nothing(bars_server, host):
    status, told, _ = bars_server.ask("POST", "/predict", ROW, {**JSON, "Host": host})
    assert status == 403 and "localhost" in told["error"]["message"]


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_a_proxy_opens_nothing_without_a_token(bars_server, name):
    status, told, _ = bars_server.ask("POST", "/predict", ROW, {**JSON, name: "127.0.0.1"})
    assert status == 403 and "SMALLGPT_TOKEN" in told["error"]["message"]


def answer_to(client: tuple | None, host: bytes, **access) -> int:
    """The status of what a client of some address asks."""
    statuses = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        statuses.append(message.get("status"))

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "client": client}
    scope["headers"] = [(b"host", host)]
    asyncio.run(Access(app, **access)(scope, None, send))
    return statuses[0]


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (("127.0.0.1", 5), 200),
        (("127.8.0.1", 5), 200),
        (("::1", 5), 200),
        (("::ffff:127.0.0.1", 5), 200),
        (("10.0.0.7", 5), 403),
        (("::ffff:10.0.0.7", 5), 403),
        (("fe80::1%eth0", 5), 403),
        (("nonsense", 5), 403),
        (None, 403),
    ],
)
def test_without_a_token_only_this_machine_is_answered(client, expected):
    """Under uvicorn, where the host is not known."""
    assert answer_to(client, b"localhost:8000", token=None, anyone=False) == expected
    assert answer_to(client, b"[::1]:8000", token=None, anyone=False) == expected
    assert answer_to(client, b"any.example", token=None, anyone=True) == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "some-name"])
def test_to_listen_beyond_this_machine_wants_a_token(host, tmp_path):
    process = start_serve("--host", host, "--model_path", tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert err.count("\n") == 1 and "--no_token" in err and f"--host {host}" in err


def test_no_token_by_name_lets_anyone_ask(own_server):
    server = own_server("bars", "--host", "0.0.0.0", "--no_token")
    status, _, _ = server.ask("GET", "/v1/models", None, {"Host": "any.example"})
    assert status == 200
    assert server.stop() == 0
    assert "anyone who reaches this machine may ask" in server.log


def test_the_token_may_stand_in_a_file(own_server, tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    server = own_server("bars", environment={"SMALLGPT_TOKEN_FILE": str(tmp_path / "token")})
    assert server.ask("GET", "/v1/models")[0] == 401
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert server.ask("GET", "/v1/models", None, headers)[0] == 200
    server.stop()
    assert TOKEN not in server.log


@pytest.mark.parametrize("text", ["", "short", "two words here", "ключключключ"])
def test_a_token_that_protects_nothing_is_refused(model_of, tmp_path, text):
    (tmp_path / "token").write_text(text)
    for words in (["--token_file", tmp_path / "token"], *([["--token", text]] if text else [])):
        process = start_serve("--model_path", model_of("bars"), *words)
        with contextlib.closing(process.stdout):
            _, err = process.communicate(timeout=60)
        assert process.returncode in (1, 2) and err.count("\n") == 1
