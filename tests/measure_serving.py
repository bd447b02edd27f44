"""Speed of the server beside others, on one machine that does nothing else, in one run.

    python tests/measure_serving.py --model_path outputs/best_model \
        --test_data data/digits/test.jsonl --litserve PYTHON --bentoml PYTHON

Each peer is a Python of an environment of its own with that library, torch and transformers;
without one it is left out. `transformers serve` runs in this environment, on an export for the hub
that is made here. A peer answers as its documentation shows (tests/serving_peers). Every server is
asked by the same client, a process of its own on the same machine; servers take turns, three times.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TURNS, SECONDS = 3, 6.0


class Server(NamedTuple):
    """A server that names labels."""

    name: str
    command: list[str]  # PORT stands for its port
    environment: dict[str, str]
    path: str
    ready: str

    def question(self, row: str) -> dict:
        """The body that asks for the label of a row."""
        if self.name == "transformers serve":
            kind = {"type": "choice", "criteria": dict.fromkeys(LABELS)}
            return {"state": row, "questions": {"label": kind}}
        return {"input_data": [row] if self.name == "BentoML" else row}


LABELS: list[str] = []


# ------------------------------------------------------------------------------- a client


class Client:
    """One connection, HTTP/1.1, kept open; small, so that servers get the machine."""

    def __init__(self, port: int):
        self.port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    async def send(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str]]:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        return int(lines[0].split()[1]), headers

    async def ask(self, path: str, body: bytes, method: str = "POST") -> bytes:
        status, headers = await self.send(method, path, body)
        if headers.get("transfer-encoding") == "chunked":
            answer = b"".join([part async for part in self.chunks()])
        else:
            answer = await self.reader.readexactly(int(headers["content-length"]))
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer[:300]!r}")
        return answer

    async def chunks(self):
        while size := int(await self.reader.readline(), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()


async def load(server: Server, port: int, rows: list[str], clients: int) -> dict[str, float]:
    """Clients that ask one row after another for some seconds."""
    bodies = [json.dumps(server.question(row)).encode() for row in rows]
    times: list[float] = []
    end = time.perf_counter() + SECONDS

    async def one(start: int) -> None:
        async with Client(port) as client:
            place = start
            while (began := time.perf_counter()) < end:
                await client.ask(server.path, bodies[place % len(bodies)])
                times.append(time.perf_counter() - began)
                place += clients

    began = time.perf_counter()
    await asyncio.gather(*(one(start) for start in range(clients)))
    seconds = time.perf_counter() - began
    times.sort()
    return {
        "requests_per_second": len(times) / seconds,
        "p50_ms": 1e3 * times[len(times) // 2],
        "p99_ms": 1e3 * times[int(len(times) * 0.99)],
    }


async def first_token(port: int, model: str, prompt: str, field: str, tries: int = 20) -> float:
    """Median seconds to the first streamed token."""
    times = []
    body = {"model": model, field: prompt, "stream": True, "max_tokens": 16, "temperature": 0}
    async with Client(port) as client:
        for _ in range(tries):
            began, seen = time.perf_counter(), None
            status, _ = await client.send("POST", "/v1/completions", json.dumps(body).encode())
            assert status == 200, status
            async for part in client.chunks():
                if seen is None and b'"text"' in part:
                    seen = time.perf_counter() - began
            times.append(seen)
    return statistics.median(times[2:])


async def streams(port: int, prompt: str, count: int, most: int) -> float:
    """Tokens a second of so many streams together."""

    async def one(seed: int) -> int:
        body = {"prompt": prompt, "stream": True, "max_tokens": most, "seed": seed}
        tokens = 0
        async with Client(port) as client:
            status, _ = await client.send("POST", "/v1/completions", json.dumps(body).encode())
            assert status == 200, status
            rest = b""
            async for part in client.chunks():
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: {"):
                        for choice in json.loads(line[6:])["choices"]:
                            tokens += len(choice["token_ids"])
        return tokens

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one(seed) for seed in range(count))))
    return tokens / (time.perf_counter() - began)


async def file_over_http(port: int, rows: list[str], batch: int, clients: int = 4) -> float:
    """Rows a second of a file that is sent in batches."""
    batches = [rows[start : start + batch] for start in range(0, len(rows), batch)]

    async def one(start: int) -> None:
        async with Client(port) as client:
            for part in batches[start::clients]:
                answer = json.loads(
                    await client.ask("/predict", json.dumps({"input_data": part}).encode())
                )
                assert len(answer["predictions"]) == len(part)

    began = time.perf_counter()
    await asyncio.gather(*(one(start) for start in range(clients)))
    return len(rows) / (time.perf_counter() - began)


async def health_beside(port: int, rows: list[str]) -> float:
    """p99 of /healthz in ms while the largest requests run."""
    many: list[str] = []
    while sum(map(len, many)) + 20 * len(many) < 900_000:
        many += rows[:50]
    body = json.dumps({"input_data": many}).encode()
    busy = True

    async def large() -> None:
        async with Client(port) as client:
            while busy:
                await client.ask("/predict", body)

    tasks = [asyncio.create_task(large()) for _ in range(2)]
    times = []
    async with Client(port) as client:
        end = time.perf_counter() + 3 * SECONDS
        while time.perf_counter() < end:
            began = time.perf_counter()
            await client.ask("/healthz", b"", "GET")
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0.01)
    busy = False
    await asyncio.gather(*tasks)
    return 1e3 * sorted(times)[int(len(times) * 0.99)]


# ------------------------------------------------------------------------------- servers


@contextmanager
def running(server: Server):
    """A server in a process of its own; gives its port and how long it took to be ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(port) if word == "PORT" else word for word in server.command]
    log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **server.environment}, stdout=log, stderr=log,
        start_new_session=True,
    )  # fmt: skip
    try:
        while True:
            if process.poll() is not None or time.perf_counter() - began > 120:
                log.seek(0)
                raise RuntimeError(f"{server.name} does not start: {log.read().decode()[-2000:]}")
            try:
                asyncio.run(_get(port, server.ready))
                break
            except (OSError, RuntimeError, asyncio.IncompleteReadError):
                time.sleep(0.02)
        yield port, time.perf_counter() - began
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


