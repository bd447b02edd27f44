"""Sampling of the next token: greedy, temperature, top-k, top-p.

The temperature of label probabilities is another one: `smallgpt/evaluation/calibration.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the filters are applied in the order of the fields."""

    greedy: bool = False  # take the most likely token; the other fields then do nothing
    temperature: float = 1.0  # divides the logits; near 0 the same as greedy
    top_k: int = 50  # keep the k largest logits, and those equal to the k-th; 0 keeps all
    top_p: float = 1.0  # keep the fewest likeliest tokens whose probabilities reach p; 1 keeps all

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature {self.temperature} must be a finite number above 0 (or use greedy)"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be 0 (keep all) or above")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1")


def sampling_probabilities(logits_BxV: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities probs_BxV that the next token is drawn from.

    The same as transformers' TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper
    (generation/logits_process.py) in this order, then softmax; with greedy a one-hot row.
    """
    if sampling.greedy:
        return one_hot(logits_BxV.argmax(dim=-1), logits_BxV.shape[-1]).to(logits_BxV.dtype)
    # The largest logit becomes 0, so that no quotient overflows. A divisor that fp32 rounds to 0
    # or to infinity would make it NaN.
    limits = torch.finfo(torch.float32)
    temperature = min(max(sampling.temperature, limits.tiny), limits.max)
    logits_BxV = (logits_BxV - logits_BxV.amax(dim=-1, keepdim=True)) / temperature
    if 0 < sampling.top_k < logits_BxV.shape[-1]:
        kth_Bx1 = logits_BxV.topk(sampling.top_k, sorted=False).values.amin(dim=-1, keepdim=True)
        logits_BxV = logits_BxV.masked_fill(logits_BxV < kth_Bx1, -torch.inf)
    if sampling.top_p < 1:
        sorted_BxV, order_BxV = logits_BxV.sort(dim=-1)
        removed_BxV = sorted_BxV.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        removed_BxV[:, -1] = False
        removed_BxV = removed_BxV.scatter(1, order_BxV, removed_BxV)
        logits_BxV = logits_BxV.masked_fill(removed_BxV, -torch.inf)
    return logits_BxV.softmax(dim=-1)


def choose_tokens(logits_BxV: Tensor, sampling: Sampling, uniform_B: Tensor) -> Tensor:
    """The next token ids_B, by inverse transform sampling with the uniform numbers."""
    if sampling.greedy:
        return logits_BxV.argmax(dim=-1)
    probs_BxV = sampling_probabilities(logits_BxV, sampling)
    # Sums at tokens of probability 0 are zeroed, so that rounding, which a GPU's parallel sum does
    # out of order, can never choose such a token.
    sums_BxV = probs_BxV.cumsum(dim=-1).masked_fill(probs_BxV == 0, 0)
    threshold_Bx1 = uniform_B[:, None] * sums_BxV.amax(dim=-1, keepdim=True)
    return (sums_BxV > threshold_Bx1).int().argmax(dim=-1)
