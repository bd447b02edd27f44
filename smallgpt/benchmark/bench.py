"""The bench: contenders in one run, each measured several times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallgpt.benchmark.report import Comparison, Entry, Target
from smallgpt.benchmark.work import Shape, Sizes, vocabulary_of
from smallgpt.console import progress_bar
from smallgpt.options.benchmark import BenchmarkSettings
from smallgpt.options.training import TrainSettings

if TYPE_CHECKING:
    import torch

    from smallgpt.model.folder import TrainedModel
    from smallgpt.model.hardware import Precision


ROOT = Path(__file__).parents[2]
COMMANDS = ("train_gpt.py", "inference.py", "prepare_data.py", "benchmark.py")
DROPOUT = 0.1
OURS, EVEN, PEAK = "ours", "ours, equal rows of the mean length", "matmul peak"
TRAINER, LOOP, MINIMAL = "transformers.Trainer", "transformers, plain loop", "minimal GPT-2"
Measure = Callable[[], float]  # runs once, returns a rate or seconds
NOT_INSTALLED = "not installed (requirements-benchmark.txt)"

TARGETS = (
    Target("training", "64 x 54, as shipped, against the best peer", 1.3),
    Target("training", "64 x 54, as shipped, of the matmul peak", 0.55, "%"),
    Target("training", "8 x 789, as shipped, against transformers", 4.0),
    Target("training", "8 x 789, as shipped, against the best peer", 3.5),
    Target("training", "8 x 789, same work, against the best peer", 1.1),
    Target("training", "rows of 32 to 789, against equal rows", 0.9),
    Target("training", f"rows of 32 to 789, against {TRAINER}", 2.0),
    Target("generation", "batch 64, bf16 against generate fp32", 4.0),
    Target("generation", "batch 64, bf16 against CTranslate2", 1.0, full=True),
    Target("generation", "batch 64, bf16 against ONNX Runtime", 1.0, full=True),
    Target("generation", "batch 1, fp32 against generate fp32", 2.0),
    Target("generation", "batch 1, bf16 against generate fp32", 3.0),
    Target("classification", "file to predictions, of the matmul peak", 0.6, "%"),
    Target("reading", "60,000 rows, first", 2.0, "s", at_most=True),
    Target("reading", "60,000 rows, again", 0.2, "s", at_most=True),
    Target("reading", "1,000,000 rows, first", 40.0, "s", at_most=True, full=True),
    # 4 bytes a token of 54 million, and 500 MB
    Target("reading", "1,000,000 rows, peak memory", 716.0, "MB", at_most=True, full=True),
    *(Target("starting", f"{name} --help", 0.3, "s", at_most=True) for name in COMMANDS),
    Target("starting", "inference.py --prompt, time of a bare process", 1.2, at_most=True),
    Target("training", "1024 x 54, as shipped, of the matmul peak", 0.25, "%", device="cuda"),
    Target("training", f"1024 x 54, as shipped, against {TRAINER}", 3.0, device="cuda"),
    Target(
        "training",
        "16 x 1024, 124M, as shipped, of the matmul peak",
        0.4,
        "%",
        device="cuda",
        full=True,
    ),
    Target("generation", "batch 64, bf16 against the best generate", 5.0, device="cuda"),
)


# ------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Bench:
    """What every section needs: where, how much, and a folder that is deleted afterwards."""

    settings: BenchmarkSettings
    sizes: Sizes
    device: torch.device
    precision: Precision
    folder: Path

    @property
    def rounds(self) -> int:
        """Measured rounds of a comparison."""
        return self.sizes.rounds_full if self.settings.full else self.sizes.rounds

    def rate(self, run: Callable[[], Any], amount: float) -> Callable[[], float]:
        """A function that runs `run` once and returns `amount` divided by its seconds."""
        from smallgpt.benchmark.peers import synchronize

        def measure() -> float:
            synchronize(self.device)
            began = time.perf_counter()
            run()
            synchronize(self.device)
            return amount / (time.perf_counter() - began)

        return measure

    def peak(self, dtype: torch.dtype) -> Callable[[], float]:
        """A function that measures the best rate of matrix products (GFLOP/s)."""
        import torch

        sides = [torch.randn(n, n, device=self.device).to(dtype) for n in self.sizes.squares]
        outs = [torch.empty_like(side) for side in sides]
        rates = [
            self.rate(lambda a=a, out=out: torch.mm(a, a, out=out), 2e-9 * len(a) ** 3)
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
        """Let all measure themselves in turn, round by round, after a first round unmeasured.

        A peer that is missing or fails in that first round costs nothing but its own figures.

        Args:
            title: words on the progress bar.
            contenders: name -> a function that measures itself once.
            peers: name -> a function that makes a contender.
            rounds: measured ones; None = `self.rounds`.

        Returns:
            name -> entry, contenders first; of a missing peer one without figures.
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
                    entries[name] = missing_peer(name, error)
                    bar.update(1 + rounds)
            for _ in range(rounds):
                for name, measure in measures.items():
                    entries[name].values.append(measure())
                    bar.update()
        return entries


def missing_peer(name: str, error: Exception) -> Entry:
    """What stands in the table for a peer that could not be made or run."""
    if isinstance(error, ImportError):
        return Entry(name, note=NOT_INSTALLED)
    reason = (str(error).splitlines() or [""])[0][:120]
    return Entry(name, note=f"failed: {type(error).__name__}: {reason}")


def settings_of(shape: Shape) -> TrainSettings:
    """Our defaults, but for the shape."""
    return TrainSettings(
        max_length=shape.n_positions,
        n_positions=shape.n_positions,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
    )


def machine_limits(bench: Bench) -> list[Comparison]:
    """Matrix products and memory copies of this machine."""
    import torch

    source = torch.zeros(bench.sizes.copied // 4, device=bench.device)
    target = torch.empty_like(source)
    contenders = {
        "bf16": bench.peak(torch.bfloat16),
        "fp32": bench.peak(torch.float32),
        # a copy reads and writes
        "read and written": bench.rate(lambda: target.copy_(source), 2e-9 * bench.sizes.copied),
    }
    bf16, fp32, copy = bench.take_turns("limits", contenders).values()
    return [
        Comparison("Limit: matrix products", "GFLOP/s", [bf16, fp32], race=False),
        Comparison("Limit: copying memory", "GB/s", [copy], race=False),
    ]


# ------------------------------------------------------------------------------- generation


def saved_model(bench: Bench) -> TrainedModel:
    """A model folder with fresh weights as training writes it, loaded as inference.py does."""
    from smallgpt.model.build import build_model
    from smallgpt.model.folder import load_trained_model, save_model_folder

    shape, folder = bench.sizes.shape, bench.folder / "model"
    if not folder.exists():
        vocabulary, settings = vocabulary_of(shape), settings_of(shape)
        model = build_model(settings, vocabulary)
        save_model_folder(model, folder, vocabulary, settings, codebook=None)
    return load_trained_model(folder, bench.device.type)
