"""The model: build it, load it, save it in Hugging Face format, choose device and precision.

trained = load_trained_model("outputs/best_model")
logits_BxTxV = trained.model(ids_BxT).logits
"""

from __future__ import annotations

import json
import os
import shutil
import sys
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
from console import SettingsError, UserError
from input_files import open_input, parse_json, read_text, shown
from lora import ADAPTER_WEIGHTS, Adapter, add_adapter, is_adapter_folder, load_adapter
from pretrained import (
    build_from_config,
    config_of,
    load_checkpoint_model,
    model_class_of,
    positions_of,
    refuse_pickles,
)
from run_folder import atomic_folder, folder_beside, sync, write_tensors
from settings import (
    MOST_LAYERS,
    MOST_POSITIONS,
    MOST_WIDTH,
    TrainSettings,
    load_train_settings,
)
from vocabulary import Vocabulary

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

WEIGHTS, CONFIG, SETTINGS, CODEBOOK = (
    "model.safetensors",
    "config.json",
    "settings.yaml",
    "codebook.npz",
)
_VALIDATION = "validation"  # key in the header of WEIGHTS
_TEMPERATURES = (0.01, 1000.0)  # what calibration could ever give
# A model has some hundred bytes of header a tensor, and 12 tensors a block.
_MOST_HEADER_BYTES, _MOST_CONFIG_BYTES = 2**23, 2**20
_WEIGHT_KINDS = ("F32", "F16", "BF16", "F64")
# What shapes a GPT-2, with the range of its values; nothing else of config.json is taken over.
_CONFIG_KEYS: dict[str, tuple[type, float, float]] = {
    "vocab_size": (int, 1, 2**31),
    "n_positions": (int, 1, MOST_POSITIONS),
    "n_embd": (int, 1, MOST_WIDTH),
    "n_layer": (int, 1, MOST_LAYERS),
    "n_head": (int, 1, MOST_WIDTH),
    "n_inner": (int, 1, 2**31),
    "activation_function": (str, 0, 0),
    "resid_pdrop": (float, 0, 1),
    "embd_pdrop": (float, 0, 1),
    "attn_pdrop": (float, 0, 1),
    "layer_norm_epsilon": (float, 0, 1),
    "initializer_range": (float, 0, 1e6),
    "scale_attn_weights": (bool, 0, 0),
    "scale_attn_by_inverse_layer_idx": (bool, 0, 0),
    "reorder_and_upcast_attn": (bool, 0, 0),
    "bos_token_id": (int, 0, 2**31),
    "eos_token_id": (int, 0, 2**31),
    "pad_token_id": (int, 0, 2**31),
}
# Keys by which a configuration could name code, its own or of another repository.
_NEVER_FOLLOWED = ("auto_map", "attn_implementation", "_attn_implementation", "quantization_config")
_TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
_MAY_BE_NONE = ("n_inner", *_TOKEN_KEYS)
_KIND_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


# ------------------------------------------------------------------------------- hardware


def choose_device(name: str) -> torch.device:
    """The device of an option `auto|cpu|cuda|mps`.

    Raises:
        UserError: the device asked for is not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if (name == "cuda" and not cuda) or (name == "mps" and not mps):
        raise UserError(f"--device {name}: no such device here; use --device cpu")
    return torch.device(name)


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


def _check_memory(values: Mapping[str, Any]) -> None:
    """Refuse a model that this machine could never hold, instead of being killed halfway.

    Raises:
        UserError: its fp32 weights take more than all memory.
    """
    count = _parameters_of(values)
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


# ------------------------------------------------------------------------------- saving


def save_model_folder(
    model: torch.nn.Module,
    folder: Path,
    vocabulary: Vocabulary,
    settings_yaml: str,
    codebook: Path | None,
    validation: dict[str, Any] | None = None,
    adapter: Adapter | None = None,
) -> None:
    """Write a model folder that transformers loads, or bring an existing one up to date.

    A new folder appears whole. In an existing one of the same run only the weights differ, and
    they are replaced by one rename, so that a reader never meets a half-written model. (In the
    settings of a resumed run options may differ that do not describe the model.)

    Args:
        model: its fp32 weights are written.
        folder: where to.
        vocabulary: its tokenizer goes along.
        settings_yaml: the resolved settings; max_length is read from them again.
        codebook: the codebook.npz to take along, None for rows that are no images.
        validation: what was measured with these weights on the validation rows, the calibration
            of their confidence included. It is written into the header of the weights' own
            file, so that it can never belong to other weights.
        adapter: written in place of the model, whose base stays where it is.
    """
    weights = WEIGHTS if adapter is None else ADAPTER_WEIGHTS
    if not folder.exists():
        with atomic_folder(folder) as new:
            if adapter is None:
                model.config.architectures = [type(model).__name__]
                model.config.dtype = torch.float32
                model.config.save_pretrained(new)
                if model.can_generate():
                    model.generation_config.save_pretrained(new)
            else:
                adapter.save_config(new)
            _save_weights(model, new / weights, validation, adapter)
            vocabulary.save_tokenizer(new)
            (new / SETTINGS).write_text(settings_yaml, encoding="utf-8")
            if codebook is not None:
                shutil.copyfile(codebook, new / CODEBOOK)
        return
    with folder_beside(folder) as new:
        (new / SETTINGS).write_text(settings_yaml, encoding="utf-8")
        _save_weights(model, new / weights, validation, adapter)
        for name in (SETTINGS, weights):
            sync(new / name)
            os.replace(new / name, folder / name)
        sync(folder)


def _save_weights(
    model: torch.nn.Module,
    path: Path,
    validation: dict[str, Any] | None,
    adapter: Adapter | None,
) -> None:
    """Write the weights as save_pretrained would: fp32, a tied head left out."""
    if adapter is not None:
        state, metadata = adapter.state(), adapter.header()
    else:
        state, metadata = _state_of(model), {"format": "pt"}
    if validation is not None:
        metadata[_VALIDATION] = json.dumps(validation)
    write_tensors(path, state, metadata)


def _state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a model by name; those that are tied once, under their first name."""
    state: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach().contiguous()
    return state


