"""Builds ONNX graphs of standard operators, layer by layer, in fp32 or with int8 matrix products.

    graph = GraphBuilder(int8=True)
    x = graph.linear(x, weight_IxO, bias_O)
    proto = graph.model("classify", inputs, outputs)

Written by hand rather than by torch.onnx: no tracing (a tenth of a second instead of ten), weights
folded as the engines like them, and an int8 form that torch.onnx does not have.

Sizes in names: N tokens, I and O inputs and outputs of a linear map, V vocabulary, E width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

# The first with Gelu; ONNX Runtime 1.17, OpenVINO 2024, TensorRT 10 and onnxruntime-web know it.
_OPSET, _IR_VERSION = 20, 9
_SHARED = 64  # constants of up to so many numbers are stored once
# Activations are the whole numbers 128 - 127 to 128 + 127, weights of products -63 to 63. A CPU
# without VNNI adds two neighbouring products in 16 bits: 255 * 63 * 2 fits, with weights of 8 bits
# the sum could overflow in silence. So a file answers the same on every CPU.
_ZERO_POINT, _STEPS = 128, 127
_PRODUCT_STEPS, _TABLE_STEPS = 63, 127
_SMALLEST = 1e-12  # instead of zero, the largest of a token or column of zeros


class GraphBuilder:
    """Nodes and weights of a graph; a value is known by its name, which operators return."""

    def __init__(self, int8: bool):
        """`int8`: linear maps and embeddings have int8 weights, with a scale a column or row."""
        self.int8 = int8
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add an operator with one output, and return its name (`name` where one is given)."""
        (output,) = self.ops(kind, *inputs, names=[name or self._next(kind)], **attributes)
        return output

    def ops(
        self, kind: str, *inputs: str, names: Sequence[str], **attributes: Any
    ) -> Sequence[str]:
        """Add an operator with the outputs `names`, and return them."""
        self._nodes.append(helper.make_node(kind, list(inputs), list(names), **attributes))
        return names

    def split(self, x: str, parts: int) -> Sequence[str]:
        """Equal parts of the last axis."""
        names = [self._next("Split") + f"_{i}" for i in range(parts)]
        return self.ops("Split", x, names=names, axis=-1, num_outputs=parts)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant or weight."""
        array = np.ascontiguousarray(np.asarray(value, dtype))
        key = (array.dtype.str, array.shape, array.tobytes() if array.size <= _SHARED else b"")
        if key[2] and key in self._shared:
            return self._shared[key]
        name = f"weight_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        if key[2]:
            self._shared[key] = name
        return name

    def integers(self, *values: int) -> str:
        """A constant list of whole numbers: axes, shapes."""
        return self.constant(values, np.int64)

    def number(self, value: int) -> str:
        """A constant whole number."""
        return self.constant(value, np.int64)

    def size(self, x: str, axis: int) -> str:
        """The size of an axis, a single number."""
        return self.op("Squeeze", self.op("Shape", x, start=axis, end=axis + 1))

    def count_to(self, end: str, start: str | None = None) -> str:
        """The whole numbers from `start` (0) up to, without, `end`."""
        return self.op("Range", start or self.number(0), end, self.number(1))

    # ------------------------------------------------------------------- layers

    def layer_norm(self, x: str, weight_E: np.ndarray, bias_E: np.ndarray, epsilon: float) -> str:
        """LayerNorm over the last axis."""
        weights = self.constant(weight_E), self.constant(bias_E)
        return self.op("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)

    def linear(
        self,
        x: str,
        weight_IxO: np.ndarray,
        bias_O: np.ndarray | None = None,
        name: str | None = None,
    ) -> str:
        """x @ weight + bias; in int8 by `_product`."""
        last = None if bias_O is not None else name
        if self.int8:
            y = self._product(x, weight_IxO, last)
        else:
            y = self.op("MatMul", x, self.constant(weight_IxO), name=last)
        return y if bias_O is None else self.op("Add", y, self.constant(bias_O), name=name)

    def _product(self, x: str, weight_IxO: np.ndarray, name: str | None) -> str:
        """x @ weight in whole numbers: a scale for each token of x and for each column of weight.

        With a scale of its own a token does not depend on the others in its batch. (ONNX Runtime's
        own dynamic quantization has one scale for all: neighbours change a row's answer.)
        """
        largest = self.op("ReduceMax", self.op("Abs", x), self.integers(-1), keepdims=1)
        largest = self.op("Max", largest, self.constant(_SMALLEST))
        whole = self.op(
            "QuantizeLinear",
            self.op("Div", x, largest),
            self.constant(1 / _STEPS),
            self.constant(_ZERO_POINT, np.uint8),
        )
        weights_IxO, scale_O = quantized(weight_IxO, _PRODUCT_STEPS, axis=0)
        product = self.op(
            "MatMulInteger",
            whole,
            self.constant(weights_IxO, np.int8),
            self.constant(_ZERO_POINT, np.uint8),
        )
        y = self.op("Cast", product, to=TensorProto.FLOAT)
        y = self.op("Mul", y, self.constant(scale_O / _STEPS))
        return self.op("Mul", y, largest, name=name)

    def embedding(self, ids: str, weight_VxE: np.ndarray) -> str:
        """Rows of a table; in int8 with a scale a row."""
        if not self.int8:
            return self.op("Gather", self.constant(weight_VxE), ids)
        weights_VxE, scale_Vx1 = quantized(weight_VxE, _TABLE_STEPS, axis=1)
        rows = self.op("Gather", self.constant(weights_VxE, np.int8), ids)
        return self.op(
            "Mul",
            self.op("Cast", rows, to=TensorProto.FLOAT),
            self.op("Gather", self.constant(scale_Vx1), ids),
        )

    # ------------------------------------------------------------------- the file

    def model(
        self,
        name: str,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        metadata: Mapping[str, str],
    ) -> ModelProto:
        """The graph as a model; `metadata` becomes its metadata_props."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._weights)
        proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="smallgpt",
        )
        helper.set_model_props(proto, dict(metadata))
        return proto

    def _next(self, kind: str) -> str:
        return f"{kind}_{len(self._nodes)}"


def quantized(weight: np.ndarray, steps: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -steps to steps, and their scales: weight = numbers * scales, rounded.

    Each column (axis 0) or row (axis 1) has a scale; those of columns are a plain list, those of
    rows keep an axis of one.
    """
    largest = np.abs(weight).max(axis=axis, keepdims=True)
    scale = (np.maximum(largest, _SMALLEST) / steps).astype(np.float32)
    numbers = np.rint(weight / scale).astype(np.int8)
    return numbers, scale if axis else scale[0]