async def _get(port: int, path: str) -> None:
    async with Client(port) as client:
        await client.ask(path, b"", "GET")


def in_process(model_path: str, rows: list[str], prompt: str, most: int) -> dict[str, float]:
    """What inference.py does of the same without a server: rows/s, tokens/s of 16 rows."""
    program = """
import json, sys, time
from inference import classify, generate, load_trained_model
model, rows, prompt, most = json.loads(sys.stdin.read())
trained = load_trained_model(model, "cpu")
classify(trained, rows[:64])
seconds = []
for _ in range(3):
    began = time.perf_counter()
    classify(trained, rows)
    seconds.append(time.perf_counter() - began)
generate(trained, prompt, count=16, max_new_tokens=8)
rates = []
for seed in range(3):
    began = time.perf_counter()
    made = generate(trained, prompt, count=16, max_new_tokens=most, seed=seed).sequences
    tokens = sum(len(row) - len(prompt.split()) for row in made)
    rates.append(tokens / (time.perf_counter() - began))
print(json.dumps({"rows": len(rows) / sorted(seconds)[1], "tokens": sorted(rates)[1]}))
"""
    given = json.dumps([model_path, rows, prompt, most])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, input=given, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--test_data", required=True)
    parser.add_argument("--litserve", help="Python with litserve")
    parser.add_argument("--bentoml", help="Python with bentoml")
    parser.add_argument("--json", help="file for the figures")
    given = parser.parse_args()
    model = str(Path(given.model_path).resolve())
    lines = Path(given.test_data).read_text().splitlines()
    rows = [json.loads(line)["tokens"].split(" <CLS>")[0] for line in lines]
    vocabulary = json.loads((Path(model) / "vocab.json").read_text())
    LABELS[:] = [token[5:-1] for token in vocabulary if token.startswith("<CLS_")]
    prompt, most = " ".join(rows[0].split()[:3]), len(rows[0].split())
    with tempfile.TemporaryDirectory() as work:
        hub = str(Path(work) / "hub")
        subprocess.run(
            [sys.executable, "export_model.py", "--model_path", model, "--format", "hub",
             "--dry_run", "--output_dir", hub, "--test_data", given.test_data],
            cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        ours = Server(
            "smallgpt", [sys.executable, "serve.py", "--model_path", model, "--port", "PORT"], {},
            "/predict", "/readyz",
        )  # fmt: skip
        servers = [ours]
        transformers = str(Path(sys.executable).with_name("transformers"))
        servers.append(
            Server("transformers serve", [transformers, "serve", hub, "--port", "PORT"], {},
                   "/v1/systemone", "/health")
        )  # fmt: skip
        if given.litserve:
            program = "tests/serving_peers/litserve_server.py"
            servers.append(
                Server(
                    "LitServe", [given.litserve, program, hub, "PORT"], {}, "/predict", "/health"
                )
            )
        if given.bentoml:
            command = [given.bentoml, "-m", "bentoml", "serve", "bentoml_service:Labels", "--port",
                       "PORT", "--working-dir", "tests/serving_peers"]  # fmt: skip
            # (Not asked for: its reports of use, which leave the machine.)
            environment = {"MODEL_FOLDER": hub, "BENTOML_DO_NOT_TRACK": "true"}
            servers.append(Server("BentoML", command, environment, "/predict", "/readyz"))
        found: dict[str, dict[str, list[float]]] = {}
        for turn in range(TURNS):
            for server in servers:
                figures = found.setdefault(server.name, {})
                with running(server) as (port, seconds):
                    asyncio.run(load(server, port, rows, 1))  # warm
                    told = {"ready_s": seconds}
                    one = asyncio.run(load(server, port, rows, 1))
                    told |= {f"one_{name}": value for name, value in one.items()}
                    eight = asyncio.run(load(server, port, rows, 8))
                    told |= {f"eight_{name}": value for name, value in eight.items()}
                    if server.name in ("smallgpt", "transformers serve"):
                        name = Path(model).name if server is ours else hub
                        told["first_token_ms"] = 1e3 * asyncio.run(
                            first_token(port, name, prompt, "prompt")
                        )
                    if server is ours:
                        rates = [asyncio.run(streams(port, prompt, 16, most)) for _ in range(3)]
                        told["streams_tokens_per_second"] = statistics.median(rates)
                        many = (rows * (1 + 4000 // len(rows)))[:4000]
                        told["file_rows_per_second"] = asyncio.run(file_over_http(port, many, 64))
                        told["health_p99_ms"] = asyncio.run(health_beside(port, rows))
                for name, value in told.items():
                    figures.setdefault(name, []).append(value)
                print(f"turn {turn + 1}, {server.name}: " + ", ".join(
                    f"{name} {value:.4g}" for name, value in told.items()), flush=True)  # fmt: skip
            many = (rows * (1 + 4000 // len(rows)))[:4000]
            inside = in_process(model, many, prompt, most)
            print(f"turn {turn + 1}, in the process: {inside}", flush=True)
            for name, value in inside.items():
                found.setdefault("in the process", {}).setdefault(name, []).append(value)
    medians = {
        server: {name: statistics.median(values) for name, values in figures.items()}
        for server, figures in found.items()
    }
    print_ratios(medians)
    if given.json:
        Path(given.json).write_text(json.dumps({"medians": medians, "all": found}, indent=1))


def print_ratios(medians: dict[str, dict[str, float]]) -> None:
    """The figures that are promised, beside their targets."""
    ours, inside = medians["smallgpt"], medians["in the process"]
    print(f"\nready after {ours['ready_s']:.2f} s (3 s)")
    for peer, target in (("transformers serve", 5), ("LitServe", 2.5), ("BentoML", 2.5)):
        if peer in medians:
            name = "eight_requests_per_second"
            ratio = ours[name] / medians[peer][name]
            print(f"requests/s of 8 clients, against {peer}: {ratio:.2f}x ({target}x)")
    print(f"p50 of one client: {ours['one_p50_ms']:.2f} ms (4 ms)")
    if "LitServe" in medians:
        ratio = ours["eight_p99_ms"] / medians["LitServe"]["eight_p99_ms"]
        print(f"p99 of 8 clients, against LitServe: {ratio:.2f}x (0.4x)")
    if "transformers serve" in medians:
        ratio = ours["first_token_ms"] / medians["transformers serve"]["first_token_ms"]
        print(f"time to the first token, against transformers serve: {ratio:.2f}x (0.5x)")
    ratio = ours["streams_tokens_per_second"] / inside["tokens"]
    print(f"16 streams, against 16 rows in the process: {ratio:.2f}x (0.8x)")
    ratio = ours["file_rows_per_second"] / inside["rows"]
    print(f"a file over HTTP, against the process: {ratio:.2f}x (0.9x)")
    print(f"p99 of /healthz beside the largest requests: {ours['health_p99_ms']:.1f} ms (50 ms)")


if __name__ == "__main__":
    main()
