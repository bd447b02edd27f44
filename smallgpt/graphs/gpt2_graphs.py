"""The graphs of a GPT-2: label probabilities of rows, and next tokens with a cache.

    proto = classify_graph(model, int8=False, label_ids=[514, 515], temperature=1.3, ...)
    proto = decode_graph(model, int8=True, metadata={})

The computation is that of transformers' `GPT2Model` (models/gpt2/modeling_gpt2.py).

Sizes in names: B rows, T tokens of the longest row, C columns of the cache with the new tokens,
H heads, D width of a head, E = H x D, L labels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from torch import nn
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from smallgpt.errors import UserError
from smallgpt.graphs.graph_builder import GraphBuilder
from smallgpt.model.cpu_forward import GPT2, blocks_of
from smallgpt.model.head import is_classifier
from smallgpt.model.own_config import GELU_FORMULA

_UNSEEN = -1e9  # added to scores of what must not be seen; infinity would make NaN of a whole row
_FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64


def classify_graph(
    model: GPT2,
    *,
    int8: bool,
    label_ids: Sequence[int],
    temperature: float,
    max_length: int,
    metadata: Mapping[str, str],
) -> ModelProto:
    """`input_ids` (B x T) and `lengths` (B) -> `probabilities` (B x L), calibrated.

    A second output, `logits` (B x L), is what they were before the calibration.

    Rows are padded on the right with any id; what the last token of each row says is the answer.
    The last block is computed for that token only.

    Args:
        label_ids: the label tokens; unused of a model with a label head, which has its own.
        temperature: of the calibration, divides the logits.
        max_length: longest row, of which positions are kept.
    """
    graph = GraphBuilder(int8)
    heads = _Heads(graph, model)
    length = graph.size("input_ids", 1)
    place_T = graph.count_to(length)
    place_1xT = graph.op("Unsqueeze", place_T, graph.integers(0))
    mask_TxT = _mask(
        graph,
        graph.op("LessOrEqual", place_1xT, graph.op("Unsqueeze", place_T, graph.integers(1))),
    )
    last_Bx1 = graph.op("Unsqueeze", graph.op("Sub", "lengths", graph.number(1)), graph.integers(1))
    seen_BxT = graph.op("LessOrEqual", place_1xT, last_Bx1)
    mask_Bx1x1xT = graph.op("Unsqueeze", _mask(graph, seen_BxT), graph.integers(1, 2))
    transformer = model.transformer
    x = graph.op(
        "Add",
        graph.embedding("input_ids", _array(transformer.wte.weight)),
        graph.embedding(place_T, _array(transformer.wpe.weight)[:max_length]),
    )
    *blocks, last_block = blocks_of(model)
    for block in blocks:
        queries, keys, values = graph.split(heads.projected(block, _norm(graph, x, block.ln_1)), 3)
        x = heads.finish(block, x, heads.attend(queries, keys, values, mask_TxT))

    def at_last(x: str) -> str:  # B x T x E -> B x 1 x E
        return graph.op(
            "Unsqueeze", graph.op("GatherND", x, last_Bx1, batch_dims=1), graph.integers(1)
        )

    normed = _norm(graph, x, last_block.ln_1)
    keys, values = graph.split(heads.projected(last_block, normed, slice(heads.E, None)), 2)
    queries = heads.projected(last_block, at_last(normed), slice(heads.E))
    attended = heads.attend(queries, keys, values, mask_Bx1x1xT)
    x = heads.finish(last_block, at_last(x), attended)
    x = graph.op("Squeeze", _norm(graph, x, transformer.ln_f), graph.integers(1))
    logits = _label_logits(graph, model, x, label_ids)
    graph.op("Identity", logits, name="logits")
    labels = len(label_ids)
    scaled = graph.op("Div", logits, graph.constant(temperature))
    graph.op("Softmax", scaled, axis=-1, name="probabilities")
    return graph.model(
        "classify",
        [
            _value("input_ids", _INT64, "rows", "length"),
            _value("lengths", _INT64, "rows"),
        ],
        [_value(name, _FLOAT, "rows", labels) for name in ("probabilities", "logits")],
        metadata,
    )


def decode_graph(model: GPT2, *, int8: bool, metadata: Mapping[str, str]) -> ModelProto:
    """New tokens and a cache in, logits of each new token (B x T x V) and the longer cache out.

    Names and shapes are those that Hugging Face's exports have: `input_ids` and `position_ids` (B x
    T), `attention_mask` (B x C, 0 for columns of padding, on whichever side),
    `past_key_values.0.key` ... (B x H x (C - T) x D, no columns at first), `logits`,
    `present.0.key` ... (B x H x C x D).
    """
    graph = GraphBuilder(int8)
    heads = _Heads(graph, model)
    columns, new = graph.size("attention_mask", 1), graph.size("input_ids", 1)
    keys_1xC = graph.op("Unsqueeze", graph.count_to(columns), graph.integers(0))
    queries_Tx1 = graph.op(
        "Unsqueeze",
        graph.count_to(columns, graph.op("Sub", columns, new)),
        graph.integers(1),
    )
    causal_TxC = graph.op("LessOrEqual", keys_1xC, queries_Tx1)
    is_token = graph.op("Cast", "attention_mask", to=TensorProto.BOOL)
    is_token_Bx1x1xC = graph.op("Unsqueeze", is_token, graph.integers(1, 2))
    mask_Bx1xTxC = _mask(graph, graph.op("And", causal_TxC, is_token_Bx1x1xC))
    transformer = model.transformer
    tokens_VxE = _array(transformer.wte.weight)
    x = graph.op(
        "Add",
        graph.embedding("input_ids", tokens_VxE),
        graph.embedding("position_ids", _array(transformer.wpe.weight)),
    )
    inputs = [
        _value("input_ids", _INT64, "rows", "length"),
        _value("attention_mask", _INT64, "rows", "columns"),
        _value("position_ids", _INT64, "rows", "length"),
    ]
    outputs = [_value("logits", _FLOAT, "rows", "length", len(tokens_VxE))]
    for number, block in enumerate(blocks_of(model)):
        past = [f"past_key_values.{number}.{kind}" for kind in ("key", "value")]
        present = [f"present.{number}.{kind}" for kind in ("key", "value")]
        inputs += [_value(name, _FLOAT, "rows", heads.H, "past", heads.D) for name in past]
        outputs += [_value(name, _FLOAT, "rows", heads.H, "columns", heads.D) for name in present]
        queries, *new_ones = graph.split(heads.projected(block, _norm(graph, x, block.ln_1)), 3)
        keys, values = (
            graph.op("Concat", before, heads.apart(added), axis=2, name=name)
            for before, added, name in zip(past, new_ones, present, strict=True)
        )
        attended = heads.attend_to(heads.apart(queries), keys, values, mask_Bx1xTxC)
        x = heads.finish(block, x, attended)
    x = _norm(graph, x, transformer.ln_f)
    graph.linear(x, _array(model.get_output_embeddings().weight).T, name="logits")
    return graph.model("decode", inputs, outputs, metadata)


class _Heads:
    """Attention and the rest of a block, written into a graph."""

    def __init__(self, graph: GraphBuilder, model: GPT2):
        config = model.config
        self.graph = graph
        self.H, self.E = config.n_head, config.n_embd
        self.D = self.E // self.H
        formula = GELU_FORMULA.get(config.activation_function)
        if formula is None or config.scale_attn_by_inverse_layer_idx or config.add_cross_attention:
            raise UserError(
                f"an ONNX file is written of GPT-2 as training here makes it, not with "
                f"activation_function {config.activation_function}, "
                f"scale_attn_by_inverse_layer_idx or add_cross_attention"
            )
        self._formula = formula
        self._scale = self.D**-0.5 if config.scale_attn_weights else 1.0

    def projected(self, block: GPT2Block, x: str, columns: slice = slice(None)) -> str:
        """Queries, keys and values, or `columns` of them; queries with the scale of attention."""
        weight_Ex3E = _array(block.attn.c_attn.weight).copy()
        bias_3E = _array(block.attn.c_attn.bias).copy()
        weight_Ex3E[:, : self.E] *= self._scale
        bias_3E[: self.E] *= self._scale
        return self.graph.linear(x, weight_Ex3E[:, columns], bias_3E[columns])

    def apart(self, x: str) -> str:
        """B x T x E as B x H x T x D."""
        shaped = self.graph.op("Reshape", x, self.graph.integers(0, 0, self.H, self.D))
        return self.graph.op("Transpose", shaped, perm=[0, 2, 1, 3])

    def attend(self, queries: str, keys: str, values: str, mask: str) -> str:
        """Attention of B x T x E each, as B x T x E."""
        return self.attend_to(self.apart(queries), self.apart(keys), self.apart(values), mask)

    def attend_to(self, queries: str, keys: str, values: str, mask: str) -> str:
        """Attention of B x H x T x D each, as B x T x E."""
        graph = self.graph
        scores = graph.op("MatMul", queries, graph.op("Transpose", keys, perm=[0, 1, 3, 2]))
        shares = graph.op("Softmax", graph.op("Add", scores, mask), axis=-1)
        attended = graph.op("Transpose", graph.op("MatMul", shares, values), perm=[0, 2, 1, 3])
        return graph.op("Reshape", attended, graph.integers(0, 0, self.E))

    def finish(self, block: GPT2Block, x: str, attended: str) -> str:
        """The rest of a block after its attention."""
        graph, attention, mlp = self.graph, block.attn, block.mlp
        output = graph.linear(
            attended, _array(attention.c_proj.weight), _array(attention.c_proj.bias)
        )
        x = graph.op("Add", x, output)
        inner = graph.linear(
            _norm(graph, x, block.ln_2), _array(mlp.c_fc.weight), _array(mlp.c_fc.bias)
        )
        inner = graph.op("Gelu", inner, approximate=self._formula)
        output = graph.linear(inner, _array(mlp.c_proj.weight), _array(mlp.c_proj.bias))
        return graph.op("Add", x, output)


def _label_logits(graph: GraphBuilder, model: GPT2, x_BxE: str, label_ids: Sequence[int]) -> str:
    """Logits of the labels, always in fp32: they are few, and decide."""
    if not is_classifier(model):
        weight_LxE = _array(model.get_output_embeddings().weight)[list(label_ids)]
        return graph.op("MatMul", x_BxE, graph.constant(weight_LxE.T))
    head = model.score
    x = x_BxE
    for layer in head if isinstance(head, nn.Sequential) else [head]:
        if isinstance(layer, nn.Linear):
            x = graph.op("MatMul", x, graph.constant(_array(layer.weight).T))
            if layer.bias is not None:
                x = graph.op("Add", x, graph.constant(_array(layer.bias)))
        elif isinstance(layer, nn.GELU):
            x = graph.op("Gelu", x, approximate=layer.approximate)
        elif not isinstance(layer, nn.Dropout):
            raise UserError(f"a head with {type(layer).__name__} cannot be exported")
    return x


def _mask(graph: GraphBuilder, seen: str) -> str:
    """What is added to scores: 0 where `seen`."""
    return graph.op("Where", seen, graph.constant(0.0), graph.constant(_UNSEEN))


def _norm(graph: GraphBuilder, x: str, module: nn.LayerNorm) -> str:
    return graph.layer_norm(x, _array(module.weight), _array(module.bias), module.eps)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def _value(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))
