"""The page in the browser, and what it knows of its model: page.json, the codebook as numbers.

The page of a web export computes by itself; `smallgpt/serving/page.py` serves it with a model that
it asks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.engines.trained import TrainedModel
from smallgpt.export.drawing import drawing_of
from smallgpt.graphs.graph_files import row_rules
from smallgpt.inference.columns import reads_pairs
from smallgpt.inference.unknown_tokens import unknown_token_of
from smallgpt.inference.well_formed import codebook_of_rows, end_of_rows
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import END_IMG

PAGE = Path(__file__).with_name("web")  # index.html, page/
CENTERS = "codebook.bin"  # float32, little-endian: a patch a code
_FIRST_TOKENS = 100


def page_facts(
    trained: TrainedModel, parameters: int | None, by_server: bool = False
) -> dict[str, Any]:
    """The content of page.json but for what only a page that computes needs; types: `facts.js`.

    Args:
        parameters: of the model, None where they are not known.
        by_server: a server computes for the page.
    """
    vocabulary = trained.vocabulary
    codebook = whole_codebook(trained)
    known = vocabulary.ids
    first = [[known[token], n] for token, n in trained.first_tokens.items() if token in known]
    return {
        "kind": _kind_of(trained, codebook),
        "labels": trained.label_names,
        "label_ids": vocabulary.label_ids,
        "row": row_rules(vocabulary, trained.max_length, trained.is_classifier),
        "special": {
            "pad": vocabulary.pad_id,
            "unk": vocabulary.unk_id,
            "img": vocabulary.img_id,
            "end_img": known.get(END_IMG),
            "cls": vocabulary.cls_id,
            "eos": vocabulary.eos_id,
        },
        "end": end_of_rows(trained).name.lower().replace("_", " "),
        "pairs": reads_pairs(trained),
        "reads_unknown": unknown_token_of(trained, None) == "unk",
        "starts": sorted(vocabulary.tokenizer.first_ids) if vocabulary.tokenizer else [],
        "first_tokens": [] if trained.is_instructed else first[:_FIRST_TOKENS],
        "max_length": trained.max_length,
        "server": by_server,
        "predicts_tokens": not trained.is_classifier,
        "parameters": parameters,
        "vocabulary": len(vocabulary),
        "codebook": None if codebook is None else _codebook_facts(trained, codebook),
        "drawing": None if codebook is None else drawing_of(trained, codebook),
    }


def centers_of(codebook: Codebook) -> bytes:
    """The patches of a codebook as plain numbers, which a page reads without a library."""
    return np.ascontiguousarray(codebook.centers_KxD, "<f4").tobytes()


def whole_codebook(trained: TrainedModel) -> Codebook | None:
    """The codebook whose whole images are the rows of a model, None for other rows."""
    codebook = codebook_of_rows(trained)
    if codebook is None or codebook.patches_per_image + 2 > trained.max_length:
        return None
    return codebook


def _kind_of(trained: TrainedModel, codebook: Codebook | None) -> str:
    if codebook is not None:
        return "images"
    if trained.vocabulary.tokenizer is None:
        return "tokens"
    return "instructions" if trained.is_instructed else "texts"


def _codebook_facts(trained: TrainedModel, codebook: Codebook) -> dict[str, Any]:
    familiar = codebook.familiarity
    return {
        "patch_size": codebook.patch_size,
        "height": codebook.height,
        "width": codebook.width,
        "channels": codebook.channels,
        "low": codebook.low,
        "high": codebook.high,
        "white": codebook.white,
        "code_ids": [trained.vocabulary.ids[token] for token in codebook.code_tokens],
        "familiarity": None
        if familiar is None
        else {
            "rmse": familiar.rmse,
            "surprise": familiar.surprise_K.tolist(),
            "least": familiar.least,
            "most": familiar.most,
        },
    }
