"""POST /v1/chat/completions of models of instructions, as OpenAI's clients send it."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from smallgpt.serving.continuation import Piece, TokenShare
from smallgpt.serving.errors import ApiError
from smallgpt.serving.event_stream import EventStream
from smallgpt.serving.generation import begun, grow, pieces_of
from smallgpt.serving.json_route import JsonRoute, answer
from smallgpt.serving.sampling_fields import MOST_SHARES, Sampled, Usage, usage
from smallgpt.serving.service import aside, service_of

router = APIRouter(route_class=JsonRoute, tags=["generation"])


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message."""

    role: str = Field(description="user; such a model learned no other.")
    content: str | list[TextPart]
    name: str | None = Field(None, description="Not used.")


class ChatRequest(Sampled):
    """An instruction to be answered."""

    messages: Annotated[list[Message], Field(min_length=1)] = Field(
        description="One message of the user, the instruction."
    )
    max_tokens: int | None = Field(None, ge=1, le=10**9, description="Default: as it ends.")
    max_completion_tokens: int | None = Field(
        None, ge=1, le=10**9, description="The newer name of max_tokens."
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(
        None, ge=0, le=MOST_SHARES, description="Tell so many of the likeliest at each place."
    )


class ChatMessage(BaseModel):
    """An answer."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """One answer of several."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"] | None
    logprobs: dict[str, Any] | None


class ChatCompletion(BaseModel):
    """The answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


@router.post("/v1/chat/completions", response_model=ChatCompletion)
async def chat(body: ChatRequest, request: Request) -> Response | EventStream:
    """Answer an instruction, `n` times."""
    service = service_of(request)
    service.check_model(body.model)
    service.check_goes_on()
    if not service.served.trained.is_instructed:
        text = "this model learned no instructions: /v1/completions continues prompts"
        raise ApiError(422, text)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(422, "top_logprobs needs logprobs: true", "top_logprobs")
    service.check_continuations(1, body.n)
    ids: list[int] | None = await aside(request, service.read_prompt, _instruction(body.messages))
    shares = (body.top_logprobs or 0) if body.logprobs else None
    most = body.max_completion_tokens or body.max_tokens
    wishes = [body.wish(service, ids, 0, most, shares)]
    facts = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": service.name,
    }
    counted = len(ids or ())
    if body.stream:
        facts["object"] = "chat.completion.chunk"
        pieces = await begun(pieces_of(service, wishes))
        return EventStream(_events(body, facts, pieces, counted))
    grown = await grow(service, wishes)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": each.text},
            "finish_reason": each.finish_reason,
            "logprobs": _logprobs(body, each.chosen, each.likeliest),
        }
        for index, each in enumerate(grown)
    ]
    facts["object"] = "chat.completion"
    new = sum(len(each.ids) for each in grown)
    return answer({**facts, "choices": choices, "usage": usage(counted, new)})


def _instruction(messages: list[Message]) -> str:
    """The text of the one message.

    Raises:
        ApiError: several messages, or not one of the user.
    """
    if len(messages) > 1 or messages[0].role != "user":
        text = (
            "this model learned to answer one instruction, and no conversations or system "
            "messages: send one message of the role user"
        )
        raise ApiError(422, text, "messages")
    content = messages[0].content
    return content if isinstance(content, str) else "".join(part.text for part in content)


async def _events(
    body: ChatRequest, facts: dict[str, Any], pieces: AsyncGenerator[Piece], counted: int
) -> AsyncGenerator[list[Any]]:
    """The events of a stream."""
    begun: set[int] = set()
    new = 0
    async with aclosing(pieces):
        async for piece in pieces:
            delta = {"content": piece.text}
            if piece.index not in begun:
                begun.add(piece.index)
                delta["role"] = "assistant"
            new += len(piece.ids)
            choice = {
                "index": piece.index,
                "delta": delta,
                "finish_reason": piece.finish_reason,
                "logprobs": _logprobs(body, piece.chosen, piece.likeliest),
            }
            yield [{**facts, "choices": [choice]}]
    if body.tells_usage:
        yield [{**facts, "choices": [], "usage": usage(counted, new)}]


def _logprobs(
    body: ChatRequest, chosen: list[TokenShare], likeliest: list[list[TokenShare]]
) -> dict[str, Any] | None:
    if not body.logprobs:
        return None
    content = [
        {**_token(token), "top_logprobs": [_token(each) for each in place]}
        for token, place in zip(chosen, likeliest, strict=True)
    ]
    return {"content": content, "refusal": None}


def _token(token: TokenShare) -> dict[str, Any]:
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.text.encode(errors="replace")),
    }
