"""Results of scored rows: the few numbers of each row from which its figures are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from smallgpt.evaluation.label_probabilities import LabelAnswers
from smallgpt.evaluation.metrics import label_figures, language_figures, mean_perplexity, perplexity


class JudgedRows(Protocol):
    """What figures need of rows besides their results: a `TokenLabelDataset` has it."""

    @property
    def classes_N(self) -> np.ndarray: ...  # noqa: N802  (the name of a column)
    @property
    def scored_counts(self) -> np.ndarray: ...
    @property
    def scored_body_counts(self) -> np.ndarray: ...
    @property
    def label_names(self) -> list[str]: ...


def label_loss_name(figures: Mapping[str, Any]) -> str:
    """The label loss of figures that a model is judged by: calibrated where it was calibrated.

    It is used with its temperature, and with few rows confidence grows while answers get better.
    """
    return "calibrated_label_loss" if "calibrated_label_loss" in figures else "label_loss"


@dataclass(frozen=True)
class TokenResults:
    """Results of the tokens of N rows after the first; of an instruction, of its answer.

    Attributes:
        nll_sum_N: their summed negative log likelihood, nats.
        correct_N: how many of them were the likeliest token.
        body_nll_sum_N: as `nll_sum_N`, of the body alone: the tokens before the label tail (of an
            unlabelled row, before its closing <CLS> or <EOS>).
    """

    nll_sum_N: np.ndarray
    correct_N: np.ndarray
    body_nll_sum_N: np.ndarray

    def subset(self, indices_M: np.ndarray) -> TokenResults:
        """The rows `indices_M`."""
        columns = self.nll_sum_N, self.correct_N, self.body_nll_sum_N
        return TokenResults(*(column[indices_M] for column in columns))


@dataclass(frozen=True)
class RowResults:
    """Results of N rows, far smaller than the probabilities that they come from.

    Attributes:
        tokens: None for a label head.
        label_nll_N: as in `Scores`.
        answers: to labelled rows, meaningless for others; None where no row is labelled.
        temperature: fitted on all of these rows, or known before; 1 for none.
        calibrated_nll_N: of the label among the labels, after the temperature that the other folds
            fit; None where none was fitted here, or not all probabilities were kept for it.
    """

    tokens: TokenResults | None
    label_nll_N: np.ndarray
    answers: LabelAnswers | None
    temperature: float
    calibrated_nll_N: np.ndarray | None = None

    def figures(self, rows: JudgedRows) -> dict[str, Any]:
        """All metrics: of tokens unless by a label head, of labels where any row has one."""
        figures: dict[str, Any] = {}
        tokens = self.tokens
        if tokens is not None:
            figures = language_figures(tokens.nll_sum_N, rows.scored_counts, tokens.correct_N)
            figures["body_perplexity"] = mean_perplexity(
                tokens.body_nll_sum_N, rows.scored_body_counts
            )
        if self.answers is not None:
            labelled = np.flatnonzero(rows.classes_N >= 0)
            figures["label_loss"] = float(self.label_nll_N[labelled].mean())
            if self.calibrated_nll_N is not None:
                calibrated_M = self.calibrated_nll_N[labelled]
                figures["calibrated_label_loss"] = float(calibrated_M.mean())
            if tokens is not None:
                figures["label_perplexity"] = perplexity(figures["label_loss"])
            figures |= label_figures(
                rows.classes_N[labelled],
                self.answers.subset(labelled),
                rows.label_names,
                self.temperature,
            )
        return figures

    def validation_figures(self, rows: JudgedRows) -> dict[str, Any]:
        """All metrics of validation rows, with what calibration came to."""
        figures = self.figures(rows)
        if self.answers is not None:
            figures["calibration"] = {
                "temperature": self.temperature,
                "rows": sum(each["count"] for each in figures["reliability"]),
                "raw_ece": figures["raw_ece"],
                "ece": figures["ece"],
            }
        return figures
