"""Answers that grow: server-sent events, which always end with an event that says how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.types import Receive, Scope, Send

from smallgpt.serving.errors import ApiError, as_api_error
from smallgpt.serving.json_route import to_json
from smallgpt.serving.life import Turn
from smallgpt.serving.limits import TURN

DONE = b"data: [DONE]\n\n"
_LAST_SECONDS = 1.0  # in which a client has to take the last event, when its time was up
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events
]


class EventStream:
    """A response of events, which are sent as they come."""

    def __init__(self, events: AsyncGenerator[list[Any]], done: bytes = DONE):
        """Hold the events.

        Args:
            events: those that come together, as lists.
            done: sent after the last.
        """
        self._events, self._done = events, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        turn: Turn = scope[TURN]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async with aclosing(self._events):
                async for events in self._events:
                    await send(_body(b"".join(map(_event, events))))
            await send(_body(self._done, more=False))
        except asyncio.CancelledError:
            if turn.is_gone or not turn.is_late:
                raise
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await self._fail(send, turn.why_late())
            raise
        except Exception as error:
            told = as_api_error(error)
            await self._fail(send, told or ApiError(500, "the server failed at this request"))
            if told is None:
                raise

    async def _fail(self, send: Send, error: ApiError) -> None:
        await send(_body(_event(error.body()) + self._done, more=False))


def _event(value: Any) -> bytes:
    return b"data: " + to_json(value) + b"\n\n"


def _body(text: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text, "more_body": more}
