"""Batches as tensors on the device: rows concatenated without padding, with their targets.

    batch = rows_to_predict(dataset, indices, device)        # each token predicts the next
    hidden_MxE = forward(batch.ids_M, batch.lengths_B)       # smallgpt/model/forward.py

Sizes in names: B rows, M input tokens, R labelled rows among the B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.label_tail import TAIL_LENGTH


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on a device; the host does not wait for the copy to a GPU."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Batch:
    """Rows for a model to read; only ids and targets lie on the device, all else on the host."""

    ids_M: Tensor  # int64
    lengths_B: np.ndarray  # int64, tokens of each row


@dataclass(frozen=True)
class PredictingBatch(Batch):
    """Rows in which every token predicts the next."""

    targets_M: Tensor  # int64, the token that follows each of `ids_M`
    scored_M: np.ndarray | None  # whether a target counts (not in a prompt); None where all do
    labelled_B: np.ndarray  # bool, whether a row predicts its label
    label_places_R: np.ndarray  # which of the M tokens predict labels
    label_starts_R: np.ndarray  # and from which on a row tells of it: of a pair its separator


def rows_as_batch(
    dataset: TokenLabelDataset, indices: np.ndarray, device: torch.device, then: int | None = None
) -> Batch:
    """The rows `indices`, whole, each followed by the token `then` where one is given."""
    ids_M, lengths_B = dataset.gather(indices)
    if then is not None:
        ids_M, lengths_B = np.insert(ids_M, np.cumsum(lengths_B), then), lengths_B + 1
    return Batch(to_device(ids_M, device), lengths_B)


def rows_to_predict(
    dataset: TokenLabelDataset,
    indices: np.ndarray,
    device: torch.device,
    label_first_B: np.ndarray | None = None,
) -> PredictingBatch:
    """The rows `indices` without their last token, and the targets of each token.

    Rows that have their label first (`TokenLabelDataset.gather`) predict none.
    """
    ids_M, targets_M, lengths_B = dataset.shifted(indices, label_first_B)
    labelled_B = dataset.classes_N[indices] >= 0
    if label_first_B is not None:
        labelled_B &= ~label_first_B
    # The tail is <CLS> <CLS_k> <EOS>: its first place predicts the label.
    label_places_B = np.cumsum(lengths_B) + 1 - TAIL_LENGTH
    starts_B = np.cumsum(lengths_B) - lengths_B
    if dataset.vocabulary.separator_id is not None:
        separators = np.flatnonzero(ids_M == dataset.vocabulary.separator_id)
        starts_B[np.searchsorted(starts_B, separators, side="right") - 1] = separators
    return PredictingBatch(
        to_device(ids_M, device),
        lengths_B,
        to_device(targets_M, device),
        dataset.scored(indices) if dataset.has_prompts else None,
        labelled_B,
        label_places_B[labelled_B],
        starts_B[labelled_B],
    )
