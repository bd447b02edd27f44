"""Resuming a run: finding its checkpoint, and what may have changed meanwhile."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from smallgpt.distribution import code_digest
from smallgpt.errors import SettingsError, UserError
from smallgpt.options.option import AUTO, options_of
from smallgpt.options.training import BEFORE_RECIPE, SHAPE, WHO_TRAINS, TrainSettings
from smallgpt.training.best_model import BestModel
from smallgpt.training.checkpoint import (
    Checkpoint,
    differences,
    find_checkpoint,
    load_checkpoint,
)
from smallgpt.training.run import Run
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.schedule import say_plan

# Options that may differ when a run resumes: those that change its result, those that change only
# its files, and those compared as resolved (`Run.way_of_computing`) or of this call only.
_CHANGES_THE_RESULT = {"num_epochs", "max_minutes", "early_stopping_patience", "on_nonfinite"}
_CHANGES_ITS_FILES = {
    "gradient_checkpointing",  # the same bits from less memory
    "log_steps",
    "checkpoint_steps",
    "checkpoint_minutes",
    "keep_checkpoints",
    "tensorboard",
}
# Paths of inputs. Their contents may not change, and are compared by fingerprint.
_PLACES = {"data_path", "val_data_path", "vocab_path", "init_from"}
_HOW_AND_WHERE = {"device", "precision", "compile", "output_dir"} | set(WHO_TRAINS)
_THIS_CALL = {"config", "resume", "overwrite", "check_data", "learning_curve"}


def find_run_to_resume(
    settings: TrainSettings, folder: RunFolder
) -> tuple[TrainSettings, Checkpoint | None]:
    """The settings, and the newest whole checkpoint of the run in `folder`, None without a run.

    The shape that a pretrained model gave is part of the settings from then on.

    Raises:
        SettingsError: an option differs that may not change within a run.
        UserError: a run is there, and no whole checkpoint.
    """
    found = find_checkpoint(folder.checkpoints)
    if found is None:
        rows = folder.metrics.exists() and folder.metrics.stat().st_size
        if rows or folder.best_model.exists() or folder.final_model.exists():
            raise UserError(
                f"{folder.root}: a run is here, but none of its checkpoints; start again with "
                f"--overwrite, which deletes it, or choose another --output_dir"
            )
        return settings, None
    if settings.max_minutes is not None and found.settings.get("steps") is None:
        settings = replace(settings, steps=None)  # settings.yaml has what the clock planned
    # An option that the version of the run did not have is at its default: no run differs by it.
    stored = asdict(TrainSettings()) | BEFORE_RECIPE | found.settings
    recipe = [name for name, option in options_of(TrainSettings).items() if option.can_be_auto]
    chosen = {name: stored[name] for name in recipe if getattr(settings, name) == AUTO}
    settings = replace(settings, **chosen)
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
    mistakes += [
        f"--resume: the run was begun by an older version with {name} {found.settings[name]}, "
        f"which is gone; start again with --overwrite"
        for name in TrainSettings.OF_OLDER_VERSIONS
        if found.settings.get(name)
    ]
    if mistakes:
        raise SettingsError(mistakes)
    return settings, found


def result_settings(settings: TrainSettings) -> dict[str, Any]:
    """The options on which the weights depend, but for the machine and the contents of the rows."""
    others = _CHANGES_ITS_FILES | _HOW_AND_WHERE | _THIS_CALL | _PLACES - {"init_from"}
    return {name: value for name, value in asdict(settings).items() if name not in others}


def what_must_agree(settings: TrainSettings) -> dict[str, Any]:
    """What several processes that train one model must have alike, before the data is read."""
    options = {f"value of {name}": value for name, value in result_settings(settings).items()}
    return {
        "Python code of smallgpt": code_digest(),
        "version of torch": str(torch.__version__),
        **options,
    }


def with_own_places(settings: TrainSettings, own: TrainSettings, resumes: bool) -> TrainSettings:
    """The settings that the first process has chosen, with this one's paths of the inputs.

    A run that resumes stores the first one's paths; they are taken where they exist here.
    """
    places = {
        name: getattr(own, name)
        for name in _PLACES
        if not (resumes and os.path.exists(getattr(settings, name) or ""))
    }
    return replace(settings, **places)


def check_places(settings: TrainSettings) -> None:
    """Raise UserError naming the input files of a resumed run that are not here."""
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


def is_finished(settings: TrainSettings, checkpoint: Checkpoint) -> bool:
    """Whether a stored run has nothing left to do under these settings."""
    loop = checkpoint.loop
    if loop.finished == "early stopping":
        return 0 < settings.early_stopping_patience <= loop.evaluations_without_progress
    if not loop.finished:
        return False
    if settings.max_minutes is None and settings.steps is None:
        return loop.epoch >= settings.num_epochs
    return settings.max_minutes == checkpoint.settings.get("max_minutes")


def go_on(run: Run, checkpoint: Checkpoint, best: BestModel, seconds: tuple[float, float]) -> None:
    """Restore weights, optimizers and generators, and print what has changed since.

    `seconds`: of `schedule.measured_seconds`.

    Raises:
        UserError: the checkpoint was made with other data or another vocabulary.
    """
    parts = run.model, run.optimizers, run.scaler
    evaluated = load_checkpoint(checkpoint, *parts, run.belongs_to)
    run.cross_fit.restore(evaluated, run.state.best_value)
    run.log.keep_rows(run.state.metrics_rows)
    run.log.say(f"going on from step {run.state.step:,} ({checkpoint.path})")
    say_plan(run, seconds)
    lines, exact = what_changed(checkpoint, run.settings, run.way_of_computing(), run.total_steps)
    for line in lines:
        run.log.say(line)
    best.compare_with_folder(exact)


def what_changed(
    checkpoint: Checkpoint, settings: TrainSettings, computed_by: dict[str, Any], total_steps: int
) -> tuple[list[str], bool]:
    """What differs between a checkpoint and the run that resumes it.

    `computed_by`: `Run.way_of_computing` of this call. Returns lines for the user, and whether the
    weights still end bit for bit where those of the uninterrupted run end.
    """
    lines, at = [], f"step {checkpoint.loop.step:,}"
    now = asdict(settings)
    result, files = (
        differences(checkpoint.settings, {name: now[name] for name in now if name in names})
        for names in (_CHANGES_THE_RESULT, _CHANGES_ITS_FILES | _PLACES)
    )
    if result:
        lines.append(
            f"changed at {at}: {'; '.join(result)}. The schedule goes on from {at} of "
            f"{total_steps:,}; a run that had these settings from the start ends elsewhere"
        )
    if files:
        lines.append(f"changed at {at}: {'; '.join(files)}; the weights do not depend on it")
    # Older versions trained in one process.
    computing = differences({"processes": 1} | checkpoint.computed_by, computed_by)
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
