"""A server as a process, and what plain HTTP says to it."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
JSON = {"Content-Type": "application/json"}
_SECONDS = 60  # in which anything here has to have happened


def start_serve(*words: object, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """serve.py as a process."""
    return start([sys.executable, ROOT / "serve.py", *words], environment)


def start(command: list[object], environment: dict[str, str] | None = None) -> subprocess.Popen:
    """A command as a process, with nothing of ours in its environment but `environment`."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("SMALLGPT_")}
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env={**own, **(environment or {})},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


class RunningServer:
    """A server that is ready.

    Attributes:
        address: such as http://127.0.0.1:40123.
        log: what it wrote to standard error, once it has ended.
    """

    def __init__(self, model: Path, *flags: object, environment: dict[str, str] | None = None):
        words = ("--model_path", model, "--engine", "onnx", "--port", 0, *flags)
        self.process = start_serve(*words, environment=environment)
        line = self.process.stdout.readline()
        found = re.search(r"http://(\S+):(\d+)", line)
        if found is None:
            raise AssertionError(line + self.process.stderr.read())
        self.port = int(found[2])
        self.keep_log()
        self.address = f"http://127.0.0.1:{self.port}"
        self.wait_until(lambda: self.ask("GET", "/readyz")[0] == 200)

    def wait_until(self, holds) -> None:
        """Wait for something that has to become true."""
        end = time.monotonic() + _SECONDS
        while True:
            with contextlib.suppress(OSError):
                if holds():
                    return
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.02)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS)

    def ask(self, method: str, path: str, body=None, headers=None):
        """Status, JSON (or text) and headers of an answer."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(text) if is_json else text, answer.headers

    def post(self, path: str, body, **headers: str):
        """Status and JSON of the answer to an object."""
        text = json.dumps(body, ensure_ascii=False).encode()
        return self.ask("POST", path, text, {**JSON, **headers})[:2]

    def events(self, path: str, body) -> list:
        """The events of a stream; "[DONE]" as a string."""
        status, text, _ = self.ask("POST", path, json.dumps(body), JSON)
        assert status == 200, text
        parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
        return [part if part == "[DONE]" else json.loads(part) for part in parts]

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=_SECONDS)

    def metric(self, name: str) -> float:
        """A metric, 0 where there is none yet."""
        text = self.ask("GET", "/metrics")[1]
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, flags=re.M)
        return float(found[1]) if found else 0.0

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait until it has ended; its exit code."""
        code = self.process.wait(timeout=_SECONDS)
        self._reader.join(timeout=_SECONDS)
        return code

    def keep_log(self) -> None:
        """Read what it writes to standard error: it would wait for ever behind a full pipe."""
        self.log = ""

        def read() -> None:
            for line in self.process.stderr:
                self.log += line

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
