"""GET /: the page of the web export, computed by this server.

The page's own files are open to all and say nothing of the model. They are read at the start; no
path of a request is ever opened.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import threading
from collections.abc import Callable
from functools import cached_property
from math import prod
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from smallgpt.engines.graph_engine import read_facts
from smallgpt.engines.trained import TrainedModel, is_export
from smallgpt.errors import UserError
from smallgpt.export.web_facts import PAGE, centers_of, page_facts, whole_codebook
from smallgpt.inference.prompts import token_text
from smallgpt.model.place import is_adapter_folder
from smallgpt.model.weights_file import WEIGHTS, read_header
from smallgpt.serving.errors import ApiError
from smallgpt.serving.json_route import Body, JsonRoute, answer
from smallgpt.serving.service import aside

_HEAD = '<html lang="en">'
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; worker-src 'self'; "
    "connect-src 'self'; style-src 'self'; img-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_ASK_EACH_TIME = {"Cache-Control": "no-cache"}  # whether it has changed
_KEEP_NOWHERE = {"Cache-Control": "no-store"}


class TextToRead(Body):
    """A text whose ids are asked for."""

    text: str


class IdsToWrite(Body):
    """Ids whose text is asked for."""

    ids: list[int]


def add_page(app: FastAPI, trained: TrainedModel, wants_token: bool) -> frozenset[str]:
    """Let an app serve the page.

    Args:
        wants_token: the server has a token, for which the page asks.

    Returns:
        The paths that whoever has no token may read.
    """
    files = _page_files("token" if wants_token else "open")
    for path, (content, kind) in files.items():
        _add_file(app, path, content, kind)
    facts = _ModelOfPage(trained)
    _add_made(app, "/model/page.json", lambda: facts.page, "application/json")
    _add_made(app, "/model/tokens.json", lambda: facts.tokens, "application/json")
    codebook = whole_codebook(trained)
    if codebook is not None:
        centers = centers_of(codebook)
        _add_made(app, "/model/codebook.bin", lambda: centers, "application/octet-stream")
    if trained.vocabulary.tokenizer is not None:
        app.include_router(_tokenizer_router(trained))
    return frozenset(files)


# ------------------------------------------------------------------------------- the page itself


def _page_files(access: str) -> dict[str, tuple[bytes, str]]:
    """Content and type of each file, by its path."""
    html = (PAGE / "index.html").read_text("utf-8")
    assert _HEAD in html
    html = html.replace(_HEAD, f'<html lang="en" data-server="{access}">')
    files = {"/": (html.encode(), "text/html; charset=utf-8")}
    for path in sorted((PAGE / "page").iterdir()):
        kind = mimetypes.types_map[path.suffix] if path.suffix != ".js" else "text/javascript"
        kind += "; charset=utf-8" if kind.startswith("text/") else ""
        files[f"/page/{path.name}"] = (path.read_bytes(), kind)
    return files


def _add_file(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    """A file that never changes while the server runs."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {**_SECURITY, **_ASK_EACH_TIME, "ETag": tag}

    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)

    app.add_api_route(path, send, methods=["GET", "HEAD"], include_in_schema=False)


# ------------------------------------------------------------------------------- the model


class _ModelOfPage:
    """What the page has to know of the model, made when it is asked for the first time."""

    def __init__(self, trained: TrainedModel):
        self._trained = trained
        self._lock = threading.Lock()

    @property
    def page(self) -> bytes:
        """page.json; of images it reads the validation rows."""
        with self._lock:
            return self._page

    @cached_property
    def _page(self) -> bytes:
        return _json(page_facts(self._trained, _parameters_of(self._trained), by_server=True))

    @cached_property
    def tokens(self) -> bytes:
        """tokens.json: the text of each token, as /v1/completions tells it."""
        count = len(self._trained.vocabulary)
        return _json([token_text(self._trained, index) for index in range(count)])


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _parameters_of(trained: TrainedModel) -> int | None:
    """Parameters of a model whose weights need not be loaded; None where no file tells them."""
    if trained.engines.has_torch:
        from smallgpt.model.build import count_parameters

        return count_parameters(trained.model)
    try:
        if is_export(trained.folder):
            return read_facts(trained.folder).get("parameters")
        if is_adapter_folder(trained.folder):
            return None
        header, _, _ = read_header(trained.folder / WEIGHTS)
    except UserError:  # replaced meanwhile
        return None
    return sum(prod(each["shape"]) for name, each in header.items() if name != "__metadata__")


def _add_made(app: FastAPI, path: str, make: Callable[[], bytes], kind: str) -> None:
    """A file that is made when it is asked for, in a thread."""

    def send() -> Response:
        return Response(make(), headers=_KEEP_NOWHERE, media_type=kind)

    app.add_api_route(path, send, methods=["GET"], include_in_schema=False)


def _tokenizer_router(trained: TrainedModel) -> APIRouter:
    """Ids of a text and back, which a page of tokens finds without a server."""
    router = APIRouter(route_class=JsonRoute, include_in_schema=False)

    def ids_of(text: str) -> dict[str, Any]:
        tokenizer = trained.vocabulary.tokenizer
        assert tokenizer is not None
        try:
            unmarked, marked = tokenizer.encode(text, marked=False), tokenizer.encode(text)
        except ValueError as error:
            raise ApiError(422, str(error), "text") from None
        unknown = list(dict.fromkeys(tokenizer.unknown_letters(text, unmarked)))
        return {"unmarked": unmarked, "marked": marked, "unknown": unknown}

    def text_of(ids: list[int]) -> dict[str, str]:
        tokenizer = trained.vocabulary.tokenizer
        assert tokenizer is not None
        if not all(0 <= index < len(trained.vocabulary) for index in ids):
            raise ApiError(422, f"ids are from 0 to {len(trained.vocabulary) - 1}", "ids")
        return {"text": tokenizer.decode(ids)}

    @router.post("/model/ids")
    async def read(body: TextToRead, request: Request) -> Response:
        return answer(await aside(request, ids_of, body.text), _KEEP_NOWHERE)

    @router.post("/model/text")
    async def write(body: IdsToWrite, request: Request) -> Response:
        return answer(await aside(request, text_of, body.ids), _KEEP_NOWHERE)

    return router
