"""Configurations of transformers: only keys that shape a model, none that could load code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import CONFIG_MAPPING, logging
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from smallgpt.files.reading import shown
from smallgpt.model.head import classifier_class_of
from smallgpt.model.own_config import ID2LABEL
from smallgpt.options.training import MOST_LAYERS, MOST_POSITIONS, MOST_WIDTH, TrainSettings
from smallgpt.tokens.text_tokenizer import MOST_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Keys that choose something else than the shape: code (the checkpoint's own, or a kernel of another
# repository), files, number types. They are ignored at every level; of those that begin with an
# underscore only OPT's shapes a model.
_NEVER_FOLLOWED = re.compile(
    r"_(?!remove_final_layer_norm$).*|.*implementation.*|auto_map|.*kernel_config.*|.*quantization.*|(torch_)?dtype|"
    r"name_or_path|trust_remote_code|transformers_version|architectures"
)
_OWN_KINDS_OF_KEYS = (ID2LABEL, "label2id")  # the keys of these are labels
# Attributes of transformers' base class that a configuration may set besides its own fields.
_ALSO_TAKEN = ("num_labels", "rope_scaling", "rope_theta", "per_layer_config")
# Names for dropout of embeddings and residuals, and for that of attention weights.
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


# ------------------------------------------------------------------------------- the shape


def positions_of(config: Any) -> int | None:
    """Most positions of a model, None where there is no limit."""
    return getattr(config, "max_position_embeddings", None)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' warnings and progress bars."""
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
    """A configuration object from the values of a config.json, of those alone that shape the model.

    Only code of transformers is run, and no value chooses which: attention is computed in
    transformers' default way.

    Raises:
        ValueError, TypeError and others: wrong values, or far beyond any small model, so that
            building it would take all memory or time; transformers raises many kinds.
    """
    kind = values.get("model_type", "gpt2")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"model_type {shown(kind)} is not known to transformers")
    config_class = CONFIG_MAPPING[kind]
    fields = {*getattr(config_class, "__dataclass_fields__", ()), *config_class.attribute_map}
    taken = {
        name: value
        for name, value in _without_foreign_choices(values).items()
        # Unknown names are older names of fields, or mean nothing; but no methods or properties.
        if name in fields or name in _ALSO_TAKEN or not hasattr(config_class, name)
    }
    taken.pop("model_type", None)
    config = config_class(**taken)
    for name, most in (
        ("num_hidden_layers", MOST_LAYERS),
        ("hidden_size", MOST_WIDTH),
        ("max_position_embeddings", MOST_POSITIONS),
        ("vocab_size", 2 * MOST_TOKENS),  # embeddings may be padded to a round number
    ):
        value = getattr(config, name, None)
        if value is not None and not (type(value) is int and 1 <= value <= most):
            raise ValueError(f"{name} is {shown(value)}, expected 1 to {most:,}")
    return config


def _without_foreign_choices(value: Any) -> Any:
    """A configuration value without the keys that do not shape the model, at every level."""
    if isinstance(value, list):
        return [_without_foreign_choices(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"}:  # how transformers writes infinity, which is no JSON
        return float(value["__float__"])
    return {
        name: item if name in _OWN_KINDS_OF_KEYS else _without_foreign_choices(item)
        for name, item in value.items()
        if not _NEVER_FOLLOWED.fullmatch(name)
    }


def model_class_of(config: Any, classifier: str = "label_token") -> type[PreTrainedModel]:
    """The class of the causal model of a configuration, or of its classifier.

    Raises:
        ValueError: there is none.
    """
    if classifier == "head":
        return classifier_class_of(config)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{config.model_type} is no causal language model")
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # as in classifier_class_of
    return found


def set_dropout(config: Any, settings: TrainSettings) -> None:
    """Set the settings' dropout in a configuration, by whatever names it has for it."""
    for names, rate in (
        (_DROPOUTS, settings.dropout),
        (_ATTENTION_DROPOUTS, settings.attention_dropout),
    ):
        for name in names:
            if isinstance(getattr(config, name, None), (int, float)):
                setattr(config, name, rate)
