"""State of the training loop: its position, time, loss sums and best value."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, fields
from typing import Any

from smallgpt.options.plan import is_plan


@dataclass
class LoopState:
    """State of a run; with weights, optimizers and random generators, all it needs to resume."""

    step: int = 0  # updates done
    epoch: int = 0  # epochs finished, their evaluation included
    epoch_step: int = 0  # updates done in the epoch under way
    seconds: float = 0.0  # of training so far, over all calls
    best_value: float | None = None  # of the metric that names the best model
    best_step: int = 0
    evaluations_without_progress: int = 0
    metrics_rows: int = 0  # written to metrics.jsonl
    window_nll: float = 0.0  # summed since the last row of metrics.jsonl
    window_tokens: int = 0  # losses in that sum: of tokens; of a head that names labels, of rows
    window_read: int = 0  # tokens computed, for the speed
    window_began: float = 0.0  # value of `seconds` then
    epoch_nll: float = 0.0  # summed since the epoch began
    epoch_tokens: int = 0
    finished: str = ""  # why the run ended, empty while it has not
    # [updates done when this was planned, updates of the whole run] for each plan; see schedule.py.
    plan: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start_clock()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LoopState:
        """From a parsed state.json.

        Raises:
            ValueError: missing, unknown or impossible values.
        """
        values = {"plan": []} | values  # older versions had none
        if values.keys() != {each.name for each in fields(cls)}:
            raise ValueError("its position is incomplete")
        for each in fields(cls):
            value = values[each.name]
            if each.type == "int":
                good = type(value) is int and value >= 0
            elif each.type == "str":
                good = isinstance(value, str)
            elif each.name == "plan":
                good = is_plan(value)
            else:
                good = (value is None and "None" in each.type) or (
                    isinstance(value, float) and math.isfinite(value)
                )
            if not good:
                raise ValueError(f"{each.name} cannot be {str(value)[:40]}")
        return cls(**values)

    def start_clock(self) -> None:
        """Let `seconds` count on from now."""
        self._clock_zero = time.monotonic() - self.seconds

    def read_clock(self) -> None:
        """Update `seconds`."""
        self.seconds = time.monotonic() - self._clock_zero

    @property
    def total_steps(self) -> int:
        """Updates of the whole run, as it is planned at this step."""
        return [total for made, total in self.plan if made <= self.step][-1]

    def take_over(self, other: LoopState) -> None:
        """Become the state that the first of several processes has; itself: nothing changes."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name))

    def add_losses(self, nll: float, terms: int, tokens: int) -> None:
        """Add an update: `nll` (nats) sums `terms` losses, from a forward pass of `tokens`."""
        self.window_nll += nll
        self.window_tokens += terms
        self.window_read += tokens
        self.epoch_nll += nll
        self.epoch_tokens += terms

    def begin_window(self) -> None:
        """Reset the sums for the next row of metrics.jsonl."""
        self.window_nll, self.window_tokens, self.window_read = 0.0, 0, 0
        self.window_began = self.seconds

    def begin_epoch(self) -> None:
        """Advance to the next epoch and reset its sums."""
        self.epoch, self.epoch_step = self.epoch + 1, 0
        self.epoch_nll, self.epoch_tokens = 0.0, 0

    @property
    def position(self) -> tuple[int, int, str]:
        """States of one run at the same position differ in their clock only."""
        return self.step, self.epoch, self.finished

    @property
    def checkpoint_name(self) -> str:
        """Name of the checkpoint of this position; later ones sort later."""
        evaluated = self.step > 0 and self.epoch_step == 0
        suffix = "_finished" if self.finished else "_evaluated" if evaluated else ""
        return f"step_{self.step:08d}{suffix}"
