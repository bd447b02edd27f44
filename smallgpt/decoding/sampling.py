"""How the next token is drawn: temperature, top_k, top_p."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the filters act in the order of the fields.

    Attributes:
        greedy: take the most likely token; the other fields then do nothing.
        temperature: divides the logits; near 0 the same as greedy.
        top_k: keep the k largest logits, and those equal to the k-th; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens whose shares reach p; 1 keeps all.
    """

    greedy: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0

    def __post_init__(self):
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature {self.temperature} must be a finite number above 0 (or use greedy)"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be 0 (keep all) or above")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1")


def sampling_probabilities(logits_BxV: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities probs_BxV the next token is drawn from.

    The same as transformers' TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper
    (generation/logits_process.py) one after the other, then softmax; greedy is a one-hot row.
    """
    if sampling.greedy:
        return one_hot(logits_BxV.argmax(dim=-1), logits_BxV.shape[-1]).to(logits_BxV.dtype)
    # The largest becomes 0 and no quotient can overflow to more. A divisor that fp32 would round
    # to 0 or to infinity would make it NaN.
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
    """The next token ids_B: the uniform number picks its place in the summed probabilities."""
    if sampling.greedy:
        return logits_BxV.argmax(dim=-1)
    probs_BxV = sampling_probabilities(logits_BxV, sampling)
    # Sums without a probability of their own are struck out, so that rounding, which a GPU's
    # parallel sum does out of order, can never choose a token of probability 0.
    sums_BxV = probs_BxV.cumsum(dim=-1).masked_fill(probs_BxV == 0, 0)
    threshold_Bx1 = uniform_B[:, None] * sums_BxV.amax(dim=-1, keepdim=True)
    return (sums_BxV > threshold_Bx1).int().argmax(dim=-1)
