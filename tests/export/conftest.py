"""Trained models and their exports."""

import functools
from collections.abc import Callable

import pytest
from command_program import run_here
from exported_models import exported, model_of  # noqa: F401  (fixtures)
from web_pages import runtime, served  # noqa: F401  (fixtures)

import export_model

for library in ("onnx", "onnxruntime"):
    pytest.importorskip(library, reason=f"{library} is not installed: the extra `onnx`")


@pytest.fixture
def run() -> Callable:
    """A function that runs export_model.py on the words of a command line."""
    return functools.partial(run_here, export_model.main)
