"""Endpoints that take a JSON body: read fast and strictly, and still in the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pydantic_core
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, TypeAdapter
from starlette.types import ASGIApp, Receive, Scope, Send

from smallgpt.serving.errors import ApiError
from smallgpt.serving.observed import PROMPT
from smallgpt.serving.service import aside, service_of

_MOST_LOGGED = 10_000  # characters of a body
_MOST_NOTED = 1_000  # characters of a header


class Body(BaseModel):
    """The body of a request; a field that nobody knows is a mistake."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class JsonRoute(APIRoute):
    """A route whose endpoint is called as `endpoint(body, request)` and returns a response.

    FastAPI itself would parse a body on the event loop, then check it, and check each answer.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        if self.body_field is None:
            return super().get_route_handler()
        kind_of_body: Any = self.body_field.field_info.annotation
        parser: TypeAdapter[Any] = TypeAdapter(kind_of_body)
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                # A page of the web can make a browser send other kinds, and not this one.
                text = f"send the body as content-type: application/json, not {kind or 'without'}"
                raise ApiError(415, text)
            raw = await request.body()
            if service_of(request).settings.log_prompts:
                request.scope[PROMPT] = raw[:_MOST_LOGGED].decode(errors="replace")
            body = await aside(request, parser.validate_json, raw)
            response: Response = await endpoint(body, request)
            return response

        return handle


class Direct:
    """Middleware that calls the endpoint of a JSON route itself.

    FastAPI's own way to it, through its router and what stands around each route, takes as long as
    reading the row, asking the model and writing the answer together.
    """

    def __init__(
        self,
        app: ASGIApp,
        routers: Sequence[APIRouter],
        told: Callable[[Exception], ApiError | None],
    ):
        """`routers` have the routes; `told` makes an answer of what they raise."""
        self._app, self._told = app, told
        self._handlers = {
            (method, route.path): route.get_route_handler()
            for router in routers
            for route in router.routes
            if isinstance(route, JsonRoute) and route.body_field is not None
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        handle = None
        if scope["type"] == "http":
            handle = self._handlers.get((scope["method"], scope["path"]))
        if handle is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await handle(Request(scope, receive))
        except Exception as error:
            found = self._told(error)
            if found is None:
                raise
            response = found.response()
        await response(scope, receive, send)


def to_json(value: Any) -> bytes:
    """JSON of an answer."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def with_notes(notes: Sequence[str]) -> dict[str, str]:
    """The header that tells what reading changed, for answers whose form has no place for it."""
    # In ASCII, as headers are; a name of an unknown token may have any letter.
    return {"X-Notes": json.dumps("; ".join(notes))[1:-1][:_MOST_NOTED]} if notes else {}


def answer(value: Any, headers: dict[str, str] | None = None) -> Response:
    """An answer as JSON."""
    return Response(to_json(value), media_type="application/json", headers=headers)
