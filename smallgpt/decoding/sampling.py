"""Sampling of the next token: greedy, temperature, top-k, top-p; of tensors, or of NumPy arrays.

The temperature of label probabilities is another one: `smallgpt/evaluation/calibration.py`.
Importing torch takes longer than many an answer, so that only tensors do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


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
    import torch

    if sampling.greedy:
        one_hot = torch.nn.functional.one_hot
        return one_hot(logits_BxV.argmax(dim=-1), logits_BxV.shape[-1]).to(logits_BxV.dtype)
    # The largest logit becomes 0, so that no quotient overflows. A divisor that fp32 rounds to 0
    # or to infinity would make it NaN.
    limits = torch.finfo(torch.float32)
    temperature = min(max(sampling.temperature, limits.tiny), limits.max)
    given_BxV = logits_BxV
    logits_BxV = (logits_BxV - logits_BxV.amax(dim=-1, keepdim=True)) / temperature
    if 0 < sampling.top_k < logits_BxV.shape[-1]:
        # Of the logits as they are: those that differ little may be equal once they are shifted.
        kth_Bx1 = given_BxV.topk(sampling.top_k, sorted=False).values.amin(dim=-1, keepdim=True)
        logits_BxV = logits_BxV.masked_fill(given_BxV < kth_Bx1, -torch.inf)
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


def choose_in_arrays(
    logits_BxV: np.ndarray, sampling: Sampling, uniform_B: np.ndarray
) -> np.ndarray:
    """`choose_tokens` of arrays; sums are float64, so that a draw at a border may differ."""
    if sampling.greedy:
        greedy_B: np.ndarray = logits_BxV.argmax(axis=-1)
        return greedy_B
    limits = np.finfo(np.float32)
    temperature = min(max(sampling.temperature, float(limits.tiny)), float(limits.max))
    given_BxV, k = logits_BxV, sampling.top_k
    logits_BxV = logits_BxV.astype(np.float64)
    logits_BxV = (logits_BxV - logits_BxV.max(axis=-1, keepdims=True)) / temperature
    if 0 < k < logits_BxV.shape[-1]:
        kth_Bx1 = np.partition(given_BxV, -k, axis=-1)[:, -k, None]
        logits_BxV[given_BxV < kth_Bx1] = -np.inf
    probs_BxV = np.exp(logits_BxV)
    if sampling.top_p < 1:
        order_BxV = probs_BxV.argsort(axis=-1, kind="stable")
        sums_BxV = np.take_along_axis(probs_BxV, order_BxV, -1).cumsum(axis=-1)
        removed_BxV = sums_BxV <= (1 - sampling.top_p) * sums_BxV[:, -1:]
        removed_BxV[:, -1] = False
        kept_BxV = np.empty_like(removed_BxV)
        np.put_along_axis(kept_BxV, order_BxV, ~removed_BxV, -1)
        probs_BxV *= kept_BxV
    sums_BxV = probs_BxV.cumsum(axis=-1)
    sums_BxV[probs_BxV == 0] = 0
    threshold_Bx1 = uniform_B[:, None] * sums_BxV.max(axis=-1, keepdims=True)
    chosen_B: np.ndarray = (sums_BxV > threshold_Bx1).argmax(axis=-1)
    return chosen_B


class UniformNumbers:
    """Uniform numbers from 0, below 1: those that `torch.rand` draws on a CPU from the same seed.

    Both take the lowest 24 bits of a Mersenne twister that is seeded alike (torch:
    aten/src/ATen/core/TransformationHelper.h), so that a seed gives the same rows with torch and
    without.
    """

    def __init__(self, seed: int):
        """`seed`: 0 or above; its lowest 32 bits count."""
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)

    def draw(self, count: int) -> np.ndarray:
        """The next numbers, float32."""
        bits = self._twister.randint(0, 2**32, count, np.uint32)
        return (bits & 0xFFFFFF).astype(np.float32) / np.float32(2**24)
