"""ONNX export of a model with its key/value cache: B rows, T positions, P of them cached before."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import DynamicCache, GPT2LMHeadModel


class _WithCache(nn.Module):
    """ids and cache in, logits and longer cache out: what an exported graph can express."""

    def __init__(self, model: GPT2LMHeadModel):
        super().__init__()
        self.model = model

    def forward(self, ids_BxT: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        found = self.model(ids_BxT, past_key_values=cache, use_cache=True, logits_to_keep=1)
        present = [t for layer in found.past_key_values.layers for t in (layer.keys, layer.values)]
        return found.logits[:, -1], *present


def export_onnx(model: GPT2LMHeadModel, path: Path) -> None:
    """Write a GPT2LMHeadModel with its cache as an ONNX file, for any B, T and P.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    import onnxscript  # noqa: F401  (torch.onnx needs it and would raise an error of its own)

    warnings.simplefilter("ignore", FutureWarning)  # of torch about its own exporter
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    config, tensors = model.config, 2 * model.config.n_layer  # keys and values of each layer
    shape = (2, config.n_head, 3, config.n_embd // config.n_head)
    torch.onnx.export(
        _WithCache(copy.deepcopy(model)).eval(),
        (torch.zeros(2, 4, dtype=torch.int64), [torch.zeros(shape) for _ in range(tensors)]),
        str(path),
        dynamo=True,
        dynamic_shapes=(
            {0: Dim.DYNAMIC, 1: Dim.DYNAMIC},
            [{0: Dim.DYNAMIC, 2: Dim.DYNAMIC}] * tensors,
        ),
        input_names=["ids", *(f"past_{i}" for i in range(tensors))],
        output_names=["logits", *(f"present_{i}" for i in range(tensors))],
        verbose=False,
    )
