"""Choice of the best model, and its figures cross-fitted: told from rows that did not choose it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from smallgpt.evaluation.label_probabilities import MOST_LABELS_WHOLE, LabelAnswers
from smallgpt.evaluation.row_results import RowResults, TokenResults
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.splitting import fold_rows
from smallgpt.training.choice import Choice

_MOST_FOLDS = 5


class CrossFit:
    """Chooses by all validation rows, and keeps for each fold of them what the others choose.

    The best of many evaluations on some rows looks better on these rows than on any others, since
    luck is chosen too (docs/measurements.md). Here no row has a say in which of its results is
    kept, so that together they tell what a model chosen on validation rows is worth. (With four
    fifths of the rows to choose by, which errs on the side of caution.)
    """

    def __init__(self, rows: TokenLabelDataset, metric: str):
        """`metric`: loss, label_loss (calibrated) or label_accuracy, by which rows choose."""
        self._rows, self._metric = rows, metric
        weight_N = rows.scored_counts if metric == "loss" else rows.classes_N >= 0
        self.fold_N = fold_rows(rows, weight_N > 0, _MOST_FOLDS)
        folds = np.arange(self.fold_N.max() + 1)
        others_FxN = folds[:, None] != self.fold_N if len(folds) > 1 else self.fold_N[None] == 0
        self._all = Choice(weight_N)
        self._others_F = [Choice(weight_N * others_N) for others_N in others_FxN]
        self._kept: dict[str, np.ndarray] = {}
        self._evaluations: int | None = 0  # None where not all of the run are known

    @property
    def lowest(self) -> float:
        """The lowest mean cost of all rows so far."""
        return self._all.lowest

    def add(self, results: RowResults) -> bool:
        """Take the results of another evaluation; returns whether all rows choose it so far."""
        cost_N, columns = self._cost_of_rows(results), _columns(results)
        if self._evaluations is not None:
            self._evaluations += 1
            if not self._kept:
                self._kept = {name: column.copy() for name, column in columns.items()}
            is_chosen_F = np.array([choice.add(cost_N) for choice in self._others_F])
            for name, column in columns.items():
                self._kept[name][is_chosen_F[self.fold_N]] = column[is_chosen_F[self.fold_N]]
        return self._all.add(cost_N)

    def figures(self, temperature: float) -> dict[str, Any] | None:
        """The validation figures to tell; `temperature` is that of the chosen model.

        `chosen_among` is the number of evaluations. None where the rows cannot be parted, or an
        older version of this toolkit or a lost checkpoint leaves evaluations unknown.
        """
        parted = len(self._others_F) > 1
        if not self._evaluations or (not parted and self._evaluations > 1):
            return None
        results = _results(self._kept, temperature)
        return results.validation_figures(self._rows) | {"chosen_among": self._evaluations}

    def _cost_of_rows(self, results: RowResults) -> np.ndarray:
        if self._metric == "loss":
            assert results.tokens is not None  # `choose_metric` never takes it for a label head
            return results.tokens.nll_sum_N
        if self._metric == "label_loss":
            return _label_costs(results)
        assert results.answers is not None  # it needs labelled rows
        return -(results.answers.top_two_Nx2[:, 0] == self._rows.classes_N).astype(float)

    # ---------------------------------------------------------------------------- resuming

    def forget(self, best_value: float | None) -> None:
        """Begin anew, with a model of this value, if any, that evaluations unknown here chose."""
        for choice in (self._all, *self._others_F):
            choice.forget()
        self._kept, self._evaluations = {}, 0
        if best_value is not None:
            is_cost = self._metric != "label_accuracy"
            self._all.forget(best_value if is_cost else -best_value)
            self._evaluations = None

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint stores, empty where there is nothing to go on with."""
        if not np.isfinite(self.lowest):
            return {}
        choices = self._all, *self._others_F
        arrays = {
            "lowest": np.array([choice.lowest for choice in choices]),
            **{f"cost_{number}": choice.cost_R for number, choice in enumerate(choices)},
            **self._kept,
        }
        if self._evaluations is not None:
            arrays["evaluations"] = np.array([self._evaluations])
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}

    def restore(self, state: Mapping[str, torch.Tensor], best_value: float | None) -> None:
        """Go on from `state`, or where it is empty or of an older version from `best_value`.

        Raises:
            ValueError: it belongs to other rows.
        """
        rows = self._rows
        is_calibrated = rows.has_labels and len(rows.vocabulary.labels) <= MOST_LABELS_WHOLE
        is_older = is_calibrated and "label_nll_N" in state and "calibrated_nll_N" not in state
        if "lowest" not in state or is_older:
            self.forget(best_value)
            return
        arrays = {name: tensor.numpy().copy() for name, tensor in state.items()}
        lowest, evaluations = arrays.pop("lowest"), arrays.pop("evaluations", None)
        choices = self._all, *self._others_F
        costs = [arrays.pop(f"cost_{number}") for number in range(len(lowest))]
        if [len(cost_R) for cost_R in costs] != [len(choice.cost_R) for choice in choices] or any(
            len(column) != len(self.fold_N) for column in arrays.values()
        ):
            raise ValueError("its validation results belong to other rows")
        for choice, value, cost_R in zip(choices, lowest, costs, strict=True):
            choice.lowest, choice.cost_R = float(value), cost_R
        self._evaluations = None if evaluations is None else int(evaluations[0])
        self._kept = arrays


def _label_costs(results: RowResults) -> np.ndarray:
    """What the label of each row costs, nats: with the confidence that the model is used with.

    With few rows the confidence grows on when no more is learned, and would hide that the answers
    still get better (docs/measurements.md).
    """
    calibrated_N = results.calibrated_nll_N
    return results.label_nll_N if calibrated_N is None else calibrated_N


def _columns(results: RowResults) -> dict[str, np.ndarray]:
    """The arrays of results, by name."""
    columns = {"label_nll_N": results.label_nll_N}
    if results.calibrated_nll_N is not None:
        columns["calibrated_nll_N"] = results.calibrated_nll_N
    for part in (results.tokens, results.answers):
        columns |= vars(part) if part is not None else {}
    return columns


def _results(columns: Mapping[str, np.ndarray], temperature: float) -> RowResults:
    """The results that have these `_columns`."""
    tokens, answers = None, None
    if "nll_sum_N" in columns:
        tokens = TokenResults(*(columns[name] for name in TokenResults.__annotations__))
    if "top_two_Nx2" in columns:
        answers = LabelAnswers(*(columns[name] for name in LabelAnswers.__annotations__))
    calibrated_N = columns.get("calibrated_nll_N")
    return RowResults(tokens, columns["label_nll_N"], answers, temperature, calibrated_N)
