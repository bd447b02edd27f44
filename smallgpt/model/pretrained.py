"""Loads a pretrained model to start from: its shape, weights, and embeddings by token name.

    settings = with_pretrained_shape(settings)            # what --init_from decides
    start = load_pretrained(settings, vocabulary, print)  # start.model knows the vocabulary

A checkpoint is a model folder of ours or of transformers, or a name on the Hugging Face hub. Its
weights are read from safetensors alone, and no code of its own is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.hub import folder_of, hub_errors
from smallgpt.files.reading import read_bytes, rust_errors
from smallgpt.model.carried_embeddings import carry_over, tokens_of
from smallgpt.model.config_json import (
    config_of,
    model_class_of,
    positions_of,
    quiet,
    set_dropout,
)
from smallgpt.model.head import add_hidden_layer, check_padding, draw_head, name_labels
from smallgpt.model.own_config import MOST_CONFIG_BYTES
from smallgpt.model.place import ADAPTER_CONFIG, CONFIG, refuse_pickles
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.vocabulary import Vocabulary

# Results in 16 bits that are equal but for rounding differ by less, those of other computations by
# more.
_HALF_PRECISION = 0.05


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model adapted to a vocabulary."""

    name: str  # as `init_from` gives it
    model: PreTrainedModel  # fp32, one embedding for each token of the vocabulary
    new_ids: list[int]  # tokens that the checkpoint does not have by name
    fingerprint: str  # SHA-256 of the checkpoint's weights and tokens, before any change
    fresh: frozenset[str] = frozenset()  # parameters that it lacked: a classification head's


# ------------------------------------------------------------------------------- the shape


