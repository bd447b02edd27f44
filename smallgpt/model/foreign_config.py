"""What is taken from the config.json of a checkpoint, and what is not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from smallgpt.errors import UserError
from smallgpt.files.hub import folder_of, hub_errors
from smallgpt.files.reading import read_bytes, shown
from smallgpt.model.head import classifier_class_of
from smallgpt.options.training import MOST_LAYERS, MOST_POSITIONS, MOST_WIDTH, TrainSettings
from smallgpt.tokens.text_tokenizer import MOST_TOKENS

PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack")
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
# 10,000 labels of a head, of 1,000 letters each, stand in it twice, a letter in up to six bytes.
MOST_CONFIG_BYTES = 2**27
# What a configuration could choose beside the shape: code, its own or a kernel of another
# repository, files, kinds of numbers. Keys of these names are passed over at every level; of those
# that begin with an underscore OPT's alone shapes a model.
_NEVER_FOLLOWED = re.compile(
    r"_(?!remove_final_layer_norm$).*|.*implementation.*|auto_map|.*kernel_config.*|.*quantization.*|(torch_)?dtype|"
    r"name_or_path|trust_remote_code|transformers_version|architectures"
)
_OWN_KINDS_OF_KEYS = ("id2label", "label2id")  # the keys of these are labels
# Of what transformers' base class defines, a configuration may only say these beside its fields.
_ALSO_TAKEN = ("num_labels", "rope_scaling", "rope_theta", "per_layer_config")
# What configurations call dropout of embeddings and residuals, and that of attention weights.
_DROPOUTS = (
    "dropout",
    "resid_pdrop",
    "embd_pdrop",
    "embd_dropout",
    "resid_dropout",
    "embed_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
)
_ATTENTION_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
_NEVER_LOADED = "weights as a pickle can run any code and are never loaded; convert them to"


@dataclass(frozen=True)
class Start:
    """A pretrained model made ready for a vocabulary.

    Attributes:
        model: fp32, with one embedding for each token of the vocabulary.
        new_ids: tokens that the checkpoint does not have under their name.
        fingerprint: SHA-256 of the checkpoint's weights and tokens, before anything was changed.
        fresh: names of the parameters that the checkpoint did not have: a head that names labels.
    """

    model: torch.nn.Module
    new_ids: list[int]
    fingerprint: str
    fresh: frozenset[str] = frozenset()


# ------------------------------------------------------------------------------- the shape


def with_checkpoint_shape(settings: TrainSettings) -> TrainSettings:
    """The settings with the shape of the checkpoint that `init_from` names.

    Raises:
        UserError: no such checkpoint, weights that are not safetensors, no causal model, or
            too few positions for max_length.
    """
    config = _read_config(settings.init_from, settings.classifier)
    positions = positions_of(config)
    if positions is not None and settings.max_length > positions:
        raise UserError(
            f"max_length is {settings.max_length} but {settings.init_from} has {positions} "
            f"positions: give --max_length {positions} or less"
        )
    return replace(
        settings,
        preset="none",
        n_layer=config.num_hidden_layers,
        n_head=getattr(config, "num_attention_heads", 1),  # some have no attention
        n_embd=config.hidden_size,
        n_positions=positions or settings.max_length,
    )


def positions_of(config: Any) -> int | None:
    """Positions that a model of this configuration has; None where there is no limit."""
    return getattr(config, "max_position_embeddings", None)


def refuse_pickles(path: Path) -> None:
    """Refuse weights that could run code when they are loaded.

    Raises:
        UserError: `path` is such a file, or a folder with such weights and no others.
    """
    if path.is_file():
        if any(path.match(pattern) for pattern in PICKLED_WEIGHTS):
            raise UserError(f"{path}: {_NEVER_LOADED} model.safetensors in a folder")
        raise UserError(f"{path} is a file: name the model's folder")
    if path.is_dir() and not any(path.glob("*.safetensors")):
        pickled = next((found for name in PICKLED_WEIGHTS for found in path.glob(name)), None)
        if pickled is not None:
            raise UserError(f"{pickled}: {_NEVER_LOADED} model.safetensors")


def _read_config(name: str, classifier: str) -> Any:
    """The configuration of a checkpoint, once all that can be told without its weights is fine.

    Args:
        name: of the checkpoint.
        classifier: "head" takes encoders as well.
    """
    refuse_pickles(Path(name))
    folder = folder_of(name, "model")
    refuse_pickles(folder)
    if (folder / "best_model").is_dir() and not (folder / CONFIG).exists():
        raise UserError(f"{name}: this is a run; name its model: {folder / 'best_model'}")
    if (folder / ADAPTER_CONFIG).exists():
        raise UserError(
            f"{name}: this is an adapter, not a whole model; train it again with --merge_lora"
        )
    if not (folder / CONFIG).exists():
        raise UserError(f"{name}: no model in this folder: it has no {CONFIG}")
    read_bytes(folder / CONFIG, MOST_CONFIG_BYTES)  # a plain file, and no bomb
    with hub_errors(name, "model"), quiet():
        from transformers import PreTrainedConfig

        values, _ = PreTrainedConfig.get_config_dict(folder)
        if "model_type" not in values:
            raise UserError(f"{name}: its {CONFIG} names no model_type")
        if values.get("quantization_config") is not None:
            raise UserError(f"{name}: its weights are quantized; start from the unquantized model")
        config = config_of(values)
    try:
        model_class_of(config, classifier)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    if not hasattr(config, "vocab_size"):
        raise UserError(f"{name}: {config.model_type} is made of several models, not of text alone")
    return config


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own warnings back: what matters is told in one line."""
    from transformers import logging

    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def config_of(values: Mapping[str, Any]) -> Any:
    """A configuration object of the values of a config.json: of what shapes the model alone.

    No code but transformers' is run, and nothing in it chooses which: how attention is computed
    is transformers' default.

    Raises:
        ValueError, TypeError and others: the values are wrong, or far beyond any small model, so
            that its mere modules would take all memory or time; transformers raises many kinds.
    """
    from transformers import CONFIG_MAPPING

    kind = values.get("model_type", "gpt2")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"model_type {shown(kind)} is not known to transformers")
    config_class = CONFIG_MAPPING[kind]
    fields = {*getattr(config_class, "__dataclass_fields__", ()), *config_class.attribute_map}
    taken = {
        name: value
        for name, value in _without_foreign_choices(values).items()
        # Other names are older ones of fields, or mean nothing; but not methods and properties.
        if name in fields or name in _ALSO_TAKEN or not hasattr(config_class, name)
    }
    taken.pop("model_type", None)
    config = config_class(**taken)
    for name, most in (
        ("num_hidden_layers", MOST_LAYERS),
        ("hidden_size", MOST_WIDTH),
        ("max_position_embeddings", MOST_POSITIONS),
        ("vocab_size", 2 * MOST_TOKENS),  # embeddings may be filled up to a round number
    ):
        value = getattr(config, name, None)
        if value is not None and not (type(value) is int and 1 <= value <= most):
            raise ValueError(f"{name} is {shown(value)}, expected 1 to {most:,}")
    return config


def _without_foreign_choices(value: Any) -> Any:
    """A value of a configuration without the keys that shape no model, at every level."""
    if isinstance(value, list):
        return [_without_foreign_choices(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"}:  # so transformers writes infinity, which is no JSON
        return float(value["__float__"])
    return {
        name: item if name in _OWN_KINDS_OF_KEYS else _without_foreign_choices(item)
        for name, item in value.items()
        if not _NEVER_FOLLOWED.fullmatch(name)
    }


def model_class_of(config: Any, classifier: str = "label_token") -> type[torch.nn.Module]:
    """The class of the causal model of a configuration, or of the one with a head for labels.

    Raises:
        ValueError: there is none.
    """
    if classifier == "head":
        return classifier_class_of(config)
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{config.model_type} is no causal language model")
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def set_dropout(config: Any, settings: TrainSettings) -> None:
    """Give a configuration the settings' dropout, by whatever names it knows it."""
    for names, rate in (
        (_DROPOUTS, settings.dropout),
        (_ATTENTION_DROPOUTS, settings.attention_dropout),
    ):
        for name in names:
            if isinstance(getattr(config, name, None), (int, float)):
                setattr(config, name, rate)
