"""Learning rate schedule; the steps of a run and their estimated time."""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from smallgpt.console import format_duration, plural
from smallgpt.model.flops import counted_parameters, training_flops
from smallgpt.model.hardware import random_states, set_random_states
from smallgpt.options.training import TrainSettings
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.lengths import covering_length, describe_cut
from smallgpt.training.muon import Muon
from smallgpt.training.run import Run

_MUCH_SLOWER = 5  # times: from here on the plan names the length that would be faster


def learning_rate_at(step: int, total_steps: int, settings: TrainSettings) -> float:
    """Learning rate of update `step` (from 0): linear warm-up, then half a cosine."""
    warmup = round(settings.warmup_fraction * total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    lowest = settings.final_lr_fraction
    return settings.learning_rate * (lowest + (1 - lowest) * cosine)


def say_plan(run: Run) -> None:
    """Print the steps to go and their estimated time, measured on real batches."""
    settings = run.settings
    left = run.total_steps - run.state.step
    if left > 0:
        run.log.say(
            f"plan: {plural(settings.num_epochs, 'epoch')} of "
            f"{plural(run.steps_per_epoch, 'step')} "
            f"({plural(settings.batch_size * settings.grad_accumulation_steps, 'row')} each), "
            f"{plural(left, 'step')} to go, {plural(round(_tokens_of_epoch(run)), 'token')} an "
            f"epoch; about {format_duration(left * seconds_per_step(run))} without early stopping"
        )
        _say_cost_of_longest_rows(run)


def _say_cost_of_longest_rows(run: Run) -> None:
    """Say where a run takes several times as long because a few rows are far longer than all."""
    # A frozen backbone reads each row once.
    if run.settings.freeze_backbone:
        return
    length = covering_length(run.rows.lengths_N)
    flops = [_flops(run, rows) for rows in (run.rows, run.validation_rows)]
    cut = [_flops(run, rows, length) for rows in (run.rows, run.validation_rows)]
    # A forward pass is a third of a step's arithmetic.
    whole, without = (train_N @ run.rows.visits + v_N.sum() / 3 for train_N, v_N in (flops, cut))
    if whole >= _MUCH_SLOWER * without:
        run.log.say(
            f"warning: a few long rows make this plan {whole / without:.0f} times slower: "
            f"--max_length {length} {describe_cut(run.rows.lengths_N, length)}"
        )


def seconds_per_step(run: Run) -> float:
    """Measured seconds of one update, with its share of evaluation; leaves the run unchanged."""
    flops_N = _flops(run, run.rows)
    updates = run.updates_of_epoch(run.state.epoch)
    flops = [sum(float(flops_N[rows].sum()) for rows in batches) for batches in updates]
    mean = sum(flops) / len(flops)
    typical = min(range(len(flops)), key=lambda number: abs(flops[number] - mean))
    times = []  # the first allocates memory and takes longer
    # Dropout draws random numbers; the run's generators must stay as they are.
    states = random_states(run.device)
    for _ in range(3):
        began = time.perf_counter()
        float(run.gradients.add_gradients(updates[typical]))
        for optimizer in run.optimizers:
            if isinstance(optimizer, Muon):  # AdamW's arithmetic is little
                optimizer.rehearse()
        getattr(torch, run.device.type).synchronize()
        times.append(time.perf_counter() - began)
        run.gradients.clear_gradients()
    set_random_states(states, run.device)
    # A forward pass is a third of a step's arithmetic.
    evaluation = float(_flops(run, run.validation_rows).sum()) / (3 * mean * len(flops))
    # Where one row is as long as all others together, no update is of average size.
    return min(times[1:]) * mean / flops[typical] * (1.1 + evaluation)


def _flops(run: Run, rows: TokenLabelDataset, max_length: int | None = None) -> np.ndarray:
    """FLOPs of each row in a training step, also were it cut to `max_length` tokens."""
    parameters, config = counted_parameters(run.model, head=True), run.model.config
    lengths_N = np.minimum(rows.lengths_N, max_length or run.settings.max_length)
    return training_flops(parameters, config.num_hidden_layers, config.hidden_size, lengths_N)


def _tokens_of_epoch(run: Run) -> float:
    """Tokens that an epoch visits; an average where rows have variants."""
    return float(run.tokens_N @ run.rows.visits)
