"""GPT-2's blocks forward and backward, written for a CPU: packed rows, few passes over memory.

    rows = PackedRows(lengths)                        # rows after one another, no padding
    hidden_NxE = packed_hidden_states(model, ids_N, rows, torch.bfloat16)
    hidden_NxE.sum().backward()                       # gradients reach the model's parameters

The computation is that of transformers' `GPT2Model` (models/gpt2/modeling_gpt2.py) under autocast:
linear maps and attention in `dtype`, residual stream and LayerNorm in fp32. What makes it fast
(docs/measurements.md): padding is never computed, attention runs as matrix products over chunks of
queries that skip the masked half and rows that have ended, and dropout takes its random numbers 16
bits at a time.

Sizes in names: N tokens of all rows together, B rows, T longest row, H heads, D width of a head,
E = H x D, I width of the MLP, C queries of a chunk, K keys that a chunk sees, R = rows x heads.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm
from torch.utils.checkpoint import checkpoint

# config.activation_function -> torch's name of the formula. transformers computes gelu_new in
# several operations, torch in one.
GELU_FORMULA = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}

# Queries are taken in chunks, and each chunk sees only the keys up to its end: with 128, little
# of the masked half is computed, and the products are still large enough to run at full rate.
_CHUNK = 128
# Up to this many tokens of the longest row, attention weights are kept for the backward pass. They
# grow with the square of the length, so beyond each chunk's are computed again.
_LONGEST_KEPT = 2048


class PackedRows:
    """Where the tokens of B rows lie when the rows follow one another without padding.

    Args:
        lengths: tokens of each row, at least 1.
    """

    def __init__(self, lengths: Sequence[int]):
        lengths_B = torch.as_tensor(lengths, dtype=torch.int64)
        self.B, self.T, self.N = len(lengths_B), int(lengths_B.max()), int(lengths_B.sum())
        starts_B = lengths_B.cumsum(0) - lengths_B
        row_N = torch.repeat_interleave(lengths_B, output_size=self.N)
        self.position_N = torch.arange(self.N) - starts_B[row_N]
        self.last_B = starts_B + lengths_B - 1
        # Longest row first: the rows that reach a chunk of queries are then the first ones.
        self._order_B = lengths_B.argsort(descending=True, stable=True)
        self._rank_B = torch.empty_like(self._order_B)
        self._rank_B[self._order_B] = torch.arange(self.B)
        if self.N == self.B * self.T:
            self._place_N, self._rows_longer = None, lambda place: self.B
            return
        self._place_N = self._rank_B[row_N] * self.T + self.position_N
        self._rows_longer = lambda place: int((lengths_B > place).sum())
        # Where there is no token, token 0 stands in: gathering is six times as fast as scattering.
        self._token_P = torch.zeros(self.B * self.T, dtype=torch.int64)
        self._token_P[self._place_N] = torch.arange(self.N)
        self._holds_token_Px1 = torch.zeros(self.B * self.T, 1, dtype=torch.bool)
        self._holds_token_Px1[self._place_N] = True

    def to_matrix(self, ids_N: Tensor) -> Tensor:
        """Ids as B x T, each row padded on the right with id 0; the longest row is the first."""
        if self._place_N is None:
            return ids_N.view(self.B, self.T)
        place_N = self._place_N.to(ids_N.device, non_blocking=True)
        return ids_N.new_zeros(self.B * self.T).index_copy_(0, place_N, ids_N).view(self.B, self.T)

    def from_matrix(self, x_BxTxE: Tensor) -> Tensor:
        """What lies at the tokens of a matrix that `to_matrix` laid out, N x E."""
        x = x_BxTxE.flatten(0, 1)
        if self._place_N is None:
            return x
        return x.index_select(0, self._place_N.to(x.device, non_blocking=True))

    def in_order(self, x_BxL: Tensor) -> Tensor:
        """What belongs to the rows of `to_matrix`, in the order in which the rows were given."""
        return x_BxL[self._rank_B.to(x_BxL.device, non_blocking=True)]

    def rows_longer_than(self, place: int) -> int:
        """Rows with a token at `place`; `heads` puts these first."""
        return self._rows_longer(place)

    def heads(self, x_NxE: Tensor, parts: int, H: int, zero_padding: bool = False) -> Tensor:
        """N x (parts H D) as parts x (B H) x T x D.

        Where a row has ended stand finite numbers, which no token sees, or zeros.
        """
        if self._place_N is not None:
            x_NxE = x_NxE.index_select(0, self._token_P)
            if zero_padding:
                x_NxE *= self._holds_token_Px1
        x = x_NxE.view(self.B, self.T, parts, H, -1).permute(2, 0, 3, 1, 4)
        return x.reshape(parts, self.B * H, self.T, -1)

    def merge(self, x_PxRxTxD: Tensor, H: int) -> Tensor:
        """The reverse of `heads`."""
        parts = len(x_PxRxTxD)
        x = x_PxRxTxD.view(parts, self.B, H, self.T, -1).permute(1, 3, 0, 2, 4)
        x = x.reshape(self.B * self.T, -1)
        return x if self._place_N is None else x.index_select(0, self._place_N)

    def last_heads(self, x_BxE: Tensor, H: int) -> Tensor:
        """One place of each row, B x (H D), as (B H) x 1 x D in the order of `heads`."""
        return x_BxE[self._order_B].view(self.B * H, 1, -1)

    def merge_last(self, x_Rx1xD: Tensor) -> Tensor:
        """The reverse of `last_heads`."""
        return x_Rx1xD.view(self.B, -1)[self._rank_B]

    def ended(self, H: int) -> Tensor | None:
        """Where a row of `heads` has ended, (B H) x T x 1; None where none ends early."""
        if self._place_N is None:
            return None
        ended_BxT = ~self._holds_token_Px1.view(self.B, self.T)
        return ended_BxT.repeat_interleave(H, dim=0)[..., None]


def packed_hidden_states(
    model: torch.nn.Module, ids_N: Tensor, rows: PackedRows, dtype: torch.dtype
) -> Tensor:
    """Last hidden states of packed rows, N x E in fp32; the head comes after.

    Args:
        model: a GPT-2 (see `is_gpt2`) on a CPU that `supports` approves; dropout as its mode says.
        ids_N: tokens of all rows.
        rows: where the rows begin and end.
        dtype: of the linear maps and attention, float32 or bfloat16.
    """
    x_NxE = _embed(model, ids_N, rows)
    for block in model.transformer.h:
        x_NxE = maybe_recomputed(model, _through_block, block, x_NxE, rows, dtype, model.config)
    return _norm(model.transformer.ln_f, x_NxE)


@torch.inference_mode()
def packed_last_states(
    model: torch.nn.Module, ids_N: Tensor, rows: PackedRows, dtype: torch.dtype
) -> Tensor:
    """Last hidden state of each row's last token, B x E in fp32, without gradients.

    The last block computes nothing for the other tokens but their keys and values: a seventh less
    work with six blocks. Arguments are those of `packed_hidden_states`, the model in evaluation
    mode.
    """
    x_NxE = _embed(model, ids_N, rows)
    *others, last = model.transformer.h
    for block in others:
        x_NxE = _through_block(block, x_NxE, rows, dtype, model.config)

    attention, mlp, H = last.attn, last.mlp, model.config.n_head
    E = x_NxE.shape[1]

    def through(linear: torch.nn.Module, x: Tensor, columns: slice = slice(None)) -> Tensor:
        weight, bias = linear.weight[:, columns].to(dtype), linear.bias[columns].to(dtype)
        return torch.addmm(bias, x.to(dtype), weight)

    normed_NxE = _norm(last.ln_1, x_NxE).to(dtype)
    query_Rx1xD = rows.last_heads(through(attention.c_attn, normed_NxE[rows.last_B], slice(E)), H)
    k_RxTxD, v_RxTxD = rows.heads(through(attention.c_attn, normed_NxE, slice(E, None)), 2, H)
    scores_RxTx1 = (k_RxTxD @ query_Rx1xD.mT).float() * query_Rx1xD.shape[-1] ** -0.5
    ended_RxTx1 = rows.ended(H)
    if ended_RxTx1 is not None:
        scores_RxTx1.masked_fill_(ended_RxTx1, -math.inf)
    attended_BxE = rows.merge_last(scores_RxTx1.softmax(1).to(dtype).mT @ v_RxTxD)
    x_BxE = x_NxE[rows.last_B] + through(attention.c_proj, attended_BxE)
    formula = GELU_FORMULA[model.config.activation_function]
    inner_BxI = gelu(through(mlp.c_fc, _norm(last.ln_2, x_BxE)), approximate=formula)
    return _norm(model.transformer.ln_f, x_BxE + through(mlp.c_proj, inner_BxI))


def _embed(model: torch.nn.Module, ids_N: Tensor, rows: PackedRows) -> Tensor:
    _keep_freed_memory()
    transformer = model.transformer
    x_NxE = transformer.wte(ids_N) + transformer.wpe(rows.position_N)
    return _Dropout.apply(x_NxE, transformer.drop.p if model.training else 0.0)


def _norm(module: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)


def _through_block(
    block: torch.nn.Module, x_NxE: Tensor, rows: PackedRows, dtype: torch.dtype, config: Any
) -> Tensor:
    attention, mlp = block.attn, block.mlp
    modules = (block.ln_1, attention.c_attn, attention.c_proj, block.ln_2, mlp.c_fc, mlp.c_proj)
    parameters = [tensor for module in modules for tensor in (module.weight, module.bias)]
    plan = _Plan(
        rows=rows,
        dtype=dtype,
        H=config.n_head,
        formula=GELU_FORMULA[config.activation_function],
        eps=block.ln_1.eps,
        attention_output_rate=attention.resid_dropout.p if block.training else 0.0,
        mlp_output_rate=mlp.dropout.p if block.training else 0.0,
        attention_rate=attention.attn_dropout.p if block.training else 0.0,
        keeps=torch.is_grad_enabled(),
    )
    return _Block.apply(x_NxE, plan, *parameters)


def maybe_recomputed(model: torch.nn.Module, through: Callable[..., Tensor], *args: Any) -> Tensor:
    """`through(*args)`; its inside is computed again for the gradient where the model says so."""
    if model.training and model.transformer.gradient_checkpointing and torch.is_grad_enabled():
        return checkpoint(through, *args, use_reentrant=False)
    return through(*args)


def is_gpt2(model: torch.nn.Module) -> bool:
    """Whether a model has the modules of GPT2LMHeadModel, or of the one with a head for labels."""
    from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

    return isinstance(model, (GPT2LMHeadModel, GPT2ForSequenceClassification))


def supports(model: torch.nn.Module) -> bool:
    """Whether `packed_hidden_states` computes what this model computes."""
    from transformers.pytorch_utils import Conv1D

    if not is_gpt2(model):
        return False
    config = model.config
    maps = [
        linear
        for block in model.transformer.h
        for linear in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    ]
    return (
        config.activation_function in GELU_FORMULA
        and config.scale_attn_weights
        and not config.scale_attn_by_inverse_layer_idx
        and not config.add_cross_attention
        and all(type(linear) is Conv1D for linear in maps)  # an adapter wraps them
    )


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep what is freed instead of handing it back to the system.

    Every step allocates the same activations. Handed back, they come again page by page, each
    page a fault and filled with zeros: 40,000 pages and a fifth of a step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # only glibc has it
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # <malloc.h>
    mallopt(mmap_threshold, 1 << 25)  # the largest it takes
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 26)


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


# ------------------------------------------------------------------------------- a block


@dataclass(frozen=True)
class _Plan:
    """What a block needs to know beside its parameters; rates are those of dropout."""

    rows: PackedRows
    dtype: torch.dtype
    H: int
    formula: str
    eps: float
    attention_output_rate: float
    mlp_output_rate: float
    attention_rate: float
    keeps: bool  # what a backward pass needs


class _Block(torch.autograd.Function):
    """x + attention(norm(x)), then x + mlp(norm(x)); gradients of x and all parameters."""

    @staticmethod
    def forward(ctx: Any, x_NxE: Tensor, plan: _Plan, *parameters: Tensor) -> Tensor:
        g1, b1, w_qkv, b_qkv, w_out, b_out, g2, b2, w_in, b_in, w_back, b_back = parameters
        E, dtype, rows, H = (x_NxE.shape[1],), plan.dtype, plan.rows, plan.H
        w_qkv, w_out, w_in, w_back = (w.to(dtype) for w in (w_qkv, w_out, w_in, w_back))

        n1_NxE, mean1, rstd1 = torch.native_layer_norm(x_NxE, E, g1, b1, plan.eps)
        n1_NxE = n1_NxE.to(dtype)
        qkv = rows.heads(torch.addmm(b_qkv.to(dtype), n1_NxE, w_qkv), 3, H)
        attended, weights = _attend(*qkv, rows, plan.attention_rate, plan.keeps)
        merged_NxE = rows.merge(attended[None], H)
        out_NxE = torch.addmm(b_out.to(dtype), merged_NxE, w_out)
        keep1 = _keep(out_NxE, plan.attention_output_rate, dtype)
        if keep1 is not None:
            out_NxE *= keep1
        y_NxE = torch.add(x_NxE, out_NxE, alpha=_scale(plan.attention_output_rate))

        n2_NxE, mean2, rstd2 = torch.native_layer_norm(y_NxE, E, g2, b2, plan.eps)
        n2_NxE = n2_NxE.to(dtype)
        inner_NxI = torch.addmm(b_in.to(dtype), n2_NxE, w_in)
        active_NxI = gelu(inner_NxI, approximate=plan.formula)
        out_NxE = torch.addmm(b_back.to(dtype), active_NxI, w_back)
        keep2 = _keep(out_NxE, plan.mlp_output_rate, dtype)
        if keep2 is not None:
            out_NxE *= keep2
        z_NxE = torch.add(y_NxE, out_NxE, alpha=_scale(plan.mlp_output_rate))

        ctx.plan = plan
        ctx.save_for_backward(
            x_NxE, mean1, rstd1, n1_NxE, qkv, attended, merged_NxE, keep1,
            y_NxE, mean2, rstd2, n2_NxE, inner_NxI, active_NxI, keep2,
            g1, b1, w_qkv, w_out, g2, b2, w_in, w_back, *weights,
        )  # fmt: skip
        return z_NxE

    @staticmethod
    def backward(ctx: Any, grad_z_NxE: Tensor) -> tuple[Tensor | None, ...]:
        (
            x_NxE, mean1, rstd1, n1_NxE, qkv, attended, merged_NxE, keep1,
            y_NxE, mean2, rstd2, n2_NxE, inner_NxI, active_NxI, keep2,
            g1, b1, w_qkv, w_out, g2, b2, w_in, w_back, *weights,
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


def _dropout_backward(
    grad_NxE: Tensor, keep: Tensor | None, rate: float, dtype: torch.dtype
) -> Tensor:
    """Gradient before dropout and its scale, in `dtype`."""
    if keep is None:
        return grad_NxE.to(dtype)
    return (grad_NxE * _scale(rate)).to(dtype).mul_(keep)
