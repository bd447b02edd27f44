"""Scoring rows: loss of their tokens and probabilities of their labels, in one forward pass.

Validation in training and `inference.py --test_data` both use `score_rows`; `classify_rows`
computes label probabilities only.

    scores = score_rows(trained.engines.for_rows(tokens), dataset)
    figures = scores.figures(dataset, trained.temperature)
    rows = predictions_of(dataset, scores.label_probs, trained.temperature, scores)

Losses are unweighted and come from an fp32 head, whatever loss weights and precision training has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smallgpt.console import progress_bar
from smallgpt.engines.engine import Engine, log_softmax
from smallgpt.evaluation.label_probabilities import (
    MOST_LABELS_WHOLE,
    LabelProbabilities,
)
from smallgpt.evaluation.row_results import RowResults, TokenResults
from smallgpt.processes import ALONE, Processes
from smallgpt.rows.batching import batches_by_length
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.label_tail import TAIL_LENGTH

# With more than MOST_LABELS_WHOLE labels the temperature is fitted on a sample, of 10,000 labels on
# 500 rows: enough for a single number, and a second's work beside minutes for 100,000 rows.
_MOST_PROBS_SAMPLED = 5_000_000


@dataclass(frozen=True)
class Scores:
    """Scores of N rows.

    Attributes:
        tokens: None of a label head. `scored_counts` and `scored_body_counts` of the dataset say
            how many tokens they are.
        label_nll_N: negative log likelihood of the label token among all tokens; of a label head,
            of the label among the labels; NaN for an unlabelled row.
        label_probs: log softmax over the label tokens at the <CLS> after the body, or over the
            logits of a label head; NaN where the row has no label position.
    """

    tokens: TokenResults | None
    label_nll_N: np.ndarray
    label_probs: LabelProbabilities

    @classmethod
    def empty(
        cls,
        dataset: TokenLabelDataset,
        of_tokens: bool,
        temperature: float = 1.0,
        sampled: Sequence[int] | np.ndarray = (),
    ) -> Scores:
        """Space for the scores of a dataset; `temperature`, `sampled`: see `LabelProbabilities`."""
        rows, labels = len(dataset), len(dataset.vocabulary.labels)
        tokens = None
        if of_tokens:
            tokens = TokenResults(np.zeros(rows), np.zeros(rows, np.int64), np.zeros(rows))
        label_probs = LabelProbabilities.empty(rows, labels, temperature, sampled)
        return cls(tokens, np.full(rows, np.nan), label_probs)

    @property
    def of_tokens(self) -> bool:
        """Whether tokens were scored as well as labels."""
        return self.tokens is not None

    @property
    def is_finite(self) -> np.ndarray:
        """Whether all scores of a row are finite, N booleans."""
        if self.tokens is None:
            return self.label_probs.answered
        unlabelled_N = np.isnan(self.label_nll_N)
        return np.isfinite(self.tokens.nll_sum_N) & (unlabelled_N | self.label_probs.answered)

    def results(self, dataset: TokenLabelDataset, temperature: float = 1.0) -> RowResults:
        """What figures are computed from, with the confidences at a known temperature."""
        answers = self.label_probs.answers(temperature) if dataset.has_labels else None
        return RowResults(self.tokens, self.label_nll_N, answers, temperature)

    def cross_fitted_results(self, dataset: TokenLabelDataset, fold_N: np.ndarray) -> RowResults:
        """The same with a temperature fitted here; each fold's confidences by the other folds."""
        if not dataset.has_labels:
            return RowResults(self.tokens, self.label_nll_N, None, 1.0)
        order_M = labelled_in_drawn_order(dataset)
        temperature, answers, nll_N = self.label_probs.cross_fitted(
            dataset.classes_N, fold_N, order_M
        )
        return RowResults(self.tokens, self.label_nll_N, answers, temperature, nll_N)

    def figures(self, dataset: TokenLabelDataset, temperature: float = 1.0) -> dict[str, Any]:
        """All metrics: of tokens unless by a label head, of labels where any row has one."""
        return self.results(dataset, temperature).figures(dataset)

    def gather(self, processes: Processes, is_own_N: np.ndarray) -> None:
        """Take over the scores that other processes have of their rows; `is_own_N`: of this one."""
        probs, tokens = self.label_probs, [] if self.tokens is None else vars(self.tokens).values()
        for array in (*tokens, self.label_nll_N, probs.log_probs_NxK, probs.log_totals_N):
            processes.gathered(array, is_own_N)
        if probs.classes_NxK is not None:
            processes.gathered(probs.classes_NxK, is_own_N)
        processes.gathered(probs.sampled_log_probs_SxL, is_own_N[probs.sampled_S])

    def subset(self, indices: np.ndarray) -> Scores:
        """The scores of the rows `indices`."""
        tokens = None if self.tokens is None else self.tokens.subset(indices)
        return Scores(tokens, self.label_nll_N[indices], self.label_probs.subset(indices))


