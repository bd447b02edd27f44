"""Trained models and their exports, and engines that auto may choose from."""

import pytest
from exported_models import exported, model_of  # noqa: F401  (fixtures)

for library in ("onnx", "onnxruntime"):
    pytest.importorskip(library, reason=f"{library} is not installed: the extra `onnx`")


@pytest.fixture(autouse=True)
def with_graphs() -> None:
    """Unlike elsewhere, auto may take any engine; see `torch_alone` in tests/conftest.py."""
