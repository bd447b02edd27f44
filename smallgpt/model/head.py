"""Classification head: its labels, a hidden layer, and training it with a frozen backbone.

    name_labels(config, vocabulary)              # before a model is made of it
    model = GPT2ForSequenceClassification(config)
    add_hidden_layer(model, 192, dropout=0.1)    # Linear, GELU, Dropout, Linear

transformers' own models for sequence classification are used as they are, so plain transformers
loads what is saved (`AutoModelForSequenceClassification`, `id2label` are the labels). It knows no
hidden layer: of a model with one it loads the backbone only; `load_trained_model` loads all.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from smallgpt.errors import UserError
from smallgpt.tokens.labels import label_text
from smallgpt.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HEAD_NAMES = ("score", "classifier")  # transformers' own, of causal models and of encoders


def is_classifier(model: PreTrainedModel) -> bool:
    """Whether a model has a classification head and predicts no tokens."""
    known = type(model.config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    return known and type(model) is classifier_class_of(model.config)


def classifier_class_of(config: Any) -> type[PreTrainedModel]:
    """The class of the sequence classification model of a configuration.

    Raises:
        ValueError: there is none.
    """
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ValueError(f"{config.model_type} has no head for labels")
    # Annotated as a pair of classes, which only the mapping of tokenizers has.
    found: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    return found


def name_labels(config: Any, vocabulary: Vocabulary) -> bool:
    """Set the labels of `vocabulary` in a configuration; returns whether it had them already."""
    names = dict(enumerate(vocabulary.label_names))
    had = [config.id2label[index] for index in sorted(config.id2label)]
    had_them = [_in_token(name) for name in had] == vocabulary.labels
    config.id2label = names  # sets num_labels
    config.label2id = {name: index for index, name in names.items()}
    if getattr(config, "problem_type", None) is not None:
        config.problem_type = "single_label_classification"
    return had_them


def _in_token(name: Any) -> str | None:
    """A label as in its token; None for what can be no label."""
    try:
        return label_text(name)
    except ValueError:
        return None


def head_name(model: PreTrainedModel) -> str:
    """The attribute of a model that holds its head.

    Raises:
        UserError: a head of another kind than those known here.
    """
    for name in _HEAD_NAMES:
        if isinstance(getattr(model, name, None), nn.Module):
            return name
    raise UserError(f"a {model.config.model_type} model has a head of a kind unknown here")


def is_plain(model: PreTrainedModel) -> bool:
    """Whether the head is a linear map, or ours with a hidden layer, and only it is trained."""
    head = getattr(model, head_name(model))
    in_head = {id(parameter) for parameter in head.parameters()}
    return isinstance(head, (nn.Linear, nn.Sequential)) and all(
        id(parameter) in in_head for parameter in model.parameters() if parameter.requires_grad
    )


def add_hidden_layer(model: PreTrainedModel, width: int, dropout: float) -> None:
    """Replace a linear head by Linear, GELU, Dropout, Linear.

    Raises:
        UserError: the head is more than one linear map.
    """
    name = head_name(model)
    linear = getattr(model, name)
    if not isinstance(linear, nn.Linear):
        raise UserError(
            f"classifier_hidden: the head of a {model.config.model_type} model has a hidden layer "
            f"already; leave it out"
        )
    layers = nn.Sequential(
        nn.Linear(linear.in_features, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, linear.out_features),
    )
    setattr(model, name, layers)
    draw_head(model)


def draw_head(model: PreTrainedModel) -> None:
    """Initialize the weights of the head anew, from torch's random generator."""
    spread = getattr(model.config, "initializer_range", 0.02)
    for module in getattr(model, head_name(model)).modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=spread)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def freeze_backbone(model: PreTrainedModel, fresh: Collection[str]) -> None:
    """Train only the head and the parameters named in `fresh`.

    Those are what the checkpoint lacked, such as an encoder's pooler: nobody has trained them yet.
    """
    backbone = {id(parameter) for parameter in model.base_model.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) in backbone and name not in fresh:
            parameter.requires_grad_(False)


@torch.inference_mode()
def check_padding(model: PreTrainedModel, name: str) -> None:
    """Check that padding behind a row does not change its result; the model is in evaluation mode.

    Raises:
        UserError: it does.
    """
    refused = (
        f"{name}: a {model.config.model_type} model takes padding into its positions, which is "
        f"not supported here"
    )
    if any(hasattr(module, "create_position_ids_from_input_ids") for module in model.modules()):
        raise UserError(refused)
    pad_id = model.config.pad_token_id
    ids_1xT = torch.tensor([[index for index in range(5) if index != pad_id][:4]])
    ids_1xT %= model.config.vocab_size
    ids_1xT[ids_1xT == pad_id] += 1
    alone_1xL = model(ids_1xT[:, :2], attention_mask=torch.ones(1, 2, dtype=torch.long)).logits
    padded_2xT, mask_2xT = ids_1xT.repeat(2, 1), torch.ones(2, 4, dtype=torch.long)
    padded_2xT[0, 2:], mask_2xT[0, 2:] = pad_id, 0
    if not torch.allclose(
        alone_1xL, model(padded_2xT, attention_mask=mask_2xT).logits[:1], rtol=1e-3, atol=1e-4
    ):
        raise UserError(refused)
