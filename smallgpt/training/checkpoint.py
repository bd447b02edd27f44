"""Checkpoints: the complete state of a run, as safetensors and JSON.

    checkpoints/step_00000720/
      model.safetensors      weights (fp32)
      training.safetensors   optimizer state, random generators, results of the validation rows
      state.json             position, settings, fingerprints of the data, checksums

A checkpoint appears whole or not at all; the newest one with correct checksums is used. Its name is
the step, then `_evaluated` after the evaluation of that step and `_finished` at the end of the run.
So no position is saved twice and no checkpoint replaced: an old one is deleted only when a newer
one is durable. It stores the number of rows of metrics.jsonl, since the step does not tell whether
the row of its evaluation was written before or after it. Parameters that are not trained (a frozen
backbone, the base of an adapter) are not stored but read again, and must have the same fingerprint.
Resuming replays nothing: the order of rows follows from seed and epoch alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from smallgpt.errors import UserError
from smallgpt.files.tensors import write_tensors
from smallgpt.files.writing import (
    atomic_folder,
    naming_file,
    remove,
    remove_leftovers,
)
from smallgpt.model.hardware import random_states, set_random_states
from smallgpt.training.loop_state import LoopState
from smallgpt.training.optimizers import parameters_of
from smallgpt.training.run import Run
from smallgpt.training.run_folder import CHECKPOINT_NAME
from smallgpt.training.update import Updater

TRAINED_LENGTH = "trained_length"  # of `Run`; in `config`, beside the model's own

_MODEL, _TRAINING, _STATE = "model.safetensors", "training.safetensors", "state.json"
_EVALUATED = "evaluated"  # where tensors in _TRAINING belong to
_FORMAT = 4  # of state.json
_LARGEST_STATE = 2**27  # bytes: the labels of a head stand in it, as in a config.json


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, without its tensors.

    `belongs_to` are fingerprints of the data, `computed_by` is `Run.way_of_computing`, `config`
    that of the model with `TRAINED_LENGTH`, `passed_over` messages on newer, damaged ones.
    """

    path: Path
    loop: LoopState
    settings: dict[str, Any]
    belongs_to: dict[str, Any]
    computed_by: dict[str, Any]
    config: dict[str, Any]
    passed_over: tuple[str, ...] = ()


class Checkpoints:
    """Saves a run after so many updates, after so many minutes, or on request."""

    def __init__(self, run: Run, updater: Updater, resumed: Checkpoint | None = None):
        """`updater` holds figures that the state needs before saving; `resumed` None: a new run."""
        self._run, self._updater = run, updater
        self._saved = resumed.loop.position if resumed else None  # of the last checkpoint
        self._saved_at = time.monotonic()

    @property
    def last_step(self) -> int | None:
        """Step of the last checkpoint; None before the first."""
        return self._saved and self._saved[0]

    def save_if_due(self) -> None:
        """Save after `checkpoint_steps` updates, and after `checkpoint_minutes`."""
        settings = self._run.settings
        steps, minutes = settings.checkpoint_steps, settings.checkpoint_minutes
        by_steps = steps > 0 and self._run.state.step % steps == 0
        if by_steps or (minutes > 0 and time.monotonic() - self._saved_at > 60 * minutes):
            self.save()
            self._saved_at = time.monotonic()

    def save(self) -> None:
        """Save a checkpoint, unless this position is saved already.

        Raises:
            UserError: an update was not finite, and `on_nonfinite` says to stop.
            OSError: the disk is full or failed.
        """
        run = self._run
        self._updater.collect_figures()
        if run.state.position == self._saved:
            return
        run.log.sync()  # the rows that the checkpoint counts
        config = json.loads(run.model.config.to_json_string())
        save_checkpoint(
            run.folder.checkpoints,
            run.model,
            run.optimizers,
            run.scaler,
            run.state,
            {
                "settings": asdict(run.settings),
                "belongs_to": run.belongs_to,
                "computed_by": run.way_of_computing(),
                "config": config | {TRAINED_LENGTH: run.trained_length},
            },
            keep=run.settings.keep_checkpoints,
            evaluated=run.cross_fit.state(),
        )
        self._saved = run.state.position