# ------------------------------------------------------------------------------- scoring


def score_rows(
    engine: Engine,
    dataset: TokenLabelDataset,
    *,
    batch_size: int = 64,
    each_batch: Callable[[], None] = lambda: None,
    description: str = "evaluating",
    temperature: float = 1.0,
    to_calibrate: bool = False,
    processes: Processes = ALONE,
) -> Scores:
    """Score every row in one forward pass: its tokens, and its label at its tail's <CLS>.

    A model with a label head scores the labels of all rows, and no tokens. Sums are float64.
    `each_batch` is called before each batch and may raise to stop. `temperature`, `to_calibrate`:
    what will be asked of the scores. Several `processes` share the work, and all get the scores.
    """
    sampled = _rows_to_calibrate_on(dataset) if to_calibrate else ()
    scores = Scores.empty(dataset, not engine.by_head, temperature, sampled)
    if scores.tokens is not None:
        rows, score = dataset, _token_scorer(engine, dataset, scores, scores.tokens)
    else:
        rows, score = dataset.without_tails(), _label_scorer(engine, dataset, scores)
    own = _for_each_batch(rows, score, batch_size, each_batch, description, processes)
    if processes.are_many:
        scores.gather(processes, np.isin(np.arange(len(rows)), own))
    return scores


def classify_rows(
    engine: Engine,
    dataset: TokenLabelDataset,
    *,
    batch_size: int = 64,
    temperature: float = 1.0,
    together: Iterable[np.ndarray] | None = None,
) -> LabelProbabilities:
    """Label probabilities of rows, each computed after its body, whatever tail it has.

    By a label head, or by the label tokens alone at a <CLS> after the body. The rows are labelled
    or were read with `for_label`, so that the body leaves room for a tail whether or not the label
    is known: however a row is written, it gets one prediction. `together`: which rows are computed
    at once; None: those of like length.
    """
    scores = Scores.empty(dataset, False, temperature)
    score = _label_scorer(engine, dataset, scores)
    with progress_bar("classifying", len(dataset), "row") as bar:
        for indices_B in together or scoring_batches(dataset, batch_size, of_tokens=False):
            score(indices_B)
            bar.update(len(indices_B))
    return scores.label_probs


def scoring_batches(
    dataset: TokenLabelDataset, batch_size: int, of_tokens: bool
) -> Iterator[np.ndarray]:
    """The batches in which rows are scored, with their tokens or by a label head, or classified.

    An engine may compute a row to other last bits in another batch: what is to be equal to the last
    bit is computed in the same batches.
    """
    return batches_by_length(dataset if of_tokens else dataset.without_tails(), batch_size)


def _for_each_batch(
    rows: TokenLabelDataset,
    score: Callable[[np.ndarray], None],
    batch_size: int,
    each_batch: Callable[[], None],
    description: str,
    processes: Processes = ALONE,
) -> np.ndarray:
    """Call `score` with the indices of each batch for this process; returns them together."""
    batches = list(batches_by_length(rows, batch_size))
    scored = [np.arange(0)]
    with progress_bar(description, len(rows), "row") as bar:
        for start in range(0, len(batches), processes.count):
            each_batch()  # by all processes as often, since they may ask one another there
            for indices_B in batches[start : start + processes.count][processes.rank :][:1]:
                score(indices_B)
                scored.append(indices_B)
            bar.update(sum(map(len, batches[start : start + processes.count])))
    return np.concatenate(scored)


