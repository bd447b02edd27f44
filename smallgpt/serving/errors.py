"""Errors as they are answered: `{"error": {"message": ..., "type": ..., "param": ...}}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from smallgpt.errors import UserError
from smallgpt.inference.unknown_tokens import UNK_REMEDY
from smallgpt.inference.well_formed import FREE_REMEDY
from smallgpt.serving.growth import EngineFailedError
from smallgpt.serving.turns import QueueFullError

INVALID = "invalid_request_error"
SHORT_WAIT = {"Retry-After": "1"}
CLOSE = {"Connection": "close"}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}
_STATES = {
    400: "The request is not what HTTP or JSON allow.",
    401: "No token, or a wrong one.",
    404: "No such model or path.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not sent as JSON.",
    422: "The request is understood, and cannot be met as it is.",
    429: "Too many requests wait already.",
    500: "The model failed; the request may be tried again.",
    503: "The server is about to end.",
    504: "The answer took too long.",
}


class ErrorFacts(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None


class ErrorAnswer(BaseModel):
    """The answer to a request that failed."""

    error: ErrorFacts


# What any endpoint may answer, for the OpenAPI document.
MAY_FAIL: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _STATES.items()
}


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        param: the field of the request that it is about.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The answer."""
        kind = _TYPES.get(self.status, INVALID)
        return {"error": {"message": self.message, "type": kind, "param": self.param}}

    def response(self) -> Response:
        """The answer with its status."""
        return JSONResponse(self.body(), self.status, self.headers)


def as_api_error(error: Exception, folder: str = "", name: str = "") -> ApiError | None:
    """What a failure is told as, None for one that is a bug.

    A path of the server's disk, `folder`, is told as the name of the model.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, "too many requests wait already: try again soon", headers=SHORT_WAIT)
    if isinstance(error, EngineFailedError):
        return ApiError(500, "the model failed at this request; it may be tried again")
    if isinstance(error, UserError):
        text = str(error)
        for remedy in (UNK_REMEDY, FREE_REMEDY):  # of who started the server, not of who asks it
            text = text.replace(f"; {remedy}", "")
        return ApiError(422, text.replace(folder, name) if folder else text)
    if isinstance(error, ValidationError):
        return of_validation(error.errors(include_url=False, include_input=False))
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=error.headers)
    return None


def of_validation(found: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of what pydantic found wrong in a body."""
    first = found[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']}")
    param = ".".join(str(part) for part in first["loc"]) or None
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    told = first["msg"] if param is None else f"{param}: {first['msg']}"
    if first["type"] == "extra_forbidden":
        told = f"{param}: there is no such field here"
    return ApiError(422, f"{told}{more}", param)


def add_error_answers(app: FastAPI, folder: str, name: str) -> None:
    """Answer every known failure of an endpoint in this form."""

    async def answer(request: Request, error: Exception) -> Response:
        told = as_api_error(error, folder, name)
        assert told is not None  # it is asked for these kinds alone
        if told.status == 404 and isinstance(error, HTTPException):  # no route
            told.message = f"there is no {request.url.path} here: /docs lists what there is"
        elif told.status == 405:
            allowed = told.headers.get("Allow", "another method")
            told.message = f"{request.url.path} answers {allowed}, not {request.method}"
        return told.response()

    ours = (ApiError, QueueFullError, EngineFailedError, UserError)
    for kind in (*ours, ValidationError, HTTPException):
        app.add_exception_handler(kind, answer)
