"""Figures from arrays; scikit-learn does the sums.

Language-model figures come from what each row's tokens cost, label figures from the
probabilities of the label tokens. Definitions stand at each function.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

CALIBRATION_BINS = 15
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


def label_figures(
    true_N: np.ndarray, probabilities_NxL: np.ndarray, labels: list[str]
) -> dict[str, Any]:
    """How well labels are told: accuracy, F1, confusion, calibration.

    Args:
        true_N: index of each row's label in `labels`.
        probabilities_NxL: share of each label, rows summing to 1.
        labels: the names; figures cover those that occur as label or prediction.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted_N = probabilities_NxL.argmax(axis=1)
    present = sorted(set(true_N.tolist()) | set(predicted_N.tolist()))
    precision, recall, f1, support = precision_recall_fscore_support(
        true_N, predicted_N, labels=present, zero_division=0
    )
    with warnings.catch_warnings():  # scikit-learn wonders about a vocabulary of one label
        warnings.filterwarnings("ignore", message="A single label was found")
        confusion_LxL = confusion_matrix(true_N, predicted_N, labels=range(len(labels)))
    right_N = predicted_N == true_N
    return {
        "labels": [labels[index] for index in present],
        "labelled_records": len(true_N),
        "accuracy": float(right_N.mean()),
        "accuracy_interval": wilson_interval(int(right_N.sum()), len(right_N)),
        "macro_f1": float(f1.mean()),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "ece": expected_calibration_error(probabilities_NxL.max(axis=1), right_N),
        "per_class": {
            labels[index]: {
                "precision": float(precision[place]),
                "recall": float(recall[place]),
                "f1": float(f1[place]),
                "support": int(support[place]),
            }
            for place, index in enumerate(present)
        },
        "confusion_matrix": confusion_LxL[np.ix_(present, present)].tolist(),
    }


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
) -> list[dict[str, float]]:
    """Count, mean confidence and accuracy of each filled bin ((m-1)/bins, m/bins]."""
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
                }
            )
    return rows
