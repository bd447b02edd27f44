"""Limits of a request: the size of its body, the time to send it, the time of its answer.

An endpoint gets the body whole. It is cancelled when the client leaves, and when its time is up.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smallgpt.serving.access import HEALTH
from smallgpt.serving.errors import CLOSE, ApiError
from smallgpt.serving.life import Life, Turn, ending

TURN = "smallgpt.turn"  # in the scope of a request: its `Turn`


class ClientLeftError(Exception):
    """The client closed the connection before its request was whole."""


class Limits:
    """Middleware that reads the body, and ends what takes too long or nobody waits for."""

    def __init__(
        self, app: ASGIApp, life: Life, max_body: int, client_seconds: float, seconds: float
    ):
        """Hold the limits.

        Args:
            client_seconds: in which the body has to come.
            seconds: in which a request has to be answered.
        """
        self._app, self._life = app, life
        self._max_body, self._client_seconds, self._seconds = max_body, client_seconds, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body, or refuse it."""
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self._app(scope, receive, send)
            return
        if self._life.is_ending:
            await ending().response()(scope, receive, send)
            return
        limit = asyncio.timeout(self._client_seconds)
        with self._life.turn(limit) as turn:
            scope[TURN] = turn
            try:
                async with limit:
                    body = await self._read(turn, scope, receive)
                    turn.begin(self._seconds)
                    await self._answer(turn, scope, receive, send, body)
            except ApiError as error:
                await error.response()(scope, receive, send)
            except ClientLeftError:
                turn.is_gone = True
            except TimeoutError:  # in the middle of an answer, which says so itself if it can
                if not limit.expired():
                    raise

    async def _answer(
        self, turn: Turn, scope: Scope, receive: Receive, send: Send, body: bytes
    ) -> None:
        """Let the app answer, and watch the client and the clock meanwhile."""
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] == "http.response.body" and not message.get("more_body"):
                turn.is_over = True
            await send(message)

        parts = [body]

        async def replay() -> Message:
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": False}
            await asyncio.Event().wait()  # this middleware itself hears of the client's leaving
            raise AssertionError

        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(_watch(turn, task, receive))
        try:
            await self._app(scope, replay, sending)
        except asyncio.CancelledError:
            if turn.is_gone:
                task.uncancel()
                return
            if not turn.limit.expired() or has_begun:
                raise
            raise turn.why_late() from None
        finally:
            watcher.cancel()

    async def _read(self, turn: Turn, scope: Scope, receive: Receive) -> bytes:
        """The body.

        Raises:
            ApiError: it is too large, or comes too slowly.
            ClientLeftError: it ends before its end.
        """
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._max_body:
                raise self._too_large()
        try:
            message = await self._next(receive)
            body = message.get("body", b"")
            while message.get("more_body"):
                self._check_size(body)
                message = await self._next(receive)
                body += message.get("body", b"")
        except asyncio.CancelledError:
            if not turn.limit.expired():
                raise
            text = f"the body did not come within {self._client_seconds:g} seconds"
            raise ApiError(408, text, headers=CLOSE) from None
        self._check_size(body)
        return body

    async def _next(self, receive: Receive) -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        return message

    def _check_size(self, body: bytes) -> None:
        if len(body) > self._max_body:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body has more than {self._max_body:,} bytes: send less at once")


async def _watch(turn: Turn, task: asyncio.Task[None], receive: Receive) -> None:
    """Cancel a request when its client leaves before the end of the answer."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not turn.is_over:
        turn.is_gone = True
        task.cancel()