def with_pretrained_shape(settings: TrainSettings) -> TrainSettings:
    """The settings with the shape of the checkpoint that `init_from` names.

    Raises:
        UserError: no such checkpoint, only pickled weights, no causal model, or too few positions.
    """
    name = _name_of_start(settings)
    config = read_checkpoint_config(name, settings.classifier)
    positions = positions_of(config)
    if positions is not None and settings.max_length > positions:
        raise UserError(
            f"max_length is {settings.max_length} but {name} has {positions} "
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


def _name_of_start(settings: TrainSettings) -> str:
    assert settings.init_from is not None  # whoever trains from scratch does not come here
    return settings.init_from


def read_checkpoint_config(name: str, classifier: str) -> Any:
    """The configuration of a checkpoint, after all checks that need no weights.

    Raises:
        UserError: no such checkpoint, only pickled weights, or of another kind of model.
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
    read_bytes(folder / CONFIG, MOST_CONFIG_BYTES)  # a plain file, and not too large
    with hub_errors(name, "model"), quiet():
        values, _ = PreTrainedConfig.get_config_dict(folder)
        if "model_type" not in values:
            raise UserError(f"{name}: its {CONFIG} names no model_type")
        if values.get("quantization_config") is not None:
            raise UserError(f"{name}: its weights are quantized; name the unquantized model")
        config = config_of(values)
    try:
        model_class_of(config, classifier)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    if not hasattr(config, "vocab_size"):
        raise UserError(f"{name}: {config.model_type} is made of several models, not of text alone")
    return config


# ------------------------------------------------------------------------------- the model


def load_pretrained(
    settings: TrainSettings, vocabulary: Vocabulary, say: Callable[[str], None]
) -> Pretrained:
    """The model that `settings.init_from` names, with the embeddings of `vocabulary`.

    With `classifier head` it is a classifier; its head is kept if it has the very same labels.

    Raises:
        UserError: the model or its tokenizer cannot be loaded, weights are missing, or it
            is not a causal model with a linear head.
    """
    name, by_head = _name_of_start(settings), settings.classifier == "head"
    config = read_checkpoint_config(name, settings.classifier)
    set_dropout(config, settings)
    same_labels = by_head and name_labels(config, vocabulary)
    torch.manual_seed(settings.seed)  # for what the checkpoint lacks
    model, info = load_checkpoint(name, config, settings.classifier, torch.float32)
    missing, fresh = set(info["missing_keys"]), set[str]()
    if by_head:
        missing |= {entry[0] for entry in info["mismatched_keys"]}
        fresh = {key for key in missing if _is_of_head(model, key)}
    else:
        refuse_encoder(model, name)
        if not has_linear_head(model):
            raise UserError(
                f"{name}: {config.model_type} does more than a linear map to get its logits, "
                f"which is not supported here"
            )
    refuse_missing(missing - fresh, name)
    unused = sorted(info["unexpected_keys"])
    if unused:  # the head of another task
        say(f"{plural(len(unused), 'tensor')} of {name} not used here, the first: {unused[0]}")
    tokens, roles = tokens_of(name)
    fingerprint = _fingerprint(model, tokens, fresh)
    if by_head:
        fresh |= _prepare_head(model, settings, fresh, same_labels)
        fresh &= {key for key, _ in model.named_parameters()}  # a hidden layer replaces some
    new_ids = carry_over(model, tokens, roles, vocabulary, settings.seed, name, say)
    adopt_vocabulary(model, vocabulary)
    if by_head:
        check_padding(model.eval(), name)
        if fresh:
            say(f"fresh, since {name} does not have it: {', '.join(sorted(fresh))}")
    torch.manual_seed(settings.seed)
    return Pretrained(name, model.train(), new_ids, fingerprint, frozenset(fresh))


def load_checkpoint(
    name: str, config: Any, classifier: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a checkpoint in evaluation mode, and transformers' report of its loading.

    `config` from `read_checkpoint_config`. Of a classifier a head for other labels is drawn anew.

    Raises:
        UserError: the weights cannot be read, or are a pickle.
    """
    loaded: Any
    with (
        hub_errors(name, "model"),
        rust_errors(name, "its weights cannot be read"),
        quiet(),
    ):
        # Not by AutoModel..., which would follow an adapter to its base.
        loaded = model_class_of(config, classifier).from_pretrained(
            folder_of(name, "model"),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            generation_config=GenerationConfig(),  # others are made where they are needed
            output_loading_info=True,
            ignore_mismatched_sizes=classifier == "head",
        )
    model: PreTrainedModel
    model, info = loaded  # a pair, by output_loading_info
    return model.eval(), info


def refuse_missing(missing: Collection[str], name: str) -> None:
    """Refuse weights that lack some, by a UserError."""
    if missing:
        first, *rest = sorted(missing)
        more = f" and {plural(len(rest), 'more tensor')}" if rest else ""
        raise UserError(f"{name}: its weights lack {first}{more}")


def _is_of_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter may be missing: the head's, or an encoder's pooler."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name


def _prepare_head(
    model: PreTrainedModel, settings: TrainSettings, fresh: set[str], same_labels: bool
) -> set[str]:
    """Give a loaded model the head that the settings ask for; returns its new parameters."""
    before = {id(parameter) for parameter in model.parameters()}
    of_head = {name for name, _ in model.named_parameters() if _is_of_head(model, name)}
    of_head = {name for name in of_head if ".pooler." not in name}
    if settings.classifier_hidden is not None:
        add_hidden_layer(model, settings.classifier_hidden, settings.dropout)
        return {name for name, p in model.named_parameters() if id(p) not in before}
    if not same_labels and not of_head <= fresh:
        draw_head(model)
        return of_head
    return set()


def build_from_config(
    values: Mapping[str, Any], settings: TrainSettings, vocabulary: Vocabulary
) -> PreTrainedModel:
    """The model of a run that began from a checkpoint, by its stored configuration.

    Its weights are loaded later; dropout comes from the settings.
    """
    config = config_of(values)
    set_dropout(config, settings)
    model = model_class_of(config, settings.classifier)(config)
    if settings.classifier_hidden is not None:
        add_hidden_layer(model, settings.classifier_hidden, settings.dropout)
    adopt_vocabulary(model, vocabulary)
    torch.manual_seed(settings.seed)
    return model


@torch.inference_mode()
def refuse_encoder(model: PreTrainedModel, name: str) -> None:
    """Refuse a model whose tokens see those behind them, by a UserError."""
    ids_1xT = _some_ids(model)
    with quiet():
        all_1xTxE = model.base_model(ids_1xT, use_cache=False).last_hidden_state
        first_1xTxE = model.base_model(ids_1xT[:, :3], use_cache=False).last_hidden_state
    if not _are_close(all_1xTxE[:, :3], first_1xTxE):
        raise UserError(
            f"{name}: {model.config.model_type} reads a text from both sides (an encoder); only "
            f"causal models continue rows (for labels: --classifier head)"
        )


@torch.inference_mode()
def has_linear_head(model: PreTrainedModel) -> bool:
    """Whether the logits of a causal model are a linear map of its last hidden states."""
    head, ids_1xT = model.get_output_embeddings(), _some_ids(model)
    if head is None:
        return False
    with quiet():
        hidden_1xTxE = model.base_model(ids_1xT, use_cache=False).last_hidden_state
        logits_1xTxV = model(ids_1xT, use_cache=False).logits
    return _are_close(head(hidden_1xTxE), logits_1xTxV)


def _some_ids(model: PreTrainedModel) -> torch.Tensor:
    return torch.arange(4)[None] % model.config.vocab_size


def _are_close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two results are equal but for rounding."""
    if first.dtype == torch.float32:
        return torch.allclose(first, second, rtol=1e-3, atol=1e-4)
    difference = (first.float() - second.float()).norm()
    return bool(difference <= _HALF_PRECISION * second.float().norm())


def adopt_vocabulary(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Set the special ids of `vocabulary` in the configuration; drop settings of the old one."""
    config = model.config
    end_id = vocabulary.eos_id if vocabulary.eos_id is not None else vocabulary.pad_id
    config.bos_token_id = config.eos_token_id = end_id
    config.pad_token_id = vocabulary.pad_id
    for name in ("tokenizer_class", "task_specific_params"):
        if getattr(config, name, None) is not None:
            setattr(config, name, None)
    if model.can_generate():
        model.generation_config = GenerationConfig.from_model_config(config)
    elif getattr(config, "use_cache", False):
        config.use_cache = False  # nothing is continued
    embedding: Any = model.get_input_embeddings()
    # torch gives its row no gradient, and the old padding id may be any token now.
    embedding.padding_idx = None


def _fingerprint(model: PreTrainedModel, tokens: Sequence[str], fresh: Collection[str]) -> str:
    digest = hashlib.sha256("\n".join(tokens).encode())
    for name, tensor in model.state_dict().items():
        if name in fresh:
            continue
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
