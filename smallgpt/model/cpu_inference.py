"""Forward pass of a GPT-2 on a CPU whose weights do not change any more: cast and packed once.

    fixed = FixedGpt2(model, torch.bfloat16)
    hidden_NxE = fixed.hidden_states(ids_N, rows)
    last_BxE = fixed.last_states(ids_N, rows)

The computation is that of `cpu_forward` without gradients and dropout. There weights are cast at
each call, since training changes them between calls: for a single row that takes longer than the
row itself.

Sizes in names: as in `cpu_forward`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from smallgpt.model.cpu_block import attend, attend_last
from smallgpt.model.cpu_forward import GPT2, blocks_of
from smallgpt.model.packed_linear import Map, copied, packed_linear
from smallgpt.model.packed_rows import PackedRows


class _Layer(NamedTuple):
    """The maps of one block."""

    norm_1: Map
    queries_keys_values: Map
    output: Map
    norm_2: Map
    mlp_input: Map
    mlp_output: Map
    queries: Map | None = None  # of the last block, whose keys and values are needed apart
    keys_values: Map | None = None


class FixedGpt2:
    """A GPT-2 that `cpu_forward.supports` approves, prepared for reading rows.

    Weights are copied: training the model afterwards does not change it.
    """

    def __init__(self, model: GPT2, dtype: torch.dtype):
        """`dtype` of the linear maps and attention: float32 or bfloat16."""
        self.dtype, self.H = dtype, model.config.n_head
        activation = model.config.activation_function
        transformer, E = model.transformer, model.config.n_embd
        with torch.inference_mode():
            self._tokens_VxE = copied(transformer.wte.weight)
            self._places_PxE = copied(transformer.wpe.weight)
            self._norm = _norm(transformer.ln_f)
            self._layers = []
            for block in blocks_of(model):
                attention, mlp = block.attn, block.mlp
                # Conv1D keeps its weight as IxO.
                weight_3ExE, bias_3E = attention.c_attn.weight.T, attention.c_attn.bias
                self._layers.append(
                    _Layer(
                        _norm(block.ln_1),
                        packed_linear(weight_3ExE, bias_3E, dtype),
                        packed_linear(attention.c_proj.weight.T, attention.c_proj.bias, dtype),
                        _norm(block.ln_2),
                        packed_linear(mlp.c_fc.weight.T, mlp.c_fc.bias, dtype, activation),
                        packed_linear(mlp.c_proj.weight.T, mlp.c_proj.bias, dtype),
                    )
                )
            self._layers[-1] = self._layers[-1]._replace(
                queries=packed_linear(weight_3ExE[:E], bias_3E[:E], dtype),
                keys_values=packed_linear(weight_3ExE[E:], bias_3E[E:], dtype),
            )

    @torch.inference_mode()
    def hidden_states(self, ids_N: Tensor, rows: PackedRows) -> Tensor:
        """Last hidden states of all tokens, N x E in fp32."""
        x_NxE = self._embed(ids_N, rows)
        for layer in self._layers:
            x_NxE = self._block(layer, x_NxE, rows)
        return self._norm(x_NxE)

    @torch.inference_mode()
    def last_states(self, ids_N: Tensor, rows: PackedRows) -> Tensor:
        """`hidden_states` of each row's last token, B x E."""
        x_NxE = self._embed(ids_N, rows)
        *others, last = self._layers
        for layer in others:
            x_NxE = self._block(layer, x_NxE, rows)
        assert last.queries is not None and last.keys_values is not None
        n_NxE = last.norm_1(x_NxE).to(self.dtype)
        attended_BxE = attend_last(
            last.queries(n_NxE[rows.last_B]), last.keys_values(n_NxE), rows, self.H
        )
        return self._norm(self._finish(last, x_NxE[rows.last_B], attended_BxE))

    def _embed(self, ids_N: Tensor, rows: PackedRows) -> Tensor:
        return self._tokens_VxE[ids_N] + self._places_PxE[rows.position_N]

    def _block(self, layer: _Layer, x_NxE: Tensor, rows: PackedRows) -> Tensor:
        n_NxE = layer.norm_1(x_NxE).to(self.dtype)
        q, k, v = rows.heads(layer.queries_keys_values(n_NxE), 3, self.H)
        attended_RxTxD, _ = attend(q, k, v, rows, rate=0.0, keeps=False)
        return self._finish(layer, x_NxE, rows.merge(attended_RxTxD[None], self.H))

    def _finish(self, layer: _Layer, x: Tensor, attended: Tensor) -> Tensor:
        x = x + layer.output(attended)
        return x + layer.mlp_output(layer.mlp_input(layer.norm_2(x).to(self.dtype)))


def _norm(module: torch.nn.LayerNorm) -> Map:
    weight_E, bias_E = copied(module.weight), copied(module.bias)
    return lambda x: layer_norm(x, weight_E.shape, weight_E, bias_E, module.eps)
