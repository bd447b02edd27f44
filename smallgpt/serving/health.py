"""GET /healthz, /readyz and /metrics: what probes and Prometheus ask."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from smallgpt.serving.errors import CLOSE, SHORT_WAIT, ApiError
from smallgpt.serving.json_route import answer
from smallgpt.serving.service import service_of

router = APIRouter(tags=["server"])


class Health(BaseModel):
    """The state of the server."""

    status: Literal["ok", "ready"]


@router.get("/healthz", response_model=Health)
async def healthz(request: Request) -> Response:
    """Whether the process answers and its model computes; else it is to be started again."""
    if not service_of(request).served.works:
        raise ApiError(503, "the model computes no more", headers=CLOSE)
    return answer({"status": "ok"})


@router.get("/readyz", response_model=Health)
async def readyz(request: Request) -> Response:
    """Whether it takes requests; else they are to be sent elsewhere."""
    service = service_of(request)
    if service.life.is_ending or not service.served.works:
        raise ApiError(503, "the server is about to end", headers={**SHORT_WAIT, **CLOSE})
    return answer({"status": "ready"})


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counts and times in the text format of Prometheus."""
    text = service_of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
