"""The one way through a model, for training, scoring and classifying."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from smallgpt.errors import UserError
from smallgpt.model import cpu_forward as blocks
from smallgpt.model.hardware import Precision
from smallgpt.model.head import head_name
from smallgpt.model.packed_rows import PackedRows


def recompute_blocks(model: torch.nn.Module) -> None:
    """Have a block keep only its input in training and compute its inside again for the gradient.

    Raises:
        UserError: the model has no blocks that transformers could do that with.
    """
    from torch.utils.checkpoint import checkpoint

    # As transformers' own method does, without its hooks on the embeddings, which the
    # non-reentrant kind does not need.
    recomputing = [
        module for module in model.modules() if hasattr(module, "gradient_checkpointing")
    ]
    if not recomputing:
        raise UserError(f"gradient_checkpointing: a {model.config.model_type} model cannot do that")
    for module in recomputing:
        module.gradient_checkpointing = True
        module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def linear_head(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight V x n_embd and bias of the map from last hidden states to logits."""
    head = model.get_output_embeddings()
    return head.weight, getattr(head, "bias", None)


def hidden_states(
    model: torch.nn.Module, ids_N: torch.Tensor, rows: PackedRows, precision: Precision
) -> torch.Tensor:
    """Last hidden states of packed rows, N x n_embd; the head comes after.

    On a CPU by `blocks`, elsewhere on a padded matrix: with causal attention no token sees the
    padding behind it.
    """
    device = ids_N.device
    if device.type == "cpu" and blocks.supports(model):
        return blocks.packed_hidden_states(model, ids_N, rows, precision.dtype)
    with precision.autocast(device):
        return rows.from_matrix(padded_hidden_states(model, rows.to_matrix(ids_N)))


def last_states(
    model: torch.nn.Module, ids_N: torch.Tensor, rows: PackedRows, precision: Precision
) -> torch.Tensor:
    """Last hidden state of each packed row's last token, B x n_embd, without gradients.

    The model must be in evaluation mode.
    """
    if ids_N.device.type == "cpu" and blocks.supports(model):
        return blocks.packed_last_states(model, ids_N, rows, precision.dtype)
    with torch.inference_mode():
        return hidden_states(model, ids_N, rows, precision)[rows.last_B.to(ids_N.device)]


def class_logits(
    model: torch.nn.Module, ids_N: torch.Tensor, rows: PackedRows, precision: Precision
) -> torch.Tensor:
    """What a model with a head for labels says of packed rows, B x labels in fp32.

    A GPT-2's head reads the state of each row's last token, and computes in fp32. Other models
    go through their own forward pass, padding behind the rows and masked.
    """
    if blocks.is_gpt2(model):
        if torch.is_grad_enabled():
            hidden_NxE = hidden_states(model, ids_N, rows, precision)
            last_BxE = hidden_NxE[rows.last_B.to(ids_N.device)]
        else:
            last_BxE = last_states(model, ids_N, rows, precision)
        return model.score(last_BxE.float())
    mask_BxT = rows.to_matrix(torch.ones_like(ids_N))
    ids_BxT = rows.to_matrix(ids_N).masked_fill(mask_BxT == 0, model.config.pad_token_id)
    with precision.autocast(ids_N.device):
        logits_BxL = model(ids_BxT, attention_mask=mask_BxT).logits
    return rows.in_order(logits_BxL.float())


@torch.no_grad()
def head_inputs(
    model: torch.nn.Module, ids_N: torch.Tensor, rows: PackedRows, precision: Precision
) -> torch.Tensor:
    """What the head of a model in evaluation mode reads of packed rows, B x width in fp32.

    The model's head must be one of those that `classifier_head.is_plain` approves.
    """
    if blocks.is_gpt2(model):
        # Not last_states: its inference tensors could take no part in a gradient.
        return hidden_states(model, ids_N, rows, precision)[rows.last_B.to(ids_N.device)].float()
    seen = []
    head = getattr(model, head_name(model))
    hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        class_logits(model, ids_N, rows, precision)
    finally:
        hook.remove()
    (inputs,) = seen
    if inputs.dim() == 3:  # causal models map all places and choose the last
        return rows.from_matrix(inputs)[rows.last_B.to(ids_N.device)].float()
    return rows.in_order(inputs.float())


def padded_hidden_states(model: torch.nn.Module, ids_BxT: torch.Tensor) -> torch.Tensor:
    """Last hidden states of rows that begin at the first column, B x T x n_embd.

    transformers' own modules, called without its masks and cache: those take the time of many
    small kernels, and differ while a CUDA graph is recorded. Other models than GPT-2 go through
    transformers altogether.
    """
    if not blocks.is_gpt2(model):
        return model.base_model(ids_BxT, use_cache=False).last_hidden_state
    T = ids_BxT.shape[1]
    transformer = model.transformer
    positions_T = torch.arange(T, device=ids_BxT.device)
    x_BxTxE = transformer.drop(transformer.wte(ids_BxT) + transformer.wpe(positions_T))
    for block in transformer.h:
        x_BxTxE = blocks.maybe_recomputed(model, _through_modules, block, x_BxTxE)
    return transformer.ln_f(x_BxTxE)


def _through_modules(block: torch.nn.Module, x_BxTxE: torch.Tensor) -> torch.Tensor:
    """A GPT-2 block by its own modules."""
    B, T, _ = x_BxTxE.shape
    attention = block.attn
    qkv_BxTx3E = attention.c_attn(block.ln_1(x_BxTxE))
    q_BxHxTxD, k_BxHxTxD, v_BxHxTxD = qkv_BxTx3E.view(
        B, T, 3, attention.num_heads, attention.head_dim
    ).permute(2, 0, 3, 1, 4)
    attended_BxHxTxD = scaled_dot_product_attention(
        q_BxHxTxD,
        k_BxHxTxD,
        v_BxHxTxD,
        is_causal=True,
        dropout_p=attention.attn_dropout.p if block.training else 0.0,
        scale=attention.scaling,
    )
    attended_BxTxE = attended_BxHxTxD.transpose(1, 2).flatten(2)
    x_BxTxE = x_BxTxE + attention.resid_dropout(attention.c_proj(attended_BxTxE))
    return x_BxTxE + block.mlp(block.ln_2(x_BxTxE))
