"""Models of Hugging Face as they are: causal models and classifiers that training did not write.

    found = load_hugging_face("uer/gpt2-chinese", folder, device, "auto")
    found.model, found.vocabulary, found.settings

Weights are read from safetensors alone and no code of a checkpoint is run. Special tokens, labels
and positions are the checkpoint's own; chat templates and settings of generation are not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING,
)

from smallgpt.errors import UserError
from smallgpt.files.reading import parse_json, read_text, shown
from smallgpt.model.config_json import positions_of, quiet
from smallgpt.model.hardware import Precision
from smallgpt.model.own_config import ID2LABEL, MOST_CONFIG_BYTES
from smallgpt.model.place import CONFIG
from smallgpt.model.pretrained import (
    load_checkpoint,
    read_checkpoint_config,
    refuse_encoder,
    refuse_missing,
)
from smallgpt.options.training import BEFORE_RECIPE, MOST_POSITIONS, TrainSettings
from smallgpt.rows.label_tail import TAIL_LENGTH
from smallgpt.tokens.pretrained_vocabulary import PretrainedVocabulary, SpecialIds
from smallgpt.tokens.text_tokenizer import TextTokenizer, load_pretrained_tokenizer

_GENERATION = "generation_config.json"
_OF_LABELS = "ForSequenceClassification"
_MOST_VALUES = 100_000  # of a configuration: each of up to 10,000 labels twice


@dataclass(frozen=True)
class HuggingFaceModel:
    """A checkpoint of transformers, used as it is."""

    model: PreTrainedModel  # in evaluation mode, on its device
    vocabulary: PretrainedVocabulary
    settings: TrainSettings  # what they are for a model that was not trained here
    positions: int  # most tokens of a text


def load_hugging_face(
    name: str, folder: Path, device: torch.device, precision: Precision
) -> HuggingFaceModel:
    """Load a causal model or a classifier; `name` for messages.

    A GPT-2 and classifiers keep their weights in fp32, as ours do; those of other causal models are
    kept in the precision that they compute in, half the memory and no cast in each step.

    Raises:
        UserError: another kind of model, a tokenizer or weights that cannot be read.
    """
    with _called(name, folder):
        return _load(name, folder, device, precision)


def _load(name: str, folder: Path, device: torch.device, precision: Precision) -> HuggingFaceModel:
    path = str(folder)
    values = _read_json(folder / CONFIG)
    by_head = _names_labels(path, values)
    classifier = "head" if by_head else "label_token"
    config = read_checkpoint_config(path, classifier)
    labels = _labels(path, config) if by_head else []
    if not by_head:
        _refuse_encoders(path, config)
    with quiet():
        found = load_pretrained_tokenizer(path)
    size = config.vocab_size
    vocabulary = PretrainedVocabulary(
        TextTokenizer.as_transformers_reads(found, path, closes=by_head, size=size),
        _special_ids(folder, values, found, size),
        size,
        labels,
        keeps_start=by_head and found.truncation_side == "right",
    )
    if by_head and config.pad_token_id is None:
        pads = [found.pad_token_id, found.eos_token_id, 0]
        config.pad_token_id = next(index for index in pads if index is not None)
    keeps_fp32 = by_head or isinstance(config, GPT2Config)
    dtype = torch.float32 if keeps_fp32 else precision.dtype
    model, info = load_checkpoint(path, config, classifier, dtype)
    refuse_missing({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}, path)
    if not by_head:
        refuse_encoder(model, path)
    positions = _positions(model, found.model_max_length if by_head else None)
    settings = replace(
        TrainSettings(),
        **BEFORE_RECIPE,
        data_path="",
        vocab_path="",
        output_dir="",
        init_from=name,
        preset="none",
        n_positions=positions,
        # The tail of a labelled row is ours: its model never reads it.
        max_length=positions + (TAIL_LENGTH if by_head else 0),
        classifier=classifier,
    )
    # transformers' wrapper of `to` hides that `model` is its first argument.
    model = model.to(device)  # type: ignore[arg-type]
    return HuggingFaceModel(model, vocabulary, settings, positions)


@contextmanager
def _called(name: str, folder: Path) -> Iterator[None]:
    """Let errors name a model of the hub, and not the place of its copy."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name)) from None


