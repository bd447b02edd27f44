"""Checkpoints: everything a run needs to go on, as safetensors and JSON.

    checkpoints/step_00000720/
      model.safetensors      weights (fp32)
      training.safetensors   optimizer state and random generators
      state.json             position in the run, settings, what it belongs to, checksums

A checkpoint appears whole or not at all. The newest one whose checksums hold is used. Its name is
the step; `_evaluated` follows where the evaluation after that step is done, `_finished` where the
run is.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from console import SettingsError, UserError
from model import random_states, set_random_states
from run_folder import (
    CHECKPOINT_NAME,
    RunFolder,
    atomic_folder,
    naming_file,
    remove,
    remove_leftovers,
    write_tensors,
)
from settings import SHAPE, TrainSettings

if TYPE_CHECKING:
    from dataset import TokenLabelDataset
    from vocabulary import Vocabulary

_MODEL, _TRAINING, _STATE = "model.safetensors", "training.safetensors", "state.json"
_FORMAT = 4  # of state.json
_LARGEST_STATE = 2**27  # bytes: the labels of a head stand in it, as in a config.json
_DIGITS = 16  # of a digest that a person compares

# Options that may differ when a run goes on: what its result depends on, what only its files do,
# and what is compared as resolved (`way_of_computing`) or belongs to the call.
_CHANGES_THE_RESULT = {"num_epochs", "early_stopping_patience", "on_nonfinite"}
_CHANGES_ITS_FILES = {
    "gradient_checkpointing",  # the same bits from less memory
    "log_steps",
    "checkpoint_steps",
    "checkpoint_minutes",
    "keep_checkpoints",
    "tensorboard",
}
# Where the run finds what it reads. The contents may not change, and are compared themselves.
_PLACES = {"data_path", "val_data_path", "vocab_path", "init_from"}
_HOW_AND_WHERE = {"device", "precision", "compile", "output_dir"}
_THIS_CALL = {"config", "resume", "overwrite", "check_data"}


@dataclass
class LoopState:
    """Where a run stands; with weights, optimizer and generators all it needs to go on."""

    step: int = 0  # updates done
    epoch: int = 0  # epochs finished, their evaluation included
    epoch_step: int = 0  # updates done in the epoch under way
    seconds: float = 0.0  # of training so far, over all calls
    best_value: float | None = None  # of the metric that names the best model
    best_step: int = 0
    evaluations_without_progress: int = 0
    metrics_rows: int = 0  # written to metrics.jsonl
    window_nll: float = 0.0  # summed since the last row of metrics.jsonl
    window_tokens: int = 0  # the losses are means over; of a head that names labels, rows
    window_read: int = 0  # tokens, what the speed is told by
    window_began: float = 0.0  # value of `seconds` then
    epoch_nll: float = 0.0  # summed since the epoch began
    epoch_tokens: int = 0
    finished: str = ""  # why the run ended, empty while it has not

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LoopState:
        """Take it from a parsed state.json.

        Raises:
            ValueError: missing, unknown or impossible values.
        """
        if values.keys() != {field.name for field in fields(cls)}:
            raise ValueError("its position is incomplete")
        for field in fields(cls):
            value = values[field.name]
            if field.type == "int":
                good = type(value) is int and value >= 0
            elif field.type == "str":
                good = isinstance(value, str)
            else:
                good = (value is None and "None" in field.type) or (
                    isinstance(value, float) and math.isfinite(value)
                )
            if not good:
                raise ValueError(f"{field.name} cannot be {str(value)[:40]}")
        return cls(**values)

    @property
    def position(self) -> tuple[int, int, str]:
        """Two states of a run at one position differ in nothing but the clock."""
        return self.step, self.epoch, self.finished

    @property
    def checkpoint_name(self) -> str:
        """Name of the checkpoint of this position; later ones come later in the alphabet."""
        evaluated = self.step > 0 and self.epoch_step == 0
        suffix = "_finished" if self.finished else "_evaluated" if evaluated else ""
        return f"step_{self.step:08d}{suffix}"


@dataclass(frozen=True)
class Checkpoint:
    """What a whole checkpoint says of itself.

    Attributes:
        path: its folder.
        loop: where the run stood.
        settings: every option of the run, by name.
        belongs_to: fingerprints of the data, by name.
        computed_by: device, threads, precision and so on.
        config: configuration of the model.
    """

    path: Path
    loop: LoopState
    settings: dict[str, Any]
    belongs_to: dict[str, Any]
    computed_by: dict[str, Any]
    config: dict[str, Any]


def save_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
    loop: LoopState,
    about: Mapping[str, dict[str, Any]],
    keep: int,
) -> Path:
    """Write a checkpoint and delete all but the newest `keep`.

    Args:
        folder: the run's `checkpoints` folder.
        model: its parameters are stored, those that are trained.
        optimizers: each parameter belongs to exactly one of them.
        scaler: the loss scaler of fp16 (a disabled one stores nothing).
        loop: where the run stands; names the checkpoint.
        about: `settings`, `belongs_to`, `computed_by` and `config` of `Checkpoint`.
        keep: how many checkpoints stay, at least 1.

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
        write_tensors(new / _TRAINING, _training_tensors(model, optimizers))
        document = {"format": _FORMAT, "loop": asdict(loop), "scaler": scaler.state_dict(), **about}
        document["sha256"] = {
            _MODEL: _sha256(new / _MODEL),
            _TRAINING: _sha256(new / _TRAINING),
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


def find_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint; None where there is none at all.

    A damaged one is passed over and told through `say`.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    reasons = []
    for path in _checkpoints(folder):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reasons.append(f"{path} is damaged ({error})")
            say(f"warning: {reasons[-1]} and passed over")
    if reasons:
        raise UserError(
            f"{reasons[0]}, and so are all checkpoints of the run: put one back, start again with "
            f"--overwrite, or choose another --output_dir"
        )
    return None


def _read(path: Path) -> Checkpoint:
    """Read and verify all of a checkpoint but its tensors.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError: it is damaged.
    """
    for name in (_STATE, _MODEL, _TRAINING):
        if not (path / name).is_file():  # a pipe would be read for ever
            raise ValueError(f"{name} is missing")
    if (path / _STATE).stat().st_size > _LARGEST_STATE:
        raise ValueError(f"{_STATE} is too large")
    document = json.loads((path / _STATE).read_text(encoding="utf-8"))
    if document["format"] != _FORMAT:
        raise ValueError("another version of this toolkit wrote it")
    expected = document.pop("sha256")
    if _sha256_of_json(document) != expected[_STATE]:
        raise ValueError(f"{_STATE} does not match its checksum")
    for name in (_MODEL, _TRAINING):
        if _sha256(path / name) != expected[name]:
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
) -> None:
    """Put weights, optimizer, loss scaler and random generators back as they were.

    Raises:
        UserError: it was made with other data, or its tensors do not fit this model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = checkpoint.path
    changed = _differences(checkpoint.belongs_to, belongs_to)
    if changed:
        raise UserError(
            f"--resume: {'; '.join(changed)}, since {path} was saved; put the old back, or start a "
            f"new run in another --output_dir"
        )
    try:
        weights, training = load_file(path / _MODEL), load_file(path / _TRAINING)
        parameters = _stored(model)
        if {n: t.shape for n, t in weights.items()} != {n: p.shape for n, p in parameters.items()}:
            raise UserError(f"{path}: the checkpoint belongs to a model of another shape")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        owner = _owners(optimizers)
        for place, tensor in training.items():
            name, key = place.rsplit("/", 1)
            if name == "random":
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
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{path}: not a checkpoint of this run ({error}); delete it to go on from another"
        ) from None


# ------------------------------------------------------------------------------- going on


def find_run_to_resume(
    settings: TrainSettings, folder: RunFolder, say: Callable[[str], None]
) -> tuple[TrainSettings, Checkpoint | None]:
    """The settings, and the newest whole checkpoint of the run in `folder`, None without a run.

    A shape that a pretrained model gave is part of the settings from then on.

    Raises:
        SettingsError: an option differs that may not change within a run.
        UserError: a run is there, and no checkpoint to go on from.
    """
    found = find_checkpoint(folder.checkpoints, say)
    if found is None:
        rows = folder.metrics.exists() and folder.metrics.stat().st_size
        if rows or folder.best_model.exists() or folder.final_model.exists():
            raise UserError(
                f"{folder.root}: a run is here, but none of its checkpoints; start again with "
                f"--overwrite, which deletes it, or choose another --output_dir"
            )
        return settings, None
    stored = found.settings
    if settings.init_from is not None and stored.get("init_from") is not None:
        shape = {name: found.settings[name] for name in SHAPE}
        settings = replace(settings, preset="none", **shape)  # as the pretrained model had it
    may_change = _CHANGES_THE_RESULT | _CHANGES_ITS_FILES | _HOW_AND_WHERE | _THIS_CALL
    places = {name for name in _PLACES if None not in (getattr(settings, name), stored.get(name))}
    remedy = {}
    if not (settings.lora_rank or settings.freeze_backbone):  # else the base is read again
        places.discard("init_from")
        if settings.init_from is not None:
            remedy["init_from"] = "leave it out, the run does not need it again"
    mistakes = [
        f"--resume: {name} is {value} but the run has {stored.get(name)}; "
        f"{remedy.get(name, 'it cannot change within a run')}"
        for name, value in asdict(settings).items()
        if name not in may_change | places
        and value != stored.get(name)
        and (name, value) != ("task", "auto")  # it follows from the rows, which are compared
    ]
    if mistakes:
        raise SettingsError(mistakes)
    return settings, found


def check_places(settings: TrainSettings) -> None:
    """See whether a run that goes on finds from here what it reads.

    Raises:
        UserError: names what is not here, and how to say where it is.
    """
    missing = {
        name: place
        for name in sorted(_PLACES - {"init_from"})  # which may be a name on the hub
        if (place := getattr(settings, name)) is not None and not Path(place).exists()
    }
    if missing:
        raise UserError(
            f"--resume: no {' and no '.join(missing.values())} here; if the run began in another "
            f"directory, or its data has moved, say where it is: "
            f"{' '.join(f'--{name} FILE' for name in missing)}"
        )


def is_finished(settings: TrainSettings, loop: LoopState) -> bool:
    """Whether a stored run has nothing left to do under these settings."""
    if loop.finished == "early stopping":
        return 0 < settings.early_stopping_patience <= loop.evaluations_without_progress
    return bool(loop.finished) and loop.epoch >= settings.num_epochs


def fingerprints(
    rows: Mapping[str, TokenLabelDataset], vocabulary: Vocabulary, codebook: Path | None
) -> dict[str, str]:
    """What a checkpoint belongs to, by name: sizes, and digests of the contents."""
    digests = {
        name: f"{len(these):,} rows ({these.fingerprint()[:_DIGITS]})"
        for name, these in rows.items()
    }
    digests["the vocabulary"] = f"{len(vocabulary):,} tokens ({vocabulary.fingerprint()[:_DIGITS]})"
    digests["the codebook"] = "none" if codebook is None else _sha256(codebook)[:_DIGITS]
    return digests


def way_of_computing(device: torch.device, precision: str, compiled: bool) -> dict[str, Any]:
    """What decides, besides data and settings, on the last bits of a run."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "compile": "on" if compiled else "off",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
    }


