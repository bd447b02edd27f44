"""Figures from arrays; scikit-learn does the sums.

Language-model figures come from what each row's tokens cost, label figures from the logarithms
of the label tokens' shares. Definitions stand at each function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CALIBRATION_BINS = 15
# Every share of every row is kept and written up to so many labels: 160 MB of memory and 500 MB of
# predictions.jsonl for 100,000 rows, which grow with labels x rows. Beyond, the largest of a row,
# some KB of predictions.jsonl, and confusions as triples: a table of 10,000 x 10,000 is 800 MB.
MOST_LABELS_WHOLE = 200
LARGEST_KEPT = 50
# Accuracy is above chance, and a label told from chance, where guessing does as well less often.
_CHANCE_OF_ALL, _CHANCE_OF_LABELS = 0.025, 0.05
# exp() of more overflows a float; a perplexity this high means "worse than useless" anyway.
_MOST_NATS = 700.0


def perplexity(mean_nll: float) -> float:
    """exp of the mean negative log likelihood (nats per token)."""
    return math.exp(min(mean_nll, _MOST_NATS))


def language_figures(
    nll_sum_N: np.ndarray, token_count_N: np.ndarray, correct_N: np.ndarray
) -> dict[str, float]:
    """Loss, perplexity and next-token accuracy, each token counting once.

    Args:
        nll_sum_N: summed negative log likelihood of each row's tokens, nats.
        token_count_N: predicted tokens of each row.
        correct_N: tokens of each row where the likeliest token was the right one.
    """
    tokens = int(token_count_N.sum())
    loss = math.fsum(nll_sum_N.tolist()) / tokens
    return {
        "loss": loss,
        "perplexity": perplexity(loss),
        "next_token_accuracy": int(correct_N.sum()) / tokens,
    }


def mean_perplexity(nll_sum_N: np.ndarray, token_count_N: np.ndarray) -> float | None:
    """Perplexity of a part of the rows' tokens, None where there are none."""
    tokens = int(token_count_N.sum())
    return perplexity(math.fsum(nll_sum_N.tolist()) / tokens) if tokens else None


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


def label_figures(
    true_N: np.ndarray,
    shares: LabelShares | np.ndarray,
    labels: list[str],
    temperature: float = 1.0,
) -> dict[str, Any]:
    """How well labels are told: accuracy, F1, confusion, chance, calibration.

    Args:
        true_N: index of each row's label in `labels`.
        shares: what the model gives the labels; or an array of the logarithms of all shares, NxL.
        labels: the names; figures cover those that occur as label or prediction.
        temperature: of the calibrated confidence; no prediction depends on it.

    Returns:
        The figures of metrics.json. `not_above_chance` names the labels that are told no better
        than by guessing (`p_value` of `per_class` above 5 %, see `label_p_values`),
        `too_few_rows` those of them that have too few rows for it to show. Of more than
        MOST_LABELS_WHOLE labels `confusion_matrix` has its filled cells alone, see
        `confusion_cells`.
    """
    from sklearn.metrics import precision_recall_fscore_support

    if isinstance(shares, np.ndarray):
        shares = LabelShares.of(shares, temperature)
    predicted_N = shares.predicted
    present = np.union1d(true_N, predicted_N).tolist()
    precision, recall, f1, support = precision_recall_fscore_support(
        true_N, predicted_N, labels=present, zero_division=0
    )
    confusion_LxL = count_confusions(true_N, predicted_N, len(labels))
    predicted_L = confusion_LxL.sum(axis=0)
    right_N = predicted_N == true_N
    confidence_N = shares.at(temperature).max(axis=1)
    raw_confidence_N = shares.at(1.0).max(axis=1)
    p_values_L = label_p_values(confusion_LxL)
    support_of = dict(zip(present, support.tolist(), strict=True))
    not_told = [index for index in present if p_values_L[index] > _CHANCE_OF_LABELS]
    enough = _CHANCE_OF_LABELS / np.count_nonzero(support)
    return {
        "labels": [labels[index] for index in present],
        "labelled_records": len(true_N),
        "accuracy": float(right_N.mean()),
        "accuracy_interval": wilson_interval(int(right_N.sum()), len(right_N)),
        "top2_accuracy": float((shares.likeliest == true_N[:, None]).any(axis=1).mean()),
        **chance_figures(confusion_LxL),
        "not_above_chance": [labels[index] for index in not_told],
        "too_few_rows": [
            labels[index]
            for index in not_told
            if _best_p_value(len(true_N), support_of[index]) > enough
        ],
        "macro_f1": float(f1.mean()),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "temperature": temperature,
        "ece": expected_calibration_error(confidence_N, right_N),
        "raw_ece": expected_calibration_error(raw_confidence_N, right_N),
        "per_class": {
            labels[index]: {
                "precision": float(precision[place]),
                "recall": float(recall[place]),
                "f1": float(f1[place]),
                "support": int(support[place]),
                "predicted": int(predicted_L[index]),
                "p_value": float(p_values_L[index]) if support[place] else None,
            }
            for place, index in enumerate(present)
        },
        "confusion_matrix": _confusion_figure(confusion_LxL, present),
        "reliability": reliability(confidence_N, right_N),
        "raw_reliability": reliability(raw_confidence_N, right_N),
    }


