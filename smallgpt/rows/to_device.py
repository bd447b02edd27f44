"""How rows reach a device: a batch of them, one after another without padding.

    batch = rows_as_batch(dataset, indices, device)          # whole rows, to name their labels
    batch = rows_to_predict(dataset, indices, device)        # each token predicts the next
    hidden_MxE = forward(batch.ids_M, batch.lengths_B)       # smallgpt/model/forward.py

Training, scoring and classifying all take their rows from here. Sizes in names: B rows, M tokens
that the model reads, R labelled rows among the B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.label_tail import TAIL_LENGTH


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on a device; the host does not wait for a GPU to have it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Batch:
    """Rows to be read.

    Attributes:
        ids_M: int64, on the device.
        lengths_B: int64, how many of them are each row's; on the host, as all but ids and targets.
    """

    ids_M: Tensor
    lengths_B: np.ndarray


@dataclass(frozen=True)
class PredictingBatch(Batch):
    """Rows in which every token is to predict the next.

    Attributes:
        targets_M: int64, the token that follows each of `ids_M`.
        scored_M: whether a target counts; None where all do. Those of a prompt do not.
        labelled_B: whether a row is labelled.
        label_places_R: which of the M tokens predicts the label of each labelled row.
    """

    targets_M: Tensor
    scored_M: np.ndarray | None
    labelled_B: np.ndarray
    label_places_R: np.ndarray


def rows_as_batch(
    dataset: TokenLabelDataset, indices: np.ndarray, device: torch.device, then: int | None = None
) -> Batch:
    """The rows `indices`, whole, and behind each the token `then` where one is given."""
    ids_M, lengths_B = dataset.gather(indices)
    if then is not None:
        ids_M, lengths_B = np.insert(ids_M, np.cumsum(lengths_B), then), lengths_B + 1
    return Batch(to_device(ids_M, device), lengths_B)


def rows_to_predict(
    dataset: TokenLabelDataset, indices: np.ndarray, device: torch.device
) -> PredictingBatch:
    """The rows `indices` without their last token, and what each token is to predict."""
    ids_M, targets_M, lengths_B = dataset.shifted(indices)
    labelled_B = dataset.classes_N[indices] >= 0
    # The tail is <CLS> <CLS_k> <EOS>: its first place predicts the label.
    label_places_B = np.cumsum(lengths_B) + 1 - TAIL_LENGTH
    return PredictingBatch(
        to_device(ids_M, device),
        lengths_B,
        to_device(targets_M, device),
        dataset.scored(indices) if dataset.has_prompts else None,
        labelled_B,
        label_places_B[labelled_B],
    )