def save_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
    loop: LoopState,
    about: Mapping[str, dict[str, Any]],
    keep: int,
    evaluated: Mapping[str, torch.Tensor],
) -> Path:
    """Write a checkpoint and delete all but the newest `keep`, at least 1.

    Stores trained parameters only; each belongs to exactly one optimizer. `about`: `settings`,
    `belongs_to`, `computed_by` and `config` of `Checkpoint`. `evaluated`: `CrossFit.state`.

    Raises:
        OSError: the disk is full or failed; the checkpoints that were there still are.
    """
    target = folder / loop.checkpoint_name
    remove_leftovers(folder, CHECKPOINT_NAME)
    # One that is here already did not verify when the run went on, or it would have been used.
    remove(target)
    with atomic_folder(target) as new:
        weights = {n: p.detach().cpu().contiguous() for n, p in _stored(model).items()}
        write_tensors(new / _MODEL, weights)
        training = _training_tensors(model, optimizers)
        training |= {f"{_EVALUATED}/{name}": tensor for name, tensor in evaluated.items()}
        write_tensors(new / _TRAINING, training)
        document = {"format": _FORMAT, "loop": asdict(loop), "scaler": scaler.state_dict(), **about}
        document["sha256"] = {
            _MODEL: sha256_of(new / _MODEL),
            _TRAINING: sha256_of(new / _TRAINING),
            _STATE: _sha256_of_json(document),
        }
        text = json.dumps(document, indent=2, ensure_ascii=False)
        with naming_file(new / _STATE):
            (new / _STATE).write_text(text + "\n", encoding="utf-8")
    others = [path for path in _checkpoints(folder) if path != target]
    older = [path for path in others if path.name < target.name]
    for path in {*others} - {*older[: keep - 1]}:  # newer ones: damaged, see above
        remove(path)
    return target