# ------------------------------------------------------------------------------- what it is


def _read_json(path: Path) -> dict[str, Any]:
    """What a configuration says itself, without the defaults of its kind."""
    try:
        values = parse_json(read_text(path, MOST_CONFIG_BYTES), _MOST_VALUES)
    except ValueError as error:
        raise UserError(f"{path}: not a configuration ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a configuration")
    return values


def _names_labels(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is a classifier.

    Raises:
        UserError: it is made for another task.
    """
    names = values.get("architectures") or [""]
    kind = names[0] if isinstance(names, list) and isinstance(names[0], str) else ""
    if kind.endswith(_OF_LABELS):
        return True
    if values.get("is_encoder_decoder"):
        raise _translator(name)
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    if "For" in kind and kind not in causal and not kind.endswith("ForMaskedLM"):
        raise UserError(
            f"{name}: {shown(kind)} is made for another task; models read here continue a text "
            f"(...ForCausalLM) or name its label (...{_OF_LABELS})"
        )
    return False


def _translator(name: str) -> UserError:
    return UserError(
        f"{name}: this model turns one text into another (an encoder with a decoder); models read "
        f"here continue a text or name its label"
    )


def _refuse_encoders(name: str, config: Any) -> None:
    """Refuse encoders without a head for labels, and encoders with decoders."""
    if getattr(config, "is_encoder_decoder", False):
        raise _translator(name)
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        raise UserError(
            f"{name}: {config.model_type} is an encoder without a head for labels: nothing to "
            f"predict; `--init_from {name} --classifier head` trains one"
        )


def _labels(name: str, config: Any) -> list[str]:
    """The labels of a classifier, in the order of its logits.

    Raises:
        UserError: it does not choose one of several labels.
    """
    names: dict[int, Any] = getattr(config, ID2LABEL, None) or {}
    if config.problem_type not in (None, "single_label_classification") or len(names) < 2:
        kind = config.problem_type or "a single label"
        raise UserError(
            f"{name}: its head does not choose one of several labels ({shown(kind)}), as "
            f"classifiers here do"
        )
    if sorted(names) != list(range(len(names))):
        raise UserError(f"{name}: {ID2LABEL} in its {CONFIG} does not number the labels from 0")
    return [str(names[index]) for index in range(len(names))]


def _positions(model: PreTrainedModel, of_tokenizer: int | None) -> int:
    """Most tokens of a text; `of_tokenizer`: the length that a classifier was trained for."""
    positions = positions_of(model.config)
    modules: Any = model.modules()
    if positions is not None and any(
        hasattr(module, "create_position_ids_from_input_ids") for module in modules
    ):
        positions -= model.config.pad_token_id + 1  # a RoBERTa numbers its places from there
    known = (positions, of_tokenizer, MOST_POSITIONS)
    return min(each for each in known if each is not None)


# ------------------------------------------------------------------------------- special tokens


def _special_ids(folder: Path, values: Mapping[str, Any], tokenizer: Any, size: int) -> SpecialIds:
    """What ids of the tokenizer mean; ids that the model does not have mean nothing."""

    def known(*ids: Any) -> list[int]:
        return [index for index in ids if type(index) is int and 0 <= index < size]

    # BERT's tokenizers end a text with [SEP].
    ends = known(tokenizer.eos_token_id) or known(tokenizer.sep_token_id)
    told: Any = values.get("eos_token_id")
    if (folder / _GENERATION).is_file():
        told = _read_json(folder / _GENERATION).get("eos_token_id", told)
    stops = frozenset([*ends, *known(*(told if isinstance(told, list) else [told]))])
    # A base model often pads with its mark of an end, which is then no padding to us.
    free = {each: known(getattr(tokenizer, each)) for each in ("pad_token_id", "unk_token_id")}
    first = {each: ids[0] for each, ids in free.items() if ids and ids[0] not in stops}
    eos_id = next(iter(ends), None)
    if eos_id is None and len(stops) == 1:
        (eos_id,) = stops
    bos = tokenizer.bos_token_id
    pad_id = first.get("pad_token_id")
    return SpecialIds(pad_id if pad_id != bos else None, first.get("unk_token_id"), eos_id, stops)
