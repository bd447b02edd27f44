"""Figures from arrays; scikit-learn does the sums.

Language-model figures come from what each row's tokens cost, label figures from the logarithms
of the label tokens' shares. Definitions stand at each function.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

CALIBRATION_BINS = 15
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


def label_figures(
    true_N: np.ndarray, log_shares_NxL: np.ndarray, labels: list[str], temperature: float = 1.0
) -> dict[str, Any]:
    """How well labels are told: accuracy, F1, confusion, chance, calibration.

    Args:
        true_N: index of each row's label in `labels`.
        log_shares_NxL: logarithm of the share that the model gives each label.
        labels: the names; figures cover those that occur as label or prediction.
        temperature: of the calibrated confidence; no prediction depends on it.

    Returns:
        The figures of metrics.json. `not_above_chance` names the labels that are told no better
        than by guessing (`p_value` of `per_class` above 5 %, see `label_p_values`),
        `too_few_rows` those of them that have too few rows for it to show.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted_N = log_shares_NxL.argmax(axis=1)
    present = sorted(set(true_N.tolist()) | set(predicted_N.tolist()))
    precision, recall, f1, support = precision_recall_fscore_support(
        true_N, predicted_N, labels=present, zero_division=0
    )
    with warnings.catch_warnings():  # scikit-learn wonders about a vocabulary of one label
        warnings.filterwarnings("ignore", message="A single label was found")
        confusion_LxL = confusion_matrix(true_N, predicted_N, labels=range(len(labels)))
    right_N = predicted_N == true_N
    likeliest_Nx2 = np.argsort(-log_shares_NxL, axis=1, kind="stable")[:, :2]
    confidence_N = label_shares(log_shares_NxL, temperature).max(axis=1)
    raw_confidence_N = label_shares(log_shares_NxL, 1.0).max(axis=1)
    p_values_L = label_p_values(confusion_LxL)
    not_told = [index for index in present if p_values_L[index] > _CHANCE_OF_LABELS]
    enough = _CHANCE_OF_LABELS / np.count_nonzero(support)
    return {
        "labels": [labels[index] for index in present],
        "labelled_records": len(true_N),
        "accuracy": float(right_N.mean()),
        "accuracy_interval": wilson_interval(int(right_N.sum()), len(right_N)),
        "top2_accuracy": float((likeliest_Nx2 == true_N[:, None]).any(axis=1).mean()),
        **chance_figures(confusion_LxL),
        "not_above_chance": [labels[index] for index in not_told],
        "too_few_rows": [
            labels[index]
            for index in not_told
            if _best_p_value(len(true_N), int((true_N == index).sum())) > enough
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
                "predicted": int(confusion_LxL[:, index].sum()),
                "p_value": float(p_values_L[index]) if support[place] else None,
            }
            for place, index in enumerate(present)
        },
        "confusion_matrix": confusion_LxL[np.ix_(present, present)].tolist(),
        "reliability": reliability(confidence_N, right_N),
        "raw_reliability": reliability(raw_confidence_N, right_N),
    }


# ------------------------------------------------------------------------------- chance


def chance_figures(confusion_LxL: np.ndarray) -> dict[str, Any]:
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
    rows, right = int(true_L.sum()), int(np.trace(confusion_LxL))
    chance = float(true_L / rows @ (predicted_L / rows))
    p_value = float(binom.sf(right - 1, rows, min(chance, 1.0)))
    several = (true_L > 0).sum() > 1
    return {
        "chance_accuracy": chance,
        "chance_p_value": p_value,
        "above_chance": bool(p_value <= _CHANCE_OF_ALL) if several else None,
    }


def label_p_values(confusion_LxL: np.ndarray) -> np.ndarray:
    """How likely guessing tells each label as well: Fisher's exact test, one-sided.

    Predicted k or not against truly k or not; corrected for the number of labels (Holm, 1979).

    Returns:
        p_values_L: from 0 to 1, NaN for a label that no row has.
    """
    from scipy.stats import hypergeom

    true_L, predicted_L = confusion_LxL.sum(axis=1), confusion_LxL.sum(axis=0)
    asked = np.flatnonzero(true_L)
    p_M = hypergeom.sf(
        np.diag(confusion_LxL)[asked] - 1, true_L.sum(), true_L[asked], predicted_L[asked]
    )
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
