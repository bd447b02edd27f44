"""GET /v1/models: the name of the model, as OpenAI's clients ask for it."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from smallgpt.serving.json_route import answer
from smallgpt.serving.service import Service, service_of

router = APIRouter(tags=["server"])


class ModelFacts(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models: one."""

    object: Literal["list"]
    data: list[ModelFacts]


@router.get("/v1/models", response_model=ModelList)
async def models(request: Request) -> Response:
    """The model that is served."""
    return answer({"object": "list", "data": [_facts(service_of(request))]})


@router.get("/v1/models/{name:path}", response_model=ModelFacts)
async def model(name: str, request: Request) -> Response:
    """The model of this name."""
    service = service_of(request)
    service.check_model(name)
    return answer(_facts(service))


def _facts(service: Service) -> dict[str, Any]:
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "smallgpt",
    }
