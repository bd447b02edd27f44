"""Gradients of the training objective: of tokens (`TokenStep`), or of labels alone (`HeadStep`).

    step = make_step(model, rows, settings, precision, scaler, print)
    nll = step.add_gradients([row_numbers])        # nats, summed; parameters' .grad has grown

Where several processes train the model, each computes its part of the rows, and afterwards all
have the sums of all rows. Clipping follows in `smallgpt/training/update.py`. No step waits for a
GPU: the sum is a tensor, to be read when the number is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smallgpt.console import progress_bar
from smallgpt.model.hardware import Precision
from smallgpt.model.head import head_name, is_plain
from smallgpt.options.training import TrainSettings
from smallgpt.processes import ALONE, Processes
from smallgpt.rows.batching import batches_by_length
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.to_device import rows_as_batch, rows_to_predict, to_device
from smallgpt.training.objective import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of a frozen backbone: rows of a forward pass, and the most output numbers (fp32) that are kept.
_ROWS_AT_ONCE, _MOST_KEPT = 32, 2**29


def make_step(
    model: PreTrainedModel,
    rows: TokenLabelDataset,
    settings: TrainSettings,
    precision: Precision,
    scaler: torch.amp.GradScaler,
    say: Callable[[str], None],
    processes: Processes = ALONE,
) -> TokenStep | HeadStep:
    """The gradient computation that the settings ask for.

    The model is in training mode, `rows` are without tails for a label head, and `scaler` is
    enabled for fp16 only.
    """
    objective = Objective(model, rows, settings, precision)
    if settings.classifier == "head":
        step = HeadStep(objective, scaler, settings.freeze_backbone, processes, settings.seed)
        if step.keep_inputs():
            say("the backbone is frozen: what the head reads of each training row is computed once")
        return step
    if settings.compile == "on":
        objective.forward.compile_backbone(say)
    return TokenStep(objective, scaler, settings.label_first_share, processes, settings.seed)


class _Step:
    label_first_count = 0  # rows of the last call that had their label first

    def __init__(
        self,
        objective: Objective,
        scaler: torch.amp.GradScaler,
        processes: Processes = ALONE,
        seed: int = 0,
    ):
        """`seed`: of dropout where there are several processes; else torch's generator has it."""
        self.objective, self.scaler = objective, scaler
        self._processes, self._seed = processes, seed

    @property
    def compiled(self) -> bool:
        """Whether torch.compile is in use."""
        return self.objective.forward.compiled

    def clear_gradients(self) -> None:
        """Set the gradients to None."""
        self.objective.model.zero_grad(set_to_none=True)

    def _parted(self, batches: list[np.ndarray]) -> tuple[list[np.ndarray], slice]:
        """The rows of an update in batches, those of all processes, and which are for this one."""
        parts = self._processes.parts(batches, self.objective.rows.lengths_N)
        begin = sum(map(len, parts[: self._processes.rank]))
        own = slice(begin, begin + len(parts[self._processes.rank]))
        return [batch for part in parts for batch in part], own

    def _sum_of_processes(self, nll: Tensor) -> Tensor:
        """Make the gradients those of all processes, and return the sum of all `nll`.

        One message for all: many small ones wait for the network more often than they send.
        """
        if not self._processes.are_many:
            return nll
        weights = [p for p in self.objective.model.parameters() if p.requires_grad]
        # A process may have no rows, or the model weights that nothing reads. Those that have no
        # gradient anywhere keep none, and an optimizer passes them over as in one process.
        counts = self._processes.sum(torch.tensor([int(p.grad is not None) for p in weights]))
        weights = [p for p, count in zip(weights, counts.tolist(), strict=True) if count]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
        flat = torch.cat([*(part.reshape(-1) for part in parts), nll.reshape(1)])
        *places, total = self._processes.sum(flat).split([*(p.numel() for p in weights), 1])
        for weight, place in zip(weights, places, strict=True):
            weight.grad = place.view_as(weight)
        return total[0]


