"""One update of the weights: learning rate, gradients, clipping, optimizers, averages.

updater = Updater(run)
for batches in run.updates_of_epoch(0):
    updater.set_learning_rate()
    updater.compute_gradients(batches)
    updater.step_optimizers()
updater.collect_figures()             # run.state has the sums of their losses now
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from smallgpt.errors import UserError
from smallgpt.training.run import Run
from smallgpt.training.schedule import learning_rate_at, place_in_schedule
from smallgpt.training.weight_average import update_average

_MOST_LINES_SHOWN = 8
# Updates without a single finite one after which `on_nonfinite skip` gives up within an epoch.
_HOPELESS_UPDATES = 20


class UpdateFigures(NamedTuple):
    """What an update gave, as tensors on the device.

    Attributes:
        step: number of the update, from 1.
        batches: its rows.
        nll: summed negative log likelihood of their tokens, nats.
        norm: of the gradient before it was scaled down.
        label_first_count: rows that had their label first, each with one token less to predict.
    """

    step: int
    batches: list[np.ndarray]
    nll: torch.Tensor
    norm: torch.Tensor
    label_first_count: int


class Updater:
    """Updates the weights of a run, and sums up the losses in its state.

    Attributes:
        learning_rate: of the last update.
        norm: of its gradient before it was scaled down, on the device.
        waiting: figures of the last updates that are not in the state yet. On a GPU the host does
            not wait for each: they are read together before anything is logged or saved.
    """

    def __init__(self, run: Run):
        self.run = run
        self.waiting: list[UpdateFigures] = []

    def set_learning_rate(self) -> None:
        """Give the optimizers the learning rate of this step."""
        run = self.run
        plan = run.state.plan
        place = place_in_schedule(run.state.step, plan)
        self.learning_rate = learning_rate_at(place, plan[0][1], run.settings)
        for optimizer in run.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate

    def compute_gradients(self, batches: list[np.ndarray]) -> None:
        """Gradients of the objective over the rows of `batches`, scaled down to max_grad_norm."""
        run = self.run
        nll = run.gradients.add_gradients(batches, run.state.step)
        for optimizer in run.optimizers:
            run.scaler.unscale_(optimizer)
        limit = run.settings.max_grad_norm
        self.norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), limit)
        first = run.gradients.label_first_count
        self.waiting.append(UpdateFigures(run.state.step + 1, batches, nll, self.norm, first))

    def step_optimizers(self) -> None:
        """Move the weights, and count the step.

        Where loss or gradient is not a finite number, weights and optimizers stay what they are.

        Raises:
            UserError: so it was, and `on_nonfinite` says to stop. On a GPU, where the host does
                not wait for each figure, some steps later.
        """
        run, state = self.run, self.run.state
        # The norm is of all gradients together, so that one optimizer never moves without the
        # other. (GradScaler.step would ask each about its own gradients only.)
        is_finite = torch.isfinite(self.norm) & torch.isfinite(self.waiting[-1].nll)
        on_gpu = run.device.type == "cuda"
        if on_gpu:  # the host does not wait to know
            for optimizer in run.optimizers:
                # Where 1, they pass over the step. The types of torch lack the attribute.
                optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
        else:
            self.collect_figures()
        state.step += 1
        state.epoch_step += 1
        if on_gpu or is_finite:
            for optimizer in run.optimizers:
                optimizer.step()
            if run.settings.ema_decay:
                update_average(run.optimizers, run.settings.ema_decay, state.step)
        run.scaler.update()
        run.gradients.clear_gradients()
        state.read_clock()

    def collect_figures(self) -> None:
        """Add the losses of the last updates to the sums in the state.

        Raises:
            UserError: one was not finite, and `on_nonfinite` says to stop.
        """
        run, state = self.run, self.run.state
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        pairs = torch.stack([torch.stack((each.nll, each.norm)) for each in waiting]).tolist()
        for each, (nll, norm) in zip(waiting, pairs, strict=True):
            # In fp16 a gradient that overflows is ordinary: the scaler passes over it.
            if math.isfinite(nll) and (math.isfinite(norm) or run.scaler.is_enabled()):
                rows = np.concatenate(each.batches)
                terms, tokens = run.loss_terms_N[rows].sum(), run.tokens_N[rows].sum()
                fewer = each.label_first_count
                state.add_losses(nll, int(terms) - fewer, int(tokens) - fewer)
            else:
                self._note_nonfinite(each, nll)

    def end_epoch(self) -> None:
        """Have the sums of an epoch complete.

        Raises:
            UserError: none of its updates was finite.
        """
        self.collect_figures()
        if self.run.state.epoch_tokens == 0:
            error = UserError(
                f"no step of epoch {self.run.state.epoch + 1} had a finite loss and gradient: "
                f"lower --learning_rate"
            )
            raise self.run.processes.told_once(error)

    def _note_nonfinite(self, update: UpdateFigures, nll: float) -> None:
        """Say which update was passed over and what it was fed.

        Raises:
            UserError: `on_nonfinite` says to stop, or no update of the epoch was finite so far.
        """
        run, state = self.run, self.run.state
        lines = np.sort(run.rows.lines_N[np.concatenate(update.batches)]).tolist()
        shown = ", ".join(f"{line}" for line in lines[:_MOST_LINES_SHOWN])
        if len(lines) > _MOST_LINES_SHOWN:
            shown += f" and {len(lines) - _MOST_LINES_SHOWN} more"
        what = (
            f"the gradient is no longer finite at step {update.step:,} (loss {nll:.4g}; lines "
            f"{shown} of {run.settings.data_path}); nothing was updated by it"
        )
        nothing_learned = state.epoch_tokens == 0 and state.epoch_step >= _HOPELESS_UPDATES
        if run.settings.on_nonfinite == "stop" or nothing_learned:
            error = UserError(
                f"{what}. Lower --learning_rate"
                + (", or use --precision fp32" if run.precision.name != "fp32" else "")
                + ("" if nothing_learned else ", or pass over such steps: --on_nonfinite skip")
            )
            raise run.processes.told_once(error)
        run.log.say(f"warning: {what}")