def find_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint; None without any.

    Raises:
        UserError: all are damaged, or another version wrote the newest whole one.
    """
    reasons: list[str] = []
    for path in _checkpoints(folder):
        try:
            return replace(_read(path), passed_over=tuple(reasons))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reasons.append(f"{path} is damaged ({error})")
    if reasons:
        raise UserError(
            f"{reasons[0]}, and so are all checkpoints of the run: put one back, start again with "
            f"--overwrite, or choose another --output_dir"
        )
    return None


def _read(path: Path) -> Checkpoint:
    """Read and verify all but the tensors; `find_checkpoint` catches what damage raises."""
    for name in (_STATE, _MODEL, _TRAINING):
        if not (path / name).is_file():  # a pipe would be read for ever
            raise ValueError(f"{name} is missing")
    if (path / _STATE).stat().st_size > _LARGEST_STATE:
        raise ValueError(f"{_STATE} is too large")
    document = json.loads((path / _STATE).read_text(encoding="utf-8"))
    written_as = document["format"]
    if type(written_as) is not int:
        raise ValueError(f"{_STATE} has other things than expected")
    if written_as != _FORMAT:
        # Not passed over like a damaged one: going on from the one before would delete it.
        which = "a newer" if written_as > _FORMAT else "an older"
        raise UserError(
            f"{path}: {which} version of this toolkit wrote this checkpoint, and only that version "
            f"can go on from it; start again with --overwrite, or choose another --output_dir"
        )
    expected = document.pop("sha256")
    if _sha256_of_json(document) != expected[_STATE]:
        raise ValueError(f"{_STATE} does not match its checksum")
    for name in (_MODEL, _TRAINING):
        if sha256_of(path / name) != expected[name]:
            raise ValueError(f"{name} does not match its checksum")
    about = {name: document[name] for name in ("settings", "belongs_to", "computed_by", "config")}
    if not all(isinstance(values, dict) for values in about.values()):
        raise ValueError(f"{_STATE} has other things than expected")
    return Checkpoint(path, LoopState.from_json(document["loop"]), **about)


def load_checkpoint(
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
    belongs_to: dict[str, str],
) -> dict[str, torch.Tensor]:
    """Restore weights, optimizers, loss scaler and random generators.

    Returns:
        The stored `CrossFit.state`; checkpoints of older versions have none.

    Raises:
        UserError: it was made with other data, or its tensors do not fit this model.
    """
    path = checkpoint.path
    check_belongs(checkpoint, belongs_to)
    try:
        weights, training = load_file(path / _MODEL), load_file(path / _TRAINING)
        parameters = _stored(model)
        if {n: t.shape for n, t in weights.items()} != {n: p.shape for n, p in parameters.items()}:
            raise UserError(f"{path}: the checkpoint belongs to a model of another shape")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        owner = {parameter: optimizer for optimizer, parameter in parameters_of(optimizers)}
        for place, tensor in training.items():
            name, key = place.rsplit("/", 1)
            if name in ("random", _EVALUATED):
                continue
            parameter = parameters[name]
            if tensor.shape not in (parameter.shape, torch.Size()):
                raise ValueError(f"{place} has the shape {tuple(tensor.shape)}")
            # On a GPU the fused kernel keeps its step count there too. A copy, since what is read
            # is the file itself, whose space a deleted checkpoint could not give back.
            owner[parameter].state[parameter][key] = tensor.to(parameter.device, copy=True)
        random = {
            place.split("/")[1]: state
            for place, state in training.items()
            if place.startswith("random/")
        }
        set_random_states(random, next(model.parameters()).device)
        scaler_state = json.loads((path / _STATE).read_text(encoding="utf-8"))["scaler"]
        if scaler_state:
            scaler.load_state_dict(scaler_state)
        return {
            place.split("/")[1]: tensor
            for place, tensor in training.items()
            if place.startswith(f"{_EVALUATED}/")
        }
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{path}: not a checkpoint of this run ({error}); delete it to go on from another"
        ) from None


def check_belongs(checkpoint: Checkpoint, belongs_to: Mapping[str, str]) -> None:
    """Raise UserError if a checkpoint was made with other data than that of `belongs_to`."""
    changed = differences(checkpoint.belongs_to, belongs_to)
    if changed:
        raise UserError(
            f"--resume: {'; '.join(changed)}, since {checkpoint.path} was saved; put the old back, "
            f"or start a new run in another --output_dir"
        )


def evaluated_rows(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """The stored results of the validation rows, of `CrossFit.state`, by name."""
    with safe_open(checkpoint.path / _TRAINING, "numpy") as tensors:
        return {
            place.split("/")[1]: tensors.get_tensor(place)
            for place in tensors.keys()  # noqa: SIM118 (it is no dictionary)
            if place.startswith(f"{_EVALUATED}/")
        }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each changed value, in words: `threads was 1, is 2`."""
    return [
        f"{name} was {before.get(name, 'not stored')}, is {value}"
        for name, value in now.items()
        if before.get(name) != value
    ]


# ------------------------------------------------------------------------------- tensors, files


def _stored(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trained parameters by name, which are those in a checkpoint."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _training_tensors(
    model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    states = random_states(next(model.parameters()).device)
    tensors = {f"random/{name}": state for name, state in states.items()}
    owner = {parameter: optimizer for optimizer, parameter in parameters_of(optimizers)}
    for name, parameter in model.named_parameters():
        if parameter not in owner:
            continue
        for key, value in owner[parameter].state[parameter].items():
            tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
    return tensors


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, the newest first."""
    found = [path for path in folder.glob("step_*") if CHECKPOINT_NAME.fullmatch(path.name)]
    return sorted(found, reverse=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
