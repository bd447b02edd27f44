"""A GPT-2 block on a CPU, forward and backward: attention, MLP, dropout.

The computation is that of transformers' `GPT2Block` (models/gpt2/modeling_gpt2.py); precision and
sizes in names: see `cpu_forward`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

from smallgpt.model.packed_rows import PackedRows

# Queries in a chunk; each chunk sees only the keys up to its end: with 128, little of the masked
# half is computed, and the products are still large enough to run at full rate.
_CHUNK = 128
# Up to this length of the longest row, attention weights are kept for the backward pass. They grow
# with the square of the length, so those of longer rows are computed again, which takes a sixth
# more of a block's time (docs/measurements.md).
_LONGEST_KEPT = 2048


# ------------------------------------------------------------------------------- dropout


def _keep(
    like: Tensor, rate: float, dtype: torch.dtype, generator: torch.Generator | None = None
) -> Tensor | None:
    """Dropout mask in `dtype`, 1 where it keeps; None where dropout is off.

    16 random bits an element: the rate is met to 1/65536, in a sixth of the time of torch's own
    dropout, which takes 64 bits. `generator` None is torch's global one.
    """
    if rate == 0.0:
        return None
    n = like.numel()
    bits = torch.empty((n + 3) // 4, dtype=torch.int64)
    bits = bits.random_(-(2**63), None, generator=generator).view(torch.int16)
    # In place the comparison is vectorized; into a bool it is four times as slow.
    return bits[:n].ge_(_threshold(rate) - 32768).to(dtype).view(like.shape)


def _threshold(rate: float) -> int:
    """How many of the 65,536 values of 16 bits are dropped."""
    return min(round(rate * 65536), 65535)


def _scale(rate: float) -> float:
    """Factor that keeps the expected value under dropout of this rate."""
    return 65536 / (65536 - _threshold(rate)) if rate else 1.0


class Dropout(torch.autograd.Function):
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
    """Gradient of the input of dropout, in `dtype`."""
    if keep is None:
        return grad_NxE.to(dtype)
    return (grad_NxE * _scale(rate)).to(dtype).mul_(keep)


# ------------------------------------------------------------------------------- attention


def attend(
    q_RxTxD: Tensor,
    k_RxTxD: Tensor,
    v_RxTxD: Tensor,
    rows: PackedRows,
    rate: float,
    keeps: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """softmax(Q K^T / sqrt(D), causal) V (Vaswani et al., 2017, eq. 1).

    Returns the output, undefined where a row has ended, and what `_attend_backward` needs: for each
    chunk its attention weights (with `keeps`), then its dropout mask if dropout is on. Of long rows
    only the seed of dropout, if it is on.
    """
    T = q_RxTxD.shape[1]
    output_RxTxD = torch.empty_like(v_RxTxD)
    kept, generator = [], None
    recomputes = T > _LONGEST_KEPT
    if recomputes and rate:
        kept.append(torch.randint(2**62, ()))
        generator = _generator(kept)
    for start in range(0, T, _CHUNK):
        weights_RxCxK, keep_RxCxK = _chunk_weights(q_RxTxD, k_RxTxD, rows, start, rate, generator)
        r, _, K = weights_RxCxK.shape
        if keeps and not recomputes:
            kept += [weights_RxCxK] if keep_RxCxK is None else [weights_RxCxK, keep_RxCxK]
        if keep_RxCxK is not None:
            weights_RxCxK = weights_RxCxK * keep_RxCxK
        torch.bmm(weights_RxCxK, v_RxTxD[:r, :K], out=output_RxTxD[:r, start:K])
        del weights_RxCxK, keep_RxCxK  # free before the next chunk
    if rate:
        output_RxTxD *= _scale(rate)
    return output_RxTxD, kept


def _chunk_weights(
    q_RxTxD: Tensor,
    k_RxTxD: Tensor,
    rows: PackedRows,
    start: int,
    rate: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor | None]:
    """Attention weights_RxCxK of the chunk of queries from `start`, and their dropout mask.

    R counts the rows that reach the chunk; K is the end of the chunk.
    """
    R, T, D = q_RxTxD.shape
    end = min(start + _CHUNK, T)
    r = rows.rows_longer_than(start) * (R // rows.B)
    mask_CxK = q_RxTxD.new_full((end - start, end), -math.inf).triu_(1 + start)
    weights_RxCxK = torch.baddbmm(
        mask_CxK, q_RxTxD[:r, start:end], k_RxTxD[:r, :end].mT, alpha=D**-0.5
    ).softmax(-1)
    return weights_RxCxK, _keep(weights_RxCxK, rate, weights_RxCxK.dtype, generator)


def _generator(kept: Sequence[Tensor]) -> torch.Generator:
    """The random numbers of one call of `attend`, the same in forward and backward."""
    return torch.Generator().manual_seed(int(kept[0]))


def _attend_backward(
    grad_RxTxD: Tensor,
    output_RxTxD: Tensor,
    qkv_3xRxTxD: Tensor,
    kept: Sequence[Tensor],
    rows: PackedRows,
    rate: float,
) -> Tensor:
    """Gradients of queries, keys and values, 3 x R x T x D.

    Uses sum_j P_ij dP_ij = O_i . dO_i (Dao et al., 2022, appendix B.2), true with dropout too. The
    weights of long rows are computed again (section 3.1), bit for bit the same.
    """
    q_RxTxD, k_RxTxD, v_RxTxD = qkv_3xRxTxD
    R, T, D = q_RxTxD.shape
    overlap_RxTx1 = (grad_RxTxD * output_RxTxD).sum(-1, keepdim=True)
    one_chunk = T <= _CHUNK
    grads_3xRxTxD = torch.empty_like(qkv_3xRxTxD)
    grad_q_RxTxD = grads_3xRxTxD[0]
    if one_chunk:
        grad_k_RxTxD, grad_v_RxTxD = grads_3xRxTxD[1:]
    else:  # several chunks add to the same keys: their sum is kept in fp32
        grad_k_RxTxD, grad_v_RxTxD = torch.zeros(2, R, T, D)
    recomputes = T > _LONGEST_KEPT
    generator = _generator(kept) if recomputes and rate else None
    kept_chunks = iter(kept)
    for start in range(0, T, _CHUNK):
        if recomputes:
            weights_RxCxK, keep_RxCxK = _chunk_weights(
                q_RxTxD, k_RxTxD, rows, start, rate, generator
            )
        else:
            weights_RxCxK, keep_RxCxK = next(kept_chunks), next(kept_chunks) if rate else None
        r, _, end = weights_RxCxK.shape
        grad_RxCxD, k_RxKxD, v_RxKxD = (
            grad_RxTxD[:r, start:end],
            k_RxTxD[:r, :end],
            v_RxTxD[:r, :end],
        )
        if keep_RxCxK is not None:
            keep_RxCxK = keep_RxCxK.mul_(_scale(rate))
            grad_weights_RxCxK = torch.bmm(grad_RxCxD, v_RxKxD.mT).mul_(keep_RxCxK)
            grad_weights_RxCxK -= overlap_RxTx1[:r, start:end]
            used_RxCxK = weights_RxCxK * keep_RxCxK
        else:
            grad_weights_RxCxK = torch.baddbmm(
                overlap_RxTx1[:r, start:end], grad_RxCxD, v_RxKxD.mT, beta=-1
            )
            used_RxCxK = weights_RxCxK
        grad_scores_RxCxK = grad_weights_RxCxK.mul_(weights_RxCxK).mul_(D**-0.5)
        torch.bmm(grad_scores_RxCxK, k_RxKxD, out=grad_q_RxTxD[:r, start:end])
        q_RxCxD = q_RxTxD[:r, start:end]
        if one_chunk:
            torch.bmm(grad_scores_RxCxK.mT, q_RxCxD, out=grad_k_RxTxD)
            torch.bmm(used_RxCxK.mT, grad_RxCxD, out=grad_v_RxTxD)
        else:
            grad_k_RxTxD[:r, :end] += torch.bmm(grad_scores_RxCxK.mT, q_RxCxD)
            grad_v_RxTxD[:r, :end] += torch.bmm(used_RxCxK.mT, grad_RxCxD)
        # Free before the next chunk.
        del weights_RxCxK, keep_RxCxK, used_RxCxK, grad_weights_RxCxK, grad_scores_RxCxK
    if not one_chunk:
        grads_3xRxTxD[1], grads_3xRxTxD[2] = grad_k_RxTxD, grad_v_RxTxD
    return grads_3xRxTxD


# ------------------------------------------------------------------------------- a block


@dataclass(frozen=True)
class BlockPlan:
    """What a block needs besides its parameters; rates are those of dropout."""

    rows: PackedRows
    dtype: torch.dtype
    H: int
    formula: str
    eps: float
    attention_output_rate: float
    mlp_output_rate: float
    attention_rate: float
    keeps: bool  # whether a backward pass follows


class Block(torch.autograd.Function):
    """x + attention(norm(x)), then x + mlp(norm(x)); gradients of x and all parameters."""

    @staticmethod
    def forward(ctx: Any, x_NxE: Tensor, plan: BlockPlan, *parameters: Tensor) -> Tensor:
        g1, b1, w_qkv, b_qkv, w_out, b_out, g2, b2, *mlp = parameters
        E, dtype, rows, H = (x_NxE.shape[1],), plan.dtype, plan.rows, plan.H
        w_qkv, w_out = w_qkv.to(dtype), w_out.to(dtype)

        n1_NxE, mean1, rstd1 = torch.native_layer_norm(x_NxE, E, g1, b1, plan.eps)
        n1_NxE = n1_NxE.to(dtype)
        qkv = rows.heads(torch.addmm(b_qkv.to(dtype), n1_NxE, w_qkv), 3, H)
        q, k, v = qkv
        attended, weights = attend(q, k, v, rows, plan.attention_rate, plan.keeps)
        merged_NxE = rows.merge(attended[None], H)
        out_NxE = torch.addmm(b_out.to(dtype), merged_NxE, w_out)
        keep1 = _keep(out_NxE, plan.attention_output_rate, dtype)
        if keep1 is not None:
            out_NxE *= keep1
        y_NxE = torch.add(x_NxE, out_NxE, alpha=_scale(plan.attention_output_rate))

        z_NxE, mlp_kept = _mlp(y_NxE, plan, g2, b2, *mlp)
        ctx.plan = plan
        ctx.save_for_backward(
            x_NxE, mean1, rstd1, n1_NxE, qkv, attended, merged_NxE, keep1, y_NxE,
            g1, b1, w_qkv, w_out, g2, b2, *mlp_kept, *weights,
        )  # fmt: skip
        return z_NxE

    @staticmethod
    def backward(ctx: Any, grad_z_NxE: Tensor) -> tuple[Tensor | None, ...]:
        (
            x_NxE, mean1, rstd1, n1_NxE, qkv, attended, merged_NxE, keep1, y_NxE,
            g1, b1, w_qkv, w_out, g2, b2, mean2, rstd2, n2_NxE, inner_NxI, active_NxI, keep2,
            w_in, w_back, *weights,
        ) = ctx.saved_tensors  # fmt: skip
        plan = ctx.plan
        E, dtype, rows, H = (x_NxE.shape[1],), plan.dtype, plan.rows, plan.H

        grad_NxE = _dropout_backward(grad_z_NxE, keep2, plan.mlp_output_rate, dtype)
        grad_w_back, grad_b_back = active_NxI.T @ grad_NxE, grad_NxE.sum(0)
        grad_inner_NxI = torch.ops.aten.gelu_backward(
            grad_NxE @ w_back.T, inner_NxI, approximate=plan.formula
        )
        grad_w_in, grad_b_in = n2_NxE.T @ grad_inner_NxI, grad_inner_NxI.sum(0)
        grad_y_NxE, grad_g2, grad_b2 = torch.ops.aten.native_layer_norm_backward(
            (grad_inner_NxI @ w_in.T).float(), y_NxE, E, mean2, rstd2, g2, b2, [True] * 3
        )
        grad_y_NxE += grad_z_NxE

        grad_NxE = _dropout_backward(grad_y_NxE, keep1, plan.attention_output_rate, dtype)
        grad_w_out, grad_b_out = merged_NxE.T @ grad_NxE, grad_NxE.sum(0)
        (grad_attended,) = rows.heads(grad_NxE @ w_out.T, 1, H, zero_padding=True)
        grad_qkv = rows.merge(
            _attend_backward(grad_attended, attended, qkv, weights, rows, plan.attention_rate), H
        )
        grad_w_qkv, grad_b_qkv = n1_NxE.T @ grad_qkv, grad_qkv.sum(0)
        grad_x_NxE, grad_g1, grad_b1 = torch.ops.aten.native_layer_norm_backward(
            (grad_qkv @ w_qkv.T).float(), x_NxE, E, mean1, rstd1, g1, b1, [True] * 3
        )
        grad_x_NxE += grad_y_NxE
        return (
            grad_x_NxE, None, grad_g1, grad_b1, grad_w_qkv.float(), grad_b_qkv.float(),
            grad_w_out.float(), grad_b_out.float(), grad_g2, grad_b2, grad_w_in.float(),
            grad_b_in.float(), grad_w_back.float(), grad_b_back.float(),
        )  # fmt: skip


def _mlp(
    y_NxE: Tensor, plan: BlockPlan, g: Tensor, b: Tensor, *maps: Tensor
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """y + mlp(norm(y)), and what `Block.backward` needs of it."""
    w_in, b_in, w_back, b_back = (parameter.to(plan.dtype) for parameter in maps)
    n_NxE, mean, rstd = torch.native_layer_norm(y_NxE, (y_NxE.shape[1],), g, b, plan.eps)
    n_NxE = n_NxE.to(plan.dtype)
    inner_NxI = torch.addmm(b_in, n_NxE, w_in)
    active_NxI = gelu(inner_NxI, approximate=plan.formula)
    out_NxE = torch.addmm(b_back, active_NxI, w_back)
    keep = _keep(out_NxE, plan.mlp_output_rate, plan.dtype)
    if keep is not None:
        out_NxE *= keep
    z_NxE = torch.add(y_NxE, out_NxE, alpha=_scale(plan.mlp_output_rate))
    return z_NxE, (mean, rstd, n_NxE, inner_NxI, active_NxI, keep, w_in, w_back)


def attend_last(q_BxE: Tensor, kv_Nx2E: Tensor, rows: PackedRows, H: int) -> Tensor:
    """Attention of each row's last token, B x E, by its query and all keys and values.

    Of the last block nothing else is needed to name a label: in the last of six blocks this saves a
    seventh of the whole forward pass.
    """
    query_Rx1xD = rows.last_heads(q_BxE, H)
    k_RxTxD, v_RxTxD = rows.heads(kv_Nx2E, 2, H)
    scores_RxTx1 = (k_RxTxD @ query_Rx1xD.mT).float() * query_Rx1xD.shape[-1] ** -0.5
    ended_RxTx1 = rows.ended(H)
    if ended_RxTx1 is not None:
        scores_RxTx1.masked_fill_(ended_RxTx1, -math.inf)
    return rows.merge_last(scores_RxTx1.softmax(1).to(v_RxTxD.dtype).mT @ v_RxTxD)
