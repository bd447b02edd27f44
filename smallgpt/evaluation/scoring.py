"""Score rows with a model: language figures, label figures, one prediction a row.

Training's validation and `inference.py --test_data` both go through `score_rows` and `figures`.

    scores = score_rows(trained.model, dataset, trained.precision)
    figures = scores.figures(dataset, trained.temperature)
    rows = predictions_of(dataset, scores.label_probs, trained.temperature, scores)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from smallgpt.console import progress_bar
from smallgpt.evaluation.calibration import Calibration, fit_calibration
from smallgpt.evaluation.label_probabilities import MOST_LABELS_WHOLE, LabelProbabilities
from smallgpt.evaluation.metrics import label_figures, language_figures, mean_perplexity, perplexity
from smallgpt.model.forward import class_logits, hidden_states, last_states, linear_head
from smallgpt.model.hardware import Precision
from smallgpt.model.head import is_classifier
from smallgpt.model.packed_rows import PackedRows
from smallgpt.rows.batching import batches_by_length
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.label_tail import TAIL_LENGTH

# The head turns each position into one number a vocabulary entry: limit how many at once.
_MOST_LOGITS = 32_000_000
# Of more than MOST_LABELS_WHOLE labels the temperature is fitted on a part of the rows, 500 of
# 10,000 labels: enough for a single number, and a second's work beside minutes for 100,000 rows.
_MOST_SHARES_SAMPLED = 5_000_000


@dataclass(frozen=True)
class Scores:
    """What a model says of N rows; one that only names labels says nothing of their tokens.

    Attributes:
        nll_sum_N: summed negative log likelihood of a row's tokens after the first (of an
            instruction, of its answer), nats.
        token_count_N: how many tokens that were.
        correct_N: of these, how often the likeliest token was right.
        body_nll_sum_N, body_token_count_N: the same sums over the body alone: the predicted
            tokens before the label tail (of an unlabelled row, before its closing <CLS> or <EOS>).
        label_nll_N: negative log likelihood of the label token among all tokens, by a head of
            the label among the labels; NaN for an unlabelled row.
        label_probs: log softmax over the label tokens alone at the <CLS> after the body; NaN where
            the row has no label position. By a head, log softmax of its logits.
    """

    nll_sum_N: np.ndarray | None
    token_count_N: np.ndarray | None
    correct_N: np.ndarray | None
    body_nll_sum_N: np.ndarray | None
    body_token_count_N: np.ndarray | None
    label_nll_N: np.ndarray
    label_probs: LabelProbabilities

    @property
    def of_tokens(self) -> bool:
        """Whether they tell of tokens as well as of labels."""
        return self.nll_sum_N is not None

    @property
    def is_finite(self) -> np.ndarray:
        """Whether the model gave finite numbers for each row."""
        if self.of_tokens:
            unlabelled_N = np.isnan(self.label_nll_N)
            return np.isfinite(self.nll_sum_N) & (unlabelled_N | self.label_probs.answered)
        return self.label_probs.answered

    def figures(self, dataset: TokenLabelDataset, temperature: float = 1.0) -> dict[str, Any]:
        """All figures of the rows; label figures where any row is labelled.

        Of a model that only names labels there is no figure of tokens, perplexities among them.

        Args:
            dataset: the rows that were scored.
            temperature: of the calibrated confidence.
        """
        figures: dict[str, Any] = {}
        if self.of_tokens:
            figures = language_figures(self.nll_sum_N, self.token_count_N, self.correct_N)
            figures["body_perplexity"] = mean_perplexity(
                self.body_nll_sum_N, self.body_token_count_N
            )
        labelled = np.flatnonzero(dataset.classes_N >= 0)
        if len(labelled):
            figures["label_loss"] = float(self.label_nll_N[labelled].mean())
            if self.of_tokens:
                figures["label_perplexity"] = perplexity(figures["label_loss"])
            figures |= label_figures(
                dataset.classes_N[labelled],
                self.label_probs.subset(labelled),
                dataset.vocabulary.labels,
                temperature,
            )
        return figures

    def subset(self, indices: np.ndarray) -> Scores:
        """The scores of the rows `indices`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        probs = values.pop("label_probs").subset(indices)
        return Scores(
            **{name: v if v is None else v[indices] for name, v in values.items()},
            label_probs=probs,
        )

    def calibration(self, dataset: TokenLabelDataset) -> Calibration:
        """The temperature that the labelled rows ask for; there must be one at least.

        Of many labels it is fitted on the rows that were sampled for it when they were scored.
        """
        if not self.label_probs.are_whole:
            probs = self.label_probs
            return fit_calibration(probs.sampled_log_probs_SxL, dataset.classes_N[probs.sampled_S])
        order_M = labelled_in_drawn_order(dataset)
        return fit_calibration(self.label_probs.log_probs_NxK[order_M], dataset.classes_N[order_M])


