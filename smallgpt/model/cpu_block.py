"""A transformer block on a CPU, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

from smallgpt.model.cpu_attention import _attend, _attend_backward
from smallgpt.model.cpu_dropout import _dropout_backward, _keep, _scale
from smallgpt.model.packed_rows import PackedRows

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