class TokenStep(_Step):
    """Each token of a row predicts the next."""

    def __init__(
        self,
        objective: Objective,
        scaler: torch.amp.GradScaler,
        label_first_share: float = 0.0,
        processes: Processes = ALONE,
        seed: int = 0,
    ):
        """`label_first_share`: of the labelled rows of an update, drawn anew in each."""
        super().__init__(objective, scaler, processes, seed)
        self._label_first_share = label_first_share

    def _draw_label_first(
        self, batches: list[np.ndarray], generator: torch.Generator | None
    ) -> Sequence[np.ndarray | None]:
        """Which rows of each batch have their label first (bool); None: no row of any."""
        if not self._label_first_share:
            return [None] * len(batches)
        # Together, so that other batches of the same rows draw the same.
        classes = self.objective.rows.classes_N[np.concatenate(batches)]
        drawn = torch.rand(len(classes), generator=generator) < self._label_first_share
        first = drawn.numpy() & (classes >= 0)
        self.label_first_count = int(first.sum())
        return np.split(first, np.cumsum([len(rows) for rows in batches])[:-1])

    def add_gradients(self, batches: list[np.ndarray], step: int = 0) -> Tensor:
        """Add the gradients of the weighted mean loss over all rows of `batches` (row numbers).

        The mean is over the counted tokens of all batches together, so the split into batches does
        not matter. Returns the summed unweighted negative log likelihood (nats), on the device.
        `step`: number of the update, which dropout hangs on where there are several processes.
        """
        objective, device = self.objective, self.objective.device
        generator = self._processes.seed_update(self._seed, step)
        batches, own = self._parted(batches)
        label_first = self._draw_label_first(batches, generator)
        total_weight = objective.total_weight(batches, label_first)
        nll = torch.zeros((), device=device)
        for indices, first_B in zip(batches[own], label_first[own], strict=True):
            batch = rows_to_predict(objective.rows, indices, device, first_B)
            weights_M = np.ones(len(batch.ids_M), np.float32)
            weights_M[batch.label_places_R] = objective.label_weights_N[indices][batch.labelled_B]
            hidden_MxE = objective.forward(objective.drop_tokens(batch.ids_M), batch.lengths_B)
            hidden_SxE, targets_S, weights_S = hidden_MxE, batch.targets_M, weights_M
            if batch.scored_M is not None:
                # Numbers, not booleans, of which a GPU would have to tell the host how many.
                scored_S = to_device(np.flatnonzero(batch.scored_M), device)
                hidden_SxE, targets_S = hidden_MxE[scored_S], targets_S[scored_S]
                weights_S = weights_M[batch.scored_M]
            weights = to_device(weights_S / total_weight, device)
            loss, nll_of_batch = objective.weighted_nll(hidden_SxE, targets_S, weights)
            if objective.early_label_weight and len(batch.label_places_R):
                classes_R = objective.rows.classes_N[indices][batch.labelled_B].astype(np.int64)
                loss = loss + objective.early_label_loss(hidden_MxE, batch, classes_R, total_weight)
            self.scaler.scale(loss).backward()
            nll += nll_of_batch
        return self._sum_of_processes(nll)


class HeadStep(_Step):
    """The model's head predicts the label of each row, read without its tail."""

    def __init__(
        self,
        objective: Objective,
        scaler: torch.amp.GradScaler,
        frozen: bool,
        processes: Processes = ALONE,
        seed: int = 0,
    ):
        """Rows without tails; `frozen`: the backbone, and tokens, without dropout, as in use."""
        super().__init__(objective, scaler, processes, seed)
        self._frozen = frozen
        self._inputs_NxE: Tensor | None = None

    def keep_inputs(self) -> bool:
        """Compute the head's inputs of all rows once, if they never change; returns whether.

        The batches depend on the rows alone, so that a resumed run computes the same bits.
        """
        objective, rows = self.objective, self.objective.rows
        model, device = objective.model, objective.device
        if not (self._frozen and is_plain(model)) or rows.has_variants:
            return False
        if len(rows) * model.config.hidden_size > _MOST_KEPT:
            return False
        model.eval()
        with progress_bar("through the backbone", len(rows), "row") as bar:
            for indices in batches_by_length(rows, _ROWS_AT_ONCE):
                batch = rows_as_batch(rows, indices, device)
                inputs_BxE = objective.forward.head_inputs(batch.ids_M, batch.lengths_B)
                if self._inputs_NxE is None:
                    self._inputs_NxE = inputs_BxE.new_empty(len(rows), inputs_BxE.shape[1])
                self._inputs_NxE[to_device(indices, device)] = inputs_BxE
                bar.update(len(indices))
        model.train()
        return True

    def _logits(self, indices: np.ndarray) -> Tensor:
        """Label logits of rows, B x L."""
        objective, model = self.objective, self.objective.model
        if self._inputs_NxE is not None:
            inputs_BxE = self._inputs_NxE[to_device(indices, objective.device)]
            # Encoders apply dropout to the head's inputs.
            dropout = getattr(model, "dropout", None)
            if isinstance(dropout, torch.nn.Module):
                inputs_BxE = dropout(inputs_BxE)
            return getattr(model, head_name(model))(inputs_BxE)
        batch = rows_as_batch(objective.rows, indices, objective.device)
        ids_M = batch.ids_M if self._frozen else objective.drop_tokens(batch.ids_M)
        return objective.forward(ids_M, batch.lengths_B, "labels")

    def add_gradients(self, batches: list[np.ndarray], step: int = 0) -> Tensor:
        """Add the gradients of the weighted label loss, its mean over all rows of `batches`.

        The class weights are 1 on average over an epoch, so the mean is over rows: divided by the
        weights of these rows alone they would cancel, with one row altogether. Returns the summed
        unweighted negative log likelihood of the labels (nats), on the device. `step`: number of
        the update, which dropout hangs on where there are several processes.
        """
        objective, device = self.objective, self.objective.device
        self._processes.seed_update(self._seed, step)
        row_count = sum(map(len, batches))
        batches, own = self._parted(batches)
        if self._frozen:
            objective.model.base_model.eval()
        nll = torch.zeros((), device=device)
        for indices in batches[own]:
            logits_BxL = self._logits(indices)
            classes_B = objective.rows.classes_N[indices].astype(np.int64)
            weights_B = objective.class_weights_L[classes_B].astype(np.float32)
            nll_B = functional.cross_entropy(
                logits_BxL, to_device(classes_B, device), reduction="none"
            )
            loss = (nll_B * to_device(weights_B, device)).sum() / row_count
            self.scaler.scale(loss).backward()
            nll += nll_B.detach().sum()
        return self._sum_of_processes(nll)
