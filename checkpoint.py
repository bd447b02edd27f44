"""Checkpoints: everything a run needs to go on, as safetensors and JSON.

    checkpoints/step_00000720/
      model.safetensors      weights (fp32)
      training.safetensors   optimizer state and random generators
      state.json             position in the run, what it belongs to, checksums

A checkpoint appears whole or not at all. The newest one whose checksums hold is used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from console import UserError
from run_folder import atomic_folder, remove_leftovers

_MODEL, _TRAINING, _STATE = "model.safetensors", "training.safetensors", "state.json"


def save_checkpoint(
    folder: Path,
    step: int,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of `step` and delete all but the newest `keep`.

    Args:
        folder: the run's `checkpoints` folder.
        step: updates done so far; names the checkpoint.
        model: its parameters are stored; of one with adapters, those that are trained.
        optimizers: each parameter belongs to exactly one of them.
        scaler: the loss scaler of fp16 (a disabled one stores nothing).
        state: JSON values that the training loop wants back.
        keep: how many checkpoints stay, at least 1.
    """
    from safetensors.torch import save_file

    target = folder / f"step_{step:08d}"
    remove_leftovers(folder)
    if target.exists():
        shutil.rmtree(target)
    with atomic_folder(target) as new:
        weights = {n: p.detach().cpu().contiguous() for n, p in _stored(model).items()}
        save_file(weights, new / _MODEL)
        save_file(_training_tensors(model, optimizers), new / _TRAINING)
        document = {
            "loop": state,
            "scaler": scaler.state_dict(),
            "sha256": {name: _sha256(new / name) for name in (_MODEL, _TRAINING)},
        }
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        (new / _STATE).write_text(text + "\n", encoding="utf-8")
    for old in _checkpoints(folder)[keep:]:
        shutil.rmtree(old)
    return target


def find_checkpoint(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict] | None:
    """The newest whole checkpoint and the `state` it was saved with; None where there is none.

    A damaged one is passed over and told through `say`.
    """
    for path in _checkpoints(folder):
        try:
            document = json.loads((path / _STATE).read_text(encoding="utf-8"))
            for name, expected in document["sha256"].items():
                if _sha256(path / name) != expected:
                    raise ValueError(f"{name} does not match its checksum")
            return path, document["loop"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"warning: {path} is damaged ({error}); trying the one before it")
    return None


def load_checkpoint(
    path: Path,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
) -> None:
    """Put weights, optimizer, loss scaler and random generators back as they were.

    Raises:
        UserError: the checkpoint's tensors do not fit this model.
    """
    from safetensors.torch import load_file

    weights, training = load_file(path / _MODEL), load_file(path / _TRAINING)
    parameters = _stored(model)
    if {n: t.shape for n, t in weights.items()} != {n: p.shape for n, p in parameters.items()}:
        raise UserError(f"{path}: the checkpoint belongs to a model of another shape")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    states = {key: tensor for key, tensor in training.items() if not key.startswith("random/")}
    owner = _owners(optimizers)
    for place, tensor in states.items():
        name, key = place.rsplit("/", 1)
        # On a GPU the fused kernel keeps its step count there too.
        owner[parameters[name]].state[parameters[name]][key] = tensor.to(parameters[name].device)
    torch.set_rng_state(training["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in training:
        torch.cuda.set_rng_state(training["random/cuda"])
    scaler_state = json.loads((path / _STATE).read_text(encoding="utf-8"))["scaler"]
    if scaler_state:
        scaler.load_state_dict(scaler_state)


def _stored(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that a checkpoint holds, by name: the base of an adapter is read again."""
    parameters = dict(model.named_parameters())
    if any(".lora_A." in name for name in parameters):
        return {name: p for name, p in parameters.items() if p.requires_grad}
    return parameters


def _owners(
    optimizers: Sequence[torch.optim.Optimizer],
) -> dict[torch.Tensor, torch.optim.Optimizer]:
    """The optimizer of each parameter."""
    return {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def _training_tensors(
    model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    tensors = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    owner = _owners(optimizers)
    for name, parameter in model.named_parameters():
        if parameter not in owner:
            continue
        for key, value in owner[parameter].state[parameter].items():
            tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
    return tensors


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, the newest first."""
    return sorted(folder.glob("step_*"), reverse=True) if folder.is_dir() else []


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
