"""Fast decoding with a key/value cache: greedy, temperature, top-k, top-p.

    decoder = make_decoder(model, dtype=torch.bfloat16)    # once; that of a GPT-2 packs its weights
    new_tokens = generate_tokens(
        decoder,
        prompts=[[2, 17, 40], [2, 9]],                 # unequal lengths are welcome
        max_new_tokens=100,
        stop_ids=[vocabulary.eos_id],
        sampling=Sampling(temperature=0.8, top_k=50),
        generator=torch.Generator().manual_seed(0),
        forbidden_ids=[vocabulary.pad_id],
    )

The computation is that of transformers' `GPT2LMHeadModel` (models/gpt2/modeling_gpt2.py); models of
other architectures decode through transformers itself.
Sizes in names: B rows, T prompt positions, R = B x T (R = B in a step), C cache columns, E
embedding width, H heads, D width of a head, G groups of g heads, V vocabulary, N prompts, M new
tokens, I and O inputs and outputs of a linear map.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, autocast
from torch.nn.functional import (
    gelu,
    layer_norm,
    linear,
    one_hot,
    scaled_dot_product_attention,
)
from transformers import GPT2LMHeadModel, PreTrainedModel
from transformers.activations import ACT2FN

from blocks import GELU_FORMULA, is_gpt2
from console import UserError

Map = Callable[[Tensor], Tensor]

# Columns the cache grows by. Made for all 1,024 positions at once, each key lies on a memory page
# of its own: 64 rows then take 1.35 times as long a step (150 steps, CPU).
_CACHE_BLOCK = 64
# Heads whose keys lie side by side. One query against one head's keys is too small a product: the
# queries of a group stand in a matrix that is zero outside each one's own head, so that one product
# serves the group. That is up to 4 times the arithmetic, of which there is plenty while the cache
# is being read: a step of 64 rows takes 0.78 to 0.9 times as long (up to 440 columns, CPU; with a
# bf16 cache beyond 300 columns 1.08 times).
_LARGEST_GROUP = 4
# Rows from which heads are grouped, and a CPU keeps a bf16 cache, half the memory to read. Fewer
# rows have little to read: the products take 1.5 times the time of fp32 at 1 row.
_MANY_ROWS = 16
# Steps between looks at the new tokens for finished rows: each look makes the host wait for a GPU.
_STEPS_PER_LOOK = {"cpu": 1, "cuda": 16}


class _Layer(NamedTuple):
    """The maps of one block; `queries_keys_values` holds the attention scale in its queries."""

    norm_1: Map
    queries_keys_values: Map
    attention_output: Map
    norm_2: Map
    mlp_input: Map
    mlp_output: Map


def make_decoder(model: PreTrainedModel, dtype: torch.dtype) -> Decoder | PlainDecoder:
    """The decoder that suits a model."""
    config = model.config
    if is_gpt2(model) and not config.scale_attn_by_inverse_layer_idx | config.add_cross_attention:
        return Decoder(model, dtype)
    return PlainDecoder(model, dtype)


class Decoder:
    """A GPT-2 made ready for decoding, with the cache of the batch at hand.

        logits_BxV = decoder.prefill(ids_BxT, lengths_B, capacity=T + 100)
        logits_BxV = decoder.step(ids_B)               # ids chosen from the logits before
        decoder.keep([0, 3])                           # rows 0 and 3 become rows 0 and 1

    Linear maps run in `dtype`; the residual stream, LayerNorm and the output head stay in fp32
    (the head, because logits rounded to bf16 tie, and greedy would then choose by token id).
    Weights are copied: training the model afterwards does not change the decoder. One decoder
    serves one batch at a time; the next `prefill` forgets the last.
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

        scale = (config.n_embd / self.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        transformer = model.transformer
        with torch.inference_mode():
            self._token_embedding_VxE = _copy(transformer.wte.weight)
            self._position_embedding_PxE = _copy(transformer.wpe.weight)
            self._layers = []
            for block in transformer.h:
                # Conv1D keeps its weight as IxO.
                qkv_weight_3ExE = _copy(block.attn.c_attn.weight.T)
                qkv_bias_3E = _copy(block.attn.c_attn.bias)
                qkv_weight_3ExE[: config.n_embd] *= scale
                qkv_bias_3E[: config.n_embd] *= scale
                attention_projection, mlp = block.attn.c_proj, block.mlp
                self._layers.append(
                    _Layer(
                        norm_1=_norm(block.ln_1),
                        queries_keys_values=_linear(qkv_weight_3ExE, qkv_bias_3E, dtype),
                        attention_output=_linear(
                            attention_projection.weight.T, attention_projection.bias, dtype
                        ),
                        norm_2=_norm(block.ln_2),
                        mlp_input=_linear(
                            mlp.c_fc.weight.T, mlp.c_fc.bias, dtype, config.activation_function
                        ),
                        mlp_output=_linear(mlp.c_proj.weight.T, mlp.c_proj.bias, dtype),
                    )
                )
            self._norm_final = _norm(transformer.ln_f)
            self._head = _linear(model.lm_head.weight, None, torch.float32)

    @torch.inference_mode()
    def prefill(self, ids_BxT: Tensor, lengths_B: Tensor, capacity: int) -> Tensor:
        """Start a batch: read the prompts and fill the cache with them.

        Args:
            ids_BxT: prompts, padded on the right with any valid id; padding is never attended to.
            lengths_B: tokens of each prompt, 1 to T.
            capacity: columns the cache may come to, T and one for each `step`.

        Returns:
            logits_BxV (fp32) after the last token of each prompt.
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

        x_BxTxE = self._token_embedding_VxE[ids_BxT] + self._position_embedding_PxE[:T]
        x_RxE = x_BxTxE.flatten(0, 1)
        for index, layer in enumerate(self._layers):
            qkv_Rx3E = layer.queries_keys_values(layer.norm_1(x_RxE).to(self.dtype))
            q_BxHxTxD, k_BxHxTxD, v_BxHxTxD = qkv_Rx3E.view(B, T, 3, H, -1).permute(2, 0, 3, 1, 4)
            by_group = qkv_Rx3E.view(B, T, 3, G, -1).permute(2, 0, 3, 1, 4)
            self._caches[index][..., :T, :] = by_group[1:]
            attended_BxHxTxD = scaled_dot_product_attention(
                q_BxHxTxD, k_BxHxTxD, v_BxHxTxD, is_causal=True, scale=1.0
            )
            attended_RxE = attended_BxHxTxD.transpose(1, 2).reshape(B * T, E)
            x_RxE = self._rest_of_block(layer, x_RxE, attended_RxE)
        last_B = torch.arange(B, device=self.device) * T + lengths_B - 1
        return self._head(self._norm_final(x_RxE[last_B]))

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """Read one more token of each row; return logits_BxV (fp32) after it.

        `ids_B` lies on the decoder's device.
        """
        B, g = len(ids_B), self._group
        G = self.n_head // g
        column, self._used = self._used, self._used + 1
        self._grow_cache()
        x_BxE = self._token_embedding_VxE[ids_B] + self._position_embedding_PxE[self._positions_B]
        self._positions_B += 1
        for index, layer in enumerate(self._layers):
            qkv_Bx3E = layer.queries_keys_values(layer.norm_1(x_BxE).to(self.dtype))
            qkv_3xBxGxE = qkv_Bx3E.view(B, 3, G, -1).transpose(0, 1)
            if g == 1:
                queries_BxGxgxE = qkv_3xBxGxE[0, :, :, None].to(self._cache_dtype)
            else:
                queries_BxGxgxE = self._queries_BxGxgxE[:B]
                _own_heads(queries_BxGxgxE).copy_(qkv_3xBxGxE[0].unflatten(-1, (g, -1)))
            cache_2xBxGxCxE = self._caches[index][:, :B, :, : self._used]
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
            attended_BxE = attended_BxGxgxE.reshape(B, -1).to(self.dtype)
            x_BxE = self._rest_of_block(layer, x_BxE, attended_BxE)
        return self._head(self._norm_final(x_BxE))

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Drop every row but `rows`; row `rows[i]` becomes row i.

        Only rows whose number changes are moved, so let rows stay in place where they can.
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

    def _rest_of_block(self, layer: _Layer, x_RxE: Tensor, attended_RxE: Tensor) -> Tensor:
        x_RxE = x_RxE + layer.attention_output(attended_RxE)
        hidden_RxI = layer.mlp_input(layer.norm_2(x_RxE).to(self.dtype))
        return x_RxE + layer.mlp_output(hidden_RxI)

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


class PlainDecoder:
    """Decoding by transformers' own modules and cache, for other architectures than GPT-2.

    Methods and rules are those of `Decoder`, but that it uses the model's own weights.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype = torch.float32):
        """
        Args:
            model: in evaluation mode.
            dtype: of its matrix products (autocast).
        """
        self.model, self.dtype, self.device = model, dtype, model.device
        positions = getattr(model.config, "max_position_embeddings", None)
        self.n_positions: int = positions or sys.maxsize
        self.vocab_size: int = model.config.vocab_size
        self._takes = inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def prefill(self, ids_BxT: Tensor, lengths_B: Tensor, capacity: int) -> Tensor:
        """As `Decoder.prefill`."""
        T = ids_BxT.shape[1]
        # Padding goes to the left, so that each row's next token has the same column.
        place_BxT = torch.arange(T) - (T - lengths_B[:, None])
        ids_BxT = ids_BxT.cpu().gather(1, place_BxT.clamp(min=0))
        self._mask_BxC = (place_BxT >= 0).long().to(self.device)
        self._cache, self._capacity = None, capacity
        return self._forward(ids_BxT.to(self.device))

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """As `Decoder.step`."""
        if self._mask_BxC.shape[1] == self._capacity:
            raise ValueError(f"the cache is full: it was made for {self._capacity} columns")
        one_Bx1 = self._mask_BxC.new_ones(len(ids_B), 1)
        self._mask_BxC = torch.cat([self._mask_BxC, one_Bx1], dim=1)
        return self._forward(ids_B[:, None])

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """As `Decoder.keep`."""
        rows_B = torch.tensor(rows, device=self.device)
        self._mask_BxC = self._mask_BxC[rows_B]
        self._cache.batch_select_indices(rows_B)

    def _forward(self, ids_BxT: Tensor) -> Tensor:
        position_BxT = (self._mask_BxC.cumsum(1) - 1).clamp(min=0)[:, -ids_BxT.shape[1] :]
        offered = {"position_ids": position_BxT, "logits_to_keep": 1}
        with autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self.model(
                ids_BxT,
                attention_mask=self._mask_BxC,
                past_key_values=self._cache,
                use_cache=True,
                **{name: value for name, value in offered.items() if name in self._takes},
            )
        self._cache = getattr(output, "past_key_values", None)
        if not hasattr(self._cache, "batch_select_indices"):
            kind = self.model.config.model_type
            raise UserError(
                f"a {kind} model cannot generate rows here: its cache is of another kind"
            )
        return output.logits[:, -1].float()


def _own_heads(x_BxGxgxE: Tensor) -> Tensor:
    """A view of the part of each of g rows that belongs to its own of g heads, B x G x g x D."""
    g = x_BxGxgxE.shape[2]
    return x_BxGxgxE.unflatten(-1, (g, -1)).diagonal(dim1=2, dim2=3).mT


def _copy(parameter: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return parameter.detach().to(dtype, copy=True).contiguous()


def _norm(module: torch.nn.LayerNorm) -> Map:
    weight_E, bias_E = _copy(module.weight), _copy(module.bias)
    return lambda x: layer_norm(x, weight_E.shape, weight_E, bias_E, module.eps)


def _linear(
    weight_OxI: Tensor, bias_O: Tensor | None, dtype: torch.dtype, activation: str | None = None
) -> Map:
    """The map x_BxI -> activation(x_BxI @ weight.T + bias)_BxO in `dtype`.

    On a CPU the weight is laid out once for oneDNN, by the operators that torch.compile uses
    (torch/_inductor/fx_passes/mkldnn_fusion.py), where torch's own `linear` does it anew at every
    call. A decoding step is 1.2 to 1.6 times as fast for it (1 to 64 rows).
    """
    weight_OxI = _copy(weight_OxI, dtype)
    bias_O = None if bias_O is None else _copy(bias_O, dtype)
    formula = GELU_FORMULA.get(activation)
    if weight_OxI.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16):
        # No public interface: a torch, or a CPU, that lacks these operators must decode too.
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight_OxI, 1)
            onednn_linear = torch.ops.mkldnn._linear_pointwise.default
            options = (packed, bias_O, "gelu" if formula else "none", [], formula or "")
            onednn_linear(weight_OxI[:1], *options)
        except (AttributeError, RuntimeError):
            pass
        else:
            if activation is None or formula:
                return lambda x_BxI: onednn_linear(x_BxI, *options)
            return lambda x_BxI: ACT2FN[activation](onednn_linear(x_BxI, *options))
    if formula:
        return lambda x_BxI: gelu(linear(x_BxI, weight_OxI, bias_O), approximate=formula)
    if activation:
        return lambda x_BxI: ACT2FN[activation](linear(x_BxI, weight_OxI, bias_O))
    return lambda x_BxI: linear(x_BxI, weight_OxI, bias_O)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the filters act in the order of the fields.

    Attributes:
        greedy: take the most likely token; the other fields then do nothing.
        temperature: divides the logits; near 0 the same as greedy.
        top_k: keep the k largest logits, and those equal to the k-th; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens whose shares reach p; 1 keeps all.
    """

    greedy: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0

    def __post_init__(self):
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature {self.temperature} must be a finite number above 0 (or use greedy)"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be 0 (keep all) or above")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1")


def sampling_probabilities(logits_BxV: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities probs_BxV the next token is drawn from.

    The same as transformers' TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper
    (generation/logits_process.py) one after the other, then softmax; greedy is a one-hot row.
    """
    if sampling.greedy:
        return one_hot(logits_BxV.argmax(dim=-1), logits_BxV.shape[-1]).to(logits_BxV.dtype)
    # The largest becomes 0 and no quotient can overflow to more. A divisor that fp32 would round
    # to 0 or to infinity would make it NaN.
    limits = torch.finfo(torch.float32)
    temperature = min(max(sampling.temperature, limits.tiny), limits.max)
    logits_BxV = (logits_BxV - logits_BxV.amax(dim=-1, keepdim=True)) / temperature
    if 0 < sampling.top_k < logits_BxV.shape[-1]:
        kth_Bx1 = logits_BxV.topk(sampling.top_k, sorted=False).values.amin(dim=-1, keepdim=True)
        logits_BxV = logits_BxV.masked_fill(logits_BxV < kth_Bx1, -torch.inf)
    if sampling.top_p < 1:
        sorted_BxV, order_BxV = logits_BxV.sort(dim=-1)
        removed_BxV = sorted_BxV.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        removed_BxV[:, -1] = False
        removed_BxV = removed_BxV.scatter(1, order_BxV, removed_BxV)
        logits_BxV = logits_BxV.masked_fill(removed_BxV, -torch.inf)
    return logits_BxV.softmax(dim=-1)


