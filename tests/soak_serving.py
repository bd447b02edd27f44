"""Mixed load with faults on a running server: what it answers must stay right, its memory flat.

    python tests/soak_serving.py --model_path outputs/best_model \
        --test_data data/digits/test.jsonl --minutes 30

Clients ask for labels, continuations, streams and scores; others leave in mid-stream, read a byte a
second, send garbage, bodies that are too large, or nothing at all. Ends with a table, and with exit
code 1 where an answer was wrong, an error was not the client's, or memory grew by more than 5 %.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from measure_serving import Client, Server, running

ROOT = Path(__file__).parents[1]
MOST_GROWTH = 0.05


class Load:
    """Clients of one server, what they saw, and what they should have seen."""

    def __init__(self, port: int, rows: list[str], prompt: str, end: float):
        self.port, self.rows, self.prompt, self.end = port, rows, prompt, end
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.known: dict[bytes, bytes] = {}  # the answer to a body, the first time

    def note(self, what: str, fault: str | None = None) -> None:
        self.seen[what] += 1
        if fault:
            self.wrong.append(f"{what}: {fault}")

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.end

    async def same_answer(self, what: str, path: str, make) -> None:
        """A client that asks, and compares each answer with the first to the same question."""
        while self.goes_on:
            try:
                async with Client(self.port) as client:
                    for _ in range(50):
                        body = json.dumps(make()).encode()
                        answer = json.loads(await client.ask(path, body))
                        for name in ("id", "created"):
                            answer.pop(name, None)
                        told = json.dumps(rounded(answer), sort_keys=True).encode()
                        is_same = self.known.setdefault(path.encode() + body, told) == told
                        self.note(what, None if is_same else f"another answer to {body[:200]!r}")
                        if not self.goes_on:
                            return
            except (OSError, RuntimeError, asyncio.IncompleteReadError) as error:
                self.note(what, f"{type(error).__name__} {error}")

    async def leaving(self) -> None:
        """Streams of which most are left, by a reset in the middle."""
        while self.goes_on:
            body = {"prompt": self.prompt, "stream": True, "seed": random.randrange(99), "n": 2}
            try:
                async with Client(self.port) as client:
                    status, _ = await client.send(
                        "POST", "/v1/completions", json.dumps(body).encode()
                    )
                    if status != 200:
                        self.note("stream", f"status {status}")
                        continue
                    parts = 0
                    leaves_after = random.choice((0, 1, 3, 10**9))
                    last = b""
                    async for part in client.chunks():
                        parts, last = parts + 1, part
                        if parts > leaves_after:
                            reset(client)
                            break
                    else:
                        ended = last.endswith(b"data: [DONE]\n\n")
                        self.note("stream", None if ended else f"ends with {last[-100:]!r}")
                        continue
                    self.note("stream left")
            except (OSError, asyncio.IncompleteReadError) as error:
                self.note("stream", f"{type(error).__name__} {error}")

    async def slow(self) -> None:
        """A client that sends and reads a byte a second, for some time."""
        while self.goes_on:
            try:
                async with Client(self.port) as client:
                    body = {"prompt": self.prompt, "stream": True}
                    text = json.dumps(body).encode()
                    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                    head += f"Content-Length: {len(text)}"
                    for byte in (head + "\r\n\r\n").encode()[:30]:
                        client.writer.write(bytes([byte]))
                        await asyncio.sleep(1)
                    self.note("slow client")
            except OSError:
                self.note("slow client let go")

    async def garbage(self) -> None:
        """Bytes that are no request, or no JSON, or paths that lead out."""
        tries = (
            lambda: random.randbytes(random.randrange(1, 4000)),
            lambda: request("/predict", b"{" * 2000),
            lambda: request("/predict", b"[" * 100_000),
            lambda: request("/predict", b'{"input_data": "\xff"}'),
            lambda: request("/../../etc/passwd", b"", "GET"),
            lambda: request("/page/%2e%2e/%2e%2e/etc/passwd", b"", "GET"),
            lambda: request("/predict", b'{"input_data": ["no such token"]}'),
            lambda: request("/v1/completions", b'{"prompt": [1000000000]}'),
        )
        while self.goes_on:
            try:
                async with Client(self.port) as client:
                    client.writer.write(random.choice(tries)())
                    client.writer.write_eof()
                    answer = await asyncio.wait_for(client.reader.read(), 30)
                    status = answer[9:12].decode(errors="replace") if answer else "closed"
                    is_fine = status == "closed" or status[:1] == "4"
                    self.note(f"garbage, {status}", None if is_fine else f"{answer[:200]!r}")
            except ConnectionError:
                self.note("garbage, closed")
            except (OSError, TimeoutError) as error:
                self.note("garbage", f"{type(error).__name__} {error}")
            await asyncio.sleep(0.2)

    async def oversize(self) -> None:
        """Bodies of 3 MB, with their length and in chunks."""
        while self.goes_on:
            for chunked in (False, True):
                try:
                    async with Client(self.port) as client:
                        kind = (
                            "Transfer-Encoding: chunked" if chunked else "Content-Length: 3000000"
                        )
                        client.writer.write(
                            f"POST /predict HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n\r\n".encode()
                        )
                        for _ in range(30):
                            part = b"x" * 100_000
                            client.writer.write(b"186a0\r\n" + part + b"\r\n" if chunked else part)
                            await client.writer.drain()
                        status = (await client.reader.readline())[9:12].decode()
                        self.note(f"oversize, {status}", None if status == "413" else "not refused")
                except OSError:
                    self.note("oversize, closed")
            await asyncio.sleep(1)

    async def idle(self) -> None:
        """Connections that say nothing."""
        while self.goes_on:
            many = []
            for _ in range(50):
                many.append(await asyncio.open_connection("127.0.0.1", self.port))
            await asyncio.sleep(20)
            for _, writer in many:
                writer.close()
            self.note("idle connections", None)

    async def health(self) -> None:
        while self.goes_on:
            try:
                async with Client(self.port) as client:
                    while self.goes_on:
                        await client.ask("/healthz", b"", "GET")
                        await client.ask("/metrics", b"", "GET")
                        self.note("health")
                        await asyncio.sleep(0.5)
            except (OSError, RuntimeError, asyncio.IncompleteReadError) as error:
                self.note("health", f"{type(error).__name__} {error}")


def rounded(value):
    """Numbers to six digits: an answer must not depend on its neighbours by more."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return value


