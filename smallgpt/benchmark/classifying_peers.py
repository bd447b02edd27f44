"""Other engines that read the same rows: transformers, ONNX Runtime, OpenVINO, CTranslate2.

    run = transformers_classify(model, rows)
    run()                       # reads all rows, in batches, and returns the logits of each

The graph is that of `export_onnx`, as torch writes it. A peer that is not installed raises
ImportError where it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2LMHeadModel

BATCH = 64

Classifying = Callable[[], np.ndarray]  # logits of the token after each row, N x V


def transformers_classify(model: GPT2LMHeadModel, rows: list[list[int]]) -> Classifying:
    """transformers' own forward pass in fp32; rows of one length."""

    def run() -> np.ndarray:
        with torch.inference_mode():
            batches = torch.tensor(rows).split(BATCH)
            logits = [model(batch, logits_to_keep=1).logits for batch in batches]
        return torch.cat(logits)[:, -1].numpy()

    return run


def onnx_classify(path: Path, config: Any, rows: list[list[int]]) -> Classifying:
    """ONNX Runtime on a file of `export_onnx`, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _in_batches(rows, config, lambda feed: session.run(["logits"], feed)[0])


def openvino_classify(path: Path, config: Any, rows: list[list[int]]) -> Classifying:
    """OpenVINO on the same file, in the precision that it chooses itself."""
    import openvino  # type: ignore[import-untyped]

    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = openvino.Core().compile_model(str(path), "CPU", threads).create_infer_request()
    return _in_batches(rows, config, lambda feed: request.infer(feed)["logits"].copy())


def ctranslate2_classify(path: Path, compute_type: str, rows: list[list[str]]) -> Classifying:
    """CTranslate2 on a converted folder; its rows are tokens, not ids."""
    import ctranslate2

    generator = ctranslate2.Generator(
        str(path), compute_type=compute_type, intra_threads=torch.get_num_threads()
    )

    def run() -> np.ndarray:
        found = []
        for start in range(0, len(rows), BATCH):
            logits = generator.forward_batch(rows[start : start + BATCH])
            found.append(np.array(logits)[:, -1])
        return np.concatenate(found)

    return run


def quantize(path: Path, target: Path) -> None:
    """Make the int8 file that ONNX Runtime's documentation shows: dynamic quantization."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, target, weight_type=QuantType.QInt8)


def _in_batches(
    rows: list[list[int]], config: Any, run: Callable[[dict[str, np.ndarray]], np.ndarray]
) -> Classifying:
    def classify() -> np.ndarray:
        found = []
        for start in range(0, len(rows), BATCH):
            ids_BxT = np.array(rows[start : start + BATCH])
            shape = (len(ids_BxT), config.n_head, 0, config.n_embd // config.n_head)
            empty = np.zeros(shape, np.float32)
            cache = {f"past_{i}": empty for i in range(2 * config.n_layer)}
            found.append(run({"ids": ids_BxT, **cache}))
        return np.concatenate(found)

    return classify
