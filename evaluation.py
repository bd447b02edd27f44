"""Score rows with a model: language figures, label figures, one prediction a row.

Training's validation and `inference.py --test_data` both go through `score_rows`.

    scores = score_rows(trained.model, dataset, trained.precision)
    figures = scores.figures(dataset)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from console import progress_bar
from dataset import TAIL_LENGTH, TokenLabelDataset
from metrics import label_figures, language_figures
from model import Precision, hidden_states

# The head turns each position into one number a vocabulary entry: limit how many at once.
_MOST_LOGITS = 32_000_000


@dataclass(frozen=True)
class Scores:
    """What a model says of N rows.

    Attributes:
        nll_sum_N: summed negative log likelihood of a row's tokens after the first, nats.
        token_count_N: how many tokens that were.
        correct_N: of these, how often the likeliest token was right.
        label_nll_N: negative log likelihood of the label token among all tokens; NaN for an
            unlabelled row.
        probabilities_NxL: softmax over the label tokens alone at the last <CLS>; NaN where
            the row has no label position.
    """

    nll_sum_N: np.ndarray
    token_count_N: np.ndarray
    correct_N: np.ndarray
    label_nll_N: np.ndarray
    probabilities_NxL: np.ndarray

    def figures(self, dataset: TokenLabelDataset) -> dict[str, Any]:
        """All figures of the rows; label figures where any row is labelled."""
        figures = language_figures(self.nll_sum_N, self.token_count_N, self.correct_N)
        labelled = np.flatnonzero(dataset.classes_N >= 0)
        if len(labelled):
            figures["label_loss"] = float(self.label_nll_N[labelled].mean())
            figures |= label_figures(
                dataset.classes_N[labelled],
                self.probabilities_NxL[labelled],
                dataset.vocabulary.labels,
            )
        return figures


@torch.inference_mode()
def score_rows(
    model: torch.nn.Module,
    dataset: TokenLabelDataset,
    precision: Precision,
    *,
    batch_size: int = 64,
    each_batch: Callable[[], None] = lambda: None,
    description: str = "evaluating",
) -> Scores:
    """Score every row in one forward pass: its tokens, and its label at the last <CLS>.

    Args:
        model: GPT2LMHeadModel; put into evaluation mode and left in the mode it had.
        dataset: the rows.
        precision: of the blocks; the head and the sums are computed in fp32.
        batch_size: rows in one forward pass.
        each_batch: called before each batch; may raise to leave.
        description: words on the progress bar.
    """
    device = next(model.parameters()).device
    head = model.lm_head.weight.float()
    label_ids = torch.tensor(dataset.vocabulary.label_ids, device=device)
    n, classes = len(dataset), len(label_ids)
    nll_sum_N, label_nll_N = np.zeros(n), np.full(n, np.nan)
    correct_N = np.zeros(n, np.int64)
    probabilities_NxL = np.full((n, classes), np.nan)
    was_training = model.training
    model.eval()
    try:
        with progress_bar(description, n, "row") as bar:
            for indices in dataset.batches_by_length(batch_size):
                each_batch()
                ids_BxT, lengths_B = dataset.gather(indices)
                ids_BxT = torch.from_numpy(ids_BxT).to(device)
                lengths = torch.from_numpy(lengths_B).to(device)
                with precision.autocast(device):
                    hidden_BxSxD = hidden_states(model, ids_BxT[:, :-1])
                real_BxS = (
                    torch.arange(hidden_BxSxD.shape[1], device=device) < (lengths - 1)[:, None]
                )
                nll_M, correct_M = _token_scores(
                    hidden_BxSxD[real_BxS], ids_BxT[:, 1:][real_BxS], head
                )
                # Rows lie after one another in M, so each row's sum is one slice.
                firsts = np.concatenate([[0], np.cumsum(lengths_B - 1)[:-1]])
                nll_sum_N[indices] = np.add.reduceat(nll_M, firsts)
                correct_N[indices] = np.add.reduceat(correct_M, firsts)
                labelled = dataset.classes_N[indices] >= 0
                if labelled.any():
                    # The tail is <CLS> <CLS_k> <EOS>: its first place predicts the label.
                    places = lengths_B[labelled] - TAIL_LENGTH
                    rows = torch.from_numpy(np.flatnonzero(labelled))
                    at_cls_RxD = hidden_BxSxD[rows, torch.from_numpy(places)].float()
                    label_logits = functional.linear(at_cls_RxD, head[label_ids]).double()
                    probabilities_NxL[indices[labelled]] = label_logits.softmax(-1).cpu().numpy()
                    label_nll_N[indices[labelled]] = nll_M[firsts[labelled] + places]
                bar.update(len(indices))
    finally:
        model.train(was_training)
    return Scores(nll_sum_N, dataset.lengths_N - 1, correct_N, label_nll_N, probabilities_NxL)


def _token_scores(
    hidden_MxD: torch.Tensor, targets_M: torch.Tensor, head_VxD: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Negative log likelihood (float64) and correctness (0 or 1) of M predicted tokens."""
    nll, correct = [], []
    chunk = max(1, _MOST_LOGITS // len(head_VxD))
    for hidden, targets in zip(hidden_MxD.split(chunk), targets_M.split(chunk), strict=True):
        logits = functional.linear(hidden.float(), head_VxD)
        nll.append(functional.cross_entropy(logits, targets, reduction="none").double().cpu())
        correct.append((logits.argmax(-1) == targets).long().cpu())
    return torch.cat(nll).numpy(), torch.cat(correct).numpy()


@torch.inference_mode()
def label_probabilities(
    model: torch.nn.Module,
    prompts: list[np.ndarray],
    label_ids: list[int],
    pad_id: int,
    precision: Precision,
    *,
    batch_size: int = 64,
    description: str = "classifying",
) -> np.ndarray:
    """Label shares of rows that end at their last <CLS>.

    Args:
        model: GPT2LMHeadModel in evaluation mode.
        prompts: N arrays of ids, each ending in <CLS>.
        label_ids: token id of each label.
        pad_id: id of <PAD>.
        precision: of the blocks.
        batch_size: rows in one forward pass.
        description: words on the progress bar.

    Returns:
        probabilities_NxL: softmax of the next-token logits over the label tokens alone.
    """
    device = next(model.parameters()).device
    head = model.lm_head.weight[torch.tensor(label_ids, device=device)].float()
    result_NxL = np.zeros((len(prompts), len(label_ids)))
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    with progress_bar(description, len(prompts), "row") as bar:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            lengths_B = np.array([len(prompts[i]) for i in indices])
            ids_BxT = np.full((len(indices), lengths_B.max()), pad_id, np.int64)
            for place, index in enumerate(indices):
                ids_BxT[place, : lengths_B[place]] = prompts[index]
            with precision.autocast(device):
                hidden = hidden_states(model, torch.from_numpy(ids_BxT).to(device))
            last_BxD = hidden[torch.arange(len(indices)), torch.from_numpy(lengths_B - 1)]
            logits = functional.linear(last_BxD.float(), head).double()
            result_NxL[indices] = logits.softmax(-1).cpu().numpy()
            bar.update(len(indices))
    return result_NxL