def _choose(logits_BxV: Tensor, sampling: Sampling, uniform_B: Tensor) -> Tensor:
    """The next token ids_B: the uniform number picks its place in the summed probabilities."""
    if sampling.greedy:
        return logits_BxV.argmax(dim=-1)
    probs_BxV = sampling_probabilities(logits_BxV, sampling)
    # Sums without a probability of their own are struck out, so that rounding, which a GPU's
    # parallel sum does out of order, can never choose a token of probability 0.
    sums_BxV = probs_BxV.cumsum(dim=-1).masked_fill(probs_BxV == 0, 0)
    threshold_Bx1 = uniform_B[:, None] * sums_BxV.amax(dim=-1, keepdim=True)
    return (sums_BxV > threshold_Bx1).int().argmax(dim=-1)


@torch.inference_mode()
def generate_tokens(
    decoder: Decoder | PlainDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    forbidden_ids: Collection[int] = (),
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Continue each prompt until a stop token or `max_new_tokens`.

    Each prompt draws from random numbers of its own, made before the first step. So the seed of
    `generator` fixes the result, and `batch_size`, or other rows ending early, do not change it,
    but for rounding: sums over another batch may differ in the last bit, more visibly in bf16.

    Args:
        prompts: token ids, at least one each. A prompt and its new tokens together may take
            n_positions at most. (The last new token is never read, so one more would fit; the
            rule is kept plain.) Prompts of similar length are decoded together.
        stop_ids: ids that end a row.
        forbidden_ids: ids that are never produced.
        on_progress: called with the number of prompts finished since the last call.

    Returns:
        The new tokens of each prompt, in the order of `prompts`, a stop token included.

    Raises:
        ValueError: an empty prompt or one that is too long, every token forbidden, or logits
            that are not finite (damaged weights, or fp16 overflow).
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise ValueError("max_new_tokens and batch_size must be 1 or above")
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {index} is empty: it needs one token at least")
        if len(prompt) + max_new_tokens > decoder.n_positions:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens; with {max_new_tokens} new ones it does "
                f"not fit the model's {decoder.n_positions} positions"
            )
    forbidden = torch.tensor(sorted(set(forbidden_ids)), dtype=torch.long, device=decoder.device)
    if len(forbidden) >= decoder.vocab_size:
        raise ValueError("all tokens are forbidden")
    stops = frozenset(stop_ids)
    steps_per_look = _STEPS_PER_LOOK.get(decoder.device.type, 16)
    uniform_NxM = torch.rand(
        len(prompts), max_new_tokens, generator=generator, device=generator and generator.device
    ).to(decoder.device)
    new_tokens: list[list[int]] = [[] for _ in prompts]
    # The longest first: if memory does not suffice, that shows at once.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(prompts), batch_size):
        live = order[start : start + batch_size]
        lengths_B = torch.tensor([len(prompts[index]) for index in live])
        ids_BxT = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(prompts[index]) for index in live], batch_first=True
        )
        capacity = ids_BxT.shape[1] + max_new_tokens
        logits_BxV = decoder.prefill(ids_BxT, lengths_B, capacity)
        finite = logits_BxV.isfinite().all()
        uniform_BxM = uniform_NxM[live]
        unseen: list[Tensor] = []
        for m in range(max_new_tokens):
            logits_BxV.index_fill_(1, forbidden, -torch.inf)
            ids_B = _choose(logits_BxV, sampling, uniform_BxM[:, m])
            unseen.append(ids_B)
            last = m == max_new_tokens - 1
            if last or len(unseen) == steps_per_look:
                if not finite:
                    raise ValueError(
                        f"the model's logits are not finite (decoding in {decoder.dtype})"
                    )
                survivors = []
                for row, tokens in enumerate(torch.stack(unseen, dim=1).tolist()):
                    kept = _up_to_stop(tokens, stops)
                    new_tokens[live[row]] += kept
                    if kept[-1] not in stops and not last:
                        survivors.append(row)
                unseen = []
                finished = len(live) - len(survivors)
                if finished and on_progress:
                    on_progress(finished)
                if not survivors:
                    break
                if finished:
                    rows = _close_gaps(survivors)
                    decoder.keep(rows)
                    live = [live[row] for row in rows]
                    ids_B, uniform_BxM = ids_B[rows], uniform_BxM[rows]
            logits_BxV = decoder.step(ids_B)
            finite &= logits_BxV.isfinite().all()
    return new_tokens


def _up_to_stop(tokens: list[int], stops: Collection[int]) -> list[int]:
    for index, token in enumerate(tokens):
        if token in stops:
            return tokens[: index + 1]
    return tokens


def _close_gaps(rows: list[int]) -> list[int]:
    """Order `rows` so that each below their number stays in its place: [0, 2, 5] -> [0, 5, 2]."""
    staying = {row for row in rows if row < len(rows)}
    moving = iter(row for row in rows if row >= len(rows))
    return [row if row in staying else next(moving) for row in range(len(rows))]
