"""The FLOPs that training on a row takes at least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def training_flops(
    parameters: int, n_layer: int, n_embd: int, lengths_N: np.ndarray | list[int]
) -> np.ndarray:
    """FLOPs of each row in a training step that cannot be avoided; the forward pass is a third.

    6 per parameter and token, and causal attention: 6 x layers x width x length per token.
    `parameters` are those of `counted_parameters`, `lengths_N` the input tokens of each row.
    """
    tokens_N = np.asarray(lengths_N, np.float64)
    return 6.0 * parameters * tokens_N + 6.0 * n_layer * n_embd * tokens_N**2


def counted_parameters(model: PreTrainedModel, head: bool) -> int:
    """Parameters that multiply every token: no table of embeddings but, if `head`, a tied one."""
    tables = [part.weight for part in model.modules() if isinstance(part, torch.nn.Embedding)]
    total = sum(parameter.numel() for parameter in model.parameters())
    total -= sum(table.numel() for table in tables)
    output = model.get_output_embeddings()
    tied = output is not None and any(output.weight is table for table in tables)
    return total + output.weight.numel() if head and tied else total
