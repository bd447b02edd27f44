"""TensorBoard event files: the figures of metrics.jsonl at the same steps.

EventFiles(folder).record({"kind": "train", "step": 130, "loss": 2.1})    # tag train/loss
tensorboard --logdir outputs
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from smallgpt.distribution import install_extra
from smallgpt.errors import UserError
from smallgpt.training.run_folder import EVENT_SUFFIX


def check_tensorboard() -> None:
    """Raise UserError if the package is missing, before a run begins."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(f"--tensorboard needs: {install_extra('tensorboard')}")


class EventFiles:
    """Writes rows of metrics.jsonl as scalars; each is on disk when `record` returns."""

    def __init__(self, folder: Path, resumed_at: int | None = None):
        """`resumed_at`: step to resume from, later points are dropped; None for a new run."""
        from torch.utils.tensorboard import SummaryWriter

        purge_step = None if resumed_at is None else resumed_at + 1
        self._writer = SummaryWriter(
            str(folder), purge_step=purge_step, filename_suffix=EVENT_SUFFIX
        )

    def record(self, row: dict[str, Any]) -> None:
        """Write the numbers of a row."""
        for name, value in row.items():
            if name not in ("kind", "step") and value is not None:
                self._writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
