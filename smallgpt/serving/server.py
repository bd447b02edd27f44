"""Runs the app: listens, and ends in good order on SIGTERM and Ctrl-C.

with listening(host, port) as sockets:
    run(app, sockets, client_seconds, grace_seconds)
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from smallgpt.errors import UserError
from smallgpt.serving.connection import MOST_BYTES_OF_HEADERS, protocol_for
from smallgpt.serving.service import Service

# Seconds after which a thread that waits for Python's lock gets it. With the usual 5 ms the engine
# waits for the event loop about as long as it computes: 8 clients got a tenth less.
_SWITCH_SECONDS = 0.001
_AFTER_GRACE = 5  # seconds for last events, and connections that are slow to close


@contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets bound to every address of a host; with port 0 to a free one, the same for all.

    Raises:
        UserError: no such host, or a port that is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UserError(f"--host {host}: no such address ({error.strerror})") from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sockets.append(listener := socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = port or (port_of(sockets) if len(sockets) > 1 else 0)
            try:
                listener.bind((address[0], port, *address[2:]))
            except OSError as error:
                text = f"--host {host} --port {port}: {error.strerror}; give another --port"
                raise UserError(text) from None
        yield sockets
    finally:
        for listener in sockets:
            listener.close()


def port_of(sockets: Sequence[socket.socket]) -> int:
    """The port that they are bound to."""
    port: int = sockets[0].getsockname()[1]
    return port


def run(
    app: FastAPI, sockets: list[socket.socket], client_seconds: float, grace_seconds: float
) -> None:
    """Serve until a signal ends it; then wait for the requests that run.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    config = uvicorn.Config(
        app,
        http=protocol_for(client_seconds),
        loop="auto",  # uvloop where it is installed: a tenth more requests a second
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # the app's own log has more
        proxy_headers=False,  # whoever connects is the client; else headers could say anything
        server_header=False,
        h11_max_incomplete_event_size=MOST_BYTES_OF_HEADERS,
        timeout_graceful_shutdown=round(grace_seconds) + _AFTER_GRACE,
    )
    server = _Server(config, app.state.service)
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        # uvicorn has handlers of its own while it runs, and calls those before it at the end.
        heard.append(number)
        server.should_exit = True

    before = {each: signal.signal(each, hear) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if signal.SIGINT in heard:
        raise KeyboardInterrupt


class _Server(uvicorn.Server):
    """uvicorn's server, which answers others that it is ending while requests still run."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running requests end, and then close."""
        life = self._service.life
        life.end()
        ended = asyncio.ensure_future(life.all_ended())
        while not (ended.done() or self.force_exit):  # a second Ctrl-C
            await asyncio.wait([ended], timeout=0.1)
        ended.cancel()
        await super().shutdown(sockets)
