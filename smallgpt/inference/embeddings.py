"""Embeddings: a vector of each row, for nearest neighbours, clusters or another classifier."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smallgpt.console import printable_lines, progress_bar
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.engines.trained import TrainedModel
from smallgpt.inference.prompts import check_arguments, not_finite
from smallgpt.inference.python_rows import (
    PythonRows,
    python_rows,
    rows_to_classify,
    rows_to_continue,
)
from smallgpt.rows.batching import batches_by_length
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.to_device import rows_as_batch


def embeddings(
    trained: TrainedModel,
    rows: Any,
    *,
    batch_size: int = 64,
    unknown_token: str | None = None,
) -> np.ndarray:
    """A vector of each row: float32, N x E for many rows (see `python_rows`), E for one.

    A model with labels gives the last hidden state from which it names the label, after the <CLS>
    that follows the row or before its label head; any other model the mean of the last hidden
    states of the row's tokens, of an instruction those of its prompt. A label tail is not read.
    (Nearest neighbour on the test digits: 0.992 with that state, 0.933 with the mean, 0.886 with
    the state of the last token of the row; on pixels 0.989.)

    `unknown_token` "unk" reads unknown tokens as <UNK>, "error" refuses them; None: as in training.
    What reading changed, such as rows that were cut, is printed on standard error.

    Raises:
        SettingsError: a value that the command line would refuse.
        UserError: no rows, or a row that breaks the format.
    """
    check_arguments("interactive", batch_size=batch_size)
    given = python_rows(trained, rows)
    if trained.is_instructed:
        prompts = rows_to_continue(trained, given, unknown_token)
        given = PythonRows([{"input_ids": ids} for ids in prompts], given.is_one)
    dataset = rows_to_classify(trained, given, unknown_token)
    for line in dataset.counts.lines(trained.learned_unknown):
        print(printable_lines(line), file=sys.stderr)
    engine = trained.engines.torch
    bodies = dataset.without_tails()
    vectors: dict[int, np.ndarray] = {}
    with torch.inference_mode(), progress_bar("embedding", len(dataset), "row") as bar:
        for indices_B in batches_by_length(bodies, batch_size):
            vectors_BxE = _vectors(trained, engine, bodies, indices_B).float()
            if not vectors_BxE.isfinite().all():
                raise not_finite(trained)
            for index, vector_E in zip(indices_B.tolist(), vectors_BxE.cpu().numpy(), strict=True):
                vectors[index] = vector_E
            bar.update(len(indices_B))
    return given.answer(np.stack([vectors[index] for index in range(len(dataset))]))


def _vectors(
    trained: TrainedModel, engine: TorchEngine, bodies: TokenLabelDataset, indices_B: np.ndarray
) -> Tensor:
    """The vectors of some rows, B x E."""
    vocabulary = trained.vocabulary
    at_cls = bool(vocabulary.labels) and vocabulary.cls_id is not None and not trained.is_classifier
    then = vocabulary.cls_id if at_cls else None
    batch = rows_as_batch(bodies, indices_B, engine.model.device, then)
    forward = engine.forward
    if trained.is_classifier:
        return forward.head_inputs(batch.ids_M, batch.lengths_B)
    if at_cls:
        return forward(batch.ids_M, batch.lengths_B, "last")
    hidden_MxE = forward(batch.ids_M, batch.lengths_B).float()
    return torch.stack([of_row.mean(0) for of_row in hidden_MxE.split(batch.lengths_B.tolist())])
