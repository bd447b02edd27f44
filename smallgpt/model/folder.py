"""Saves and loads the folder of a trained model, in Hugging Face format.

    trained = load_trained_model("outputs/best_model")
    logits_BxTxV = trained.model(ids_BxT).logits

It is written atomically and checked when read. Plain transformers reads it as well.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from smallgpt.errors import SettingsError, UserError
from smallgpt.files.reading import shown
from smallgpt.files.tensors import write_tensors
from smallgpt.files.writing import atomic_folder, folder_beside, replace_files, write_json
from smallgpt.model.build import parameters_of
from smallgpt.model.config_json import (
    ID2LABEL,
    config_of,
    model_class_of,
    positions_of,
    read_own_config,
)
from smallgpt.model.forward import Forward
from smallgpt.model.hardware import Precision, choose_device, choose_precision
from smallgpt.model.head import add_hidden_layer, name_labels
from smallgpt.model.lora import Adapter, load_adapter
from smallgpt.model.place import CONFIG, check_model_folder, is_adapter_folder, refuse_pickles
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
from smallgpt.options.option import AUTO
from smallgpt.options.reader import load_settings
from smallgpt.options.training import BEFORE_RECIPE, TrainSettings
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


@dataclass(frozen=True)
class TrainedModel:
    """A model folder in memory, ready to use."""

    model: PreTrainedModel  # in evaluation mode on `device`; an adapter is merged into its base
    vocabulary: Vocabulary
    settings: TrainSettings
    device: torch.device
    precision: Precision
    codebook: Path | None  # None for rows that are no images
    folder: Path
    validation: dict[str, Any]  # figures on the validation rows; {} if training stored none
    # How many training rows began with each token, the most frequent first; {} if none is stored.
    first_tokens: dict[str, int] = field(default_factory=dict)
    learned_unknown: bool = False  # whether training rows had <UNK>, or token dropout made it

    @property
    def temperature(self) -> float:
        """Temperature of the calibrated confidence; 1 (none) if it was never calibrated."""
        return self.validation.get("calibration", {}).get("temperature", 1.0)

    @cached_property
    def forward(self) -> Forward:
        """Its forward pass, with the weights that the model has when it is first used."""
        return Forward(self.model, self.precision, fixed=True)

    @property
    def label_names(self) -> list[str]:
        """The labels as the training rows spelled them, parallel to `vocabulary.labels`."""
        return self.vocabulary.label_names

    @property
    def max_length(self) -> int:
        """The longest row it was trained for; evaluation and generation keep to it."""
        return self.settings.max_length

    @property
    def is_classifier(self) -> bool:
        """Whether it has a classification head and predicts no tokens."""
        return self.settings.classifier == "head"

    @property
    def is_instructed(self) -> bool:
        """Whether it answers instructions in their prompt template."""
        return self.settings.task == "instruct" and self.vocabulary.tokenizer is not None


def load_trained_model(
    model_path: str | Path,
    device: str = "auto",
    precision: str = "auto",
    vocab_path: str | Path | None = None,
) -> TrainedModel:
    """Load a model folder that training wrote.

    `device` and `precision` "auto" take the best there is; `vocab_path` must equal the model's own.

    Raises:
        UserError: the folder or a file of it is missing, damaged, or contradicts another.
    """
    folder = Path(model_path)
    check_model_folder(folder)
    is_adapter = is_adapter_folder(folder)
    vocabulary = Vocabulary.load(existing(folder / "vocab.json"))
    settings = stored_settings(folder)
    if is_adapter:
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
    if vocab_path is not None and Vocabulary.load(vocab_path) != vocabulary:
        raise UserError(
            f"{vocab_path}: not the vocabulary that {model_path} was trained with; leave "
            f"--vocab_path out, the model folder holds its own"
        )
    codebook_path = folder / CODEBOOK
    target = choose_device(device)
    return TrainedModel(
        # transformers' wrapper of `to` hides that `model` is its first argument.
        model=model.to(target).eval(),  # type: ignore[arg-type]
        vocabulary=vocabulary,
        settings=settings,
        device=target,
        precision=choose_precision(precision, target),
        codebook=codebook_path if codebook_path.exists() else None,
        folder=folder,
        # No figure, and stored among them since it belongs to the same weights.
        first_tokens=validation.pop("first_tokens", {}),
        validation=validation,
        learned_unknown=settings.unknown_token == "unk"
        # A frozen backbone reads its rows whole.
        or (settings.resolved_token_dropout() > 0 and not settings.freeze_backbone),
    )


def stored_settings(folder: Path) -> TrainSettings:
    """The settings in a model folder.

    Raises:
        UserError: none, or not such that training wrote.
    """
    try:
        settings = load_settings(TrainSettings, existing(folder / SETTINGS))
    except SettingsError as error:  # not a wrong flag: the exit code is that of a bad model
        raise UserError(
            f"{folder / SETTINGS}: not the settings that training wrote\n{error.mistakes[0]}"
        ) from None
    # What the recipe chose stands there; an option that is missing had an older version's default.
    missing = {k: v for k, v in BEFORE_RECIPE.items() if getattr(settings, k) == AUTO}
    return replace(settings, **missing)


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
