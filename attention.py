"""Causal attention as chunked matrix products: the fast way in bf16 on a CPU.

torch's fused kernel is made for few long rows in fp32; in bf16 on a CPU it takes 5 to 8 times as
long as plain matrix products for rows of 20 to 50 tokens, and longer at every length measured
(docs/measurements.md). Importing this module registers the function with transformers:

    import attention
    config._attn_implementation = attention.NAME

Everywhere else (GPU, fp32, attention masks, attention dropout, decoding with a cache) it hands on
to transformers' scaled-dot-product attention. The checkpoint knows nothing of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "chunked_causal"
# Queries are taken in chunks, and each chunk sees only the keys up to its end: with 128, little
# of the masked half is computed, and the products are still large enough to run at full rate.
_CHUNK = 128
# Attention weights are kept for the backward pass; beyond this much a layer, memory decides.
_MOST_KEPT_BYTES = 1 << 29


class ChunkedCausalAttention(torch.autograd.Function):
    """softmax(Q K^T * scaling, causal) V (Vaswani et al., 2017, eq. 1) and its gradient.

    The backward pass uses sum_j P_ij dP_ij = O_i . dO_i (Dao et al., 2022, appendix B.2).
    """

    @staticmethod
    def forward(ctx: Any, q_NxTxD: Tensor, k_NxTxD: Tensor, v_NxTxD: Tensor, scaling: float):
        """Attention output N x T x D; N counts heads of all rows."""
        T = q_NxTxD.shape[1]
        output_NxTxD = torch.empty_like(v_NxTxD)
        kept = []
        for start in range(0, T, _CHUNK):
            end = min(start + _CHUNK, T)
            mask_CxE = torch.full((end - start, end), -math.inf, dtype=q_NxTxD.dtype)
            mask_CxE.triu_(1 + start)
            weights_NxCxE = torch.baddbmm(
                mask_CxE, q_NxTxD[:, start:end], k_NxTxD[:, :end].transpose(1, 2), alpha=scaling
            ).softmax(-1)
            output_NxTxD[:, start:end] = torch.bmm(weights_NxCxE, v_NxTxD[:, :end])
            kept.append(weights_NxCxE)
        ctx.save_for_backward(q_NxTxD, k_NxTxD, v_NxTxD, output_NxTxD, *kept)
        ctx.scaling = scaling
        return output_NxTxD

    @staticmethod
    def backward(ctx: Any, grad_NxTxD: Tensor):
        """Gradients of queries, keys and values."""
        q_NxTxD, k_NxTxD, v_NxTxD, output_NxTxD, *kept = ctx.saved_tensors
        T = q_NxTxD.shape[1]
        overlap_NxTx1 = (grad_NxTxD * output_NxTxD).sum(-1, keepdim=True)
        grad_q_NxTxD = torch.empty_like(q_NxTxD)
        # Several chunks add to the same keys: their sum is kept in fp32.
        total = q_NxTxD.dtype if len(kept) == 1 else torch.float32
        grad_k_NxTxD = torch.zeros_like(k_NxTxD, dtype=total)
        grad_v_NxTxD = torch.zeros_like(v_NxTxD, dtype=total)
        for weights_NxCxE, start in zip(kept, range(0, T, _CHUNK), strict=True):
            end = min(start + _CHUNK, T)
            grad_NxCxD = grad_NxTxD[:, start:end]
            grad_scores_NxCxE = (
                torch.baddbmm(
                    overlap_NxTx1[:, start:end],
                    grad_NxCxD,
                    v_NxTxD[:, :end].transpose(1, 2),
                    beta=-1,
                )
                .mul_(weights_NxCxE)
                .mul_(ctx.scaling)
            )
            grad_q_NxTxD[:, start:end] = torch.bmm(grad_scores_NxCxE, k_NxTxD[:, :end])
            grad_k_NxTxD[:, :end] += torch.bmm(
                grad_scores_NxCxE.transpose(1, 2), q_NxTxD[:, start:end]
            )
            grad_v_NxTxD[:, :end] += torch.bmm(weights_NxCxE.transpose(1, 2), grad_NxCxD)
        dtype = q_NxTxD.dtype
        return grad_q_NxTxD, grad_k_NxTxD.to(dtype), grad_v_NxTxD.to(dtype), None


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: B x H x T x D in, B x T x H x D out."""
    B, H, T, D = query.shape
    ours = (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and attention_mask is None
        and dropout == 0.0
        and key.shape == query.shape
        and module.is_causal
        and B * H * T * (T + _CHUNK) <= _MOST_KEPT_BYTES  # two bytes each, about half of T x T
    )
    if not ours:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scaling = D**-0.5 if scaling is None else scaling
    heads = [tensor.reshape(B * H, T, D) for tensor in (query, key, value)]
    with torch.autocast("cpu", enabled=False):
        output_NxTxD = ChunkedCausalAttention.apply(*heads, scaling)
    return output_NxTxD.view(B, H, T, D).transpose(1, 2), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
