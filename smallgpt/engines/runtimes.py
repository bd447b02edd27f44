"""Libraries that run ONNX files on a CPU, behind one interface.

    session = open_session("onnx", folder / "classify.onnx", "fp32", threads=2)
    logits_BxL, = session.run({"input_ids": ids_BxT, "lengths": lengths_B}, ["logits"])

`run` may be called from several threads at once.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from smallgpt.distribution import install_extra
from smallgpt.errors import UserError

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}  # by the name of the engine
_LIBRARY_NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}


class Session(Protocol):
    """A graph that is ready to run."""

    inputs: dict[str, tuple[int | str, ...]]  # the shape of each, a name where any size goes
    outputs: list[str]

    def run(self, feed: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """The outputs asked for. They may be fed again as they are; `as_array` gives arrays."""


def is_installed(engine: str) -> bool:
    """Whether the library of a graph engine is there."""
    return importlib.util.find_spec(RUNTIMES[engine]) is not None


def require_runtime(engine: str) -> None:
    """Raise UserError where the library of a graph engine is missing."""
    if not is_installed(engine):
        raise UserError(
            f"--engine {engine} needs {_LIBRARY_NAMES[engine]}: {install_extra(engine)}"
        )


def open_session(engine: str, path: Path, precision: str, threads: int) -> Session:
    """Open a file with so many threads a run; `precision` of its linear maps: fp32, bf16, int8."""
    if engine == "onnx":
        return _OnnxSession(path, threads)
    return _OpenVinoSession(path, precision, threads)


class _OnnxSession:
    def __init__(self, path: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its threads wait busily for the next operator, which decodes one and a half times as
        # fast as if they slept. Between runs they would take half of the speed of all others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._value = onnxruntime.OrtValue
        self.inputs = {each.name: tuple(each.shape) for each in self._session.get_inputs()}
        self.outputs = [each.name for each in self._session.get_outputs()]

    def run(self, feed: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        values = {
            name: self._value.ortvalue_from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in feed.items()
        }
        found: list[Any] = self._session.run_with_ort_values(list(outputs), values)
        return found


class _OpenVinoSession:
    def __init__(self, path: Path, precision: str, threads: int):
        import openvino  # type: ignore[import-untyped]

        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        self._compiled = core.compile_model(str(path), "CPU", settings)
        self._of_thread = threading.local()
        self.inputs = {
            port.any_name: tuple(
                size.get_length() if size.is_static else str(size) for size in port.partial_shape
            )
            for port in self._compiled.inputs
        }
        self.outputs = [port.any_name for port in self._compiled.outputs]

    def run(self, feed: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        found = self._of_thread.request.infer(dict(feed))
        return [found[name] for name in outputs]


def as_array(value: Any) -> np.ndarray:
    """An output of `Session.run` as an array."""
    array: np.ndarray = value if isinstance(value, np.ndarray) else value.numpy()
    return array
