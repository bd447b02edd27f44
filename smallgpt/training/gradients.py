"""Gradients of the training objective.

    step = make_step(model, rows, settings, precision, scaler, print)
    nll = step.add_gradients([row_numbers])        # nats, summed; parameters' .grad has grown

Of tokens by `TokenStep`, of labels alone by `HeadStep`. Neither waits for a GPU: the sum comes back
as a tensor, for the caller to read when it needs the number. Sizes in names: B rows of a batch, M
tokens that they read, N rows of the data set, E embedding width, L labels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smallgpt.console import progress_bar
from smallgpt.model.hardware import Precision
from smallgpt.model.head import head_name, is_plain
from smallgpt.options.training import TrainSettings
from smallgpt.rows.batching import batches_by_length
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.to_device import rows_as_batch, rows_to_predict, to_device
from smallgpt.training.objective import Objective

# Of a frozen backbone: rows that go through it at once, and numbers (fp32) that are kept at most.
_ROWS_AT_ONCE, _MOST_KEPT = 32, 2**29


def make_step(
    model: torch.nn.Module,
    rows: TokenLabelDataset,
    settings: TrainSettings,
    precision: Precision,
    scaler: torch.amp.GradScaler,
    say: Callable[[str], None],
) -> TokenStep | HeadStep:
    """What computes the gradients that the settings ask for.

    Args:
        model: its dropout is on.
        rows: all rows to learn from; for a head that names labels without their tails.
        settings: weights of the objective, whether to compile.
        precision: of the matrix products.
        scaler: of the loss, enabled for fp16 alone.
        say: called with a line for a person.
    """
    objective = Objective(model, rows, settings, precision)
    if settings.classifier == "head":
        step = HeadStep(objective, scaler, settings.freeze_backbone)
        if step.keep_inputs():
            say("the backbone is frozen: what the head reads of each training row is computed once")
        return step
    if settings.compile == "on":
        objective.forward.compile_backbone(say)
    return TokenStep(objective, scaler)


class _Step:
    def __init__(self, objective: Objective, scaler: torch.amp.GradScaler):
        self.objective, self.scaler = objective, scaler

    @property
    def compiled(self) -> bool:
        """Whether torch.compile computes."""
        return self.objective.forward.compiled

    def clear_gradients(self) -> None:
        """Forget what was added."""
        self.objective.model.zero_grad(set_to_none=True)


class TokenStep(_Step):
    """Each token of a row predicts the next."""

    def add_gradients(self, batches: list[np.ndarray]) -> Tensor:
        """Add the gradients of the weighted mean loss over all rows of `batches`.

        The mean is over the counted tokens of all batches together, so the split into batches
        does not matter.

        Args:
            batches: row numbers.

        Returns:
            Summed unweighted negative log likelihood (nats), on the device.
        """
        objective, device = self.objective, self.objective.device
        total_weight = objective.total_weight(batches)
        nll = torch.zeros((), device=device)
        for indices in batches:
            batch = rows_to_predict(objective.rows, indices, device)
            weights_M = np.ones(len(batch.ids_M), np.float32)
            weights_M[batch.label_places_R] = objective.label_weights_N[indices][batch.labelled_B]
            hidden_MxE = objective.forward(objective.drop_tokens(batch.ids_M), batch.lengths_B)
            targets_M = batch.targets_M
            if batch.scored_M is not None:
                weights_M = weights_M[batch.scored_M]
                # Numbers, not booleans, of which a GPU would have to tell the host how many.
                scored_S = to_device(np.flatnonzero(batch.scored_M), device)
                hidden_MxE, targets_M = hidden_MxE[scored_S], targets_M[scored_S]
            nll_M = objective.nll(hidden_MxE, targets_M)
            loss = (nll_M * to_device(weights_M, device)).sum() / total_weight
            self.scaler.scale(loss).backward()
            nll += nll_M.detach().sum()
        return nll


class HeadStep(_Step):
    """Each row, read without its tail, predicts its label by the model's head."""

    def __init__(self, objective: Objective, scaler: torch.amp.GradScaler, frozen: bool):
        """
        Args:
            objective: its rows are without their tails, and all labelled.
            scaler: of the loss.
            frozen: whether the backbone stays as it is: then it computes without dropout, of
                tokens too, as it will when the model is used.
        """
        super().__init__(objective, scaler)
        self._frozen = frozen
        self._inputs_NxE: Tensor | None = None

    def keep_inputs(self) -> bool:
        """Compute what the head reads of all rows, where that never changes; returns whether.

        In batches that follow from the rows alone, so that a resumed run finds the same bits.
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
        """What the head says of rows, B x L."""
        objective, model = self.objective, self.objective.model
        if self._inputs_NxE is not None:
            inputs_BxE = self._inputs_NxE[to_device(indices, objective.device)]
            # Encoders drop out what goes into the head.
            dropout = getattr(model, "dropout", None)
            if isinstance(dropout, torch.nn.Module):
                inputs_BxE = dropout(inputs_BxE)
            return getattr(model, head_name(model))(inputs_BxE)
        batch = rows_as_batch(objective.rows, indices, objective.device)
        ids_M = batch.ids_M if self._frozen else objective.drop_tokens(batch.ids_M)
        return objective.forward(ids_M, batch.lengths_B, "labels")

    def add_gradients(self, batches: list[np.ndarray]) -> Tensor:
        """Add the gradients of the mean over all rows of `batches` of the weighted label loss.

        The class weights are 1 on average over an epoch, so the mean is over rows: divided by the
        weights of these rows alone they would cancel, with one row altogether.

        Args:
            batches: row numbers.

        Returns:
            Summed unweighted negative log likelihood of the labels (nats), on the device.
        """
        objective, device = self.objective, self.objective.device
        row_count = sum(map(len, batches))
        if self._frozen:
            objective.model.base_model.eval()
        nll = torch.zeros((), device=device)
        for indices in batches:
            logits_BxL = self._logits(indices)
            classes_B = objective.rows.classes_N[indices].astype(np.int64)
            weights_B = objective.class_weights_L[classes_B].astype(np.float32)
            nll_B = functional.cross_entropy(
                logits_BxL, to_device(classes_B, device), reduction="none"
            )
            loss = (nll_B * to_device(weights_B, device)).sum() / row_count
            self.scaler.scale(loss).backward()
            nll += nll_B.detach().sum()
        return nll
