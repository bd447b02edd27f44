"""What a format of exports is: how its files are written, read back, and explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from smallgpt.engines.trained import TrainedModel
from smallgpt.rows.dataset import TokenLabelDataset


class Reader(Protocol):
    """Computes the files of an export, independently of the model that they were made of.

    Sizes in names: B rows, M tokens of all rows, T tokens of one, L labels, V vocabulary.
    """

    def probabilities(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of the labels after each row, B x L."""

    def token_logits(self, ids_T: np.ndarray) -> np.ndarray:
        """Logits of the token that follows each token of one row, T x V."""

    def token_seconds(self, first_id: int, tokens: int) -> list[float]:
        """Seconds of each new token of the likeliest row that begins with `first_id`."""


class ExportFormat(Protocol):
    """One value of `export_model.py --format`."""

    def require(self) -> None:
        """Check early that the libraries are there.

        Raises:
            UserError: one is not; the line names the extra.
        """

    def refuse(self, trained: TrainedModel) -> None:
        """Check, before rows are read, that the format can hold the model.

        Raises:
            UserError: it cannot.
        """

    def write(self, trained: TrainedModel, folder: Path, digest: str) -> list[str]:
        """Write the files; returns the names of those that hold weights.

        `digest`: of the model folder (`digest_of_folder`).
        """

    def readers(self, trained: TrainedModel, folder: Path) -> tuple[dict[str, Reader], str]:
        """What reads the files back, and the name and version of the program for the report.

        One reader for each precision, by the name that the report gives it. Where nothing on this
        machine can read them, none, and what to install.
        """

    def readme(
        self,
        trained: TrainedModel,
        folder: Path,
        labels: TokenLabelDataset | None,
        report: dict[str, Any],
    ) -> str:
        """The README.md of the folder. `labels`: the labelled rows of the check."""
