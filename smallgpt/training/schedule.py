"""Learning rate schedule; the steps of a run and their estimated time."""

from __future__ import annotations

import math
import time

import torch

from smallgpt.console import format_duration, plural
from smallgpt.model.hardware import random_states, set_random_states
from smallgpt.options.training import TrainSettings
from smallgpt.training.muon import Muon
from smallgpt.training.run import Run


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
            f"({settings.batch_size * settings.grad_accumulation_steps} rows each), {left:,} "
            f"steps to go, {round(_tokens_of_epoch(run)):,} tokens an epoch; about "
            f"{format_duration(left * seconds_per_step(run))} without early stopping"
        )


def seconds_per_step(run: Run) -> float:
    """Measured seconds of one update, with its share of evaluation; leaves the run unchanged."""
    updates = run.updates_of_epoch(run.state.epoch)
    tokens = [sum(int(run.rows.lengths_N[b].sum()) for b in batches) for batches in updates]
    mean = sum(tokens) / len(tokens)
    typical = min(zip(tokens, updates, strict=True), key=lambda pair: abs(pair[0] - mean))[1]
    times = []  # the first allocates memory and takes longer
    # Dropout draws random numbers; the run's generators must stay as they are.
    states = random_states(run.device)
    for _ in range(3):
        began = time.perf_counter()
        float(run.gradients.add_gradients(typical))
        for optimizer in run.optimizers:
            if isinstance(optimizer, Muon):  # AdamW's arithmetic is little
                optimizer.rehearse()
        getattr(torch, run.device.type).synchronize()
        times.append(time.perf_counter() - began)
        run.gradients.clear_gradients()
    set_random_states(states, run.device)
    # A forward pass is a third of a step's arithmetic.
    evaluation = int(run.validation_rows.lengths_N.sum()) / (3 * _tokens_of_epoch(run))
    return min(times[1:]) * (1.1 + evaluation)


def _tokens_of_epoch(run: Run) -> float:
    """Tokens that an epoch visits; an average where rows have variants."""
    return float(run.tokens_N @ run.rows.visits)
