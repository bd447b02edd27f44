"""Forward and backward pass of a GPT-2 on a CPU, without padding and with few passes over memory.

Chosen by `smallgpt/model/forward.py` for a GPT-2 on a CPU; with adapters, for other architectures
and on a GPU transformers' own modules compute.

    rows = PackedRows(lengths)
    hidden_NxE = packed_hidden_states(model, ids_N, rows, torch.bfloat16)
    hidden_NxE.sum().backward()                       # gradients reach the model's parameters

The computation is that of transformers' `GPT2Model` (models/gpt2/modeling_gpt2.py) under autocast:
linear maps and attention in `dtype`, residual stream and LayerNorm in fp32. What makes it fast
(docs/measurements.md): padding is never computed, attention runs as matrix products over chunks of
queries that skip the masked half and rows that have ended, and dropout draws 16 random bits an
element.

Sizes in names: N tokens of all rows, B rows, T longest row, H heads, D width of a head, E = H x D,
I width of the MLP, C queries of a chunk, K keys that a chunk sees, R = rows x heads.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from torch.utils.checkpoint import checkpoint
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.pytorch_utils import Conv1D

from smallgpt.model.cpu_block import Block, BlockPlan, Dropout
from smallgpt.model.own_config import GELU_FORMULA
from smallgpt.model.packed_rows import PackedRows

GPT2 = GPT2LMHeadModel | GPT2ForSequenceClassification


def packed_hidden_states(
    model: GPT2, ids_N: Tensor, rows: PackedRows, dtype: torch.dtype
) -> Tensor:
    """Last hidden states of packed rows, N x E in fp32; the head comes after.

    `model` is a GPT-2 that `supports` approves, on a CPU; dropout as its mode says. `dtype` of the
    linear maps and attention is float32 or bfloat16.
    """
    recomputes = (
        model.training and model.transformer.gradient_checkpointing and torch.is_grad_enabled()
    )
    x_NxE = _embed(model, ids_N, rows)
    for block in blocks_of(model):
        of_block = _of_block(block, rows, dtype, model.config)
        if recomputes:
            x_NxE = checkpoint(Block.apply, x_NxE, *of_block, use_reentrant=False)
        else:
            x_NxE = Block.apply(x_NxE, *of_block)
    return _norm(model.transformer.ln_f, x_NxE)


def _embed(model: GPT2, ids_N: Tensor, rows: PackedRows) -> Tensor:
    _keep_freed_memory()
    transformer = model.transformer
    x_NxE = transformer.wte(ids_N) + transformer.wpe(rows.position_N)
    return Dropout.apply(x_NxE, transformer.drop.p if model.training else 0.0)


def _norm(module: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)


def _of_block(
    block: GPT2Block, rows: PackedRows, dtype: torch.dtype, config: Any
) -> tuple[BlockPlan, *tuple[Tensor, ...]]:
    """The plan and the parameters of a block."""
    attention, mlp = block.attn, block.mlp
    plan = BlockPlan(
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
    modules = (block.ln_1, attention.c_attn, attention.c_proj, block.ln_2, mlp.c_fc, mlp.c_proj)
    return plan, *(tensor for module in modules for tensor in (module.weight, module.bias))


def blocks_of(model: GPT2) -> list[GPT2Block]:
    """The blocks of a GPT-2."""
    return cast("list[GPT2Block]", list(model.transformer.h))  # torch's list of any modules


def is_gpt2(model: torch.nn.Module) -> TypeGuard[GPT2]:
    """Whether a model is a GPT2LMHeadModel or a GPT2ForSequenceClassification."""
    return isinstance(model, GPT2)


def supports(model: torch.nn.Module) -> TypeGuard[GPT2]:
    """Whether `packed_hidden_states` computes what this model computes."""
    if not is_gpt2(model):
        return False
    config = model.config
    maps = [
        linear
        for block in blocks_of(model)
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
    """Have the C library keep freed memory instead of returning it to the system.

    Every step allocates the same activations. Returned memory comes back by page faults, filled
    with zeros: 40,000 pages and a fifth of a step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # only glibc has it
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # <malloc.h>
    mallopt(mmap_threshold, 1 << 25)  # the largest it takes
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 26)
