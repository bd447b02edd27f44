"""Metrics: loss, perplexity, accuracy, F1, confusion matrix, chance level, calibration error.

figures = language_figures(nll_sum_N, token_count_N, correct_N)
figures |= label_figures(true_N, label_probs.answers(1.7), vocabulary.labels, temperature=1.7)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy  # loads scipy.sparse at its first use

from smallgpt.evaluation.abstention import CoverageCurve
from smallgpt.evaluation.calibration import expected_calibration_error, reliability
from smallgpt.evaluation.label_probabilities import MOST_LABELS_WHOLE, LabelAnswers
from smallgpt.evaluation.statistics import (
    ACCURACY_LEVEL,
    LABEL_LEVEL,
    best_p_value,
    chance_p_value,
    label_p_values,
    ratio_interval,
    wilson_interval,
)

# exp() of more overflows a float; a perplexity this high means "worse than useless" anyway.
_MOST_NATS = 700.0


def perplexity(mean_nll: float) -> float:
    """exp of the mean negative log likelihood (nats per token)."""
    return math.exp(min(mean_nll, _MOST_NATS))


def language_figures(
    nll_sum_N: np.ndarray, token_count_N: np.ndarray, correct_N: np.ndarray
) -> dict[str, Any]:
    """Loss (nats), perplexity and next-token accuracy, each token counting once.

    Of each row: summed negative log likelihood (nats), number of predicted tokens, and how many of
    them were the likeliest token. `perplexity_interval` (95 %) is None of a single row.
    """
    tokens = int(token_count_N.sum())
    loss = math.fsum(nll_sum_N.tolist()) / tokens
    ends = ratio_interval(nll_sum_N, token_count_N)
    return {
        "loss": loss,
        "perplexity": perplexity(loss),
        "perplexity_interval": ends and [perplexity(end) for end in ends],
        "next_token_accuracy": int(correct_N.sum()) / tokens,
    }


def mean_perplexity(nll_sum_N: np.ndarray, token_count_N: np.ndarray) -> float | None:
    """Perplexity from summed nats and token counts of rows; None without tokens."""
    tokens = int(token_count_N.sum())
    return perplexity(math.fsum(nll_sum_N.tolist()) / tokens) if tokens else None


def label_figures(
    true_N: np.ndarray, answers: LabelAnswers, labels: list[str], temperature: float = 1.0
) -> dict[str, Any]:
    """Label metrics: accuracy, F1, confusion matrix, comparison with chance, calibration error.

    Args:
        true_N: indices into `labels`.
        labels: all names; metrics cover those that occur as label or prediction.
        temperature: that of the calibrated confidence.

    Returns:
        The label metrics of metrics.json. `not_above_chance` names labels predicted no better than
        by guessing (`p_value` of `per_class` above 5 %, see `label_p_values`), `too_few_rows` those
        of them with too few rows to show it. With more than MOST_LABELS_WHOLE labels
        `confusion_matrix` has its nonzero cells only, see `confusion_cells`.
    """
    # Here, since it takes two seconds to load, and answering a prompt does not need it.
    from sklearn.metrics import precision_recall_fscore_support

    predicted_N = answers.top_two_Nx2[:, 0].astype(np.int64)
    present = np.union1d(true_N, predicted_N).tolist()
    precision, recall, f1, support = precision_recall_fscore_support(
        true_N, predicted_N, labels=present, zero_division=0
    )
    ones_N, shape = np.ones(len(true_N), np.int64), (len(labels), len(labels))
    confusion_LxL = scipy.sparse.coo_array((ones_N, (true_N, predicted_N)), shape=shape).tocsr()
    predicted_L = confusion_LxL.sum(axis=0)
    right_N = predicted_N == true_N
    # Of a calibration sample only these are known.
    known_M = np.flatnonzero(np.isfinite(answers.confidence_N))
    right_M, confidence_M = right_N[known_M], answers.confidence_N[known_M]
    raw_confidence_M = answers.raw_confidence_N[known_M]
    curve = CoverageCurve.of(confidence_M, right_M)
    p_values_L = label_p_values(confusion_LxL)
    support_of = dict(zip(present, support.tolist(), strict=True))
    not_told = [index for index in present if p_values_L[index] > LABEL_LEVEL]
    enough = LABEL_LEVEL / np.count_nonzero(support)
    return {
        "labels": [labels[index] for index in present],
        "labelled_records": len(true_N),
        "accuracy": float(right_N.mean()),
        "accuracy_interval": [*map(float, wilson_interval(int(right_N.sum()), len(right_N)))],
        "top2_accuracy": float((answers.top_two_Nx2 == true_N[:, None]).any(axis=1).mean()),
        **chance_figures(confusion_LxL),
        "not_above_chance": [labels[index] for index in not_told],
        "too_few_rows": [
            labels[index]
            for index in not_told
            if best_p_value(len(true_N), support_of[index]) > enough
        ],
        "macro_f1": float(f1.mean()),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "temperature": temperature,
        "ece": expected_calibration_error(confidence_M, right_M),
        "raw_ece": expected_calibration_error(raw_confidence_M, right_M),
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
        "coverage": curve.points(),
        "aurc": curve.area(),
        "reliability": reliability(confidence_M, right_M),
        "raw_reliability": reliability(raw_confidence_M, right_M),
    }


def _confusion_figure(confusion_LxL: scipy.sparse.csr_array, present: list[int]) -> Any:
    """`confusion_matrix` of metrics.json for the labels that occur: rows, or nonzero cells."""
    among_present = confusion_LxL[present][:, present]
    if len(present) <= MOST_LABELS_WHOLE:
        return among_present.toarray().tolist()
    cells = among_present.tocoo()
    entries = zip(cells.row.tolist(), cells.col.tolist(), cells.data.tolist(), strict=True)
    return {"labels": len(present), "entries": sorted(map(list, entries))}


def confusion_cells(figure: Any) -> list[tuple[int, int, int]]:
    """(true, predicted, rows) of each nonzero cell of `confusion_matrix`, sorted by true label.

    `figure` has a row of counts for each true label, or is `{"labels": number, "entries": [[true,
    predicted, rows], ...]}`; true and predicted are indices into `labels` of metrics.json.
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


def chance_figures(confusion_LxL: np.ndarray | scipy.sparse.csr_array) -> dict[str, Any]:
    """Accuracy by chance, and whether that of `confusion_LxL` (true x predicted) is above it.

    Chance is the expected accuracy of the same predictions assigned to rows at random (as in
    Cohen's kappa, 1960): always predicting one label is at chance however frequent it is.

    Returns:
        chance_accuracy: sum over k of true_k * predicted_k / N^2.
        chance_p_value: how often guesses at that rate get as many right (binomial, exact).
        chance_lowest_p_value: the same if all rows were right; 1 where all have one label.
        above_chance: whether chance_p_value is at most 2.5 %: then the lower end of the exact 95 %
            interval lies above chance. None where not even all rows right would show it.
    """
    true_L, predicted_L = confusion_LxL.sum(axis=1), confusion_LxL.sum(axis=0)
    rows, right = int(true_L.sum()), int(confusion_LxL.trace())
    chance = float(true_L / rows @ (predicted_L / rows))
    p_value = chance_p_value(right, rows, chance)
    lowest = chance_p_value(rows, rows, float((true_L / rows) @ (true_L / rows)))
    return {
        "chance_accuracy": chance,
        "chance_p_value": p_value,
        "chance_lowest_p_value": lowest,
        "above_chance": p_value <= ACCURACY_LEVEL if lowest <= ACCURACY_LEVEL else None,
    }
