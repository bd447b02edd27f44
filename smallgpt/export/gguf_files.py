"""Writes GGUF files, which llama.cpp and what is built on it read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from smallgpt.distribution import VERSION
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.export.gguf_tokenizer import GgufTokenizer
from smallgpt.graphs.graph_files import row_rules
from smallgpt.model.own_config import GELU_FORMULA

if TYPE_CHECKING:
    from gguf import GGUFWriter

F32, Q8_0 = "f32", "q8_0"
PRECISIONS = (F32, Q8_0)
_ARCHITECTURE = "gpt2"
_BLOCK = 32  # numbers that share a scale in q8_0
_PLACES = "position_embd.weight"


def file_name(precision: str) -> str:
    """The name of the file in one of PRECISIONS."""
    return f"model-{precision}.gguf"


def refuse_config(trained: TrainedModel) -> None:
    """Refuse, by a UserError, a GPT-2 that llama.cpp would compute otherwise."""
    config = trained.model.config
    if config.activation_function not in GELU_FORMULA or config.add_cross_attention:
        raise UserError(
            f"{trained.folder}: llama.cpp computes GPT-2 as training here makes it, not with "
            f"activation_function {config.activation_function} or add_cross_attention"
        )


def write_gguf(trained: TrainedModel, path: Path, precision: str, digest: str) -> None:
    """Write a GPT-2 with its tokenizer, labels and rule of rows.

    `precision`: f32, or q8_0, whole numbers of 8 bits with a scale for every 32 of them.
    `digest`: of the model folder.

    Raises:
        UserError: see `GgufTokenizer.of`.
    """
    from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType, quants

    tokenizer = GgufTokenizer.of(trained.vocabulary)
    writer = GGUFWriter(path, _ARCHITECTURE)
    _write_shape(writer, trained)
    writer.add_type("model")
    writer.add_name(f"smallgpt {digest[:12]}")
    if precision == Q8_0:
        writer.add_quantization_version(GGML_QUANT_VERSION)
        writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    else:
        writer.add_file_type(LlamaFileType.ALL_F32)
    tokenizer.write(writer, trained.vocabulary)
    _write_facts(writer, trained, digest)
    for name, array in _tensors(trained):
        if precision == Q8_0 and has_blocks(name, array):
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def has_blocks(name: str, array: np.ndarray) -> bool:
    """Whether q8_0 can hold a tensor: its rows are whole blocks.

    Embeddings of places stay in f32, as in llama.cpp's own files; so do vectors.
    """
    return array.ndim == 2 and name != _PLACES and array.shape[1] % _BLOCK == 0


def kept_in_f32(trained: TrainedModel) -> list[str]:
    """The matrices that q8_0 cannot hold: their rows are no multiple of 32 numbers."""
    return [
        name
        for name, array in _tensors(trained)
        if array.ndim == 2 and name != _PLACES and not has_blocks(name, array)
    ]


def _write_shape(writer: GGUFWriter, trained: TrainedModel) -> None:
    config = trained.model.config
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)


def _write_facts(writer: GGUFWriter, trained: TrainedModel, digest: str) -> None:
    """Own keys, which llama.cpp passes over: what programs need to name labels."""
    vocabulary = trained.vocabulary
    rules = row_rules(vocabulary, trained.max_length, by_head=False)
    writer.add_string("smallgpt.version", VERSION)
    writer.add_string("smallgpt.weights", digest)
    writer.add_string("smallgpt.row", json.dumps(rules))
    if vocabulary.labels:
        writer.add_array("smallgpt.labels", trained.label_names)
        writer.add_array("smallgpt.label_ids", vocabulary.label_ids)
        writer.add_float32("smallgpt.temperature", trained.temperature)


def _tensors(trained: TrainedModel) -> Iterator[tuple[str, np.ndarray]]:
    """The weights, named and shaped as llama.cpp has them: matrices are outputs x inputs."""
    model: Any = trained.model
    body, config = model.transformer, model.config
    head = model.get_output_embeddings().weight
    yield "token_embd.weight", _array(body.wte.weight)
    yield _PLACES, _array(body.wpe.weight)
    if head is not body.wte.weight:
        yield "output.weight", _array(head)
    yield "output_norm.weight", _array(body.ln_f.weight)
    yield "output_norm.bias", _array(body.ln_f.bias)
    for number, block in enumerate(body.h):
        # llama.cpp divides by the root of a head's width, always.
        scale = 1.0 if config.scale_attn_weights else (config.n_embd // config.n_head) ** 0.5
        if config.scale_attn_by_inverse_layer_idx:
            scale /= number + 1
        scale_3E = np.ones(3 * config.n_embd, np.float32)
        scale_3E[: config.n_embd] = scale
        for name, module in (
            ("attn_norm", block.ln_1),
            ("attn_qkv", block.attn.c_attn),
            ("attn_output", block.attn.c_proj),
            ("ffn_norm", block.ln_2),
            ("ffn_up", block.mlp.c_fc),
            ("ffn_down", block.mlp.c_proj),
        ):
            weight, bias = _array(module.weight), _array(module.bias)
            if weight.ndim == 2:
                weight = np.ascontiguousarray(weight.T)
            if name == "attn_qkv":
                weight, bias = weight * scale_3E[:, None], bias * scale_3E
            yield f"blk.{number}.{name}.weight", weight
            yield f"blk.{number}.{name}.bias", bias


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array