def labelled_in_drawn_order(dataset: TokenLabelDataset) -> np.ndarray:
    """The labelled rows, shuffled by what they are: their order in the file decides nothing.

    By a hash of body and label; rows alike are told apart by a number, so that many copies of one
    row are spread over the order.
    """
    labelled = np.flatnonzero(dataset.classes_N >= 0)
    whole = dataset.body_keys()
    key_M = np.frombuffer(b"".join(whole[i][:8] for i in labelled.tolist()), np.uint64)
    key_M = _mixed(key_M ^ _mixed(dataset.classes_N[labelled].astype(np.uint64)))
    by_key = np.argsort(key_M, kind="stable")
    is_first = np.diff(key_M[by_key], prepend=~key_M[by_key[:1]]) != 0
    place_M = np.arange(len(by_key))
    copy_M = place_M - np.maximum.accumulate(np.where(is_first, place_M, 0))
    key_M[by_key] = _mixed(key_M[by_key] + copy_M.astype(np.uint64))
    return labelled[np.argsort(key_M, kind="stable")]


def _mixed(number_M: np.ndarray) -> np.ndarray:
    """Unsigned 64-bit numbers well mixed: the finalizer of SplitMix64 (Steele et al., 2014)."""
    number_M = number_M + np.uint64(0x9E3779B97F4A7C15)
    number_M = (number_M ^ (number_M >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number_M = (number_M ^ (number_M >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number_M ^ (number_M >> np.uint64(31))


def _rows_to_calibrate_on(dataset: TokenLabelDataset) -> np.ndarray:
    """Rows of which a calibration needs every share, where not all are kept anyway."""
    labels = len(dataset.vocabulary.labels)
    if labels <= MOST_LABELS_WHOLE:
        return np.arange(0)
    return labelled_in_drawn_order(dataset)[: _MOST_SHARES_SAMPLED // labels]


@dataclass(frozen=True)
class _Head:
    """The map from last hidden states to logits, in fp32."""

    weight_VxD: torch.Tensor
    bias_V: torch.Tensor | None

    @classmethod
    def of(cls, model: torch.nn.Module) -> _Head:
        weight, bias = linear_head(model)
        return cls(weight.detach().float(), None if bias is None else bias.detach().float())

    def only(self, ids: torch.Tensor) -> _Head:
        """The same for some tokens alone."""
        return _Head(self.weight_VxD[ids], None if self.bias_V is None else self.bias_V[ids])

    def __call__(self, hidden_MxD: torch.Tensor) -> torch.Tensor:
        return functional.linear(hidden_MxD, self.weight_VxD, self.bias_V)


@torch.inference_mode()
def score_rows(
    model: torch.nn.Module,
    dataset: TokenLabelDataset,
    precision: Precision,
    *,
    batch_size: int = 64,
    each_batch: Callable[[], None] = lambda: None,
    description: str = "evaluating",
    temperature: float = 1.0,
    to_calibrate: bool = False,
) -> Scores:
    """Score every row in one forward pass: its tokens, and its label at its tail's <CLS>.

    Of a model with a head for labels: the labels of all rows.

    Args:
        model: put into evaluation mode and left in the mode it had.
        dataset: the rows.
        precision: of the blocks; the head and the sums are computed in fp32.
        batch_size: rows in one forward pass.
        each_batch: called before each batch; may raise to leave.
        description: words on the progress bar.
        temperature: at which figures and predictions will be asked for.
        to_calibrate: whether `calibration` will be asked for.
    """
    classes = len(dataset.vocabulary.labels)
    sampled_S = _rows_to_calibrate_on(dataset) if to_calibrate else ()
    shares = LabelProbabilities.empty(len(dataset), classes, temperature, sampled_S)
    if is_classifier(model):
        how = {"batch_size": batch_size, "each_batch": each_batch, "description": description}
        label_nll_N = np.full(len(dataset), np.nan)
        for indices, log_probs_BxL in _head_log_probs(model, dataset, precision, **how):
            shares.put(indices, log_probs_BxL)
            true_B = dataset.classes_N[indices]
            label_nll_N[indices] = np.where(
                true_B >= 0, -log_probs_BxL[np.arange(len(indices)), true_B], np.nan
            )
        return Scores(None, None, None, None, None, label_nll_N, shares)
    device = next(model.parameters()).device
    head = _Head.of(model)
    label_head = head.only(
        torch.tensor(dataset.vocabulary.label_ids, dtype=torch.long, device=device)
    )
    n = len(dataset)
    nll_sum_N, body_nll_sum_N, label_nll_N = np.zeros(n), np.zeros(n), np.full(n, np.nan)
    correct_N = np.zeros(n, np.int64)
    # A row's first token is predicted from nothing and counts nowhere.
    body_places_N = np.maximum(dataset.body_lengths_N - 1, 0)
    first_scored_N = np.maximum(dataset.prompt_lengths_N - 1, 0)
    has_prompts = dataset.has_prompts
    was_training = model.training
    model.eval()
    try:
        with progress_bar(description, n, "row") as bar:
            for indices in batches_by_length(dataset, batch_size):
                each_batch()
                inputs_M, targets_M, counts_B = dataset.shifted(indices)
                inputs_M = torch.from_numpy(inputs_M).to(device)
                targets_M = torch.from_numpy(targets_M).to(device)
                hidden_MxD = hidden_states(model, inputs_M, PackedRows(counts_B), precision)
                nll_M, correct_M = _token_scores(hidden_MxD, targets_M, head)
                if has_prompts:
                    scored_M = dataset.scored(indices)
                    nll_M, correct_M = nll_M * scored_M, correct_M * scored_M
                # Rows lie after one another in M, so each row's sum is one slice.
                firsts = np.cumsum(counts_B) - counts_B
                nll_sum_N[indices] = np.add.reduceat(nll_M, firsts)
                correct_N[indices] = np.add.reduceat(correct_M, firsts)
                place_M = np.arange(len(nll_M)) - np.repeat(firsts, counts_B)
                in_body_M = place_M < np.repeat(body_places_N[indices], counts_B)
                body_nll_sum_N[indices] = np.add.reduceat(nll_M * in_body_M, firsts)
                labelled = dataset.classes_N[indices] >= 0
                if labelled.any():
                    # The tail is <CLS> <CLS_k> <EOS>: its first place predicts the label.
                    places = (firsts + counts_B + 1 - TAIL_LENGTH)[labelled]
                    at_cls_RxD = hidden_MxD[torch.from_numpy(places).to(device)].float()
                    label_logits = label_head(at_cls_RxD)
                    shares.put(indices[labelled], _log_probs(label_logits))
                    label_nll_N[indices[labelled]] = nll_M[places]
                bar.update(len(indices))
    finally:
        model.train(was_training)
    return Scores(
        nll_sum_N,
        dataset.scored_counts,
        correct_N,
        body_nll_sum_N,
        np.maximum(body_places_N - first_scored_N, 0),
        label_nll_N,
        shares,
    )


def head_shares(
    model: torch.nn.Module,
    dataset: TokenLabelDataset,
    precision: Precision,
    *,
    batch_size: int = 64,
    temperature: float = 1.0,
    description: str = "classifying",
) -> LabelProbabilities:
    """The label shares that a head gives the rows, which it reads without tails.

    Args:
        model: with a head for labels; put into evaluation mode and left in the mode it had.
        dataset: the rows.
        precision: of the blocks.
        batch_size: rows in one forward pass.
        temperature: at which the shares will be asked for.
        description: words on the progress bar.
    """
    shares = LabelProbabilities.empty(len(dataset), len(dataset.vocabulary.labels), temperature)
    how = {"batch_size": batch_size, "each_batch": lambda: None, "description": description}
    for indices, log_probs_BxL in _head_log_probs(model, dataset, precision, **how):
        shares.put(indices, log_probs_BxL)
    return shares


@torch.inference_mode()
def _head_log_probs(
    model: torch.nn.Module,
    dataset: TokenLabelDataset,
    precision: Precision,
    *,
    batch_size: int,
    each_batch: Callable[[], None],
    description: str,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of each batch and the log softmax of the head's logits, BxL; see `score_rows`."""
    device = next(model.parameters()).device
    bodies = dataset.without_tails()
    was_training = model.training
    model.eval()
    try:
        with progress_bar(description, len(dataset), "row") as bar:
            for indices in batches_by_length(bodies, batch_size):
                each_batch()
                ids_M, lengths_B = bodies.gather(indices)
                ids_M = torch.from_numpy(ids_M).to(device)
                logits_BxL = class_logits(model, ids_M, PackedRows(lengths_B), precision)
                yield indices, _log_probs(logits_BxL)
                bar.update(len(indices))
    finally:
        model.train(was_training)


def _token_scores(
    hidden_MxD: torch.Tensor, targets_M: torch.Tensor, head: _Head
) -> tuple[np.ndarray, np.ndarray]:
    """Negative log likelihood (float64) and correctness (0 or 1) of M predicted tokens."""
    nll, correct = [], []
    chunk = max(1, _MOST_LOGITS // len(head.weight_VxD))
    for hidden, targets in zip(hidden_MxD.split(chunk), targets_M.split(chunk), strict=True):
        logits = head(hidden.float())
        nll.append(functional.cross_entropy(logits, targets, reduction="none").cpu().double())
        correct.append((logits.argmax(-1) == targets).long().cpu())
    return torch.cat(nll).numpy(), torch.cat(correct).numpy()


def _log_probs(label_logits_BxL: torch.Tensor) -> np.ndarray:
    """Log softmax in float64, taken on the CPU: Apple's GPUs have no float64."""
    return label_logits_BxL.cpu().double().log_softmax(-1).numpy()


@torch.inference_mode()
def prompted_shares(
    model: torch.nn.Module,
    prompts: list[np.ndarray],
    label_ids: list[int],
    precision: Precision,
    *,
    batch_size: int = 64,
    temperature: float = 1.0,
    description: str = "classifying",
) -> LabelProbabilities:
    """The label shares of rows that end in the question <CLS>, by the label tokens alone.

    Args:
        model: a causal model in evaluation mode.
        prompts: N arrays of ids, each ending in <CLS>.
        label_ids: token id of each label.
        precision: of the blocks.
        batch_size: rows in one forward pass.
        temperature: at which the shares will be asked for.
        description: words on the progress bar.
    """
    device = next(model.parameters()).device
    head = _Head.of(model).only(torch.tensor(label_ids, device=device))
    shares = LabelProbabilities.empty(len(prompts), len(label_ids), temperature)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    with progress_bar(description, len(prompts), "row") as bar:
        for start in range(0, len(order), batch_size):
            indices = np.array(order[start : start + batch_size])
            rows = PackedRows([len(prompts[i]) for i in indices])
            ids_M = torch.from_numpy(np.concatenate([prompts[i] for i in indices]).astype(np.int64))
            last_BxD = last_states(model, ids_M.to(device), rows, precision)
            shares.put(indices, _log_probs(head(last_BxD.float())))
            bar.update(len(indices))
    return shares
