"""The learning rate of each update."""

from __future__ import annotations

import math

from smallgpt.options.training import TrainSettings


def learning_rate_at(step: int, total_steps: int, settings: TrainSettings) -> float:
    """Learning rate of update `step` (from 0): linear warm-up, then half a cosine."""
    warmup = round(settings.warmup_fraction * total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    lowest = settings.final_lr_fraction
    return settings.learning_rate * (lowest + (1 - lowest) * cosine)
