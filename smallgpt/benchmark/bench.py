"""Measuring: contenders take turns in one process, each measured several times.

entries = bench.take_turns("training", {"ours": bench.rate(epoch, amount=tokens)}, peers)
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel, PreTrainedModel

from smallgpt.benchmark.classifying_peers import quantize
from smallgpt.benchmark.comparison import Comparison, Entry, Findings
from smallgpt.benchmark.decoding_peers import convert_to_ctranslate2
from smallgpt.benchmark.onnx_export import export_onnx
from smallgpt.benchmark.workloads import Sizes, settings_of, vocabulary_of
from smallgpt.console import progress_bar
from smallgpt.engines.engines import can_make_graphs
from smallgpt.engines.runtimes import RUNTIMES, is_installed
from smallgpt.engines.trained import TrainedModel, load_trained_model
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.model.hardware import Precision
from smallgpt.options.benchmark import BenchmarkSettings

ROOT = Path(__file__).parents[2]
PEAK = "matmul peak"
Measure = Callable[[], float]  # runs once, returns a rate or seconds


@dataclass(frozen=True)
class Bench:
    """What every section needs: settings, sizes, device, and a folder deleted afterwards."""

    settings: BenchmarkSettings
    sizes: Sizes
    device: torch.device
    precision: Precision
    folder: Path

    @property
    def rounds(self) -> int:
        """Measured rounds of a comparison."""
        return self.sizes.rounds_full if self.settings.full else self.sizes.rounds

    def rate(self, run: Callable[[], Any], amount: float) -> Measure:
        """A function that runs `run` once and returns `amount` divided by its seconds."""

        def measure() -> float:
            synchronize(self.device)
            began = time.perf_counter()
            run()
            synchronize(self.device)
            return amount / (time.perf_counter() - began)

        return measure

    def peak(self, dtype: torch.dtype) -> Measure:
        """A function that measures the best rate of matrix products (GFLOP/s)."""
        sides = [torch.randn(n, n, device=self.device).to(dtype) for n in self.sizes.squares]
        outs = [torch.empty_like(side) for side in sides]
        rates = [
            self.rate(partial(torch.mm, a, a, out=out), 2e-9 * len(a) ** 3)
            for a, out in zip(sides, outs, strict=True)
        ]
        return lambda: max(rate() for rate in rates)

    def take_turns(
        self,
        title: str,
        contenders: dict[str, Measure],
        peers: dict[str, Callable[[], Measure]] | None = None,
        rounds: int | None = None,
    ) -> dict[str, Entry]:
        """Measure all in turn, round by round, after a first round that does not count.

        `title` stands on the progress bar; `peers` are functions that make a contender. A peer that
        is missing or fails in the first round costs only its own figures. `rounds` None =
        `self.rounds`. Returns the entries by name, contenders first.
        """
        rounds, peers = rounds or self.rounds, peers or {}
        measures, entries = dict(contenders), {name: Entry(name) for name in (*contenders, *peers)}
        with progress_bar(title, (1 + rounds) * len(entries), "run") as bar:
            for measure in contenders.values():
                measure()
                bar.update()
            for name, make in peers.items():
                try:
                    measures[name] = make()
                    measures[name]()
                    bar.update()
                except Exception as error:  # whatever it is, it is the peer's
                    measures.pop(name, None)
                    entries[name] = Entry(name, note=reason_of(error))
                    bar.update(1 + rounds)
            for _ in range(rounds):
                for name, measure in measures.items():
                    entries[name].values.append(measure())
                    bar.update()
        return entries

    def saved_model(self, engine: str = "torch", precision: str = "auto") -> TrainedModel:
        """A model folder with fresh weights, written as by training, loaded as by inference.py."""
        shape, folder = self.sizes.shape, self.folder / "model"
        if not folder.exists():
            vocabulary, settings = vocabulary_of(shape), settings_of(shape)
            model = build_model(settings, vocabulary)
            save_model_folder(model, folder, vocabulary, settings, codebook=None)
        return load_trained_model(folder, self.device.type, precision, engine=engine)

    def engines(self) -> dict[str, TrainedModel]:
        """That model by each engine and precision that is at hand, torch in its own first."""
        ways = [("torch", self.precision.name), ("torch", "fp32")]
        if self.device.type == "cpu" and can_make_graphs():
            found = [name for name in RUNTIMES if is_installed(name)]
            ways += [(name, "fp32") for name in found]
            ways += [("openvino", "bf16")] * ("openvino" in found and self.precision.name == "bf16")
            ways += [("onnx", "int8")] * ("onnx" in found)
        return {f"ours, {way} {kind}": self.saved_model(way, kind) for way, kind in ways}

    def plain_graph(self, model: GPT2LMHeadModel, int8: bool = False) -> Path:
        """The ONNX file that torch writes of a model, or what ONNX Runtime quantizes it to."""
        path = self.folder / "plain.onnx"
        if not path.exists():
            export_onnx(model, path)
        if not int8:
            return path
        quantized = self.folder / "plain-int8.onnx"
        if not quantized.exists():
            quantize(path, quantized)
        return quantized

    def ctranslate2_folder(self) -> Path:
        """That model in the format of CTranslate2."""
        path = self.folder / "ctranslate2"
        if not path.exists():
            convert_to_ctranslate2(self.folder / "model", path)
        return path


def as_gpt2(model: PreTrainedModel) -> GPT2LMHeadModel:
    """A model of the workloads, which are all GPT-2 with a head of tokens."""
    assert isinstance(model, GPT2LMHeadModel)
    return model


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def reason_of(error: Exception) -> str:
    """Why a peer has no figures."""
    if isinstance(error, ImportError):
        return "not installed (the extra `benchmark`)"
    reason = (str(error).splitlines() or [""])[0][:120]
    return f"failed: {type(error).__name__}: {reason}"


def run_python(*arguments: str) -> str:
    """Run Python in a process of its own, in the repository's root; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"python {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def measure_limits(bench: Bench, findings: Findings) -> None:
    """Measure the machine's limits: matrix products and memory copies."""
    source = torch.zeros(bench.sizes.copied // 4, device=bench.device)
    target = torch.empty_like(source)
    # Where bf16 is emulated, its largest product takes half a minute.
    kinds = {bench.precision.name: bench.precision.dtype, "fp32": torch.float32}
    contenders = {name: bench.peak(dtype) for name, dtype in kinds.items()}
    # a copy reads and writes
    contenders["read and written"] = bench.rate(
        lambda: target.copy_(source), 2e-9 * bench.sizes.copied
    )
    *products, copy = bench.take_turns("limits", contenders).values()
    findings.add(Comparison("Limit: matrix products", "GFLOP/s", products, race=False))
    findings.add(Comparison("Limit: copying memory", "GB/s", [copy], race=False))
