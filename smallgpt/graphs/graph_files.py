"""Writes the graphs of a model into a folder, and what engines need to know beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallgpt.distribution import VERSION
from smallgpt.errors import UserError
from smallgpt.files.writing import write_json
from smallgpt.rows.label_tail import TAIL_LENGTH
from smallgpt.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CLASSIFY, DECODE = "classify.onnx", "decode.onnx"
FACTS = "model.json"
_LARGEST_FILE = 2**31 - 2**20  # bytes of a protobuf
_PREFIX = "smallgpt."


def write_graphs(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    max_length: int,
    temperature: float,
    folder: Path,
    precision: str,
    facts: dict[str, Any],
) -> None:
    """Write classify.onnx and decode.onnx, where a model has both, and model.json.

    Args:
        max_length: longest row.
        temperature: of the calibration.
        precision: fp32 or int8.
        facts: further values of model.json.

    Raises:
        UserError: a model of which no graph can be made, or a file larger than the format allows.
    """
    import onnx

    from smallgpt.graphs.gpt2_graphs import classify_graph, decode_graph
    from smallgpt.model.build import count_parameters
    from smallgpt.model.cpu_forward import is_gpt2
    from smallgpt.model.head import is_classifier

    if not is_gpt2(model):
        raise UserError(
            f"a {model.config.model_type} model: ONNX files are written of GPT-2 models, as "
            f"training from scratch makes them"
        )
    by_head, int8 = is_classifier(model), precision == "int8"
    metadata = {
        "version": VERSION,
        "precision": precision,
        "labels": vocabulary.label_names,
        "temperature": temperature,
        "vocabulary": vocabulary.tokens,
        "row": row_rules(vocabulary, max_length, by_head),
        "weights": facts.get("weights", ""),
    }
    # Text stays as it is, numbers and lists become JSON.
    properties = {
        f"{_PREFIX}{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in metadata.items()
    }
    graphs = {}
    if vocabulary.labels:
        graphs[CLASSIFY] = classify_graph(
            model,
            int8=int8,
            label_ids=vocabulary.label_ids,
            temperature=temperature,
            max_length=max_length,
            metadata=properties,
        )
    if not by_head:
        graphs[DECODE] = decode_graph(model, int8=int8, metadata=properties)
    for name, proto in graphs.items():
        if proto.ByteSize() > _LARGEST_FILE:
            raise UserError(
                f"{name} would have {proto.ByteSize():,} bytes, and one ONNX file holds at most "
                f"{_LARGEST_FILE:,}: take a smaller model, or int8"
            )
        onnx.checker.check_model(proto, full_check=True)
        (folder / name).write_bytes(proto.SerializeToString())
    own = {
        "positions": model.config.n_positions,
        "precision": precision,
        "parameters": count_parameters(model),
    }
    write_json(folder / FACTS, {**own, **facts})


def row_rules(vocabulary: Vocabulary, max_length: int, by_head: bool) -> dict[str, Any]:
    """How a row becomes the input of classify.onnx.

    `longest_body`: a longer one loses tokens at its start, but for a first token of `kept_first`;
    then `append` follows. `unknown` is read in place of a token that the vocabulary lacks, null
    where there is no such token. Rows of a batch are padded on the right, with `pad`.
    """
    return {
        "longest_body": max_length - (TAIL_LENGTH if vocabulary.labels else 0),
        "kept_first": sorted(vocabulary.first_ids),
        "append": [] if by_head or vocabulary.cls_id is None else [vocabulary.cls_id],
        "pad": vocabulary.pad_id,
        "unknown": vocabulary.unk_id,
    }
