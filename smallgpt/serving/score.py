"""POST /v1/score: how likely given rows are, token by token; what an evaluation needs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from smallgpt.serving.json_route import Body, JsonRoute, answer
from smallgpt.serving.predict import Rows
from smallgpt.serving.served import RowsRead
from smallgpt.serving.service import aside, service_of

router = APIRouter(route_class=JsonRoute, tags=["labels"])


class ScoreRequest(Body):
    """Rows to be scored."""

    rows: Rows
    tokens: bool = Field(False, description="Tell each token with its negative log likelihood.")


class Scores(BaseModel):
    """What was found of each row, in their order."""

    scores: list[dict[str, Any]] = Field(
        description="As in predictions.jsonl of an evaluation: nll_sum, token_count, "
        "correct_tokens, body_nll_sum, body_token_count; with labels prediction, confidence, "
        "probabilities, label_nll; with `tokens` a list of {id, text, nll}."
    )
    notes: list[str] = Field([], description="What reading changed, such as rows that were cut.")


@router.post("/v1/score", response_model=Scores)
async def score(body: ScoreRequest, request: Request) -> Response:
    """The negative log likelihood of rows, in nats, with what else an evaluation stores."""
    service = service_of(request)
    rows: RowsRead = await aside(request, service.served.rows_to_score, body.rows)
    service.check_rows(rows)
    scores = await service.served.score(rows, body.tokens)
    service.metrics.rows.inc(len(scores))
    more = {"notes": rows.notes} if rows.notes else {}
    return answer({"scores": scores, **more})