# ------------------------------------------------------------------------------- loading


@dataclass(frozen=True)
class TrainedModel:
    """A model folder in memory, ready to use.

    Attributes:
        model: in evaluation mode on `device`; an adapter is merged into its base.
        vocabulary: its vocabulary.
        settings: what it was trained with.
        device, precision: where and how it computes.
        codebook: path of its image codebook, None for rows that are no images.
        folder: where it came from.
        validation: what training measured with these weights on its validation rows; {} where
            the weights came from elsewhere.
    """

    model: torch.nn.Module
    vocabulary: Vocabulary
    settings: TrainSettings
    device: torch.device
    precision: Precision
    codebook: Path | None
    folder: Path
    validation: dict[str, Any]

    @property
    def temperature(self) -> float:
        """Of the calibrated confidence; 1, the model's own, where it was never calibrated."""
        return self.validation.get("calibration", {}).get("temperature", 1.0)

    @property
    def max_length(self) -> int:
        """The longest row it was trained for; evaluation and generation keep to it."""
        return self.settings.max_length


def load_trained_model(
    folder: str | Path, device: str = "auto", precision: str = "auto"
) -> TrainedModel:
    """Load a model folder that training wrote.

    Raises:
        UserError: the folder or a file of it is missing, damaged, or contradicts another.
    """
    folder = Path(folder)
    if os.path.isfile(folder):
        refuse_pickles(folder)
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder}: no model there; train one with `python train_gpt.py`, or name another "
            f"folder with --model_path"
        )
    is_adapter = is_adapter_folder(folder)
    if not is_adapter and not (folder / CONFIG).exists() and (folder / "best_model").is_dir():
        raise UserError(f"{folder}: this is a run; name its model: {folder / 'best_model'}")
    vocabulary = Vocabulary.load(_existing(folder / "vocab.json"))
    try:
        settings = load_train_settings(_existing(folder / SETTINGS))
    except SettingsError as error:  # no mistake in a flag: the exit code is that of a bad model
        raise UserError(
            f"{folder / SETTINGS}: not the settings that training wrote\n{error.mistakes[0]}"
        ) from None
    if is_adapter:
        model, metadata = load_adapter(folder, settings, vocabulary)
        validation = _parse_validation(folder / ADAPTER_WEIGHTS, metadata)
    else:
        model, validation = _load_model(folder, settings, vocabulary)
    if model.config.vocab_size != len(vocabulary):
        raise UserError(
            f"{folder}: vocab.json has {len(vocabulary)} tokens but the model has "
            f"{model.config.vocab_size}: the files belong to different models"
        )
    positions = positions_of(model.config)
    if positions is not None and settings.max_length > positions:
        raise UserError(
            f"{folder}: {SETTINGS} says max_length {settings.max_length} but the model has "
            f"{positions} positions: the files belong to different models"
        )
    codebook_path = folder / CODEBOOK
    target = choose_device(device)
    return TrainedModel(
        model=model.to(target).eval(),
        vocabulary=vocabulary,
        settings=settings,
        device=target,
        precision=choose_precision(precision, target),
        codebook=codebook_path if codebook_path.exists() else None,
        folder=folder,
        validation=validation,
    )


