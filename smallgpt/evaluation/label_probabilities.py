"""Label probabilities of rows: of up to 200 labels all, of more the 50 largest.

Beyond MOST_LABELS_WHOLE labels nothing in an evaluation grows with labels x rows: a row keeps its
largest probabilities and, since the temperature is known, the normalizer at that temperature. To
fit a temperature, training keeps all probabilities of a sample of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from smallgpt.evaluation.calibration import apply_temperature, fit_temperatures, log_totals

# Up to so many labels all are kept and written: 160 MB of memory and 500 MB of predictions.jsonl
# for 100,000 rows, which grow with labels x rows. Beyond, only the largest of a row, some KB of
# predictions.jsonl, and confusions as triples: a table of 10,000 x 10,000 is 800 MB.
MOST_LABELS_WHOLE = 200
LARGEST_KEPT = 50


@dataclass(frozen=True)
class LabelAnswers:
    """What label figures are computed from: the answers to N rows.

    Attributes:
        top_two_Nx2: class indices of the two likeliest labels (Nx1 of a single label).
        raw_confidence_N, confidence_N: probability of the likeliest label before and after the
            temperature; NaN for rows outside of a calibration sample.
    """

    top_two_Nx2: np.ndarray
    raw_confidence_N: np.ndarray
    confidence_N: np.ndarray

    def subset(self, indices_M: np.ndarray) -> LabelAnswers:
        """The rows `indices_M`."""
        columns = self.top_two_Nx2, self.raw_confidence_N, self.confidence_N
        return LabelAnswers(*(column[indices_M] for column in columns))


@dataclass(frozen=True)
class LabelProbabilities:
    """Log probabilities of the labels of N rows.

    Up to MOST_LABELS_WHOLE labels there is a column for each. Beyond, a row has its LARGEST_KEPT
    largest in descending order, ties by label index.

    Attributes:
        labels: number of labels.
        temperature: the one of `log_totals_N`.
        log_probs_NxK: NaN for a row that was not scored, or not with finite numbers.
        classes_NxK: class index of each entry; None where column k is label k.
        log_totals_N: `calibration.log_totals` over all labels; unused where all are kept.
        sampled_S, sampled_log_probs_SxL: rows kept in full for calibration, and theirs.
    """

    labels: int
    temperature: float
    log_probs_NxK: np.ndarray
    classes_NxK: np.ndarray | None
    log_totals_N: np.ndarray
    sampled_S: np.ndarray
    sampled_log_probs_SxL: np.ndarray

    @classmethod
    def empty(
        cls,
        rows: int,
        labels: int,
        temperature: float = 1.0,
        sampled: Sequence[int] | np.ndarray = (),
    ) -> LabelProbabilities:
        """Space for so many rows, none scored yet."""
        many = labels > MOST_LABELS_WHOLE
        columns = LARGEST_KEPT if many else labels
        sampled_S = np.array(sampled if many else (), np.int64)
        return cls(
            labels,
            temperature,
            np.full((rows, columns), np.nan),
            np.tile(np.arange(columns, dtype=np.int32), (rows, 1)) if many else None,
            np.zeros(rows),
            sampled_S,
            np.full((len(sampled_S), labels), np.nan, np.float32),
        )

    @classmethod
    def of(cls, log_probs_NxL: np.ndarray, temperature: float = 1.0) -> LabelProbabilities:
        """From an array with a column for each label."""
        rows, labels = log_probs_NxL.shape
        probs = cls.empty(rows, labels, temperature)
        probs.put(np.arange(rows), log_probs_NxL)
        return probs

    @property
    def are_whole(self) -> bool:
        """Whether all labels of every row are kept."""
        return self.classes_NxK is None

    @property
    def answered(self) -> np.ndarray:
        """Whether a row was scored with finite numbers, N booleans."""
        return np.isfinite(self.log_probs_NxK).all(axis=1) & (self.labels > 0)

    @property
    def top_two(self) -> np.ndarray:
        """The two likeliest labels, Nx2 class indices (Nx1 of one label), ties by index."""
        if self.classes_NxK is not None:
            return self.classes_NxK[:, :2]
        return np.argsort(-self.log_probs_NxK, axis=1, kind="stable")[:, :2]

    @property
    def predicted(self) -> np.ndarray:
        """Class index of the likeliest label, N."""
        if self.classes_NxK is not None:
            return self.classes_NxK[:, 0].astype(np.int64)
        return self.log_probs_NxK.argmax(axis=1)

    def at(self, temperature: float) -> np.ndarray:
        """The kept probabilities at a temperature, NxK.

        Raises:
            ValueError: not all labels are kept, and it is neither 1 nor `self.temperature`.
        """
        if self.are_whole:
            return apply_temperature(self.log_probs_NxK, temperature)
        if temperature not in (1.0, self.temperature):
            raise ValueError(f"these probabilities are known at 1 and {self.temperature}")
        totals_N = self.log_totals_N if temperature != 1.0 else np.zeros_like(self.log_totals_N)
        return apply_temperature(self.log_probs_NxK, temperature, totals_N)

    def answers(self, temperature: float) -> LabelAnswers:
        """The answers, with confidences at a temperature; see `at`."""
        raw_N, calibrated_N = (self.at(each).max(axis=1) for each in (1.0, temperature))
        return LabelAnswers(self.top_two, raw_N, calibrated_N)

    def cross_fitted(
        self, true_N: np.ndarray, fold_N: np.ndarray, order_M: np.ndarray
    ) -> tuple[float, LabelAnswers, np.ndarray | None]:
        """The temperature fitted on labelled rows, and what the other folds' makes of each row.

        That is: answers with these confidences, and the negative log likelihood of its label, nats
        (NaN of an unlabelled row). `true_N`, `fold_N`: class and fold of each row; `order_M`: the
        labelled rows in the order in which sums are taken. Where only a sample was kept in full,
        confidences of it alone, and likelihoods of none.
        """
        rows_M, log_probs_MxL = self.sampled_S, self.sampled_log_probs_SxL
        if self.are_whole:
            rows_M, log_probs_MxL = order_M, self.log_probs_NxK[order_M]
        fitted = fit_temperatures(log_probs_MxL, true_N[rows_M], fold_N[rows_M])
        raw_N, confidence_N = np.full((2, len(self.log_probs_NxK)), np.nan)
        raw_N[rows_M] = apply_temperature(log_probs_MxL, 1.0).max(axis=1)
        probs_MxL = apply_temperature(log_probs_MxL, fitted.of_row_Nx1)
        confidence_N[rows_M] = probs_MxL.max(axis=1)
        answers = LabelAnswers(self.top_two, raw_N, confidence_N)
        if not self.are_whole:
            return fitted.of_all, answers, None
        nll_N = np.full(len(raw_N), np.nan)
        true_M = probs_MxL[np.arange(len(rows_M)), true_N[rows_M]]
        nll_N[rows_M] = -np.log(np.maximum(true_M, np.finfo(true_M.dtype).tiny))
        return fitted.of_all, answers, nll_N

    def put(self, indices_B: np.ndarray, log_probs_BxL: np.ndarray) -> None:
        """Store the log probabilities of the rows `indices_B`."""
        if self.classes_NxK is None:
            self.log_probs_NxK[indices_B] = log_probs_BxL
            return
        finite_B = np.isfinite(log_probs_BxL).all(axis=1)
        indices_B, log_probs_BxL = indices_B[finite_B], log_probs_BxL[finite_B]
        if not len(indices_B):
            return
        classes_BxK = _largest(log_probs_BxL, LARGEST_KEPT)
        self.classes_NxK[indices_B] = classes_BxK
        self.log_probs_NxK[indices_B] = np.take_along_axis(log_probs_BxL, classes_BxK, axis=1)
        if self.temperature != 1.0:
            self.log_totals_N[indices_B] = log_totals(log_probs_BxL, self.temperature)
        places = np.flatnonzero(np.isin(indices_B, self.sampled_S))
        if len(places):
            by_row = np.argsort(self.sampled_S)
            there = by_row[np.searchsorted(self.sampled_S, indices_B[places], sorter=by_row)]
            self.sampled_log_probs_SxL[there] = log_probs_BxL[places]

    def put_rows(self, indices_B: np.ndarray, other: LabelProbabilities) -> None:
        """Store all rows of `other` (same labels and temperature) as the rows `indices_B`."""
        self.log_probs_NxK[indices_B] = other.log_probs_NxK
        self.log_totals_N[indices_B] = other.log_totals_N
        if self.classes_NxK is not None and other.classes_NxK is not None:  # both or neither
            self.classes_NxK[indices_B] = other.classes_NxK

    def subset(self, indices_M: np.ndarray) -> LabelProbabilities:
        """The rows `indices_M`, without the calibration sample."""
        return replace(
            self,
            log_probs_NxK=self.log_probs_NxK[indices_M],
            classes_NxK=None if self.classes_NxK is None else self.classes_NxK[indices_M],
            log_totals_N=self.log_totals_N[indices_M],
            sampled_S=self.sampled_S[:0],
            sampled_log_probs_SxL=self.sampled_log_probs_SxL[:0],
        )


def _largest(values_BxL: np.ndarray, count: int) -> np.ndarray:
    """Columns of the largest values of each row, descending, ties by column."""
    import torch  # not at the top: the data report has label figures too, and needs no torch

    # torch's selection is four times as fast as numpy's.
    found_BxK = torch.from_numpy(values_BxL).topk(count, dim=1, sorted=False).indices.numpy()
    found_BxK.sort(axis=1)
    least_B = np.take_along_axis(values_BxL, found_BxK, axis=1).min(axis=1)
    # Of values equal to the smallest one kept, topk takes any.
    rows = np.flatnonzero((values_BxL >= least_B[:, None]).sum(axis=1) > count)
    above_RxL = values_BxL[rows] > least_B[rows, None]
    equal_RxL = values_BxL[rows] == least_B[rows, None]
    room_Rx1 = count - above_RxL.sum(axis=1, keepdims=True)
    kept_RxL = above_RxL | (equal_RxL & (equal_RxL.cumsum(axis=1, dtype=np.int32) <= room_Rx1))
    found_BxK[rows] = kept_RxL.nonzero()[1].reshape(len(rows), count)
    kept_BxK = np.take_along_axis(values_BxL, found_BxK, axis=1)
    order_BxK = np.argsort(-kept_BxK, axis=1, kind="stable")
    return np.take_along_axis(found_BxK, order_BxK, axis=1)
