"""predictions.jsonl: one JSON object a row, from which every metric can be recomputed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.console import progress_bar
from smallgpt.evaluation.label_probabilities import LabelProbabilities
from smallgpt.evaluation.scoring import Scores
from smallgpt.evaluation.text_bits import TextsRead
from smallgpt.files.writing import atomic_write, json_line
from smallgpt.rows.bad_rows import BadRow
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.row import ROW_KEYS, unknown_names

_NOT_FINITE = "the model gives no finite number for this row; try --precision fp32"


def leave_out_failures(
    dataset: TokenLabelDataset, scores: Scores
) -> tuple[TokenLabelDataset, Scores]:
    """Move rows with non-finite scores to the bad rows; `dataset` was read with keep_records."""
    finite_N = scores.is_finite
    if finite_N.all():
        return dataset, scores
    records = dataset.kept_records
    failed = [
        BadRow(int(dataset.lines_N[index]), _NOT_FINITE, records[index])
        for index in np.flatnonzero(~finite_N)
    ]
    kept = np.flatnonzero(finite_N)
    dataset = replace(dataset.subset(kept), bad_rows=dataset.bad_rows + failed)
    return dataset, scores.subset(kept)


def predictions_of(
    dataset: TokenLabelDataset,
    probs: LabelProbabilities,
    temperature: float,
    scores: Scores | None = None,
    answers: Sequence[str | None] = (),
    read: TextsRead | None = None,
) -> list[dict[str, Any]]:
    """The objects of predictions.jsonl in input order, bad rows included.

    `probabilities` and `confidence` are calibrated, `raw_confidence` is the model's own. Of many
    labels `probabilities` has the largest, descending, and `probabilities_left_out` the number of
    the others and their total share. `dataset` was read with keep_records; `scores` is None where
    rows were only classified; `answers` has None for a row that is no instruction; `read` tells how
    much of each text was scored.
    """
    predictions = []
    body_counts_N = dataset.scored_body_counts
    label_columns = _label_columns(dataset.vocabulary.label_names, probs, temperature)
    for index, label in enumerate(label_columns):
        known = int(dataset.classes_N[index])
        row: dict[str, Any] = {
            "line": int(dataset.lines_N[index]),
            "label": dataset.vocabulary.label_names[known] if known >= 0 else None,
            **label,
        }
        if scores is not None and scores.tokens is not None:
            row["nll_sum"] = float(scores.tokens.nll_sum_N[index])
            row["token_count"] = int(dataset.scored_counts[index])
            row["correct_tokens"] = int(scores.tokens.correct_N[index])
            row["body_nll_sum"] = float(scores.tokens.body_nll_sum_N[index])
            row["body_token_count"] = int(body_counts_N[index])
        if read is not None:
            row["body_bytes"] = int(read.bytes_N[index])
            row["body_characters"] = int(read.characters_N[index])
        if scores is not None and known >= 0:
            row["label_nll"] = float(scores.label_nll_N[index])
        if answers and answers[index] is not None:
            row["answer"] = answers[index]
        if scores is None and label["prediction"] is None:
            row["reason"] = _NOT_FINITE
        if dataset.counts.unknown_tokens and dataset.records:
            names = unknown_names(dataset.records[index], dataset.vocabulary)
            if names:
                row["unknown_tokens"] = names
        row["row"] = _user_keys(dataset.records[index] if dataset.records else {})
        predictions.append(row)
    for bad in dataset.bad_rows:
        row = {"line": bad.line, "label": None, "prediction": None, "reason": bad.reason}
        predictions.append({**row, "row": _user_keys(bad.record)})
    return sorted(predictions, key=lambda row: row["line"])


def _label_columns(
    labels: list[str], probs: LabelProbabilities, temperature: float
) -> Iterator[dict[str, Any]]:
    """The label entries of each row of predictions.jsonl; null where there is no prediction."""
    answered_N = probs.answered
    if labels:
        predicted_N, probs_NxK = probs.predicted, probs.at(temperature)
        raw_confidence_N = probs.at(1.0).max(axis=1)
    for index, answered in enumerate(answered_N.tolist()):
        if not answered:
            yield {
                "prediction": None,
                "confidence": None,
                "raw_confidence": None,
                "probabilities": {},
            }
            continue
        kept = probs_NxK[index].tolist()
        names = labels
        if probs.classes_NxK is not None:
            names = [labels[k] for k in probs.classes_NxK[index].tolist()]
        row = {
            "prediction": labels[predicted_N[index]],
            "confidence": max(kept),
            "raw_confidence": float(raw_confidence_N[index]),
            "probabilities": dict(zip(names, kept, strict=True)),
        }
        if not probs.are_whole:
            rest = {"labels": len(labels) - len(kept), "share": max(0.0, 1 - math.fsum(kept))}
            row["probabilities_left_out"] = rest
        yield row


def write_predictions(path: Path, predictions: Collection[dict[str, Any]]) -> None:
    """Write predictions.jsonl atomically."""
    with (
        atomic_write(path) as handle,
        progress_bar("writing predictions", len(predictions), "row") as bar,
    ):
        for row in predictions:
            handle.write(json_line(row))
            bar.update()


def _user_keys(record: dict[str, Any]) -> dict[str, Any]:
    """The user's own keys of a record: those that are not of the row format."""
    return {key: value for key, value in record.items() if key not in ROW_KEYS}
