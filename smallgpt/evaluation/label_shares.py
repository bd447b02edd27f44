"""The share that each label gets of a row, all of them or, of very many, the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Every share of every row is kept and written up to so many labels: 160 MB of memory and 500 MB of
# predictions.jsonl for 100,000 rows, which grow with labels x rows. Beyond, the largest of a row,
# some KB of predictions.jsonl, and confusions as triples: a table of 10,000 x 10,000 is 800 MB.
MOST_LABELS_WHOLE = 200
LARGEST_KEPT = 50


def label_shares(log_shares_NxL: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Shares of the labels, softmax(log_shares / temperature); 1 gives the model's own.

    The one place where a temperature is applied (Guo et al., 2017, eq. 9).

    Args:
        log_shares_NxL: logarithm of each label's share, or logits: a constant a row is lost.
        temperature: above 1 makes the answers less certain, their order stays; one number, or
            Nx1 for one a row.

    Returns:
        shares_NxL: rows summing to 1.
    """
    scaled_NxL = (log_shares_NxL - log_shares_NxL.max(axis=1, keepdims=True)) / temperature
    shares_NxL = np.exp(scaled_NxL)
    return shares_NxL / shares_NxL.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class LabelShares:
    """Which shares a model gives the labels of N rows: of few labels all, of many the largest.

    Up to MOST_LABELS_WHOLE labels there is a column for each label. Beyond, a row has its
    LARGEST_KEPT largest shares, falling, of equal ones those of the first labels.

    Attributes:
        labels: number of labels.
        temperature: the one at which `log_totals_N` are.
        log_shares_NxK: logarithms of the shares; NaN for a row that was not asked, or whose
            answer is not finite.
        classes_NxK: the label of each, None where column k is label k.
        log_totals_N: logarithm of the sum over all labels of share^(1 / temperature), by which
            the kept shares become calibrated ones; None where all are kept.
        sampled_S: rows of which every share is kept all the same, to calibrate on.
        sampled_log_shares_SxL: theirs.
    """

    labels: int
    temperature: float
    log_shares_NxK: np.ndarray
    classes_NxK: np.ndarray | None
    log_totals_N: np.ndarray | None
    sampled_S: np.ndarray
    sampled_log_shares_SxL: np.ndarray

    @classmethod
    def empty(
        cls, rows: int, labels: int, temperature: float = 1.0, sampled: Sequence[int] = ()
    ) -> LabelShares:
        """Room for the shares of so many rows; none was asked yet."""
        many = labels > MOST_LABELS_WHOLE
        columns = LARGEST_KEPT if many else labels
        sampled_S = np.array(sampled if many else (), np.int64)
        return cls(
            labels,
            temperature,
            np.full((rows, columns), np.nan),
            np.tile(np.arange(columns, dtype=np.int32), (rows, 1)) if many else None,
            np.zeros(rows) if many else None,
            sampled_S,
            np.full((len(sampled_S), labels), np.nan, np.float32),
        )

    @classmethod
    def of(cls, log_shares_NxL: np.ndarray, temperature: float = 1.0) -> LabelShares:
        """The shares of an array that has them all."""
        rows, labels = log_shares_NxL.shape
        if labels <= MOST_LABELS_WHOLE:
            none_0xL = np.zeros((0, labels), np.float32)
            return cls(labels, temperature, log_shares_NxL, None, None, np.arange(0), none_0xL)
        shares = cls.empty(rows, labels, temperature)
        shares.put(np.arange(rows), log_shares_NxL)
        return shares

    @property
    def are_whole(self) -> bool:
        """Whether every share of every row is kept."""
        return self.classes_NxK is None

    @property
    def asked(self) -> np.ndarray:
        """Whether a row was asked and all its shares are finite."""
        return np.isfinite(self.log_shares_NxK).all(axis=1) & (self.labels > 0)

    @property
    def likeliest(self) -> np.ndarray:
        """The two labels of the largest shares, the first one of equal shares; one of one label."""
        if self.classes_NxK is not None:
            return self.classes_NxK[:, :2]
        return np.argsort(-self.log_shares_NxK, axis=1, kind="stable")[:, :2]

    @property
    def predicted(self) -> np.ndarray:
        """The label of the largest share."""
        if self.classes_NxK is not None:
            return self.classes_NxK[:, 0].astype(np.int64)
        return self.log_shares_NxK.argmax(axis=1)

    def at(self, temperature: float) -> np.ndarray:
        """The kept shares at a temperature: any, or 1 or its own where not all are kept."""
        if self.log_totals_N is None:
            return label_shares(self.log_shares_NxK, temperature)
        if temperature not in (1.0, self.temperature):
            raise ValueError(f"these shares are known at 1 and {self.temperature}")
        if temperature == 1.0:
            return np.exp(self.log_shares_NxK)
        return np.exp(self.log_shares_NxK / temperature - self.log_totals_N[:, None])

    def put(self, indices_B: np.ndarray, log_shares_BxL: np.ndarray) -> None:
        """Keep what belongs to the rows `indices_B`."""
        if self.classes_NxK is None:
            self.log_shares_NxK[indices_B] = log_shares_BxL
            return
        finite_B = np.isfinite(log_shares_BxL).all(axis=1)
        indices_B, log_shares_BxL = indices_B[finite_B], log_shares_BxL[finite_B]
        if not len(indices_B):
            return
        classes_BxK = _largest(log_shares_BxL, LARGEST_KEPT)
        self.classes_NxK[indices_B] = classes_BxK
        self.log_shares_NxK[indices_B] = np.take_along_axis(log_shares_BxL, classes_BxK, axis=1)
        if self.temperature != 1.0:
            scaled_BxL = log_shares_BxL / self.temperature
            highest_B = scaled_BxL.max(axis=1)
            total_B = np.exp(scaled_BxL - highest_B[:, None]).sum(axis=1)
            self.log_totals_N[indices_B] = highest_B + np.log(total_B)
        places = np.flatnonzero(np.isin(indices_B, self.sampled_S))
        if len(places):
            by_row = np.argsort(self.sampled_S)
            there = by_row[np.searchsorted(self.sampled_S, indices_B[places], sorter=by_row)]
            self.sampled_log_shares_SxL[there] = log_shares_BxL[places]

    def put_shares(self, indices_B: np.ndarray, shares: LabelShares) -> None:
        """Keep the shares of other rows, of the same labels and temperature, as `indices_B`."""
        self.log_shares_NxK[indices_B] = shares.log_shares_NxK
        if self.classes_NxK is not None:
            self.classes_NxK[indices_B] = shares.classes_NxK
            self.log_totals_N[indices_B] = shares.log_totals_N

    def subset(self, indices_M: np.ndarray) -> LabelShares:
        """The shares of the rows `indices_M`, without a sample."""
        whole = self.classes_NxK is None
        return LabelShares(
            self.labels,
            self.temperature,
            self.log_shares_NxK[indices_M],
            None if whole else self.classes_NxK[indices_M],
            None if whole else self.log_totals_N[indices_M],
            self.sampled_S[:0],
            self.sampled_log_shares_SxL[:0],
        )


