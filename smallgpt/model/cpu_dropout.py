"""Dropout on a CPU, from 16 random bits an element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# ------------------------------------------------------------------------------- dropout


def _keep(
    like: Tensor, rate: float, dtype: torch.dtype, generator: torch.Generator | None = None
) -> Tensor | None:
    """Ones where dropout keeps and zeros where it drops, in `dtype`; None where it is off.

    Random numbers come from `generator`, where it is None from torch's own.
    16 random bits an element: the rate is met to 1/65536, at a sixth of the time that torch's
    own dropout takes for its 64 bits an element.
    """
    if rate == 0.0:
        return None
    n = like.numel()
    bits = torch.empty((n + 3) // 4, dtype=torch.int64)
    bits = bits.random_(-(2**63), None, generator=generator).view(torch.int16)
    # In place the comparison stays vectorised; into a bool it is four times as slow.
    return bits[:n].ge_(_threshold(rate) - 32768).to(dtype).view(like.shape)


def _threshold(rate: float) -> int:
    """How many of the 65,536 values of 16 bits are dropped."""
    return min(round(rate * 65536), 65535)


def _scale(rate: float) -> float:
    """What keeps the expected value under dropout of this rate."""
    return 65536 / (65536 - _threshold(rate)) if rate else 1.0


class _Dropout(torch.autograd.Function):
    """Inverted dropout (Srivastava et al., 2014)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        keep, ctx.scale = _keep(x, rate, x.dtype), _scale(rate)
        ctx.save_for_backward(keep)
        return x if keep is None else (x * keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return (grad if keep is None else (grad * keep).mul_(ctx.scale)), None


def _dropout_backward(
    grad_NxE: Tensor, keep: Tensor | None, rate: float, dtype: torch.dtype
) -> Tensor:
    """Gradient before dropout and its scale, in `dtype`."""
    if keep is None:
        return grad_NxE.to(dtype)
    return (grad_NxE * _scale(rate)).to(dtype).mul_(keep)
