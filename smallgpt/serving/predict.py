"""POST /predict: the label of a row or of many, or its continuation where there are no labels."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from smallgpt.evaluation.verdicts import why_not_calibrated
from smallgpt.serving.generation import Grown, grow
from smallgpt.serving.json_route import Body, JsonRoute, answer
from smallgpt.serving.served import RowsRead, Wish
from smallgpt.serving.service import Service, aside, service_of

router = APIRouter(route_class=JsonRoute, tags=["labels"])

ROWS = (
    "One row: a string (tokens parted by spaces, or a text), a list of ids, or an object such as "
    '{"tokens": ...} or {"text": ...}, like a line of a JSONL file. Or a list of such rows; a list '
    "of strings is many rows."
)
Rows = Annotated[
    Any,
    Field(
        description=ROWS,
        json_schema_extra={
            "anyOf": [{"type": "string"}, {"type": "array", "items": {}}, {"type": "object"}],
            "examples": ["<IMG> <Z_190> <Z_190> </IMG>"],
        },
    ),
]


class PredictRequest(Body):
    """Rows to be labelled."""

    input_data: Rows


class Prediction(BaseModel):
    """The answer to one row."""

    prediction: str = Field(description="The label; of a model without labels, what follows.")
    confidence: float | None = Field(description="The share of this label, 0 to 1.")
    probabilities: dict[str, float] | None = Field(
        description="The share of each label, descending; above 200 labels of the 50 likeliest."
    )
    calibrated: bool = Field(
        description="Whether the confidence was fitted to validation rows: of answers with 0.9, "
        "some 90 % are right."
    )
    notes: list[str] = Field([], description="What reading changed, such as a row that was cut.")


class Predictions(BaseModel):
    """The answers to a list of rows, in its order."""

    predictions: list[Prediction]
    notes: list[str] = Field([], description="What reading changed, such as rows that were cut.")


@router.post("/predict", response_model=Prediction | Predictions)
async def predict(body: PredictRequest, request: Request) -> Response:
    """The label of a row with its calibrated confidence, or of each row of a list.

    A model without labels answers with the continuation that it thinks likeliest.
    """
    service = service_of(request)
    if not service.served.names_labels:
        return await _continuation(service, body.input_data, request)
    rows: RowsRead = await aside(request, service.served.rows_to_label, body.input_data)
    service.check_rows(rows)
    labels = await service.served.label(rows)
    service.metrics.rows.inc(len(labels))
    calibrated = not why_not_calibrated(service.served.trained.validation)
    told = [
        {
            "prediction": each["prediction"],
            "confidence": each["confidence"],
            "probabilities": each["probabilities"],
            "calibrated": calibrated,
        }
        for each in labels
    ]
    return _told(told, rows.is_one, rows.notes)


async def _continuation(service: Service, rows: Any, request: Request) -> Response:
    """What a model without labels says."""
    is_one = not isinstance(rows, list) or (bool(rows) and isinstance(rows[0], int))
    given = [rows] if is_one else rows
    service.check_count(len(given))
    prompts = await aside(request, lambda: [service.read_prompt(each) for each in given])
    most = service.settings.max_new_tokens
    wishes = [Wish(ids, max_new_tokens=most, greedy=True) for ids in prompts]
    grown: list[Grown] = await grow(service, wishes)
    told = [
        {
            "prediction": each.text,
            "confidence": None,
            "probabilities": None,
            "calibrated": False,
        }
        for each in grown
    ]
    return _told(told, is_one, [])


def _told(told: list[dict[str, Any]], is_one: bool, notes: list[str]) -> Response:
    more = {"notes": notes} if notes else {}
    return answer({**told[0], **more} if is_one else {"predictions": told, **more})