def _largest(values_BxL: np.ndarray, count: int) -> np.ndarray:
    """Columns of the largest values of each row, falling, of equal ones the first."""
    import torch  # its selection is four times as fast as numpy's

    found_BxK = torch.from_numpy(values_BxL).topk(count, dim=1, sorted=False).indices.numpy()
    found_BxK.sort(axis=1)
    least_B = np.take_along_axis(values_BxL, found_BxK, axis=1).min(axis=1)
    # Of equal values at the edge topk takes any.
    rows = np.flatnonzero((values_BxL >= least_B[:, None]).sum(axis=1) > count)
    above_RxL = values_BxL[rows] > least_B[rows, None]
    equal_RxL = values_BxL[rows] == least_B[rows, None]
    room_Rx1 = count - above_RxL.sum(axis=1, keepdims=True)
    kept_RxL = above_RxL | (equal_RxL & (equal_RxL.cumsum(axis=1, dtype=np.int32) <= room_Rx1))
    found_BxK[rows] = kept_RxL.nonzero()[1].reshape(len(rows), count)
    kept_BxK = np.take_along_axis(values_BxL, found_BxK, axis=1)
    order_BxK = np.argsort(-kept_BxK, axis=1, kind="stable")
    return np.take_along_axis(found_BxK, order_BxK, axis=1)
