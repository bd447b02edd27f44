"""POST /, as `huggingface_hub.InferenceClient(model=ADDRESS)` sends it.

Text classification, and text generation in the form of TGI, Hugging Face's own server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from smallgpt.inference.prompts import row_text, token_text
from smallgpt.options.common import LARGEST_SEED
from smallgpt.serving.continuation import Piece, TokenShare
from smallgpt.serving.errors import ApiError
from smallgpt.serving.event_stream import EventStream
from smallgpt.serving.generation import Grown, begun, grow, pieces_of
from smallgpt.serving.json_route import Body, JsonRoute, answer, with_notes
from smallgpt.serving.sampling_fields import MOST_SHARES, new_tokens
from smallgpt.serving.served import RowsRead, Wish
from smallgpt.serving.service import Service, aside, service_of

router = APIRouter(route_class=JsonRoute, tags=["generation", "labels"])

# Parameters that classification has; with any other a model with labels generates.
_OF_LABELS = {"top_k", "function_to_apply"}
_NOT_HERE = (
    "adapter_id", "best_of", "decoder_input_details", "frequency_penalty", "grammar",
    "repetition_penalty", "truncate", "typical_p", "watermark",
)  # fmt: skip


class Parameters(BaseModel):
    """How to answer; `top_k` also counts labels."""

    model_config = ConfigDict(extra="allow")

    top_k: int | None = Field(None, ge=0, le=10**9)
    function_to_apply: str | None = Field(None, description="Of labels: softmax.")
    max_new_tokens: int | None = Field(None, ge=1, le=10**9)
    do_sample: bool | None = Field(
        None, description="Without it, and without another of sampling: the likeliest tokens."
    )
    temperature: float | None = Field(None, gt=0, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED)
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    top_n_tokens: int | None = Field(None, ge=0, le=MOST_SHARES)


class HuggingFaceRequest(Body):
    """A text, or rows of tokens, and what is to be done with them."""

    inputs: str | Annotated[list[str], Field(min_length=1)]
    parameters: Parameters | None = None
    stream: bool | None = Field(None, description="A model with labels generates where it is set.")
    options: dict[str, Any] | None = Field(None, description="Not used.")


class LabelShare(BaseModel):
    """A label with its share."""

    label: str
    score: float


class GeneratedText(BaseModel):
    """A continuation."""

    generated_text: str
    details: dict[str, Any] | None = None


@router.post("/", response_model=list[list[LabelShare]] | list[GeneratedText] | GeneratedText)
async def ask(body: HuggingFaceRequest, request: Request) -> Response | EventStream:
    """Name the labels of texts, or continue a text."""
    service = service_of(request)
    given = body.parameters or Parameters.model_validate({})
    named = {name for name, value in given if value is not None} - _OF_LABELS
    if service.served.names_labels and not named and body.stream is None:
        return await _classify(service, body, given, request)
    service.check_goes_on()
    _refuse_unknown(given)
    if not isinstance(body.inputs, str):
        raise ApiError(422, "a continuation is of one text: send inputs as a string", "inputs")
    prompt: list[int] | None = await aside(request, service.read_prompt, body.inputs)
    sampled = (given.do_sample, given.temperature, given.top_k, given.top_p)
    wish = Wish(
        prompt,
        max_new_tokens=new_tokens(service, given.max_new_tokens),
        greedy=not any(sampled),
        temperature=given.temperature or 1.0,
        top_k=50 if given.top_k is None else given.top_k,
        top_p=given.top_p or 1.0,
        seed=given.seed,
        stop=tuple(given.stop or ()),
        shares=given.top_n_tokens or 0,
    )
    head = body.inputs if given.return_full_text else ""
    if body.stream:
        pieces = await begun(pieces_of(service, [wish]))
        return EventStream(_events(service, wish, given, head, pieces), done=b"")
    (grown,) = await grow(service, [wish])
    told: dict[str, Any] = {"generated_text": head + grown.text}
    if given.details:
        told["details"] = {
            "finish_reason": _reason(service, wish, grown),
            "generated_tokens": len(grown.ids),
            "seed": wish.seed,
            "prefill": [],
            "tokens": [_token(service, each) for each in grown.chosen],
            **_top_tokens(service, given, grown.likeliest),
        }
    return answer([told])


async def _classify(
    service: Service, body: HuggingFaceRequest, given: Parameters, request: Request
) -> Response:
    """The labels of each text, the likeliest first."""
    if given.function_to_apply not in (None, "softmax"):
        text = "the scores of this model are shares of a softmax"
        raise ApiError(422, text, "parameters.function_to_apply")
    rows: RowsRead = await aside(request, service.served.rows_to_label, body.inputs)
    service.check_rows(rows)
    labels = await service.served.label(rows)
    service.metrics.rows.inc(len(labels))
    told = [
        [{"label": name, "score": p} for name, p in [*each["probabilities"].items()][: given.top_k]]
        for each in labels
    ]
    return answer(told, with_notes(rows.notes))


def _refuse_unknown(given: Parameters) -> None:
    """Refuse what has no effect here, rather than let it have none.

    Raises:
        ApiError
    """
    for name, value in (given.model_extra or {}).items():
        if value not in (None, False) and (name, value) != ("best_of", 1):
            known = "is not done here" if name in _NOT_HERE else "is not known"
            raise ApiError(422, f"parameters.{name} {known}", f"parameters.{name}")


async def _events(
    service: Service, wish: Wish, given: Parameters, head: str, pieces: AsyncGenerator[Piece]
) -> AsyncGenerator[list[Any]]:
    """An event a token; those of a piece come together."""
    whole = Grown(head)
    async with aclosing(pieces):
        async for piece in pieces:
            first = len(whole.ids)
            whole.add(piece)
            events = []
            texts = _texts_of(service, piece)
            # Tokens that a model began with by itself have no share.
            shares = [None] * (len(piece.ids) - len(piece.chosen)) + piece.chosen
            for place, (index, text, share) in enumerate(
                zip(piece.ids, texts, shares, strict=True)
            ):
                event: dict[str, Any] = {
                    "index": first + place + 1,
                    "token": {
                        "id": index,
                        "text": text,
                        "logprob": share.logprob if share is not None else 0.0,
                        "special": index in service.served.trained.vocabulary.special_ids,
                    },
                    "generated_text": None,
                    "details": None,
                }
                if given.top_n_tokens and share is not None:
                    at = place - (len(piece.ids) - len(piece.chosen))
                    event |= _top_tokens(service, given, piece.likeliest[at : at + 1])
                events.append(event)
            if piece.finish_reason is not None:
                if not events:  # the end came alone
                    events.append(_nothing(service, first))
                events[-1]["generated_text"] = whole.text
                events[-1]["details"] = {
                    "finish_reason": _reason(service, wish, whole),
                    "generated_tokens": len(whole.ids),
                    "input_length": len(wish.prompt or ()),
                    "seed": wish.seed,
                }
            yield events


def _nothing(service: Service, index: int) -> dict[str, Any]:
    """An event without a token of its own, for what has to be told at the end."""
    end = service.served.trained.vocabulary.stop_ids
    token = {"id": min(end, default=0), "text": "", "logprob": 0.0, "special": True}
    return {"index": index, "token": token, "generated_text": None, "details": None}


def _texts_of(service: Service, piece: Piece) -> list[str]:
    """The text of a piece, dealt out to its tokens; a client joins them.

    Where tokens are no parts of it one by one, such as halves of a character, the last has it.
    """
    trained = service.served.trained
    parts = [token_text(trained, index) for index in piece.ids]
    if trained.vocabulary.tokenizer is None:
        parts = [f" {part}" for part in parts]
    if not parts or "".join(parts) == piece.text:
        return parts
    return [""] * (len(parts) - 1) + [piece.text]


def _reason(service: Service, wish: Wish, grown: Grown) -> str:
    if grown.finish_reason == "length":
        return "length"
    text = row_text(service.served.trained, grown.ids)
    return "stop_sequence" if any(stop in text for stop in wish.stop) else "eos_token"


def _token(service: Service, share: TokenShare) -> dict[str, Any]:
    vocabulary = service.served.trained.vocabulary
    return {
        "id": share.id,
        "text": share.text if vocabulary.tokenizer is not None else f" {share.text}",
        "logprob": share.logprob,
        "special": share.id in vocabulary.special_ids,
    }


def _top_tokens(
    service: Service, given: Parameters, likeliest: list[list[TokenShare]]
) -> dict[str, Any]:
    if not given.top_n_tokens:
        return {}
    told = [[_token(service, share) for share in place] for place in likeliest]
    return {"top_tokens": told}
