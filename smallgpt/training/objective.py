"""Training objective: weighted mean loss of rows, class weights, token dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smallgpt.model.cpu_loss import WeightedNll
from smallgpt.model.forward import Forward
from smallgpt.model.hardware import Precision
from smallgpt.options.training import TrainSettings
from smallgpt.rows.dataset import TokenLabelDataset

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Most logits (tokens x vocabulary, fp32) of one chunk of `Objective.weighted_nll`, where autograd
# keeps them.
_MOST_LOGITS = 2**26


class Objective:
    """The weighted mean loss of rows; reported losses are unweighted.

    `class_weights_L` are 1 on average over the labelled rows of an epoch. `label_weights_N` are of
    each row's label token, class weight included; other tokens and unlabelled rows weigh 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: TokenLabelDataset,
        settings: TrainSettings,
        precision: Precision,
    ):
        self.model, self.rows, self.precision = model, rows, precision
        self.forward = Forward(model, precision)
        self._scored_counts = rows.scored_counts
        self.device: torch.device = next(model.parameters()).device
        self.class_weights_L = class_weights(rows, settings)
        # Of each row's label token: the loss is a sum with the first, divided by a sum of the
        # second, which leaves the class weights out so that they do not cancel (`total_weight`).
        self._has_label_weights = settings.task != "lm"
        self._label_weight = math.nan
        self.weigh_labels(settings.label_loss_weight)
        self.token_dropout = settings.resolved_token_dropout()
        vocabulary = rows.vocabulary
        self._chunk = max(1, _MOST_LOGITS // len(vocabulary))  # tokens
        self._may_drop_V = torch.ones(len(vocabulary), dtype=torch.bool, device=self.device)
        self._may_drop_V[[*vocabulary.special_ids, *vocabulary.label_ids]] = False
        unknown = vocabulary.unk_id
        self._replacement = unknown if unknown is not None else vocabulary.pad_id

    def weigh_labels(self, weight: float) -> None:
        """Let the label tokens weigh so much from now on, each times the weight of its class."""
        if weight == self._label_weight:
            return
        self._label_weight = weight
        self.label_weights_N = np.ones(len(self.rows))
        self._plain_weights_N = np.ones(len(self.rows))
        if self._has_label_weights:
            classes_N = self.rows.classes_N
            labelled_N = classes_N >= 0
            self.label_weights_N[labelled_N] = weight * self.class_weights_L[classes_N[labelled_N]]
            self._plain_weights_N[labelled_N] = weight

    def total_weight(
        self, batches: list[np.ndarray], label_first: Sequence[np.ndarray | None]
    ) -> float:
        """The divisor of the weighted loss sum over all predicted tokens of `batches`.

        The sum of their weights without class weights: these are 1 on average, and divided by their
        own sum they would cancel in an update whose rows are of one class. `label_first`: of each
        batch its rows that have their label first, and so neither a label to predict nor an <EOS>.
        """
        total = 0.0
        for rows, first_B in zip(batches, label_first, strict=True):
            total += self._scored_counts[rows].sum() + (self._plain_weights_N[rows] - 1).sum()
            if first_B is not None:
                total -= self._plain_weights_N[rows][first_B].sum()
        return float(total)

    def drop_tokens(self, ids: Tensor) -> Tensor:
        """Replace a random share of the input tokens by <UNK>; targets are unchanged.

        Word dropout (Bowman et al., 2016): with few rows a model otherwise learns to recognise rows
        by single tokens.
        """
        if self.token_dropout == 0:
            return ids
        dropped = torch.rand(ids.shape, device=ids.device) < self.token_dropout
        return ids.masked_fill(dropped & self._may_drop_V[ids], self._replacement)

    def weighted_nll(
        self, hidden_MxE: Tensor, targets_M: Tensor, weights_M: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum of the negative log likelihoods of targets (nats), and their plain sum.

        From last hidden states; in chunks of tokens, so that one matrix of tokens x vocabulary is
        in memory, which the gradient needs, instead of three or four intermediate ones.
        """
        head = self.model.get_output_embeddings()
        if self.device.type == "cpu" and type(head) is torch.nn.Linear and head.bias is None:
            dtype = self.precision.dtype
            loss, nll_M = WeightedNll.apply(hidden_MxE, head.weight, targets_M, weights_M, dtype)
            return loss, nll_M.sum()
        with self.precision.autocast(self.device):
            nll = [
                functional.cross_entropy(head(hidden_CxE), targets_C, reduction="none")
                for hidden_CxE, targets_C in zip(
                    hidden_MxE.split(self._chunk), targets_M.split(self._chunk), strict=True
                )
            ]
        nll_M = torch.cat(nll)
        return nll_M @ weights_M, nll_M.detach().sum()


def class_weights(rows: TokenLabelDataset, settings: TrainSettings) -> np.ndarray:
    """weights_L of the labels: 1, or balanced: rows / (labels x rows of the label).

    Counts the rows that an epoch visits: a source counts once however many variants it has. Labels
    without rows are not counted, and weigh 1.
    """
    weights_L = np.ones(len(rows.vocabulary.labels))
    if settings.class_weights == "balanced":
        labelled_N = rows.classes_N >= 0
        counts_L = np.bincount(
            rows.classes_N[labelled_N], rows.visits[labelled_N], minlength=len(weights_L)
        )
        seen_L = counts_L > 0
        weights_L[seen_L] = counts_L.sum() / (seen_L.sum() * counts_L[seen_L])
    return weights_L
