"""The best model so far: which metric decides, when it is saved, early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from smallgpt.errors import UserError
from smallgpt.evaluation.row_results import label_loss_name
from smallgpt.model.folder import replace_validation
from smallgpt.model.weights_file import read_validation
from smallgpt.options.training import TrainSettings
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.training.run import Evaluation, Run
from smallgpt.training.schedule import place_in_schedule
from smallgpt.training.stored_figures import with_figures


def choose_metric(settings: TrainSettings, validation_rows: TokenLabelDataset) -> str:
    """The metric that selects the best model: loss, label_loss or label_accuracy.

    Raises:
        UserError: it needs labels, and the validation rows have none.
    """
    metric, has_labels = settings.best_metric, validation_rows.has_labels
    if settings.classifier == "head" and metric == "loss":
        return "label_loss"  # the one loss that there is
    if metric == "auto":
        return "label_loss" if has_labels and settings.task != "lm" else "loss"
    if metric != "loss" and not has_labels:
        raise UserError(f"--best_metric {metric} needs labelled validation rows")
    return metric


class BestModel:
    """Saves the weights that `CrossFit` chooses; counts evaluations without a new lowest cost."""

    def __init__(self, run: Run):
        self._run = run

    def consider(self, evaluation: Evaluation) -> bool:
        """Save the weights if this evaluation is chosen as the best so far; returns whether.

        Raises:
            UserError: the metric is not finite.
        """
        run, state = self._run, self._run.state
        value = float(evaluation.figures[_figure(run.best_metric, evaluation.figures)])
        if not math.isfinite(value):
            raise UserError(f"the validation {run.best_metric} is no longer finite")
        lowest = run.cross_fit.lowest
        is_best = run.cross_fit.add(evaluation.results)
        if is_best:
            state.best_value, state.best_step = value, state.step
            told = run.cross_fit.figures(evaluation.results.temperature)
            run.save_model(
                run.folder.best_model, {**(told or evaluation.figures), "best_value": value}
            )
        if run.cross_fit.lowest < lowest:
            state.evaluations_without_progress = 0
        elif place_in_schedule(state.step, state.plan) >= state.plan[0][1] / 2:
            # Before, no progress says little: the learning rate is high.
            state.evaluations_without_progress += 1
        return is_best

    def tell(self) -> None:
        """Bring the figures stored with the best model to what all evaluations together tell."""
        folder = self._run.folder.best_model
        stored = read_validation(folder)
        temperature = stored.get("calibration", {}).get("temperature", 1.0)
        told = self._run.cross_fit.figures(temperature)
        if told is not None and told["chosen_among"] != stored.get("chosen_among"):
            replace_validation(folder, with_figures(stored, told))

    def is_out_of_patience(self) -> bool:
        """Whether --early_stopping_patience ends the run."""
        patience = self._run.settings.early_stopping_patience
        return 0 < patience <= self._run.state.evaluations_without_progress

    def compare_with_folder(self, exact: bool) -> None:
        """Compare best_model with the checkpoint: it may be damaged, or saved later.

        `exact`: the run repeats all updates after the checkpoint, so it saves a newer one again.
        """
        state, folder, say = self._run.state, self._run.folder.best_model, self._run.log.say
        if state.best_value is None and not folder.exists():
            return
        try:
            stored = read_validation(folder)
        except UserError as error:
            say(f"warning: {error}; the next evaluation counts as the best so far")
            state.best_value, state.best_step = None, 0
            self._run.cross_fit.forget(None)
            return
        # Older versions chose by the figure that they told.
        figure = _figure(self._run.best_metric, stored)
        step, value = stored.get("step"), stored.get("best_value", stored.get(figure))
        if not exact and isinstance(step, int) and step > state.step and isinstance(value, float):
            state.best_value, state.best_step = value, step
            self._run.cross_fit.forget(value)
            say(
                f"{folder} was saved after the checkpoint, at step {step:,}; it stays until a "
                f"better one comes"
            )


def _figure(metric: str, figures: Mapping[str, Any]) -> str:
    """The name of a metric among the figures of an evaluation."""
    if metric == "label_accuracy":
        return "accuracy"
    return label_loss_name(figures) if metric == "label_loss" else metric
