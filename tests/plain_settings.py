"""Settings for tests of what stands below a run: nothing left to choose, a fifth held out."""

from typing import Any

from smallgpt.options.training import TrainSettings

PLAIN: dict[str, Any] = {
    "validation_fraction": 0.2,
    "n_layer": 6,
    "n_head": 8,
    "n_embd": 384,
    "dropout": 0.2,
    "token_dropout": None,
    "num_epochs": 16,
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "ema_decay": 0.0,
    "early_label_weight": 0.0,
    "labelled_visits": 1,
}


def plain_settings(**values: Any) -> TrainSettings:
    """Settings with these values, the rest of what the recipe chooses plain."""
    return TrainSettings(**(PLAIN | values))
