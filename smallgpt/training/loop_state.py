"""Where the training loop stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any


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
