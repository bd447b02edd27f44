"""Options of benchmark.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smallgpt.options.option import option

BENCHMARK_SECTIONS = (
    *("training", "processes", "generation"),
    *("classification", "reading", "starting"),
)


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of `benchmark.py`."""

    only: tuple[str, ...] = option(
        (),
        f"Measure these alone, of {', '.join(BENCHMARK_SECTIONS)}. Without it: all.",
        group="Benchmark",
    )
    full: bool = option(
        False,
        "More rounds, all sizes, and the peers that take long to prepare: torch.compile, ONNX "
        "Runtime, CTranslate2.",
    )
    device: str = option(
        "cpu",
        "What to measure. cuda takes larger sizes and has targets of its own.",
        choices=("cpu", "cuda"),
    )

    def contradictions(self) -> Iterator[str]:
        for name in self.only:
            if name not in BENCHMARK_SECTIONS:
                yield f"--only {name}: there is {', '.join(BENCHMARK_SECTIONS)}"