def count_confusions(true_N: np.ndarray, predicted_N: np.ndarray, labels: int) -> csr_array:
    """How many rows of true label k were told as label l, as a sparse matrix."""
    from scipy.sparse import coo_array

    ones = np.ones(len(true_N), np.int64)
    return coo_array((ones, (true_N, predicted_N)), shape=(labels, labels)).tocsr()


def _confusion_figure(confusion_LxL: csr_array, present: list[int]) -> Any:
    """The counts of the labels that occur as metrics.json has them: rows, or filled cells."""
    if len(present) <= MOST_LABELS_WHOLE:
        return confusion_LxL[present][:, present].toarray().tolist()
    cells = confusion_LxL.tocoo()
    place = {index: place for place, index in enumerate(present)}
    entries = zip(cells.row.tolist(), cells.col.tolist(), cells.data.tolist(), strict=True)
    return {
        "labels": len(present),
        "entries": sorted([place[true], place[told], count] for true, told, count in entries),
    }


def confusion_cells(figure: Any) -> list[tuple[int, int, int]]:
    """The filled cells of `confusion_matrix` in metrics.json, in whichever form it is.

    Args:
        figure: a row of counts for each true label, or `{"labels": how many, "entries": [[true,
            predicted, rows], ...]}`; true and predicted are places in `labels` of metrics.json.

    Returns:
        (true, predicted, rows) of each pair that occurs, true labels first.
    """
    if isinstance(figure, dict):
        return [tuple(entry) for entry in figure["entries"]]
    return [
        (true, told, count)
        for true, row in enumerate(figure)
        for told, count in enumerate(row)
        if count
    ]


# ------------------------------------------------------------------------------- chance


def chance_figures(confusion_LxL: np.ndarray | csr_array) -> dict[str, Any]:
    """What guessing would reach, and whether the accuracy lies above it.

    Chance is the accuracy to expect of the same predictions dealt out at random (as in Cohen's
    kappa, 1960), so a model that always says one label is at chance however frequent it is.

    Args:
        confusion_LxL: rows of true label k told as label l.

    Returns:
        chance_accuracy: sum over k of true_k * predicted_k / N^2.
        chance_p_value: how often guesses at that rate get as many right (binomial, exact).
        above_chance: whether that is at most 2.5 %, which is to say that the lower end of the
            exact 95 % interval lies above chance. None where the rows have one label only:
            whether it is told from others cannot be seen on them.
    """
    from scipy.stats import binom

    true_L, predicted_L = confusion_LxL.sum(axis=1), confusion_LxL.sum(axis=0)
    rows, right = int(true_L.sum()), int(confusion_LxL.trace())
    chance = float(true_L / rows @ (predicted_L / rows))
    p_value = float(binom.sf(right - 1, rows, min(chance, 1.0)))
    several = (true_L > 0).sum() > 1
    return {
        "chance_accuracy": chance,
        "chance_p_value": p_value,
        "above_chance": bool(p_value <= _CHANCE_OF_ALL) if several else None,
    }


