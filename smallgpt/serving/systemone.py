"""POST /v1/systemone, as `transformers serve` has it: questions that the labels answer."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from smallgpt.serving.choices import check_question, choose
from smallgpt.serving.decisions import INSTRUCTIONS
from smallgpt.serving.json_route import Body, JsonRoute, answer, with_notes
from smallgpt.serving.served import RowsRead
from smallgpt.serving.service import Service, aside, service_of

router = APIRouter(route_class=JsonRoute, tags=["labels"])


class SystemOneQuestion(Body):
    """A question; a model like this answers choices among its labels, and no other."""

    type: str = Field(description="choice", examples=["choice"])
    criteria: dict[str, Any] | list[Any] | None = Field(
        None, description="The options, labels of the model; what they are mapped to is not used."
    )
    instructions: Any = Field(None, description=INSTRUCTIONS)


class SystemOneRequest(Body):
    """Questions about one state."""

    state: str | dict[str, Any] | list[Any] = Field(
        description="A row: tokens parted by spaces or as a list, or a text. Of a model of texts "
        "anything else is read as JSON, as transformers does."
    )
    questions: Annotated[dict[str, SystemOneQuestion], Field(min_length=1, max_length=64)]
    model: str | None = Field(None, description="The name that /v1/models tells; may be missing.")
    assets: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(
        None, description="Pictures, which are not read here."
    )


class SystemOneAnswer(BaseModel):
    """The answer to a question."""

    type: Literal["choice"]
    choice: str
    confidence: float = Field(description="(N p - 1) / (N - 1) for N options: 0 is a guess.")
    probabilities: dict[str, float]


class SystemOneUsage(BaseModel):
    """Counts of tokens."""

    input_tokens: int
    output_tokens: int


class SystemOneAnswers(BaseModel):
    """The answers by the names of the questions."""

    model: str
    answers: dict[str, SystemOneAnswer]
    usage: SystemOneUsage


@router.post("/v1/systemone", response_model=SystemOneAnswers)
async def system_one(body: SystemOneRequest, request: Request) -> Response:
    """Answer questions by the labels of the model, with calibrated shares."""
    service = service_of(request)
    service.check_model(body.model)
    service.check_labels()
    offered = {}
    for name, question in body.questions.items():
        offered[name] = list(question.criteria) if isinstance(question.criteria, dict) else []
        check_question(service, question.type, offered[name], f"questions.{name}")
    rows: RowsRead = await aside(request, service.served.rows_to_label, _row(service, body.state))
    (told,) = await service.served.label(rows)
    service.metrics.rows.inc()
    answers = {}
    for name, options in offered.items():
        choice = choose(told, options, f"questions.{name}")
        answers[name] = {
            "type": "choice",
            "choice": choice.option,
            "confidence": choice.confidence,
            "probabilities": choice.shares,
        }
    tokens = int(rows.dataset.lengths_N.sum())
    usage = {"input_tokens": tokens, "output_tokens": 0}
    return answer(
        {"model": service.name, "answers": answers, "usage": usage}, with_notes(rows.notes)
    )


def _row(service: Service, state: str | dict[str, Any] | list[Any]) -> Any:
    """The row that a state is, by the rules of the template of an export for the hub."""
    if isinstance(state, str):
        return state
    if service.served.trained.vocabulary.tokenizer is not None:
        return json.dumps(state, ensure_ascii=False)
    if isinstance(state, list) and state and all(isinstance(each, str) for each in state):
        return {"tokens": state}
    return state
