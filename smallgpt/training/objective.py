"""Training objective: weighted mean loss of rows, class weights, token dropout."""

from __future__ import annotations

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
from smallgpt.rows.to_device import PredictingBatch, to_device

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
        self.label_weights_N = np.ones(len(rows))
        self._plain_weights_N = np.ones(len(rows))
        self.early_label_weight = 0.0
        if settings.task != "lm":
            self.early_label_weight = settings.early_label_weight
            labelled_N = rows.classes_N >= 0
            by_class_R = self.class_weights_L[rows.classes_N[labelled_N]]
            self.label_weights_N[labelled_N] = settings.label_loss_weight * by_class_R
            self._plain_weights_N[labelled_N] = settings.label_loss_weight
        self.token_dropout = settings.resolved_token_dropout()
        vocabulary = rows.vocabulary
        self._labels_L = torch.tensor(vocabulary.label_ids, dtype=torch.long, device=self.device)
        self._chunk = max(1, _MOST_LOGITS // len(vocabulary))  # tokens
        self._may_drop_V = torch.ones(len(vocabulary), dtype=torch.bool, device=self.device)
        self._may_drop_V[[*vocabulary.special_ids, *vocabulary.label_ids]] = False
        unknown = vocabulary.unk_id
        self._replacement = unknown if unknown is not None else vocabulary.pad_id

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

    def early_label_loss(
        self, hidden_MxE: Tensor, batch: PredictingBatch, classes_R: np.ndarray, total_weight: float
    ) -> Tensor:
        """The label asked for at every place of a row up to its own, among the labels alone.

        Of a pair of texts from its separator on: the first text alone tells nothing of both.

        Deep supervision (Lee et al., 2015) along the row: what a token says of the label reaches
        its embedding at once, instead of through what the last place makes of all of them. Next
        tokens are left out of it, since only differences between label tokens count. Of the rows
        with a label, whose classes are `classes_R`; divided by `total_weight` like other losses.
        """
        ends_R = batch.label_places_R + 1
        counts_R = ends_R - batch.label_starts_R
        # Counted through all of these rows, and from where each of them begins.
        places_K = np.arange(counts_R.sum()) + np.repeat(ends_R - np.cumsum(counts_R), counts_R)
        weights_R = self.early_label_weight * self.class_weights_L[classes_R] / counts_R
        weights_K = np.repeat(weights_R / total_weight, counts_R).astype(np.float32)
        loss, _ = self.weighted_nll(
            hidden_MxE[to_device(places_K, self.device)],
            to_device(np.repeat(classes_R, counts_R), self.device),
            to_device(weights_K, self.device),
            self._labels_L,
        )
        return loss

    def weighted_nll(
        self,
        hidden_MxE: Tensor,
        targets_M: Tensor,
        weights_M: Tensor,
        among_K: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum of the negative log likelihoods of targets (nats), and their plain sum.

        From last hidden states; in chunks of tokens, so that one matrix of tokens x vocabulary is
        in memory, which the gradient needs, instead of three or four intermediate ones. With the
        token ids `among_K` these alone share the probability, and targets are places in it.
        """
        head = self.model.get_output_embeddings()
        if self.device.type == "cpu" and type(head) is torch.nn.Linear and head.bias is None:
            dtype = self.precision.dtype
            weight_KxE = head.weight if among_K is None else head.weight[among_K]
            loss, nll_M = WeightedNll.apply(hidden_MxE, weight_KxE, targets_M, weights_M, dtype)
            return loss, nll_M.sum()

        def logits(hidden_CxE: Tensor) -> Tensor:
            logits_CxV = head(hidden_CxE)
            return logits_CxV if among_K is None else logits_CxV[:, among_K]

        with self.precision.autocast(self.device):
            nll = [
                functional.cross_entropy(logits(hidden_CxE), targets_C, reduction="none")
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
