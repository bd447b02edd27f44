"""A training run: its parts, its batches, validation, saved models.

Weights, optimizers, `state` and `cross_fit` change during training; nothing else does.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from smallgpt.distribution import VERSION
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.errors import UserError
from smallgpt.evaluation.row_results import RowResults
from smallgpt.evaluation.scoring import score_rows
from smallgpt.model.folder import save_model_folder
from smallgpt.model.hardware import Precision
from smallgpt.model.lora import Adapter, found_from_anywhere
from smallgpt.options.plan import plan_text
from smallgpt.options.training import TrainSettings
from smallgpt.processes import Processes
from smallgpt.rows.batching import epoch_batches
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.training.cross_fitting import CrossFit
from smallgpt.training.gradients import HeadStep, TokenStep
from smallgpt.training.loop_state import LoopState
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.run_log import RunLog
from smallgpt.training.stopping import StopSignal
from smallgpt.training.stored_figures import stored_figures
from smallgpt.training.weight_average import averaged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MOST_FIRST_TOKENS = 1000  # stored with a model, for rows that are generated without a prompt
_EVALUATIONS = 24  # about so many of a run with many epochs; of one with fewer, after each epoch


class Evaluation(NamedTuple):
    """An evaluation on the validation rows: its metrics, and the results of the rows."""

    figures: dict[str, Any]
    results: RowResults


@dataclass(frozen=True)
class Run:
    """The parts of a training run.

    Attributes:
        rows, validation_rows: without tails for a label head.
        loss_terms_N, tokens_N: of each training row its losses (scored tokens; 1 for a label head)
            and its tokens, for speeds.
        codebook: of image rows, copied into the models.
        adapter: the trained part of the model; None where all of it is trained.
        optimizers: each trained parameter belongs to exactly one of them.
        trained_length: longest row its models are good for, in tokens.
        belongs_to: fingerprints that a checkpoint must share, by name.
        baselines: of the data report; stored with the models.
        cross_fit: takes the results of each evaluation.
        command: the command line, None for a run from Python.
        processes: that train the model; the first one writes the files.
    """

    settings: TrainSettings
    folder: RunFolder
    log: RunLog
    rows: TokenLabelDataset
    validation_rows: TokenLabelDataset
    loss_terms_N: np.ndarray
    tokens_N: np.ndarray
    codebook: Path | None
    device: torch.device
    precision: Precision
    model: PreTrainedModel
    adapter: Adapter | None
    optimizers: list[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    gradients: TokenStep | HeadStep
    steps_per_epoch: int
    trained_length: int
    best_metric: str
    belongs_to: dict[str, str]
    baselines: dict[str, float]
    cross_fit: CrossFit
    command: str | None
    processes: Processes
    state: LoopState

    @property
    def total_steps(self) -> int:
        """Updates of the whole run, as it is planned now."""
        return self.state.total_steps

    def epochs_an_evaluation(self, total_steps: int) -> int:
        """After how many epochs each an evaluation comes in a plan of so many updates."""
        return max(1, round(total_steps / self.steps_per_epoch / _EVALUATIONS))

    @property
    def is_timed(self) -> bool:
        """Whether --max_minutes makes the plan; a plan that is given as `steps` stays."""
        return self.settings.max_minutes is not None and self.settings.steps is None

    @property
    def settings_with_plan(self) -> TrainSettings:
        """The settings that repeat the run, with the plan that the clock has made so far."""
        if not self.is_timed:
            return self.settings
        return replace(self.settings, steps=plan_text(self.state.plan))

    def is_evaluated_now(self) -> bool:
        """Whether an evaluation follows the epoch that has just ended."""
        state = self.state
        each = self.epochs_an_evaluation(self.total_steps)
        return state.step >= self.total_steps or (state.epoch + 1) % each == 0

    def updates_of_epoch(self, epoch: int) -> list[list[np.ndarray]]:
        """The row numbers of each update, in batches; they depend on seed and epoch alone.

        Rows of an update are drawn first and then divided, so that a smaller batch_size with more
        accumulation learns from the same rows in the same order of updates.
        """
        settings, size = self.settings, self.settings.batch_size
        updates = epoch_batches(
            self.rows, size * settings.grad_accumulation_steps, settings.seed, epoch
        )
        return [[rows[i : i + size] for i in range(0, len(rows), size)] for rows in updates]

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Context in which the model has its averaged weights, where --ema_decay asks for it."""
        return averaged(self.optimizers)

    def validate(self, stop: StopSignal) -> Evaluation:
        """Evaluate the current weights on the validation rows.

        Raises:
            UserError: they are not finite.
            StopRequestedError: a signal to stop has arrived.
        """
        label_ids = self.validation_rows.vocabulary.label_ids
        was_training = self.model.training
        self.model.eval()
        try:
            scores = score_rows(
                TorchEngine(self.model, self.precision, label_ids),
                self.validation_rows,
                batch_size=max(64, self.settings.batch_size),
                each_batch=stop.raise_if_requested,
                description="validating",
                to_calibrate=self.validation_rows.has_labels,
                processes=self.processes,
            )
        finally:
            self.model.train(was_training)
        if not scores.is_finite.all():
            error = UserError(f"the validation {self.best_metric} is no longer finite")
            raise self.processes.told_once(error)
        results = scores.cross_fitted_results(self.validation_rows, self.cross_fit.fold_N)
        return Evaluation(results.validation_figures(self.validation_rows), results)

    def save_model(self, folder: Path, validation: dict[str, Any]) -> None:
        """Write the current weights as a model folder, with their validation metrics."""
        model, adapter = self.model, self.adapter
        settings = replace(self.settings_with_plan, max_length=self.trained_length)
        if self.rows.has_unknown:  # then it is one of the tokens that the model knows
            settings = replace(settings, unknown_token="unk")
        if adapter is not None and settings.merge_lora:
            model, adapter = adapter.merged(), None
        if adapter is not None:
            assert settings.init_from is not None  # an adapter is made for some model
            settings = replace(settings, init_from=found_from_anywhere(settings.init_from))
        about = {
            "measured_on": "the validation rows of the training run",
            "step": self.state.step,
            "rows": len(self.validation_rows),
            **stored_figures(validation),
            "baselines": self.baselines,
            "first_tokens": self.rows.first_tokens(_MOST_FIRST_TOKENS),
        }
        made_by = {
            "smallgpt": VERSION,
            "command": self.command,
            "data": self.belongs_to,
            "computed_by": self.way_of_computing(),
        }
        save_model_folder(
            model,
            folder,
            self.rows.vocabulary,
            settings,
            self.codebook,
            about,
            adapter,
            made_by,
        )

    def way_of_computing(self) -> dict[str, Any]:
        """What the last bits of the result depend on besides data and settings, by name."""
        on_gpu = self.device.type == "cuda"
        found = {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            "processes": self.processes.count,
            "threads": torch.get_num_threads(),
            "precision": self.precision.name,
            "compile": "on" if self.gradients.compiled else "off",
            "processor": torch.backends.cpu.get_cpu_capability(),
            "torch": str(torch.__version__),
        }
        settings = self.settings
        if settings.grad_accumulation_steps > 1 or settings.class_weights != "none":
            # Checkpoints of older versions, which did both otherwise, do not have it.
            found["an update"] = "of rows drawn together, class weights not divided by their sum"
        return found
