"""Low-rank adapters (LoRA, Hu et al., 2021): fine-tune a large model through few parameters.

    adapter = add_adapter(start, settings, print)     # start.model now trains few parameters
    plain = adapter.merged()                          # a model without adapters, same logits
    model, header = load_adapter(folder, settings, vocabulary)

Needs the extra `lora` (the peft library).
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from smallgpt.distribution import install_extra
from smallgpt.errors import UserError
from smallgpt.files.reading import open_input
from smallgpt.model.pretrained import Pretrained, load_pretrained
from smallgpt.model.weights_file import ADAPTER_WEIGHTS, read_tensors
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BASE = "base_sha256"  # key in the header of ADAPTER_WEIGHTS


def require_peft() -> None:
    """Check early that the library is there.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"LoRA needs the peft library: {install_extra('lora')}")


@dataclass(frozen=True)
class Adapter:
    """The trained part of a model."""

    peft_model: Any  # peft's wrapper of the model; the model itself computes with the adapter
    base_fingerprint: str  # of the checkpoint that it was made for

    def save_config(self, folder: Path) -> None:
        """Write adapter_config.json."""
        self.peft_model.peft_config["default"].save_pretrained(folder)

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors of adapter_model.safetensors, as peft names them."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.peft_model, save_embedding_layers=False)
        return {name: tensor.detach().contiguous() for name, tensor in state.items()}

    def header(self) -> dict[str, str]:
        """The header of adapter_model.safetensors."""
        return {"format": "pt", _BASE: self.base_fingerprint}

    def merged(self) -> PreTrainedModel:
        """A copy of the model with the adapter merged into its weights."""
        return _merge(copy.deepcopy(self.peft_model))


def add_adapter(start: Pretrained, settings: TrainSettings, say: Callable[[str], None]) -> Adapter:
    """Put adapters on the linear maps of a model's blocks, and train the embeddings of new tokens.

    Everything else of the model gets no gradient from now on. `say` prints a line.

    Raises:
        UserError: peft is missing.
    """
    require_peft()
    from peft import LoraConfig, get_peft_model

    model, new_ids = start.model, start.new_ids
    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    input_map, head = model.get_input_embeddings(), model.get_output_embeddings()
    linear = {module for module in names if isinstance(module, torch.nn.Linear | Conv1D)} - {head}
    targets = sorted({names[module] for module in linear})
    trained_rows = None
    if new_ids:
        trained_rows = {names[input_map]: new_ids}
        if head.weight is not input_map.weight:
            trained_rows[names[head]] = new_ids
    config = LoraConfig(
        r=settings.lora_rank,
        # peft divides it by the rank, whole or not.
        lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,  # type: ignore[arg-type]
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear),
        trainable_token_indices=trained_rows,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(settings.seed)
    with warnings.catch_warnings():  # peft uses a deprecated name of transformers
        warnings.simplefilter("ignore", FutureWarning)
        peft_model = get_peft_model(model, config)
    config.base_model_name_or_path = found_from_anywhere(start.name)  # peft sets another
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    rows = f" and the embeddings of {len(new_ids):,} new tokens" if new_ids else ""
    say(
        f"LoRA: rank {config.r}, alpha {config.lora_alpha:g}, on "
        f"{', '.join(targets)}{rows}: {trained:,} of {everything:,} "
        f"parameters are trained"
    )
    return Adapter(peft_model, start.fingerprint)


def load_adapter(
    folder: Path, settings: TrainSettings, vocabulary: Vocabulary
) -> tuple[PreTrainedModel, dict[str, str]]:
    """The model of an adapter's folder, merged with its base, and the header of the adapter's file.

    Merged, so that nothing after loading needs to know of adapters. `settings.init_from` names the
    base.

    Raises:
        UserError: the base is gone or another one, the files are damaged, or peft is missing.
    """
    weights = folder / ADAPTER_WEIGHTS
    if not weights.exists():
        raise UserError(f"{weights}: missing; this is not an adapter that training wrote")
    with open_input(weights):  # refuses a pipe, which would be read for ever
        pass
    state, header = read_tensors(weights)
    if not settings.init_from or not settings.lora_rank:
        raise UserError(f"{folder}: settings.yaml names no base model (init_from) and lora_rank")
    try:
        start = load_pretrained(settings, vocabulary, lambda line: None)
    except UserError as error:
        raise UserError(
            f"{folder} is an adapter and its base cannot be loaded: {error}; put it back, or "
            f"correct init_from in {folder / 'settings.yaml'}"
        ) from None
    if start.fingerprint != header.get(_BASE):
        raise UserError(
            f"{folder} is an adapter of {settings.init_from}, which has changed since: put the "
            f"old one back, or train again"
        )
    adapter = add_adapter(start, settings, lambda line: None)
    expected = adapter.state()
    for name in sorted(expected.keys() | state.keys()):
        if name not in state or name not in expected or state[name].shape != expected[name].shape:
            raise UserError(
                f"{folder}: {ADAPTER_WEIGHTS} does not fit settings.yaml: {name} is "
                f"{tuple(state[name].shape) if name in state else 'missing'}, expected "
                f"{tuple(expected[name].shape) if name in expected else 'no such tensor'}"
            )
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(adapter.peft_model, state)
    return _merge(adapter.peft_model), header


def found_from_anywhere(base: str) -> str:
    """A base model's name that is valid in every working directory."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def _merge(peft_model: Any) -> PreTrainedModel:
    model = peft_model.merge_and_unload()
    # Undo what peft froze.
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
