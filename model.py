"""The model: build it, run it through, choose device and precision.

    model = build_model(settings, vocabulary)
    states_MxE = hidden_states(model, ids_M, PackedRows(lengths_B), precision)

Its folder is read and written by `model_folder.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

import blocks
from blocks import PackedRows
from classifier_head import add_hidden_layer, freeze_backbone, head_name, name_labels
from console import UserError
from lora import Adapter, add_adapter
from pretrained import (
    build_from_config,
    load_checkpoint_model,
    model_class_of,
)
from settings import (
    TrainSettings,
)
from vocabulary import Vocabulary

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


# ------------------------------------------------------------------------------- hardware


def choose_device(name: str) -> torch.device:
    """The device of an option `auto|cpu|cuda|cuda:N|mps`.

    A GPU asked for by number becomes torch's current one, on which CUDA graphs are recorded.

    Raises:
        UserError: the device asked for is not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    kind, _, number = name.partition(":")
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise UserError(f"--device {name}: no such device here; use --device cpu")
    if number:
        count = torch.cuda.device_count()
        if not number.isdecimal() or int(number) >= count:
            raise UserError(f"--device {name}: the GPUs here are cuda:0 to cuda:{count - 1}")
        torch.cuda.set_device(int(number))
        return torch.device(kind, int(number))
    return torch.device(name)


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the random generators that a run on `device` draws from, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Put back what `random_states` gave; the state of a device of another type is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@dataclass(frozen=True)
class Precision:
    """Arithmetic of the matrix products; weights stay in fp32.

    Attributes:
        name: fp32, bf16 or fp16.
        reason: why, in words for the user.
    """

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The type that matrix products compute in."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context in which to run the model."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision of an option `auto|fp32|bf16|fp16` on a device.

    Raises:
        UserError: the device cannot compute in the precision asked for.
    """
    if name == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    if name != "auto":
        return Precision(name, "as asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", "this GPU computes in bf16")
        return Precision("fp32", "this GPU does not compute in bf16")
    if device.type == "cpu":
        feature = _cpu_bf16_feature()
        if feature:
            return Precision("bf16", f"this CPU computes in bf16 ({feature})")
        return Precision("fp32", "this CPU does not compute in bf16 (no AVX512-BF16, no AMX)")
    return Precision("fp32", f"bf16 is not used on {device.type}")


def _cpu_bf16_feature() -> str | None:
    """The instruction set in which this CPU multiplies bf16 numbers, None where it has none.

    Read from the system's own list: torch answers for what it can emulate as well, and
    emulated bf16 is slower than fp32.
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return None
    for flag, feature in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")):
        if flag in flags:
            return feature
    return None


# ------------------------------------------------------------------------------- building


def build_model(
    settings: TrainSettings,
    vocabulary: Vocabulary,
    embeddings: Mapping[str, np.ndarray] | None = None,
) -> torch.nn.Module:
    """A GPT-2 with fresh weights drawn from `settings.seed`: its head predicts tokens or labels.

    Args:
        settings: its shape.
        vocabulary: its tokens.
        embeddings: token -> vector of n_embd numbers of standard deviation 1, for tokens of
            which something is known before training (the codes of a codebook).
    """
    from transformers import GPT2Config

    end_id = vocabulary.eos_id if vocabulary.eos_id is not None else vocabulary.pad_id
    config = GPT2Config(
        vocab_size=len(vocabulary),
        n_positions=settings.n_positions,
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        n_embd=settings.n_embd,
        resid_pdrop=settings.dropout,
        embd_pdrop=settings.dropout,
        attn_pdrop=settings.attention_dropout,
        # GPT-2's own gelu_new approximates this one, and takes four times as long on a CPU.
        activation_function="gelu",
        # The defaults (50256) lie outside a small vocabulary.
        bos_token_id=end_id,
        eos_token_id=end_id,
        pad_token_id=vocabulary.pad_id,
    )
    if settings.classifier == "head":
        name_labels(config, vocabulary)
        config.use_cache = False  # nothing is continued
    _check_memory(config.to_dict())
    torch.manual_seed(settings.seed)
    model = model_class_of(config, settings.classifier)(config)
    if settings.classifier_hidden is not None:
        add_hidden_layer(model, settings.classifier_hidden, settings.dropout)
    known = {vocabulary.ids[t]: vector for t, vector in (embeddings or {}).items()}
    if known:
        vectors = torch.from_numpy(np.stack(list(known.values())))
        with torch.no_grad():
            model.transformer.wte.weight[list(known)] = vectors * config.initializer_range
    return model


def parameters_of(values: Mapping[str, Any]) -> int:
    """How many parameters a GPT-2 of these values has."""
    width = values["n_embd"]
    inner = values.get("n_inner") or 4 * width
    # Two norms, attention's two maps, the two of the perceptron, each with its bias.
    block = 4 * width + 4 * width * (width + 1) + width * (2 * inner + 1) + inner
    ends = (values["vocab_size"] + values["n_positions"]) * width + 2 * width
    return values["n_layer"] * block + ends


def _check_memory(values: Mapping[str, Any]) -> None:
    """Refuse a model that this machine could never hold, instead of being killed halfway.

    Raises:
        UserError: its fp32 weights take more than all memory.
    """
    count = parameters_of(values)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * count > memory:
        raise UserError(
            f"a model of {count:,} parameters takes {4 * count / 2**30:,.1f} GiB and this machine "
            f"has {memory / 2**30:,.1f}: lower --n_layer, --n_embd or --n_positions"
        )


@dataclass(frozen=True)
class StartingModel:
    """What a run begins with.

    Attributes:
        model: the model, its weights fresh or pretrained.
        adapter: what of it is trained; None where all of it is.
        belongs_to: facts by name that a checkpoint of the run depends on.
    """

    model: torch.nn.Module
    adapter: Adapter | None
    belongs_to: dict[str, str]


def starting_model(
    settings: TrainSettings,
    vocabulary: Vocabulary,
    embeddings: Callable[[], Mapping[str, np.ndarray]],
    stored_config: Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> StartingModel:
    """The model of a run, as its settings say: from scratch, pretrained, or with adapters.

    Args:
        settings: of the run; where `init_from` is given its shape is the checkpoint's already.
        vocabulary: its tokens.
        embeddings: gives what `build_model` takes; asked only for a model from scratch.
        stored_config: the configuration in a checkpoint of the run whose weights will be put
            back, so that what it began from is needed no more; None for a new run.
        say: called with each line for a person.

    Raises:
        UserError: a pretrained model cannot be loaded.
    """
    adapter, belongs_to = None, {}
    if settings.init_from is None:
        model = build_model(settings, vocabulary, embeddings())
    elif stored_config is not None and not (settings.lora_rank or settings.freeze_backbone):
        model = build_from_config(stored_config, settings, vocabulary)
    else:
        start = load_checkpoint_model(settings, vocabulary, say)
        model = start.model
        if settings.lora_rank:
            adapter = add_adapter(start, settings, say)
        elif settings.freeze_backbone:
            freeze_backbone(model, start.fresh)
        if settings.lora_rank or settings.freeze_backbone:
            belongs_to["the base model (init_from)"] = start.fingerprint[:16]
    if settings.gradient_checkpointing:
        recompute_blocks(model)
    return StartingModel(model, adapter, belongs_to)


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


def count_parameters(model: torch.nn.Module) -> int:
    """Parameters of a model, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


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
