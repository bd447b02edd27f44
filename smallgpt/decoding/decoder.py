"""GPT-2 decoder with a key/value cache, its weights laid out for fast steps.

Separate from `smallgpt/model/forward.py`: on a CPU it gives twice to three times the tokens a
second of transformers' `generate` (docs/measurements.md).

Sizes in names: B rows, T prompt positions, R = B x T (R = B in a step), C cache columns, E
embedding width, H heads, D width of a head, G groups of g heads, V vocabulary, I and O inputs and
outputs of a linear map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, scaled_dot_product_attention
from transformers import GPT2LMHeadModel

from smallgpt.model.cpu_forward import blocks_of
from smallgpt.model.packed_linear import Map, copied, packed_linear

# Columns the cache grows by. Allocated for all 1,024 positions at once, each key would lie on a
# memory page of its own: 64 rows then take 1.35 times as long a step (150 steps, CPU).
_CACHE_BLOCK = 64
# Heads whose keys lie side by side. One query against one head's keys is too small a product: the
# queries of a group form a matrix that is zero outside each one's own head, so that one product
# serves the group. That is up to 4 times the arithmetic, which is free while the cache is being
# read: a step of 64 rows takes 0.78 to 0.9 times as long (up to 440 columns, CPU; with a bf16 cache
# beyond 300 columns 1.08 times).
_LARGEST_GROUP = 4
# Rows from which heads are grouped, and a CPU keeps a bf16 cache, half the memory to read. Fewer
# rows have little to read: the products take 1.5 times the time of fp32 at 1 row.
_MANY_ROWS = 16


class _Layer(NamedTuple):
    """The maps of one block; the queries of `queries_keys_values` include the attention scale."""

    norm_1: Map
    queries_keys_values: Map
    attention_output: Map
    norm_2: Map
    mlp_input: Map
    mlp_output: Map


class Decoder:
    """A GPT-2 prepared for decoding, with the cache of the current batch.

        logits_BxV = decoder.prefill(ids_BxT, lengths_B, capacity=T + 100)
        logits_BxV = decoder.step(ids_B)               # ids chosen from the logits before
        decoder.keep([0, 3])                           # rows 0 and 3 become rows 0 and 1

    Linear maps run in `dtype`; residual stream, LayerNorm and output head stay in fp32 (the head,
    because logits rounded to bf16 tie, and greedy would then choose by token id). Weights are
    copied: training the model afterwards does not change the decoder. The next `prefill` discards
    the last batch.
    """

    def __init__(self, model: GPT2LMHeadModel, dtype: torch.dtype = torch.float32):
        """Copy the weights of `model`, on its device, as `dtype` (fp32, bf16 or fp16).

        Raises:
            ValueError: the model has a feature that is not computed here.
        """
        config = model.config
        if config.scale_attn_by_inverse_layer_idx or config.add_cross_attention:
            raise ValueError(
                "cannot decode a model with scale_attn_by_inverse_layer_idx or add_cross_attention"
            )
        self.dtype = dtype
        self.device = model.device
        self.n_positions: int = config.n_positions
        self.vocab_size: int = config.vocab_size
        self.n_head: int = config.n_head
        self.n_layer: int = config.n_layer

        scale = (config.n_embd / self.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        transformer = model.transformer
        with torch.inference_mode():
            self._token_embedding_VxE = copied(transformer.wte.weight)
            self._position_embedding_PxE = copied(transformer.wpe.weight)
            self._layers = []
            for block in blocks_of(model):
                # Conv1D keeps its weight as IxO.
                qkv_weight_3ExE = copied(block.attn.c_attn.weight.T)
                qkv_bias_3E = copied(block.attn.c_attn.bias)
                qkv_weight_3ExE[: config.n_embd] *= scale
                qkv_bias_3E[: config.n_embd] *= scale
                attention_projection, mlp = block.attn.c_proj, block.mlp
                self._layers.append(
                    _Layer(
                        norm_1=_norm(block.ln_1),
                        queries_keys_values=packed_linear(qkv_weight_3ExE, qkv_bias_3E, dtype),
                        attention_output=packed_linear(
                            attention_projection.weight.T, attention_projection.bias, dtype
                        ),
                        norm_2=_norm(block.ln_2),
                        mlp_input=packed_linear(
                            mlp.c_fc.weight.T, mlp.c_fc.bias, dtype, config.activation_function
                        ),
                        mlp_output=packed_linear(mlp.c_proj.weight.T, mlp.c_proj.bias, dtype),
                    )
                )
            self._norm_final = _norm(transformer.ln_f)
            self._head = packed_linear(model.lm_head.weight, None, torch.float32)

    @torch.inference_mode()
    def prefill(self, ids_BxT: Tensor, lengths_B: Tensor, capacity: int) -> Tensor:
        """Start a batch: read the prompts into the cache.

        Returns logits_BxV (fp32) after the last token of each prompt.

        Args:
            ids_BxT: prompts, padded on the right with any valid id; padding is never attended to.
            lengths_B: tokens of each prompt, 1 to T.
            capacity: most columns of the cache, T and one for each `step`.
        """
        ids_BxT, lengths_B = ids_BxT.to(self.device), lengths_B.to(self.device)
        B, T = ids_BxT.shape
        H = self.n_head
        if not 0 < T <= min(capacity, self.n_positions):
            raise ValueError(
                f"prompts of {T} tokens do not fit a cache of {capacity} columns and a model of "
                f"{self.n_positions} positions"
            )
        columns_T = torch.arange(T, device=self.device)
        holes_BxT = columns_T >= lengths_B[:, None]
        self._holes_Bx1xTx1 = holes_BxT[:, None, :, None] if holes_BxT.any() else None
        self._positions_B = lengths_B.clone()
        self._capacity, self._used = capacity, T
        many = B >= _MANY_ROWS
        self._group = 1
        if many:
            self._group = max(g for g in range(1, _LARGEST_GROUP + 1) if H % g == 0)
        G = H // self._group
        self._cache_dtype = self.dtype if many or self.device.type != "cpu" else torch.float32
        self._caches = [self._new_cache(B, min(capacity, T + _CACHE_BLOCK)) for _ in self._layers]
        E = self._token_embedding_VxE.shape[1]
        if self._group > 1:
            self._queries_BxGxgxE = torch.zeros(
                B, G, self._group, E // G, dtype=self._cache_dtype, device=self.device
            )

        x_BxTxE = self.embed(ids_BxT, columns_T)

        def attend(qkv_Rx3E: Tensor, cache_2xBxGxCxE: Tensor) -> Tensor:
            by_head, by_group = (
                qkv_Rx3E.view(B, T, 3, heads, -1).permute(2, 0, 3, 1, 4) for heads in (H, G)
            )
            cache_2xBxGxCxE[..., :T, :] = by_group[1:]
            q_BxHxTxD, k_BxHxTxD, v_BxHxTxD = by_head
            attended_BxHxTxD = scaled_dot_product_attention(
                q_BxHxTxD, k_BxHxTxD, v_BxHxTxD, is_causal=True, scale=1.0
            )
            return attended_BxHxTxD.transpose(1, 2).reshape(B * T, E)

        x_RxE = self.through_blocks(x_BxTxE.flatten(0, 1), self._caches, attend)
        last_B = torch.arange(B, device=self.device) * T + lengths_B - 1
        return self.logits(x_RxE[last_B])

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """Read one more token of each row (ids_B on the decoder's device); returns fp32 logits."""
        B, g = len(ids_B), self._group
        G = self.n_head // g
        column, self._used = self._used, self._used + 1
        self._grow_cache()
        x_BxE = self.embed(ids_B, self._positions_B)
        self._positions_B += 1

        def attend(qkv_Bx3E: Tensor, cache_2xBxGxCxE: Tensor) -> Tensor:
            qkv_3xBxGxE = qkv_Bx3E.view(B, 3, G, -1).transpose(0, 1)
            if g == 1:
                queries_BxGxgxE = qkv_3xBxGxE[0, :, :, None].to(self._cache_dtype)
            else:
                queries_BxGxgxE = self._queries_BxGxgxE[:B]
                _own_heads(queries_BxGxgxE).copy_(qkv_3xBxGxE[0].unflatten(-1, (g, -1)))
            cache_2xBxGxCxE = cache_2xBxGxCxE[:, :B, :, : self._used]
            cache_2xBxGxCxE[..., column, :] = qkv_3xBxGxE[1:]
            keys_BxGxCxE, values_BxGxCxE = cache_2xBxGxCxE
            scores_BxGxCxg = keys_BxGxCxE @ queries_BxGxgxE.mT
            if self._holes_Bx1xTx1 is not None:
                T = self._holes_Bx1xTx1.shape[2]
                scores_BxGxCxg[:, :, :T].masked_fill_(self._holes_Bx1xTx1, -torch.inf)
            weights_BxGxgxC = scores_BxGxCxg.mT.float().softmax(dim=-1).to(self._cache_dtype)
            attended_BxGxgxE = weights_BxGxgxC @ values_BxGxCxE
            if g > 1:
                attended_BxGxgxE = _own_heads(attended_BxGxgxE)
            return attended_BxGxgxE.reshape(B, -1).to(self.dtype)

        return self.logits(self.through_blocks(x_BxE, self._caches, attend))

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Drop every row but `rows`; row `rows[i]` becomes row i.

        Only rows whose number changes are moved, so let rows stay in place where possible.
        """
        moves = [(new, old) for new, old in enumerate(rows) if new != old]
        rows_B = torch.tensor(rows, device=self.device)
        self._positions_B = self._positions_B[rows_B]
        if self._holes_Bx1xTx1 is not None:
            self._holes_Bx1xTx1 = self._holes_Bx1xTx1[rows_B]
        if moves:
            new_B, old_B = torch.tensor(moves, device=self.device).T
            for cache_2xBxGxCxE in self._caches:
                used_2xBxGxCxE = cache_2xBxGxCxE[..., : self._used, :]
                used_2xBxGxCxE[:, new_B] = used_2xBxGxCxE[:, old_B]

    def embed(self, ids: Tensor, places: Tensor) -> Tensor:
        """Embeddings of tokens at their places."""
        return self._token_embedding_VxE[ids] + self._position_embedding_PxE[places]

    def logits(self, x_BxE: Tensor) -> Tensor:
        """Logits of the next token, from what leaves the last block; B x V in fp32."""
        return self._head(self._norm_final(x_BxE))

    def new_cache(self, rows: int, columns: int) -> Tensor:
        """Room for keys and values of one block, zeros of 2 x rows x H x columns x D.

        In fp32 on a CPU, whose products of few rows take 1.5 times as long in bf16.
        """
        dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        D = self._token_embedding_VxE.shape[1] // self.n_head
        return torch.zeros((2, rows, self.n_head, columns, D), dtype=dtype, device=self.device)

    def through_blocks(
        self, x_RxE: Tensor, caches: Sequence[Tensor], attend: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """All blocks; `attend` maps qkv_Rx3E and a block's cache to attended_RxE."""
        for layer, cache in zip(self._layers, caches, strict=True):
            qkv_Rx3E = layer.queries_keys_values(layer.norm_1(x_RxE).to(self.dtype))
            x_RxE = x_RxE + layer.attention_output(attend(qkv_Rx3E, cache))
            hidden_RxI = layer.mlp_input(layer.norm_2(x_RxE).to(self.dtype))
            x_RxE = x_RxE + layer.mlp_output(hidden_RxI)
        return x_RxE

    def _new_cache(self, B: int, columns: int) -> Tensor:
        """Room for keys and values of a layer: 2 x B x G x C x E / G."""
        G, E = self.n_head // self._group, self._token_embedding_VxE.shape[1]
        shape = (2, B, G, columns, E // G)
        return torch.empty(shape, dtype=self._cache_dtype, device=self.device)

    def _grow_cache(self) -> None:
        """Make room for `self._used` columns."""
        if self._used > self._capacity:
            raise ValueError(f"the cache is full: it was made for {self._capacity} columns")
        B, allocated = len(self._positions_B), self._caches[0].shape[3]
        if self._used <= allocated:
            return
        columns = min(self._capacity, allocated + max(_CACHE_BLOCK, allocated // 2))
        for index, old in enumerate(self._caches):
            self._caches[index] = self._new_cache(B, columns)
            self._caches[index][..., :allocated, :] = old[:, :B]


def _own_heads(x_BxGxgxE: Tensor) -> Tensor:
    """View of the part of each of g rows that belongs to its own head, B x G x g x D."""
    g = x_BxGxgxE.shape[2]
    return x_BxGxgxE.unflatten(-1, (g, -1)).diagonal(dim1=2, dim2=3).mT


def _norm(module: torch.nn.LayerNorm) -> Map:
    weight_E, bias_E = copied(module.weight), copied(module.bias)
    return lambda x: layer_norm(x, weight_E.shape, weight_E, bias_E, module.eps)
