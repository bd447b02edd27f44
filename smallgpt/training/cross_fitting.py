"""Cross-fitting: validation figures of the chosen model, told from rows that did not choose it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from smallgpt.evaluation.label_probabilities import LabelAnswers
from smallgpt.evaluation.row_results import RowResults, TokenResults
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.splitting import fold_rows

_MOST_FOLDS = 5


class CrossFit:
    """Keeps for each fold of the validation rows the evaluation that the other folds choose.

    The best of many evaluations on some rows looks better on these rows than on any others, since
    luck is chosen too (docs/measurements.md). Here no row has a say in which of its results is
    kept, so that together they tell what a model chosen on validation rows is worth. (With four
    fifths of the rows to choose by, which errs on the side of caution.) The model that is saved is
    still chosen by all rows.
    """

    def __init__(self, rows: TokenLabelDataset, metric: str):
        """`metric`: loss, label_loss or label_accuracy, as it chooses the best model."""
        self._rows, self._metric = rows, metric
        self._weight_N = rows.scored_counts if metric == "loss" else rows.classes_N >= 0
        self.fold_N = fold_rows(rows, self._weight_N > 0, _MOST_FOLDS)
        self._folds = int(self.fold_N.max()) + 1
        self._best_F = np.full(self._folds, np.inf)  # of the other folds, the lower the better
        self._kept: dict[str, np.ndarray] = {}
        self._evaluations: int | None = 0  # None where not all of the run are known

    def add(self, results: RowResults) -> None:
        """Take the results of another evaluation."""
        if self._evaluations is None:
            return
        self._evaluations += 1
        columns = _columns(results)
        if not self._kept:
            self._kept = {name: column.copy() for name, column in columns.items()}
        cost_F, weight_F = (
            np.bincount(self.fold_N, each_N)
            for each_N in (self._cost_of_rows(results), self._weight_N)
        )
        if self._folds > 1:
            value_F = (cost_F.sum() - cost_F) / (weight_F.sum() - weight_F)
        else:
            value_F = cost_F / weight_F
        is_best_F = value_F < self._best_F
        self._best_F = np.where(is_best_F, value_F, self._best_F)
        for name, column in columns.items():
            self._kept[name][is_best_F[self.fold_N]] = column[is_best_F[self.fold_N]]

    def figures(self, temperature: float) -> dict[str, Any] | None:
        """The validation figures to tell; `temperature` is that of the chosen model.

        `chosen_among` is the number of evaluations. None where the rows cannot be parted, or an
        older version of this toolkit or a lost checkpoint leaves evaluations unknown.
        """
        if not self._evaluations or (self._folds == 1 and self._evaluations > 1):
            return None
        results = _results(self._kept, temperature)
        return results.validation_figures(self._rows) | {"chosen_among": self._evaluations}

    def _cost_of_rows(self, results: RowResults) -> np.ndarray:
        if self._metric == "loss":
            assert results.tokens is not None  # `choose_metric` never takes it for a label head
            return results.tokens.nll_sum_N
        if self._metric == "label_loss":
            return np.where(self._weight_N, results.label_nll_N, 0)
        assert results.answers is not None  # it needs labelled rows
        right_N = results.answers.top_two_Nx2[:, 0] == self._rows.classes_N
        return -(right_N & self._weight_N).astype(float)

    # ---------------------------------------------------------------------------- resuming

    def forget(self, unknown: bool) -> None:
        """Begin anew; `unknown`: with a model that evaluations not known here have chosen."""
        self._best_F[:] = np.inf
        self._kept, self._evaluations = {}, None if unknown else 0

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint stores, empty where there is nothing to go on with."""
        if not self._evaluations:
            return {}
        arrays = {
            "best_F": self._best_F,
            "evaluations": np.array([self._evaluations]),
            **self._kept,
        }
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: it belongs to other rows.
        """
        arrays = {name: tensor.numpy().copy() for name, tensor in state.items()}
        best_F, evaluations = arrays.pop("best_F"), arrays.pop("evaluations")
        if best_F.shape != self._best_F.shape or any(
            len(column) != len(self.fold_N) for column in arrays.values()
        ):
            raise ValueError("its validation results belong to other rows")
        self._best_F, self._evaluations, self._kept = best_F, int(evaluations[0]), arrays


def _columns(results: RowResults) -> dict[str, np.ndarray]:
    """The arrays of results, by name."""
    columns = {"label_nll_N": results.label_nll_N}
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
    return RowResults(tokens, columns["label_nll_N"], answers, temperature)
