"""What an ONNX file says of itself: labels, vocabulary, and how a row is cut and completed.

Each value is text, numbers and lists as JSON, under names that begin with `smallgpt.`.
"""

from __future__ import annotations

import json
from typing import Any

from smallgpt.distribution import VERSION
from smallgpt.export.agreement import appended_ids
from smallgpt.model.folder import TrainedModel
from smallgpt.rows.label_tail import TAIL_LENGTH

_PREFIX = "smallgpt."


def metadata_of(trained: TrainedModel, precision: str, weights: str) -> dict[str, str]:
    """The metadata of both files; `weights` is the digest of the model folder."""
    values: dict[str, Any] = {
        "version": VERSION,
        "weights": weights,
        "precision": precision,
        "labels": trained.label_names,
        "temperature": trained.temperature,
        "vocabulary": trained.vocabulary.tokens,
        "row": row_rules(trained),
    }
    return {
        f"{_PREFIX}{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }


def row_rules(trained: TrainedModel) -> dict[str, Any]:
    """How a row becomes the input of classify.onnx.

    `longest_body`: a longer one loses tokens at its start, but for a first token of `kept_first`;
    then `append` follows. `unknown` is read in place of a token that the vocabulary lacks, null
    where there is no such token. Rows of a batch are padded on the right, with `pad`.
    """
    vocabulary = trained.vocabulary
    return {
        "longest_body": trained.max_length - (TAIL_LENGTH if vocabulary.labels else 0),
        "kept_first": sorted(vocabulary.first_ids),
        "append": appended_ids(trained),
        "pad": vocabulary.pad_id,
        "unknown": vocabulary.unk_id,
    }
