"""Optimizers: AdamW, or Muon for the matrices of the blocks and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from smallgpt.model.hardware import Precision
from smallgpt.model.head import head_name, is_classifier
from smallgpt.options.training import TrainSettings
from smallgpt.training.muon import Muon

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_optimizers(
    model: PreTrainedModel, settings: TrainSettings, device: torch.device, precision: Precision
) -> list[torch.optim.Optimizer]:
    """Fused AdamW (Loshchilov and Hutter, 2019), or Muon for the blocks and AdamW for the rest.

    Only matrices decay. Embeddings, the head tied to them, norms and biases are always AdamW's.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() >= 2]
    others = [p for p in trained if p.dim() < 2]
    optimizers: list[torch.optim.Optimizer] = []
    if settings.optimizer == "muon":
        outside: list[torch.nn.Module] = [
            m for m in model.modules() if isinstance(m, torch.nn.Embedding)
        ]
        by_head = is_classifier(model)
        head = getattr(model, head_name(model)) if by_head else model.get_output_embeddings()
        outside += [model.get_input_embeddings(), head]
        of_tokens = {id(p) for module in outside for p in module.parameters()}
        in_blocks = [p for p in matrices if p.dim() == 2 and id(p) not in of_tokens]
        # Nowhere else would a run in fp32 compute in bf16: a CPU without bf16 emulates it, and a
        # step then took five times as long.
        dtype = torch.bfloat16 if precision.name == "bf16" else torch.float32
        optimizers.append(Muon(in_blocks, weight_decay=settings.weight_decay, dtype=dtype))
        taken = set(map(id, in_blocks))
        matrices = [p for p in matrices if id(p) not in taken]
    adamw = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        fused=device.type in ("cpu", "cuda", "mps"),
    )
    return [*optimizers, adamw]


def parameters_of(
    optimizers: Iterable[torch.optim.Optimizer],
) -> Iterator[tuple[torch.optim.Optimizer, torch.Tensor]]:
    """Pairs of optimizer and parameter."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield optimizer, parameter
