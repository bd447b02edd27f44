"""Metrics of the server, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from smallgpt.distribution import VERSION
from smallgpt.serving.life import Life
from smallgpt.serving.served import ServedModel

_SECONDS = (0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)


class Metrics:
    """What the server counts; each app has its own.

    Attributes:
        rows: rows that were labelled or scored.
        tokens: tokens that were generated.
    """

    def __init__(self, served: ServedModel, life: Life, model: str):
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        facts = Gauge("smallgpt_info", "What is served.", ["version", "model"], registry=registry)
        facts.labels(VERSION, model).set(1)
        self._requests = Counter(
            "smallgpt_requests",
            "Requests that were answered; status 499: the client left before.",
            ["path", "method", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "smallgpt_request_seconds",
            "Seconds from a request to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rows = Counter(
            "smallgpt_rows", "Rows that were labelled or scored.", registry=registry
        )
        self.tokens = Counter("smallgpt_tokens", "Tokens that were generated.", registry=registry)
        running = Gauge("smallgpt_running", "Requests that run.", registry=registry)
        running.set_function(lambda: life.running)
        waiting = Gauge("smallgpt_waiting", "Requests that wait for their turn.", registry=registry)
        waiting.set_function(lambda: served.waiting)
        ready = Gauge("smallgpt_ready", "Whether it takes requests.", registry=registry)
        ready.set_function(lambda: served.works and not life.is_ending)
        growing = Gauge("smallgpt_growing", "Continuations that grow.", registry=registry)
        growing.set_function(lambda: served.growing)

    def answered(self, path: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, method, status).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