def request(path: str, body: bytes, method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def reset(client: Client) -> None:
    """Leave as a killed client does."""
    wire = client.writer.get_extra_info("socket")
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


def megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def soak(
    port: int, process: int, rows: list[str], minutes: float
) -> tuple[Load, list[float]]:
    prompt = " ".join(rows[0].split()[:3])
    load = Load(port, rows, prompt, time.monotonic() + 60 * minutes)
    pick = random.choice
    tasks = [
        *(load.same_answer("label", "/predict", lambda: {"input_data": pick(rows)})
          for _ in range(4)),
        load.same_answer("labels of 40", "/predict",
                         lambda: {"input_data": rows[(at := 40 * random.randrange(5)) : at + 40]}),
        load.same_answer("score", "/v1/score", lambda: {"rows": [pick(rows)], "tokens": True}),
        *(load.same_answer("completion", "/v1/completions",
                           lambda: {"prompt": pick(rows[:9])[:40].rsplit(" ", 1)[0], "n": 2,
                                    "seed": random.randrange(5)}) for _ in range(2)),
        *(load.leaving() for _ in range(4)), load.slow(), load.slow(), load.garbage(),
        load.oversize(), load.idle(), load.health(),
    ]  # fmt: skip
    memory: list[float] = []

    async def watch() -> None:
        while load.goes_on:
            memory.append(megabytes(process))
            await asyncio.sleep(5)
            if len(memory) % 12 == 0:
                told = f"{len(memory) // 12} min, {memory[-1]:.0f} MB, {len(load.wrong)} wrong"
                print(told, dict(load.seen), flush=True)

    await asyncio.gather(watch(), *tasks)
    return load, memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--test_data", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    given = parser.parse_args()
    lines = Path(given.test_data).read_text().splitlines()
    rows = [json.loads(line)["tokens"].split(" <CLS>")[0] for line in lines][:200]
    command = [sys.executable, "serve.py", "--model_path", given.model_path, "--port", "PORT"]
    server = Server("smallgpt", command, {}, "/predict", "/readyz")
    with running(server) as (port, _):
        found = subprocess.run(
            ["pgrep", "-f", f"serve.py .*--port {port}"], capture_output=True, text=True, check=True
        )
        process = int(found.stdout.split()[0])
        load, memory = asyncio.run(soak(port, process, rows, given.minutes))
        os.kill(process, signal.SIGTERM)
    for what, count in sorted(load.seen.items()):
        print(f"{what:25}{count:>10,}")
    for fault in load.wrong[:20]:
        print("WRONG", fault)
    sixth = max(1, len(memory) // 6)
    before = statistics.mean(memory[sixth : 2 * sixth] or memory)
    after = statistics.mean(memory[-sixth:])
    growth = after / before - 1
    print(f"memory {before:.0f} MB, {after:.0f} MB at the end: {100 * growth:+.1f} %")
    return 1 if load.wrong or growth > MOST_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
