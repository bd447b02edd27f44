"""POST /v1/decisions, as OpenAI's clients send it: questions that the labels answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from smallgpt.serving.choices import check_question, choose
from smallgpt.serving.errors import ApiError
from smallgpt.serving.json_route import Body, JsonRoute, answer, with_notes
from smallgpt.serving.served import RowsRead
from smallgpt.serving.service import aside, service_of

router = APIRouter(route_class=JsonRoute, tags=["labels"])

INSTRUCTIONS = "Not used: what a label means stood in the training rows, and no words change it."


class DecisionOption(BaseModel):
    """An answer that a question allows."""

    value: str | bool = Field(description="A label of the model.")
    description: str | None = Field(None, description="Not used.")


class DecisionQuestion(Body):
    """A question; a model like this answers choices among its labels, and no other."""

    type: str = Field(description="choice", examples=["choice"])
    choices: list[DecisionOption] = Field([], max_length=10_000)
    instructions: str | list[Any] | None = Field(None, description=INSTRUCTIONS)
    levels: list[Any] | None = Field(None, description="Of questions that have no answer here.")
    name: str | None = Field(None, description="Comes back with the answer.")


class DecisionRequest(Body):
    """Questions about one input."""

    input: str | list[Any] = Field(
        description="A row: tokens parted by spaces, or a text. Or a list of one message of the "
        "user that holds it."
    )
    model: str | None = Field(None, description="The name that /v1/models tells; may be missing.")
    questions: Annotated[list[DecisionQuestion], Field(min_length=1, max_length=400)]
    prompt_cache_key: str | None = Field(None, description="Not used.")
    prompt_cache_options: dict[str, Any] | None = Field(None, description="Not used.")
    safety_identifier: str | None = Field(None, description="Not used.")


class DecisionShare(BaseModel):
    """The share of an option."""

    value: str
    probability: float


class DecisionAnswer(BaseModel):
    """The answer to a question."""

    type: Literal["choice"]
    name: str | None
    choice: str
    confidence: float = Field(description="(N p - 1) / (N - 1) for N options: 0 is a guess.")
    probabilities: list[DecisionShare]


class DecisionUsage(BaseModel):
    """Counts of tokens."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class Decision(BaseModel):
    """The answers, in the order of the questions."""

    answers: list[DecisionAnswer]
    model: str
    usage: DecisionUsage


@router.post("/v1/decisions", response_model=Decision)
async def decide(body: DecisionRequest, request: Request) -> Response:
    """Answer questions by the labels of the model, with calibrated shares."""
    service = service_of(request)
    service.check_model(body.model)
    service.check_labels()
    offered = []
    for index, question in enumerate(body.questions):
        where = f"questions.{index}"
        # True is no label, also where a label is spelled True.
        options = [
            str(each.value)
            if each.value is not True and each.value is not False
            else f"{each.value!r} (a boolean)"
            for each in question.choices
        ]
        check_question(service, question.type, options, where)
        offered.append(options)
    rows: RowsRead = await aside(request, service.served.rows_to_label, _text_of(body.input))
    (told,) = await service.served.label(rows)
    service.metrics.rows.inc()
    answers = []
    for index, (question, options) in enumerate(zip(body.questions, offered, strict=True)):
        choice = choose(told, options, f"questions.{index}")
        shares = [{"value": name, "probability": p} for name, p in choice.shares.items()]
        answers.append(
            {
                "type": "choice",
                "name": question.name,
                "choice": choice.option,
                "confidence": choice.confidence,
                "probabilities": shares,
            }
        )
    tokens = int(rows.dataset.lengths_N.sum())
    told_back = {"answers": answers, "model": service.name, "usage": _usage(tokens)}
    return answer(told_back, with_notes(rows.notes))


def _text_of(given: str | list[Any]) -> str:
    """The text of an input.

    Raises:
        ApiError: it is not one text of the user.
    """
    if isinstance(given, str):
        return given
    message = given[0] if len(given) == 1 else None
    if isinstance(message, dict) and message.get("role") == "user":
        content = message.get("content")
        if isinstance(content, str):
            return content
        texts = [_text_of_part(part) for part in content] if isinstance(content, list) else [None]
        if None not in texts:
            return "".join(map(str, texts))
    text = (
        "the input of this model is one text: a string, or one message of the role user with "
        "parts of the type input_text; images, JSON and tools are not read"
    )
    raise ApiError(422, text, "input")


def _text_of_part(part: Any) -> str | None:
    if isinstance(part, dict) and part.get("type") == "input_text":
        text = part.get("text")
        return text if isinstance(text, str) else None
    return None


def _usage(tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }
