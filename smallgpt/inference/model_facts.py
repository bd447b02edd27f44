"""What a model folder tells of its training without loading the model: for comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallgpt.engines.trained import stored_settings
from smallgpt.errors import UserError
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.files.reading import parse_json, read_text
from smallgpt.inference.files import beside
from smallgpt.model.place import check_model_folder
from smallgpt.model.weights_file import MADE_BY, read_validation
from smallgpt.options.option import options_of
from smallgpt.options.training import TrainSettings

VALIDATION_DATA = "the validation data"  # in made_by.json
_MOST_BYTES = 2**20  # of made_by.json
# Where a run writes: it differs by nature, and the path of the model tells it.
_NO_DIFFERENCE = {"output_dir"}


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model.

    Attributes:
        version, command: of the toolkit, None in a model of an older version.
        data: fingerprints by name, such as `the training data`: `1,438 rows (6b8d...)`.
        validation: the figures stored with the weights, {} without any.
        last: the last row of metrics.jsonl of the run that the model lies in, {} without one.
    """

    folder: Path
    settings: TrainSettings
    version: str | None
    command: str | None
    data: dict[str, str]
    validation: dict[str, Any]
    last: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> ModelFacts:
        """The facts of a model folder that training wrote.

        Raises:
            UserError: no model folder, or damaged files.
        """
        check_model_folder(folder)
        made_by = _made_by(folder / MADE_BY)
        data = made_by.get("data")
        rows = read_metrics(beside(folder, "metrics.jsonl"))
        return cls(
            folder,
            stored_settings(folder),
            _text(made_by.get("smallgpt")),
            _text(made_by.get("command")),
            {name: value for name, value in data.items() if isinstance(value, str)}
            if isinstance(data, dict)
            else {},
            read_validation(folder),
            rows[-1] if rows else {},
        )

    @property
    def seconds(self) -> float | None:
        """How long the run has trained, None where that is not known."""
        seconds = self.last.get("seconds")
        return float(seconds) if isinstance(seconds, int | float) else None


def differing_settings(models: Sequence[ModelFacts | None]) -> dict[str, list[Any]]:
    """The values of the options in which models differ, by option; None for a model unknown."""
    known = [model for model in models if model is not None]
    differing = {}
    for name in options_of(TrainSettings):
        values = [getattr(model.settings, name) for model in known]
        if name not in _NO_DIFFERENCE and any(value != values[0] for value in values[1:]):
            differing[name] = [model and getattr(model.settings, name) for model in models]
    return differing


def _made_by(path: Path) -> dict[str, Any]:
    """The content of made_by.json, {} where none is readable: it is for people."""
    try:
        value = parse_json(read_text(path, _MOST_BYTES))
    except (UserError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