def read_validation(folder: Path) -> dict[str, Any]:
    """What training stored with the weights of a model folder, {} where it stored nothing.

    Raises:
        UserError: no weights, or the entry is not what `save_model_folder` wrote.
    """
    path = _existing(folder / (ADAPTER_WEIGHTS if is_adapter_folder(folder) else WEIGHTS))
    header, _, _ = _read_header(path)
    return _parse_validation(path, header.get("__metadata__"))


def _parse_validation(path: Path, metadata: Any) -> dict[str, Any]:
    text = metadata.get(_VALIDATION, "{}") if isinstance(metadata, dict) else "{}"
    try:
        validation = parse_json(text)
        if validation == {} or _is_validation(validation):
            return validation
    except (ValueError, TypeError, LookupError, AttributeError):  # other things than expected
        pass
    raise UserError(f"{path}: its stored validation figures are damaged; save the model again")


def _is_validation(value: Any) -> bool:
    """Whether a value has what reports and calibration use of validation figures."""

    def all_shares(*values: Any) -> bool:
        return all(_is_number(share, 0, 1) for share in values)

    def are_names(names: Any) -> bool:
        return isinstance(names, list) and all(isinstance(name, str) for name in names)

    whole = _is_count(value["rows"])
    if "perplexity" in value or "accuracy" not in value:  # a model may name labels only
        whole &= _is_number(value["perplexity"], 0, sys.float_info.max)
    whole &= all(
        len(name) <= 100 and name.isprintable() and _is_number(figure, 0, sys.float_info.max)
        for name, figure in value["baselines"].items()
    )
    if "accuracy" in value:
        low, high = value["accuracy_interval"]
        whole &= all_shares(value["accuracy"], low, high, value["chance_accuracy"])
        whole &= value["above_chance"] in (True, False, None)
        whole &= all(
            are_names(value.get(name, [])) for name in ("not_above_chance", "too_few_rows")
        )
    if "calibration" in value:
        found = value["calibration"]
        whole &= _is_number(found["temperature"], *_TEMPERATURES) and _is_count(found["rows"])
        whole &= all_shares(found["ece"], found["raw_ece"])
    return whole


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _load_model(
    folder: Path, settings: TrainSettings, vocabulary: Vocabulary
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model of a folder and the figures stored with its weights.

    From config.json and safetensors alone. What the header of the weights says is compared with
    the configuration before memory is given to either. Weights and figures are of one file even
    where training replaces it meanwhile.
    """
    from safetensors import SafetensorError, safe_open

    path, weights = _existing(folder / CONFIG), folder / WEIGHTS
    values = _read_config(path)
    refuse_pickles(folder)
    header, start, size = _read_header(_existing(weights))
    # Each weight takes a byte at least, so no promise of a small file can fill the memory.
    if values["model_type"] == "gpt2" and _parameters_of(values) > size:
        raise UserError(
            f"{folder}: {CONFIG} asks for {_parameters_of(values):,} parameters, {WEIGHTS} has "
            f"{size:,} bytes: they do not belong together"
        )
    try:
        config = config_of(values)
        _check_size(config)
        if settings.classifier == "head":
            name_labels(config, vocabulary)

        def make() -> torch.nn.Module:
            model = model_class_of(config, settings.classifier)(config)
            if settings.classifier_hidden is not None:
                add_hidden_layer(model, settings.classifier_hidden, settings.dropout)
            return model

        with torch.device("meta"):
            model = make()
    except Exception as error:  # transformers raises many kinds for a wrong configuration
        reason = shown(" ".join(str(error).split()))
        kind = "a classifier" if settings.classifier == "head" else "a causal model"
        raise UserError(f"{path}: not the configuration of {kind} ({reason})") from None
    expected = {name: list(tensor.shape) for name, tensor in _state_of(model).items()}
    found = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name in sorted(expected.keys() | found.keys()):
        shape = found[name].get("shape") if isinstance(found.get(name), dict) else None
        if name not in found or name not in expected or shape != expected[name]:
            raise UserError(
                f"{folder}: {WEIGHTS} and {CONFIG} do not belong together: {shown(name)} is "
                f"{shown(shape) if name in found else 'missing'}, expected "
                f"{expected.get(name, 'no such tensor')}"
            )
        if found[name].get("dtype") not in _WEIGHT_KINDS:
            raise UserError(
                f"{weights}: {name} is of kind {shown(found[name].get('dtype'))}; weights are one "
                f"of {', '.join(_WEIGHT_KINDS)}"
            )
    try:
        end = start + max(int(entry["data_offsets"][1]) for entry in found.values())
    except (ValueError, TypeError, LookupError, OverflowError):
        end = -1
    if end != size:
        raise UserError(
            f"{weights}: damaged or not a safetensors file (it has {size:,} bytes, its header "
            f"promises another number)"
        )
    try:
        with safe_open(weights, framework="pt") as handle:
            state = {name: handle.get_tensor(name) for name in expected}
            metadata = handle.metadata()
    except (SafetensorError, ValueError, OSError) as error:
        reason = shown(" ".join(str(error).split()))
        raise UserError(f"{weights}: damaged or not a safetensors file ({reason})") from None
    for name, tensor in state.items():
        state[name] = tensor = tensor.float()
        if not tensor.isfinite().all():
            raise UserError(f"{weights}: {name} holds numbers that are not finite: damaged weights")
    if any(buffer.is_meta for buffer in model.buffers()):  # computed, and stored nowhere
        model = make()
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model, _parse_validation(weights, metadata)


def _check_size(config: Any) -> None:
    """Refuse a configuration whose mere modules would take all memory or time.

    Raises:
        ValueError: it is far beyond any small model.
    """
    limits = {
        "num_hidden_layers": MOST_LAYERS,
        "hidden_size": MOST_WIDTH,
        "max_position_embeddings": MOST_POSITIONS,
    }
    for name, most in limits.items():
        value = getattr(config, name, None)
        if value is not None and not (type(value) is int and 1 <= value <= most):
            raise ValueError(f"{name} is {shown(value)}, expected 1 to {most:,}")


def _read_config(path: Path) -> dict[str, Any]:
    """The part of a config.json that shapes a GPT-2; all else in it is passed over.

    transformers would follow some other keys (`attn_implementation` can name code to download).
    Of other architectures the values are taken as they are, without those keys.

    Raises:
        UserError: not JSON, no configuration, or of a GPT-2 a value of a wrong kind or range.
    """
    try:
        values = parse_json(read_text(path, _MOST_CONFIG_BYTES))
    except ValueError as error:
        raise UserError(f"{path}: not a GPT-2 configuration ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a GPT-2 configuration")
    if values.get("model_type", "gpt2") != "gpt2":
        return {name: value for name, value in values.items() if name not in _NEVER_FOLLOWED}
    taken: dict[str, Any] = {"model_type": "gpt2"}
    for name, (kind, low, high) in _CONFIG_KEYS.items():
        if name not in values:
            continue
        value = values[name]
        if value is None and name in _MAY_BE_NONE:
            taken[name] = None
            continue
        if kind is float:
            right = _is_number(value, low, high)
        elif kind is int:
            right = type(value) is int and low <= value <= high
        else:
            right = type(value) is kind
        if not right:
            bounds = f" from {low:,} to {high:,}" if kind in (int, float) else ""
            raise UserError(
                f"{path}: not a GPT-2 configuration ({name} is {shown(value)}, expected "
                f"{_KIND_WORDS[kind]}{bounds})"
            )
        taken[name] = value
    for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
        if name not in taken:
            raise UserError(f"{path}: not a GPT-2 configuration ({name} is missing)")
    for name in _TOKEN_KEYS:
        index = taken.setdefault(name, None)
        if index is not None and index >= taken["vocab_size"]:
            raise UserError(
                f"{path}: not a GPT-2 configuration ({name} is {index}, the vocabulary has "
                f"{taken['vocab_size']} tokens)"
            )
    return taken


def _parameters_of(values: Mapping[str, Any]) -> int:
    """How many parameters a GPT-2 of these values has."""
    width = values["n_embd"]
    inner = values.get("n_inner") or 4 * width
    # Two norms, attention's two maps, the two of the perceptron, each with its bias.
    block = 4 * width + 4 * width * (width + 1) + width * (2 * inner + 1) + inner
    ends = (values["vocab_size"] + values["n_positions"]) * width + 2 * width
    return values["n_layer"] * block + ends


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header of a safetensors file, the byte after it, and the size of the file in bytes.

    Raises:
        UserError: a header that is too long or no JSON object.
    """
    with open_input(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        length = int.from_bytes(handle.read(8), "little")
        problem = ""
        if length > min(_MOST_HEADER_BYTES, size):
            problem = f"its header would have {length:,} bytes"
        text = b"" if problem else handle.read(length)
    try:
        header = parse_json(text.decode()) if not problem else None
    except ValueError as error:
        problem = shown(str(error))
    if not problem and not isinstance(header, dict):
        problem = "its header is no object"
    if problem:
        raise UserError(f"{path}: damaged or not a safetensors file ({problem})")
    return header, 8 + length, size


def _existing(path: Path) -> Path:
    if not os.path.exists(path):
        raise UserError(f"{path}: missing; this is not a model folder that training wrote")
    return path
