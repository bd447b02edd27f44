"""The app: every endpoint behind the middleware, for any server of ASGI apps.

app = create_app(served, settings, "best_model", token)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from fastapi.routing import APIRoute

from smallgpt.distribution import VERSION
from smallgpt.engines.trained import TrainedModel
from smallgpt.options.serve import ServeSettings
from smallgpt.serving import (
    chat,
    completions,
    decisions,
    health,
    hugging_face,
    models,
    predict,
    score,
    systemone,
)
from smallgpt.serving.access import Access
from smallgpt.serving.errors import MAY_FAIL, add_error_answers, as_api_error
from smallgpt.serving.json_route import Direct
from smallgpt.serving.life import Life
from smallgpt.serving.limits import Limits
from smallgpt.serving.metrics import Metrics
from smallgpt.serving.observed import Observed
from smallgpt.serving.page import add_page
from smallgpt.serving.served import ServedModel
from smallgpt.serving.service import Service

_FAMILIES = (
    predict, decisions, systemone, completions, chat, score, hugging_face, models, health,
)  # fmt: skip


def model_name(trained: TrainedModel) -> str:
    """The name of a model in requests and answers: that of its folder, or on the hub."""
    return trained.hub_name or Path(trained.folder).resolve().name


def create_app(
    served: ServedModel, settings: ServeSettings, name: str, token: str | None
) -> FastAPI:
    """The app that serves a model, which it starts and stops.

    Args:
        name: of the model.
        token: of `settings.secret()`.
    """
    life = Life(settings.grace_seconds)
    metrics = Metrics(served, life, name)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(served.start)
        with life.hearing_signals():
            yield
        await asyncio.to_thread(served.stop)

    app = FastAPI(
        title="smallgpt",
        version=VERSION,
        description=f"The model {name}: labels of rows, and continuations. Errors are "
        '`{"error": {"message", "type", "param"}}`.',
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # they could tell bodies
    )
    app.state.service = Service(served, settings, life, metrics, name)
    for family in _FAMILIES:
        app.include_router(family.router, responses=MAY_FAIL)
    add_error_answers(app, str(served.trained.folder), name)
    # The last is the outermost.
    app.add_middleware(
        Direct,
        routers=[family.router for family in _FAMILIES],
        told=partial(as_api_error, folder=str(served.trained.folder), name=name),
    )
    app.add_middleware(
        Limits,
        life=life,
        max_body=settings.max_body,
        client_seconds=settings.client_seconds,
        seconds=settings.request_seconds,
    )
    routes = [route for family in _FAMILIES for route in family.router.routes]
    paths = {route.path for route in routes if isinstance(route, APIRoute)}
    open_paths = add_page(app, served.trained, wants_token=token is not None)
    app.add_middleware(Access, token=token, anyone=settings.no_token, open_paths=open_paths)
    app.add_middleware(Observed, metrics=metrics, paths=paths, log_prompts=settings.log_prompts)
    return app
