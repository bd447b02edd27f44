"""Limits: bodies, paths, slow and absent clients, the queue, the time of a request."""

import contextlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from running_server import JSON
from trained_models import body_of

POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MIB = 2**20


def answer_of(connection: socket.socket) -> bytes:
    """What comes until the server closes; b"" where it closes at once."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(2**16):
            found += part
    return found


def status_of(connection: socket.socket) -> int:
    """The status of the next answer."""
    return int(connection.makefile("rb").readline().split()[1])


def still_answers(server) -> bool:
    return server.post("/predict", {"input_data": body_of(0)})[1]["prediction"] == "0"


# ------------------------------------------------------------------------------- bodies


def test_a_body_of_just_the_limit_is_read(server_of):
    server = server_of("bars", "--max_body", 4096)
    body = json.dumps({"input_data": body_of(0)}).encode()
    assert server.ask("POST", "/predict", body.ljust(4096), JSON)[0] == 200
    status, told, _ = server.ask("POST", "/predict", body.ljust(4097), JSON)
    assert status == 413 and "4,096" in told["error"]["message"]


def test_a_large_body_is_refused_before_it_is_sent(bars_server):
    with bars_server.socket() as connection:
        connection.sendall(POST + b"Content-Length: 99999999999\r\n\r\n")
        assert status_of(connection) == 413


def test_a_client_that_asks_before_sending_is_told(bars_server):
    with bars_server.socket() as connection:
        connection.sendall(POST + b"Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n")
        assert status_of(connection) == 413


def test_a_chunked_body_is_counted(bars_server):
    with bars_server.socket() as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        part = b"10000\r\n" + b" " * 2**16 + b"\r\n"
        for _ in range(17):
            connection.sendall(part)
        assert status_of(connection) == 413
    body = json.dumps({"input_data": body_of(0)}).encode()
    with bars_server.socket() as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for byte in body:
            connection.sendall(b"1\r\n" + bytes([byte]) + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert status_of(connection) == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"input_data": "\xc3\x28"}',
        b'{"input_data": "\\ud800"}',
        b"[" * 100_000,
        b'{"input_data": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"a":' * 20_000,
        b'{"input_data": ' + b"9" * 10_000 + b"}",
        b"null",
        b"[]",
        b'"text"',
        b'{"input_data": "a", "input_data2": 1}',
        b'{"input_data": [' + b"NaN," * 10 + b"1]}",
        b'{"input_data": {"tokens": {"tokens": {}}}}',
        b'{"input_data": {"input_ids": [1e400]}}',
        b'{"input_data": [true, false]}',
        b'{"input_data": [-1]}',
        b'{"input_data": [9223372036854775808]}',
        b'{"input_data": "\\u0000"}',
    ],
)
def test_odd_bodies_are_refused_in_our_form(bars_server, body):
    status, told, _ = bars_server.ask("POST", "/predict", body, JSON)
    assert status in (400, 422)
    assert set(told["error"]) == {"message", "type", "param"}
    assert len(told["error"]["message"]) < 1000
    assert still_answers(bars_server)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/docs/../../etc/passwd",
        "//etc/passwd",
        "/v1/models/../../../etc/passwd",
        "/v1/models/%00",
        "/%ff%fe",
        "/" + "a" * 8000,
        "/predict/",
        "/static/../serve.py",
    ],
)
def test_no_path_opens_a_file(bars_server, path):
    status, told, _ = bars_server.ask("GET", path)
    assert status == 404
    assert "root:" not in json.dumps(told)


def test_a_row_names_no_file(bars_server, model_of):
    for text in ("/etc/passwd", str(model_of("bars") / "config.json"), "file:///etc/passwd"):
        status, told = bars_server.post("/predict", {"input_data": text})
        assert status == 422 and "root:" not in json.dumps(told)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 10**6 + b"\r\n\r\n",
        b"GET /" + b"a" * 10**6 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_odd_heads_are_refused(bars_server, head):
    with bars_server.socket() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(head)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        answer = answer_of(connection)
        assert answer == b"" or int(answer.split()[1]) in (400, 413, 422, 431)
    assert still_answers(bars_server)


def test_rows_of_a_request_are_counted(server_of):
    server = server_of("bars", "--max_rows", 3, "--max_new_tokens", 4, "--max_prompt_tokens", 5)
    assert server.post("/predict", {"input_data": [body_of(0)] * 3})[0] == 200
    for path, body in (
        ("/predict", {"input_data": [body_of(0)] * 4}),
        ("/v1/score", {"rows": [body_of(0)] * 4}),
        ("/", {"inputs": [body_of(0)] * 4}),
        ("/v1/completions", {"prompt": ["<IMG>", "<IMG>"], "n": 2}),
        ("/v1/completions", {"prompt": "<IMG>", "max_tokens": 5}),
        ("/v1/completions", {"prompt": "<IMG> " + "<Z_001> " * 5}),
    ):
        status, told = server.post(path, body)
        assert status == 422 and "at most" in told["error"]["message"]
    _, told = server.post("/v1/completions", {"prompt": "<IMG>"})
    assert told["usage"]["completion_tokens"] == 4


# ------------------------------------------------------------------------------- slow clients


@pytest.fixture(scope="module")
def hasty(server_of):
    """A server that waits a second for clients."""
    return server_of("bars", "--client_seconds", 1)


def test_a_body_that_trickles_in_is_given_up(hasty):
    with hasty.socket() as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.03)
        assert b" 408 " in answer_of(connection)[:20]
    assert hasty.metric("smallgpt_running") == 1  # that which asks for it


def test_a_content_length_that_lies_is_given_up(hasty):
    with hasty.socket() as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n" + b'{"input_data": "a"}')
        assert b" 408 " in answer_of(connection)[:20]


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_headers_that_trickle_in_are_given_up(hasty, first):
    with hasty.socket() as connection:
        connection.sendall(first)
        head = iter(POST * 100)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(bytes([next(head)]))
                time.sleep(0.02)
            raise AssertionError("it waited on")
    assert still_answers(hasty)


def test_many_idle_connections_hinder_nobody_and_are_closed(hasty):
    idle = [hasty.socket() for _ in range(300)]
    try:
        assert still_answers(hasty)
        for connection in idle:
            connection.settimeout(30)
            assert answer_of(connection) == b""
    finally:
        for connection in idle:
            connection.close()


def test_a_client_that_does_not_read_is_let_go(hasty):
    body = json.dumps({"rows": [body_of(0)] * 6000, "tokens": True}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hasty.port))
        head = POST.replace(b"/predict", b"/v1/score")
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        hasty.wait_until(lambda: hasty.metric("smallgpt_running") == 2)
        hasty.wait_until(lambda: hasty.metric("smallgpt_running") == 1)
        time.sleep(2.5)  # it could have taken the rest
        answer = answer_of(connection)
    length = int(answer.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(answer) < length


def test_a_client_that_goes_frees_its_place(bars_server):
    asked = {"prompt": ["<IMG>"] * 500, "n": 16, "stream": True}
    body = json.dumps(asked).encode()
    head = POST.replace(b"/predict", b"/v1/completions")
    connections = [bars_server.socket() for _ in range(3)]
    for connection in connections:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    for connection in connections:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        connection.close()
    bars_server.wait_until(lambda: bars_server.metric("smallgpt_growing") == 0)
    assert bars_server.metric("smallgpt_running") == 1
    left = 'smallgpt_requests_total{method="POST",path="/v1/completions",status="499"}'
    assert bars_server.metric(left) >= 3


# ------------------------------------------------------------------------------- too much at once


def test_what_does_not_fit_into_the_queue_is_told_to_wait(server_of):
    server = server_of("bars", "--max_queue", 2)
    large = {"input_data": [body_of(0)] * 5000}

    def ask(_):
        with contextlib.closing(server.connect()) as connection:
            connection.request("POST", "/predict", json.dumps(large), JSON)
            answer = connection.getresponse()
            return answer.status, answer.headers["Retry-After"], json.loads(answer.read())

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    refused = [answer for answer in answers if answer[0] == 429]
    assert {status for status, *_ in answers} == {200, 429}
    for _, wait, told in refused:
        assert wait == "1" and told["error"]["type"] == "rate_limit_error"
    assert still_answers(server)


def test_an_answer_that_takes_too_long_is_given_up(server_of):
    server = server_of("bars", "--request_seconds", "1.5")
    asked = {"prompt": ["<IMG>"] * 70, "n": 128}
    status, told = server.post("/v1/completions", asked)
    assert status == 504 and "1.5 seconds" in told["error"]["message"]
    events = server.events("/v1/completions", {**asked, "stream": True})
    assert events[-1] == "[DONE]"
    assert events[-2]["error"]["type"] == "timeout_error"
    server.wait_until(lambda: server.metric("smallgpt_growing") == 0)
    assert still_answers(server)
