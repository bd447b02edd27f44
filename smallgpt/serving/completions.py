"""POST /v1/completions, as OpenAI's clients send it."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from smallgpt.inference.prompts import row_text
from smallgpt.serving.continuation import Piece
from smallgpt.serving.errors import ApiError
from smallgpt.serving.event_stream import EventStream
from smallgpt.serving.generation import Grown, begun, grow, pieces_of
from smallgpt.serving.json_route import JsonRoute, answer
from smallgpt.serving.sampling_fields import MOST_SHARES, Sampled, Usage, usage
from smallgpt.serving.service import Service, aside, service_of

router = APIRouter(route_class=JsonRoute, tags=["generation"])

_Ids = Annotated[list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=1)]


class CompletionRequest(Sampled):
    """A prompt to be continued."""

    prompt: (
        str
        | _Ids
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[_Ids], Field(min_length=1)]
        | None
    ) = Field(
        None,
        description="Tokens parted by spaces, or a text; or ids; or a list of either. Without it "
        "rows begin as those of training did.",
        examples=["<IMG> <Z_190>"],
    )
    max_tokens: int | None = Field(
        None, ge=1, le=10**9, description="Default: to the end of the row."
    )
    logprobs: int | None = Field(
        None, ge=0, le=MOST_SHARES, description="Tell so many of the likeliest at each place."
    )
    echo: bool = Field(False, description="The text begins with the prompt.")
    best_of: Literal[1] | None = Field(None, description="There is no other choice than 1.")
    suffix: None = Field(None, description="There is none.")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = Field(
        None, description="There is none."
    )


class Logprobs(BaseModel):
    """Tokens with the logarithms of their probabilities."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """A continuation."""

    index: int
    text: str
    token_ids: list[int] = Field(description="Not OpenAI's: the new tokens by their ids.")
    finish_reason: Literal["stop", "length"] | None
    logprobs: Logprobs | None


class Completion(BaseModel):
    """The continuations; of a stream each event is one, with what came since."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


@router.post("/v1/completions", response_model=Completion)
async def complete(body: CompletionRequest, request: Request) -> Response | EventStream:
    """Continue prompts, each `n` times."""
    service = service_of(request)
    service.check_model(body.model)
    service.check_goes_on()
    if body.echo and body.logprobs is not None:
        text = "the prompt has no logprobs here: /v1/score tells those of whole rows"
        raise ApiError(422, text, "echo")
    given = _prompts(body.prompt)
    service.check_continuations(len(given), body.n)
    prompts: list[list[int] | None] = await aside(request, _read, service, given)
    wishes = [
        body.wish(service, ids, index, body.max_tokens, body.logprobs)
        for index, ids in enumerate(prompts)
    ]
    heads = [""] * len(given)
    if body.echo:
        heads = [_head(service, each) for each in given]
    counted = sum(len(ids or ()) for ids in prompts)
    facts = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.name,
    }
    if body.stream:
        pieces = await begun(pieces_of(service, wishes))
        return EventStream(_events(body, facts, pieces, heads, counted))
    grown = await grow(service, wishes)
    choices = [
        _choice(body, index, heads[index // body.n], each, 0) for index, each in enumerate(grown)
    ]
    new = sum(len(each.ids) for each in grown)
    return answer({**facts, "choices": choices, "usage": usage(counted, new)})


def _prompts(prompt: Any) -> Sequence[str | list[int]]:
    """The prompts, one or many."""
    if prompt is None:
        return [""]
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return prompt


def _read(service: Service, given: Sequence[str | list[int]]) -> list[list[int] | None]:
    return [service.read_prompt(each) for each in given]


def _head(service: Service, given: str | list[int]) -> str:
    """A prompt as text."""
    return given if isinstance(given, str) else row_text(service.served.trained, given)


async def _events(
    body: CompletionRequest,
    facts: dict[str, Any],
    pieces: AsyncGenerator[Piece],
    heads: list[str],
    counted: int,
) -> AsyncGenerator[list[Any]]:
    """The events of a stream; the first of each continuation begins with the prompt to echo."""
    told: dict[int, int] = {}  # characters of each continuation
    new = 0
    async with aclosing(pieces):
        async for piece in pieces:
            index = piece.index
            head = heads[index // body.n] if index not in told else ""
            offset = told.get(index, 0)
            told[index] = offset + len(head) + len(piece.text)
            new += len(piece.ids)
            yield [{**facts, "choices": [_choice(body, index, head, piece, offset)]}]
    if body.tells_usage:
        yield [{**facts, "choices": [], "usage": usage(counted, new)}]


def _choice(
    body: CompletionRequest, index: int, head: str, part: Grown | Piece, offset: int
) -> dict[str, Any]:
    """What a continuation got, the whole or a part of it."""
    logprobs = None
    if body.logprobs is not None:
        logprobs = _logprobs(part, offset + len(head))
    return {
        "index": index,
        "text": head + part.text,
        "token_ids": part.ids,
        "finish_reason": part.finish_reason,
        "logprobs": logprobs,
    }


def _logprobs(part: Grown | Piece, offset: int) -> dict[str, Any]:
    offsets, place = [], 0
    for token in part.chosen:
        place = max(place, part.text.find(token.text, place))
        offsets.append(offset + place)
        place += len(token.text)
    return {
        "tokens": [token.text for token in part.chosen],
        "token_logprobs": [token.logprob for token in part.chosen],
        "top_logprobs": [{each.text: each.logprob for each in at} for at in part.likeliest],
        "text_offset": offsets,
    }
