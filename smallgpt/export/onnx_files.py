"""The ONNX files of an export, run by ONNX Runtime.

classifier = OnnxClassifier(folder / "classify.onnx", threads=2)
probabilities_L = classifier.probabilities(ids_T)         # ids: the body, then the ids to append
decoder = OnnxDecoder(folder / "decode.onnx", threads=2)
logits_TxV = decoder.read(ids_T)                          # of a row from its start
logits_TxV = decoder.read(next_T)                         # of what follows, by the cache
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.distribution import install_extra
from smallgpt.errors import UserError

CLASSIFY, DECODE = "classify.onnx", "decode.onnx"
ABOUT = "classify.json"  # what JavaScript cannot read in the metadata of classify.onnx


def require_onnx() -> None:
    """Check early that the libraries are there.

    Raises:
        UserError: they are not.
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
        raise UserError(
            f"ONNX files need the onnx and onnxruntime libraries: {install_extra('onnx')}"
        )


class OnnxClassifier:
    """A classify.onnx."""

    def __init__(self, path: Path, threads: int):
        self._session = _session(path, threads)

    def probabilities(self, ids_T: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of the labels, L, of one row of at least one id."""
        feed = {"input_ids": ids_T[None].astype(np.int64), "lengths": np.array([len(ids_T)])}
        return self._session.run(["probabilities"], feed)[0][0]


class OnnxDecoder:
    """A decode.onnx with the cache of one row; keys and values stay in ONNX Runtime's memory."""

    def __init__(self, path: Path, threads: int):
        self._session = _session(path, threads)
        cached = [each for each in self._session.get_inputs() if each.name.startswith("past_")]
        self._cached = {each.name: (each.shape[1], each.shape[3]) for each in cached}
        self._outputs = [each.name for each in self._session.get_outputs()]
        self.restart()

    def restart(self) -> None:
        """Forget the row."""
        import onnxruntime

        self._columns = 0
        self._cache = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, H, 0, D), np.float32))
            for name, (H, D) in self._cached.items()
        }

    def read(self, ids_T: np.ndarray) -> np.ndarray:
        """Read further tokens of the row; returns the logits after each of them, T x V."""
        import onnxruntime

        places_T = np.arange(self._columns, self._columns + len(ids_T))
        self._columns += len(ids_T)
        arrays = {
            "input_ids": ids_T[None].astype(np.int64),
            "position_ids": places_T[None],
            "attention_mask": np.ones((1, self._columns), np.int64),
        }
        of_numpy = onnxruntime.OrtValue.ortvalue_from_numpy
        feed = {name: of_numpy(array) for name, array in arrays.items()} | self._cache
        logits, *present = self._session.run_with_ort_values(self._outputs, feed)
        self._cache = dict(zip(self._cached, present, strict=True))
        return logits.numpy()[0]


def _session(path: Path, threads: int) -> Any:
    """ONNX Runtime on the CPU with so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
