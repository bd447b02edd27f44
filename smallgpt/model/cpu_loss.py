"""Cross-entropy of next tokens on a CPU, its gradient computed on the way forward.

    loss, nll_M = WeightedNll.apply(hidden_MxE, head_VxE, targets_M, weights_M, torch.bfloat16)
    loss.backward()

Logits and their softmax exist for one chunk of tokens at a time, in one buffer: autograd would keep
several matrices of tokens x vocabulary, and to write and read these takes long where the vocabulary
is large (docs/measurements.md). The computation is that of a linear map and `cross_entropy` under
autocast.

Sizes in names: M tokens, E width, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits of a chunk, and its fewest tokens: each chunk adds a matrix of the head's size.
_LOGITS, _FEWEST_TOKENS = 2**21, 512


class WeightedNll(torch.autograd.Function):
    """The weighted sum of the negative log likelihoods of targets, nats, and each of them.

    hidden_MxE (fp32) are last hidden states, head_VxE the output embeddings (fp32); they are
    multiplied in `dtype`. weights_M (fp32) get no gradient, and the second result passes none on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MxE: Tensor,
        head_VxE: Tensor,
        targets_M: Tensor,
        weights_M: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        count, size = len(hidden_MxE), len(head_VxE)
        of_hidden, of_head = ctx.needs_input_grad[:2]
        head_grad_VxE = torch.zeros_like(head_VxE) if of_head else None
        hidden_grad_MxE = torch.empty(hidden_MxE.shape, dtype=dtype) if of_hidden else None
        hidden_MxE, head_VxE = hidden_MxE.to(dtype), head_VxE.to(dtype)
        nll_M = torch.empty(count)
        chunk = min(count, max(_FEWEST_TOKENS, _LOGITS // size))
        buffer = torch.empty(chunk, size)
        places = torch.arange(chunk)
        for start in range(0, count, chunk):
            part = slice(start, min(start + chunk, count))
            hidden_CxE, targets_C, weights_C = hidden_MxE[part], targets_M[part], weights_M[part]
            place_C = places[: len(targets_C)]
            x_CxV = buffer[: len(targets_C)].copy_(hidden_CxE @ head_VxE.T)
            wanted_C, most_C = x_CxV[place_C, targets_C], x_CxV.amax(1)
            sum_C = x_CxV.sub_(most_C[:, None]).exp_().sum(1)
            nll_M[part] = sum_C.log() + most_C - wanted_C
            if not (of_hidden or of_head):
                continue
            # The gradient of the logits: weight x (softmax - 1 at the target).
            x_CxV.mul_((weights_C / sum_C)[:, None])
            x_CxV[place_C, targets_C] -= weights_C
            grad_CxV = x_CxV.to(dtype)
            if hidden_grad_MxE is not None:
                torch.mm(grad_CxV, head_VxE, out=hidden_grad_MxE[part])
            if head_grad_VxE is not None:
                head_grad_VxE += grad_CxV.T @ hidden_CxE
        ctx.save_for_backward(hidden_grad_MxE, head_grad_VxE)
        ctx.mark_non_differentiable(nll_M)
        return nll_M @ weights_M, nll_M

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_head = (None if each is None else each * grad for each in ctx.saved_tensors)
        return of_hidden, of_head, None, None, None