def label_p_values(confusion_LxL: np.ndarray | csr_array) -> np.ndarray:
    """How likely guessing tells each label as well: Fisher's exact test, one-sided.

    Predicted k or not against truly k or not; corrected for the number of labels (Holm, 1979).

    Returns:
        p_values_L: from 0 to 1, NaN for a label that no row has.
    """
    from scipy.stats import hypergeom

    true_L, predicted_L = confusion_LxL.sum(axis=1), confusion_LxL.sum(axis=0)
    asked = np.flatnonzero(true_L)
    tables_Mx3 = np.stack([confusion_LxL.diagonal(), true_L, predicted_L], axis=1)[asked]
    # SciPy takes 0.1 ms and more for each; of many labels most have the counts of another.
    tables_Ux3, which_M = np.unique(tables_Mx3, axis=0, return_inverse=True)
    right_U, true_U, predicted_U = tables_Ux3.T
    p_M = hypergeom.sf(right_U - 1, true_L.sum(), true_U, predicted_U)[which_M]
    order = np.argsort(p_M)
    corrected_M = np.maximum.accumulate(p_M[order] * np.arange(len(p_M), 0, -1))
    p_values_L = np.full(len(true_L), np.nan)
    p_values_L[asked[order]] = np.minimum(corrected_M, 1)
    return p_values_L


def _best_p_value(rows: int, support: int) -> float:
    """Fisher's p-value of a label of `support` rows that is told without a mistake."""
    ways = math.lgamma(rows + 1) - math.lgamma(support + 1) - math.lgamma(rows - support + 1)
    return math.exp(-ways)


# ------------------------------------------------------------------------------- calibration


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> list[float]:
    """Wilson's score interval of a share, 95 % for the default z (Wilson, 1927)."""
    share = successes / trials
    spread = z * z / trials
    middle = share + spread / 2
    margin = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return [max(0.0, (middle - margin) / (1 + spread)), min(1.0, (middle + margin) / (1 + spread))]


def exact_interval(successes: int, trials: int) -> list[float]:
    """The exact 95 % interval of a share (Clopper and Pearson, 1934).

    Its lower end lies above a chance where guessing at that chance succeeds as often in less than
    2.5 % of cases, so it agrees with `above_chance` of `chance_figures`.
    """
    from scipy.stats import beta

    failures, tail = trials - successes, _CHANCE_OF_ALL
    low = float(beta.ppf(tail, successes, failures + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, failures)) if failures else 1.0
    return [low, high]


def expected_calibration_error(
    confidence_N: np.ndarray, right_N: np.ndarray, bins: int = CALIBRATION_BINS
) -> float:
    """Mean gap between confidence and accuracy over equal bins (Guo et al., 2017, eq. 3)."""
    gaps = [abs(b["confidence"] - b["accuracy"]) * b["count"] for b in reliability(
        confidence_N, right_N, bins
    )]  # fmt: skip
    return math.fsum(gaps) / len(confidence_N)


def reliability(
    confidence_N: np.ndarray, right_N: np.ndarray, bins: int = CALIBRATION_BINS
) -> list[dict[str, Any]]:
    """Count, mean confidence, accuracy and its interval of each filled bin ((m-1)/bins, m/bins]."""
    place_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for place in range(bins):
        inside = place_N == place
        if inside.any():
            rows.append(
                {
                    "from": place / bins,
                    "to": (place + 1) / bins,
                    "count": int(inside.sum()),
                    "confidence": float(confidence_N[inside].mean()),
                    "accuracy": float(right_N[inside].mean()),
                    "accuracy_interval": wilson_interval(
                        int(right_N[inside].sum()), int(inside.sum())
                    ),
                }
            )
    return rows
