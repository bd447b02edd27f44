"""Connections that do not wait for a slow client: for its headers, and for it to read."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_BYTES_OF_HEADERS = 2**14
# Bytes that a client takes at least in `client_seconds`, where it takes less than it is sent.
_LEAST_TAKEN = 2**16


class JoinedWrites:
    """A transport that sends together what is written together.

    uvicorn writes the head of an answer and its body apart. Each is a call of the system, which
    takes a tenth of the time of a whole request.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send this with what else is written before the event loop goes on."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Close once all is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 of uvicorn, with limits of time that it lacks; for a `Config` as its `http`."""

    client_seconds: float  # set by `protocol_for`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; its headers have to come."""
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
        self._waiting: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        # With no room `pause_writing` is called as soon as the client takes less than it is sent.
        transport.set_write_buffer_limits(high=0)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Something has come; while no request is whole, the clock goes on."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif not self.transport.is_closing():
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_waiting()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has taken everything."""
        if self._stalled is not None:
            self._stalled.cancel()
        super().resume_writing()

    def _await_headers(self) -> None:
        """Let the connection end unless a request begins in time."""
        if self._waiting is None:
            self._waiting = self.loop.call_later(self.client_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _watch(self, left: int) -> None:
        """Let the connection end unless the client takes something of what is left."""
        self._stalled = self.loop.call_later(self.client_seconds, self._check, left)

    def _check(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if before - left < _LEAST_TAKEN:
            self.transport.abort()
        else:
            self._watch(left)


def protocol_for(client_seconds: float) -> type[PatientProtocol]:
    """The protocol with this limit."""
    facts: dict[str, Any] = {"client_seconds": client_seconds}
    return type("LimitedProtocol", (PatientProtocol,), facts)
