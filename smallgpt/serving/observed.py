"""Every request is counted and logged under an id, and a bug in it is answered with 500."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smallgpt.serving.errors import ApiError
from smallgpt.serving.limits import TURN
from smallgpt.serving.logs import log_failure, log_request
from smallgpt.serving.metrics import Metrics

CLIENT_LEFT = 499  # in the log, as nginx has it; nobody is there to read it
PROMPT = "smallgpt.prompt"  # in the scope: what was asked, where the log is to have it
_OTHER = "other"
_LONGEST_PATH = 200  # characters of a path in the log


class Observed:
    """Middleware around all others."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str], log_prompts: bool):
        """Hold what it tells.

        Args:
            paths: that are counted by name; the others, which anybody can invent, as one.
        """
        self._app, self._metrics = app, metrics
        self._paths, self._log_prompts = frozenset(paths), log_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and tell of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = os.urandom(8).hex()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        client = scope.get("client")
        facts: dict[str, Any] = {
            "id": request_id,
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"][:_LONGEST_PATH],
        }
        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            log_failure(error, facts, self._log_prompts)
            if not status:
                text = f"the server failed at this request, {request_id} in its log"
                await ApiError(500, text).response()(scope, receive, sending)
        finally:
            turn = scope.get(TURN)
            if turn is not None and turn.is_gone:
                status = CLIENT_LEFT
            seconds = time.perf_counter() - began
            path = scope["path"] if scope["path"] in self._paths else _OTHER
            method = scope["method"] if scope["method"] in ("GET", "POST") else _OTHER
            self._metrics.answered(path, method, status, seconds)
            facts |= {"status": status, "ms": round(1000 * seconds, 2)}
            if PROMPT in scope:
                facts["prompt"] = scope[PROMPT]
            log_request(facts)
