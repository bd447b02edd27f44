"""Saves and loads the folder of a trained model, in Hugging Face format.

It is written atomically and checked when read. Plain transformers reads it as well. To use a model:
`smallgpt/engines/trained.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.files.tensors import write_tensors
from smallgpt.files.writing import atomic_folder, folder_beside, replace_files, write_json
from smallgpt.model.build import parameters_of
from smallgpt.model.config_json import config_of, model_class_of, positions_of
from smallgpt.model.head import add_hidden_layer, name_labels
from smallgpt.model.lora import Adapter, load_adapter
from smallgpt.model.own_config import ID2LABEL, read_own_config
from smallgpt.model.place import CONFIG, is_adapter_folder, refuse_pickles
from smallgpt.model.weights_file import (
    ADAPTER_WEIGHTS,
    CODEBOOK,
    LABEL_NAMES,
    MADE_BY,
    SETTINGS,
    VALIDATION,
    WEIGHTS,
    existing,
    parse_label_names,
    parse_validation,
    read_header,
    read_tensors,
)
from smallgpt.options.config_file import to_yaml
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHT_KINDS = ("F32", "F16", "BF16", "F64")


# ------------------------------------------------------------------------------- saving


def save_model_folder(
    model: PreTrainedModel,
    folder: Path,
    vocabulary: Vocabulary,
    settings: TrainSettings,
    codebook: Path | None,
    validation: dict[str, Any] | None = None,
    adapter: Adapter | None = None,
    made_by: dict[str, Any] | None = None,
) -> None:
    """Write a model folder that transformers loads, or update an existing one of the same run.

    A new folder appears whole. In an existing one weights and settings are replaced by renames, so
    that a reader never meets a half-written model. (In the settings of a resumed run only options
    may differ that do not describe the model.)

    Args:
        codebook: a codebook.npz to copy, None for rows that are no images.
        validation: measured with these weights on the validation rows, calibration included;
            written into the header of the weights' file, so that it belongs to no other weights.
        adapter: written in place of the model, whose base stays where it is.
        made_by: version, command and data, noted in a new folder for whoever finds it.
    """
    weights = WEIGHTS if adapter is None else ADAPTER_WEIGHTS
    if not folder.exists():
        with atomic_folder(folder) as new:
            if adapter is None:
                if vocabulary.labels:
                    name_labels(model.config, vocabulary)
                model.config.architectures = [type(model).__name__]
                model.config.dtype = torch.float32
                model.config.save_pretrained(new)
                if model.can_generate():
                    model.generation_config.save_pretrained(new)
            else:
                adapter.save_config(new)
            _save_weights(model, new / weights, vocabulary, validation, adapter)
            vocabulary.save_tokenizer(new, settings.max_length)
            (new / SETTINGS).write_text(to_yaml(settings), encoding="utf-8")
            if codebook is not None:
                shutil.copyfile(codebook, new / CODEBOOK)
            if made_by is not None:
                write_json(new / MADE_BY, made_by)
        return
    with folder_beside(folder) as new:
        (new / SETTINGS).write_text(to_yaml(settings), encoding="utf-8")
        _save_weights(model, new / weights, vocabulary, validation, adapter)
        replace_files(new, folder, (SETTINGS, weights))


def replace_validation(folder: Path, validation: dict[str, Any]) -> None:
    """Replace the validation figures of a model folder; its weights stay as they are."""
    name = ADAPTER_WEIGHTS if is_adapter_folder(folder) else WEIGHTS
    header, start, _ = read_header(folder / name)
    header["__metadata__"][VALIDATION] = json.dumps(validation, ensure_ascii=False)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the format aligns what follows
    with folder_beside(folder) as beside:
        with open(folder / name, "rb") as old, open(beside / name, "wb") as new:
            old.seek(start)
            new.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(old, new)
        replace_files(beside, folder, (name,))


def _save_weights(
    model: PreTrainedModel,
    path: Path,
    vocabulary: Vocabulary,
    validation: dict[str, Any] | None,
    adapter: Adapter | None,
) -> None:
    """Write the weights as save_pretrained would: fp32, a tied head left out."""
    if adapter is not None:
        state, metadata = adapter.state(), adapter.header()
        # An adapter has no config.json, and peft wants no other keys in adapter_config.json.
        metadata[LABEL_NAMES] = json.dumps(vocabulary.label_names, ensure_ascii=False)
    else:
        state, metadata = _state_of(model), {"format": "pt"}
    if validation is not None:
        metadata[VALIDATION] = json.dumps(validation, ensure_ascii=False)
    write_tensors(path, state, metadata)


def _state_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors of a model by name; tied ones once, under their first name."""
    state: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach().contiguous()
    return state


# ------------------------------------------------------------------------------- loading


def load_model(
    folder: Path, settings: TrainSettings, vocabulary: Vocabulary, device: torch.device
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a folder in evaluation mode on a device, and the figures of its weights.

    The labels of `vocabulary` get their spelling.

    Raises:
        UserError: a file is missing, damaged, or contradicts another.
    """
    if is_adapter_folder(folder):
        model, metadata = load_adapter(folder, settings, vocabulary)
        validation = parse_validation(folder / ADAPTER_WEIGHTS, metadata)
        vocabulary.spell_labels(parse_label_names(folder / ADAPTER_WEIGHTS, metadata))
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
    # transformers' wrapper of `to` hides that `model` is its first argument.
    return model.to(device).eval(), validation  # type: ignore[arg-type]


def _load_model(
    folder: Path, settings: TrainSettings, vocabulary: Vocabulary
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a folder and the figures stored with its weights.

    From config.json and safetensors alone. The header of the weights is compared with the
    configuration before memory is allocated for either. Weights and figures come from one file,
    even if training replaces it meanwhile.
    """
    path, weights = existing(folder / CONFIG), folder / WEIGHTS
    values = read_own_config(path)
    names = values.pop(ID2LABEL, None)
    vocabulary.spell_labels(names.values() if isinstance(names, dict) else ())
    refuse_pickles(folder)
    header, start, size = read_header(existing(weights))
    # A weight takes at least a byte, so a small file cannot ask for all memory.
    if values["model_type"] == "gpt2" and parameters_of(values) > size:
        raise UserError(
            f"{folder}: {CONFIG} asks for {parameters_of(values):,} parameters, {WEIGHTS} has "
            f"{size:,} bytes: they do not belong together"
        )
    try:
        config = config_of(values)
        if settings.classifier == "head":
            name_labels(config, vocabulary)

        def make() -> PreTrainedModel:
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
    state, metadata = read_tensors(weights, expected)
    for name, tensor in state.items():
        state[name] = tensor = tensor.float()
        if not tensor.isfinite().all():
            raise UserError(f"{weights}: {name} holds numbers that are not finite: damaged weights")
    if any(buffer.is_meta for buffer in model.buffers()):  # computed when made, stored nowhere
        model = make()
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model, parse_validation(weights, metadata)
