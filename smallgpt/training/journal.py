"""What a run tells while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smallgpt.console import format_duration
from smallgpt.training.run_log import RunLog

if TYPE_CHECKING:
    from smallgpt.training.loop_state import LoopState


def mean_or_none(total: float, count: int) -> float | None:
    """The mean, None of nothing."""
    return total / count if count else None


class EpochTable:
    """One printed row per epoch, the heading before the first."""

    def __init__(self, log: RunLog, labelled: bool):
        self.log, self.labelled, self.headed = log, labelled, False

    def add(self, state: LoopState, validation: dict[str, Any], is_best: bool) -> None:
        """Print the row of the epoch just evaluated; `*` marks the best so far."""
        cells = {
            "epoch": f"{state.epoch + 1}",
            "step": f"{state.step:,}",
            "train loss": f"{state.epoch_nll / state.epoch_tokens:.4f}",
        }
        if "loss" in validation:  # else a model that only names labels
            cells["val loss"] = f"{validation['loss']:.4f}"
            cells["perplexity"] = f"{validation['perplexity']:.2f}"
            cells["token acc"] = f"{validation['next_token_accuracy']:.4f}"
        if self.labelled:
            cells["label loss"] = f"{validation['label_loss']:.4f}"
            cells["label acc"] = f"{validation['accuracy']:.4f}"
        cells["time"] = format_duration(state.seconds)
        widths = {name: max(len(name), 9) for name in cells}
        if not self.headed:
            self.log.say("  ".join(name.rjust(widths[name]) for name in cells))
            self.headed = True
        row = "  ".join(cell.rjust(widths[name]) for name, cell in cells.items())
        self.log.say(row + ("  *" if is_best else ""))