def _token_scorer(
    engine: Engine,
    dataset: TokenLabelDataset,
    scores: Scores,
    tokens: TokenResults,
) -> Callable[[np.ndarray], None]:
    """A function that stores the scores of some rows: of tokens, and of labels where known."""
    # A row's first token is predicted from nothing and counts nowhere.
    body_places_N = np.maximum(dataset.body_lengths_N - 1, 0)

    def score(indices_B: np.ndarray) -> None:
        ids_M, targets_M, counts_B = dataset.shifted(indices_B)
        is_labelled_B = dataset.classes_N[indices_B] >= 0
        # The tail is <CLS> <CLS_k> <EOS>: its first place predicts the label.
        places_R = (np.cumsum(counts_B) + 1 - TAIL_LENGTH)[is_labelled_B]
        nll_M, correct_M, logits_RxL = engine.score_tokens(ids_M, counts_B, targets_M, places_R)
        if dataset.has_prompts:
            scored_M = dataset.scored(indices_B)
            nll_M, correct_M = nll_M * scored_M, correct_M * scored_M
        # Rows lie after one another in M, so each row's sum is one slice.
        firsts_B = np.cumsum(counts_B) - counts_B
        tokens.nll_sum_N[indices_B] = np.add.reduceat(nll_M, firsts_B)
        tokens.correct_N[indices_B] = np.add.reduceat(correct_M, firsts_B)
        place_M = np.arange(len(nll_M)) - np.repeat(firsts_B, counts_B)
        in_body_M = place_M < np.repeat(body_places_N[indices_B], counts_B)
        tokens.body_nll_sum_N[indices_B] = np.add.reduceat(nll_M * in_body_M, firsts_B)
        if len(places_R):
            labelled_R = indices_B[is_labelled_B]
            scores.label_probs.put(labelled_R, log_softmax(logits_RxL))
            scores.label_nll_N[labelled_R] = nll_M[places_R]

    return score


def _label_scorer(
    engine: Engine, dataset: TokenLabelDataset, scores: Scores
) -> Callable[[np.ndarray], None]:
    """A function that stores the label scores of some rows, each computed after its body."""

    def score(indices_B: np.ndarray) -> None:
        ids_M, lengths_B = rows_asked(engine, dataset, indices_B)
        log_probs_BxL = log_softmax(engine.label_logits(ids_M, lengths_B))
        scores.label_probs.put(indices_B, log_probs_BxL)
        true_B = dataset.classes_N[indices_B]
        nll_B = -log_probs_BxL[np.arange(len(indices_B)), true_B]
        scores.label_nll_N[indices_B] = np.where(true_B >= 0, nll_B, np.nan)

    return score


def rows_asked(
    engine: Engine, dataset: TokenLabelDataset, indices_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows as an engine is asked for their labels: ids_M, and lengths_B; see `label_logits`."""
    ids_M, lengths_B = dataset.without_tails().gather(indices_B)
    if not engine.by_head and dataset.vocabulary.cls_id is not None:
        cls_id = dataset.vocabulary.cls_id
        ids_M, lengths_B = np.insert(ids_M, np.cumsum(lengths_B), cls_id), lengths_B + 1
    return ids_M, lengths_B


# ------------------------------------------------------------------------------- calibrating


def labelled_in_drawn_order(dataset: TokenLabelDataset) -> np.ndarray:
    """The labelled rows in pseudo-random order, independent of their order in the file.

    By a hash of body and label; copies of one row are numbered, so that they spread over the order.
    """
    labelled = np.flatnonzero(dataset.classes_N >= 0)
    keys = dataset.body_keys()
    key_M = np.frombuffer(b"".join(keys[i][:8] for i in labelled.tolist()), np.uint64)
    key_M = _mixed(key_M ^ _mixed(dataset.classes_N[labelled].astype(np.uint64)))
    by_key = np.argsort(key_M, kind="stable")
    is_first = np.diff(key_M[by_key], prepend=~key_M[by_key[:1]]) != 0
    place_M = np.arange(len(by_key))
    copy_M = place_M - np.maximum.accumulate(np.where(is_first, place_M, 0))
    key_M[by_key] = _mixed(key_M[by_key] + copy_M.astype(np.uint64))
    return labelled[np.argsort(key_M, kind="stable")]


def _rows_to_calibrate_on(dataset: TokenLabelDataset) -> np.ndarray:
    """Rows to keep in full for calibration; none where all labels are kept anyway."""
    labels = len(dataset.vocabulary.labels)
    if labels <= MOST_LABELS_WHOLE:
        return np.arange(0)
    return labelled_in_drawn_order(dataset)[: _MOST_PROBS_SAMPLED // labels]


def _mixed(number_M: np.ndarray) -> np.ndarray:
    """Unsigned 64-bit numbers well mixed: the finalizer of SplitMix64 (Steele et al., 2014)."""
    number_M = number_M + np.uint64(0x9E3779B97F4A7C15)
    number_M = (number_M ^ (number_M >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number_M = (number_M ^ (number_M >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number_M ^ (number_M >> np.uint64(31))