def what_changed(
    checkpoint: Checkpoint, settings: TrainSettings, computed_by: dict[str, Any], total_steps: int
) -> tuple[list[str], bool]:
    """What is no longer as it was when a run goes on.

    Args:
        checkpoint: what it goes on from.
        settings: what it goes on with.
        computed_by: `way_of_computing` of this call.
        total_steps: of the run under these settings.

    Returns:
        Lines for a person, and whether the weights still end bit for bit where those of the
        uninterrupted run end.
    """
    lines, at = [], f"step {checkpoint.loop.step:,}"
    now = asdict(settings)
    result, files = (
        _differences(checkpoint.settings, {name: now[name] for name in now if name in names})
        for names in (_CHANGES_THE_RESULT, _CHANGES_ITS_FILES | _PLACES)
    )
    if result:
        lines.append(
            f"changed at {at}: {'; '.join(result)}. The schedule goes on from {at} of "
            f"{total_steps:,}; a run that had these settings from the start ends elsewhere"
        )
    if files:
        lines.append(f"changed at {at}: {'; '.join(files)}; the weights do not depend on it")
    computing = _differences(checkpoint.computed_by, computed_by)
    if computing:
        lines.append(
            f"computed in another way from {at} on: {'; '.join(computing)}. The run no longer ends "
            f"bit for bit where the uninterrupted one ends"
        )
    on_cpu = computed_by["device"] == "cpu"
    if not on_cpu and not computing:
        lines.append(
            "on a GPU the run ends near where the uninterrupted one ends, not bit for bit there"
        )
    return lines, on_cpu and not result and not computing


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each value that is not what it was, in words: `threads was 1, is 2`."""
    return [
        f"{name} was {before.get(name, 'not stored')}, is {value}"
        for name, value in now.items()
        if before.get(name) != value
    ]


# ------------------------------------------------------------------------------- tensors, files


def _stored(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that a checkpoint holds, by name: those that are trained.

    What is not, the base of an adapter or a frozen backbone, is read again.
    """
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


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
    states = random_states(next(model.parameters()).device)
    tensors = {f"random/{name}": state for name, state in states.items()}
    owner = _owners(optimizers)
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


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
