"""Muon, an optimizer for the matrices of the blocks: momentum with orthogonalized steps.

    optimizer = Muon(matrices, lr=2e-3, momentum=0.95, weight_decay=0.1)

In a step of plain momentum a few directions of a matrix carry most of the length; Muon sets all
singular values of the step near 1, so that rare directions are learned as fast as common ones
(Jordan et al., 2024, https://kellerjordan.github.io/posts/muon). Embeddings, the head, norms and
biases stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import overload

import torch

# One (a, b, c) for each step x <- a x + b (x x') x + c (x x')^2 x. Each is the quintic closest to 1
# on the range that the one before leaves, beginning with singular values from 0.02 to 1 (the
# construction of Polar Express, Amsel et al., 2025; a linear program finds them). Three steps
# bring those values to 0.907 .. 1.093; smaller ones grow by up to 54.
_QUINTICS = ((7.711, -22.1138, 16.2487), (3.2153, -2.4112, 0.5013), (2.2183, -1.594, 0.4107))
# Makes a step as long as AdamW's, so that one learning rate serves both (Liu et al., 2025,
# https://arxiv.org/abs/2502.16982, section 2.2).
_ADAMW_STEP = 0.2


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized, with decoupled weight decay, for matrices only.

    `lr` has the size that AdamW takes; weights shrink by lr * weight_decay in a step. Steps are
    orthogonalized in `dtype`.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        dtype: torch.dtype = torch.float32,
    ):
        self.dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; matrices of one shape are orthogonalized together.

        An attribute `found_inf` (a tensor; 1.0: skip this update, else 0.0) is respected as in
        torch's fused AdamW, without the host reading its value.
        """
        found_inf = getattr(self, "found_inf", None)
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            for shape, parameters in _by_shape(moving).items():
                gradients = [p.grad for p in parameters if p.grad is not None]  # each has one
                means = [self._mean_of(parameter) for parameter in parameters]
                if found_inf is not None:
                    before = [tensor.clone() for tensor in (*means, *parameters)]
                torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, means, group["momentum"])
                steps = orthogonalize(torch.stack(ahead).to(self.dtype))
                unbound = steps.to(parameters[0].dtype).unbind()
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                length = _ADAMW_STEP * max(shape) ** 0.5
                torch._foreach_add_(parameters, unbound, alpha=-group["lr"] * length)
                if found_inf is not None:
                    for tensor, old in zip((*means, *parameters), before, strict=True):
                        tensor.copy_(torch.where(found_inf.bool(), old, tensor))
        return loss

    def rehearse(self) -> None:
        """Compute a step without applying it, to measure its time."""
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        for alike in _by_shape(gradients).values():
            orthogonalize(torch.stack(alike).to(self.dtype))

    def _mean_of(self, parameter: torch.Tensor) -> torch.Tensor:
        """The momentum of a parameter; zeros before its first step."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def _by_shape(matrices: Iterable[torch.Tensor]) -> dict[torch.Size, list[torch.Tensor]]:
    """The matrices of each shape, which `orthogonalize` takes together."""
    found: dict[torch.Size, list[torch.Tensor]] = {}
    for matrix in matrices:
        found.setdefault(matrix.shape, []).append(matrix)
    return found


def orthogonalize(matrices_NxRxC: torch.Tensor) -> torch.Tensor:
    """N matrices of one shape with all singular values near 1, by Newton-Schulz steps.

    For UWV' about UV', with singular values near 1 where they were at least 0.02 of the matrix's
    Frobenius norm; in the precision of the matrices, of which bf16 is enough.
    """
    x = matrices_NxRxC
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    # The norm is at least the largest singular value; 1.02 covers the rounding of bf16.
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-7).to(x.dtype)
    for a, b, c in _QUINTICS:
        square = x @ x.mT
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, factor, x, beta=a)
    return x.mT if tall else x
