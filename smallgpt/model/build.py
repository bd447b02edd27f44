"""Builds the model of a run: from scratch, pretrained, or with adapters."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, PreTrainedModel

from smallgpt.errors import UserError
from smallgpt.model.config_json import model_class_of
from smallgpt.model.forward import recompute_blocks
from smallgpt.model.head import add_hidden_layer, freeze_backbone, name_labels
from smallgpt.model.lora import Adapter, add_adapter
from smallgpt.model.pretrained import build_from_config, load_pretrained
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.vocabulary import Vocabulary


def build_model(
    settings: TrainSettings,
    vocabulary: Vocabulary,
    embeddings: Mapping[str, np.ndarray] | None = None,
) -> PreTrainedModel:
    """A GPT-2 with random weights from `settings.seed`; its head predicts tokens or labels.

    `embeddings` (token -> n_embd numbers of standard deviation 1) initialize tokens of which
    something is known before training: the codes of a codebook.
    """
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
        # GPT-2's own gelu_new approximates it and takes four times as long on a CPU.
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
        embedding: Any = model.get_input_embeddings()
        with torch.no_grad():
            embedding.weight[list(known)] = vectors * config.initializer_range
    return model


def parameters_of(values: Mapping[str, Any]) -> int:
    """Parameters of a GPT-2 with these configuration values."""
    width = values["n_embd"]
    inner = values.get("n_inner") or 4 * width
    # Two norms, two linear maps of attention, two of the MLP, each with its bias.
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
    """What a run begins with."""

    model: PreTrainedModel
    adapter: Adapter | None  # what of the model is trained; None where all of it is
    belongs_to: dict[str, str]  # what a checkpoint of the run depends on: name -> fingerprint


def starting_model(
    settings: TrainSettings,
    vocabulary: Vocabulary,
    embeddings: Callable[[], Mapping[str, np.ndarray]],
    stored_config: Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> StartingModel:
    """The model of a run, by its settings: from scratch, pretrained, or with adapters.

    With `init_from` the settings have the shape of the checkpoint already. `embeddings` is called
    only for a model from scratch. `stored_config` is the configuration in a checkpoint of the run,
    whose weights are loaded later, so that the pretrained model is not needed any more.

    Raises:
        UserError: a pretrained model cannot be loaded.
    """
    adapter, belongs_to = None, {}
    if settings.init_from is None:
        model = build_model(settings, vocabulary, embeddings())
    elif stored_config is not None and not (settings.lora_rank or settings.freeze_backbone):
        model = build_from_config(stored_config, settings, vocabulary)
    else:
        start = load_pretrained(settings, vocabulary, say)
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


def count_parameters(model: PreTrainedModel) -> int:
    """Parameters of a model, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
