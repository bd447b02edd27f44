"""Trained models of every kind."""

from exported_models import exported, model_of  # noqa: F401  (fixtures)
