"""Causal attention on a CPU, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from smallgpt.model.cpu_dropout import _keep, _scale
from smallgpt.model.packed_rows import PackedRows

# Queries are taken in chunks, and each chunk sees only the keys up to its end: with 128, little
# of the masked half is computed, and the products are still large enough to run at full rate.
_CHUNK = 128
# Up to this many tokens of the longest row, attention weights are kept for the backward pass. They
# grow with the square of the length, so beyond each chunk's are computed again.
_LONGEST_KEPT = 2048


# ------------------------------------------------------------------------------- attention


def _attend(
    q_RxTxD: Tensor,
    k_RxTxD: Tensor,
    v_RxTxD: Tensor,
    rows: PackedRows,
    rate: float,
    keeps: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """softmax(Q K^T / sqrt(D), causal) V (Vaswani et al., 2017, eq. 1).

    Args:
        q_RxTxD, k_RxTxD, v_RxTxD: queries, keys and values.
        rows: where the rows end.
        rate: of dropout.
        keeps: whether there will be a backward pass.

    Returns:
        output_RxTxD (undefined where a row has ended), and what `_attend_backward` takes: for
        each chunk the attention weights, followed by what dropout kept of them if it is on. Of
        long rows none of these, only the seed of dropout if it is on.
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
        del weights_RxCxK, keep_RxCxK  # before the next are made
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
    """Attention weights_RxCxK of the queries from `start`, and what dropout keeps of them.

    R are the rows that reach the chunk, and K is where the chunk ends.
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
    """Gives the random numbers of one call of `_attend`, a second time where asked again."""
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

    Uses sum_j P_ij dP_ij = O_i . dO_i (Dao et al., 2022, appendix B.2), which dropout leaves true.
    The weights of long rows are computed again (section 3.1), by the same operations and so to the
    same bits.
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
    kept = iter(kept)
    for start in range(0, T, _CHUNK):
        if recomputes:
            weights_RxCxK, keep_RxCxK = _chunk_weights(
                q_RxTxD, k_RxTxD, rows, start, rate, generator
            )
        else:
            weights_RxCxK, keep_RxCxK = next(kept), next(kept) if rate else None
        r, _, end = weights_RxCxK.shape
        grad_RxCxD, k_RxKxD, v_RxKxD = (
            grad_RxTxD[:r, start:end],
            k_RxTxD[:r, :end],
            v_RxTxD[:r, :end],
        )
        if rate:
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
        # Before the next chunk's are made.
        del weights_RxCxK, keep_RxCxK, used_RxCxK, grad_weights_RxCxK, grad_scores_RxCxK
    if not one_chunk:
        grads_3xRxTxD[1], grads_3xRxTxD[2] = grad_k_RxTxD, grad_v_RxTxD
    return grads_3xRxTxD
