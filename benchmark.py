"""Speed of the toolkit, against other implementations and the limits of the machine.

    python benchmark.py                          # some minutes on 2 cores
    python benchmark.py --full                   # more rounds, all sizes, all peers
    python benchmark.py --only training reading
    pip install -e '.[benchmark]' -c constraints.txt    # peers that the toolkit does not need

Prints tables and writes them to outputs/benchmark: benchmark.json (every round) and benchmark.md.

Contenders take turns in one process (A B C A B C ...), since the speed of a virtual machine drifts.
A figure is the median of its rounds, the best beside it; the first round does not count. The limit
is the machine's own matrix product, in the same turns. Our settings of the C library's memory and
threads hold for the whole process, peers included; ONNX Runtime and CTranslate2 run in their own.

Same work: the same model, dropout and precision for all, attention dropout 0. As shipped: each
with its own defaults, but dropout of embeddings and residuals 0.1 for all.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from smallgpt.command import run_command
from smallgpt.console import format_duration, say
from smallgpt.distribution import install_extra
from smallgpt.exit_codes import EXIT_TERMINATED
from smallgpt.options.benchmark import BENCHMARK_SECTIONS, BenchmarkSettings
from smallgpt.options.reader import read_settings

if TYPE_CHECKING:
    from smallgpt.benchmark.comparison import Findings
    from smallgpt.benchmark.workloads import Sizes

OUTPUT = Path("outputs/benchmark")


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    settings = read_settings(
        BenchmarkSettings,
        argv,
        prog="benchmark.py",
        description="Measure the speed of the toolkit against its peers and the machine's limit.",
        epilog=f"Peers that the toolkit does not need: {install_extra('benchmark')}",
    )
    # Unwinding deletes the temporary folder, half a GB of it with --full.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    run_benchmark(settings, OUTPUT)
    return 0


def run_benchmark(
    settings: BenchmarkSettings, output: Path, sizes: Sizes | None = None
) -> Findings:
    """Measure the sections asked for, in `sizes` or what suits the device; save tables after each.

    Raises:
        UserError: the device is not there.
    """
    from transformers.utils import logging

    from smallgpt.benchmark.bench import Bench, measure_limits
    from smallgpt.benchmark.classification import measure_classification
    from smallgpt.benchmark.comparison import Findings, terminal_table
    from smallgpt.benchmark.generation import measure_generation
    from smallgpt.benchmark.processes import measure_processes
    from smallgpt.benchmark.reading import measure_reading
    from smallgpt.benchmark.report import describe_machine, save_report
    from smallgpt.benchmark.starting import measure_starting
    from smallgpt.benchmark.targets import TARGETS, target_cells, targets_table
    from smallgpt.benchmark.training import measure_training
    from smallgpt.benchmark.workloads import CPU_SIZES, GPU_SIZES
    from smallgpt.model.hardware import choose_device, choose_precision

    measures = {
        "training": measure_training,
        "processes": measure_processes,
        "generation": measure_generation,
        "classification": measure_classification,
        "reading": measure_reading,
        "starting": measure_starting,
    }
    sections = [name for name in BENCHMARK_SECTIONS if name in (settings.only or measures)]

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = choose_device(settings.device)
    sizes = sizes or (GPU_SIZES if device.type == "cuda" else CPU_SIZES)
    machine = describe_machine(device)
    say("\n".join(f"{name}: {text}" for name, text in machine.items()))
    began = time.monotonic()
    findings = Findings()
    with tempfile.TemporaryDirectory() as folder:
        precision = choose_precision("auto", device)
        bench = Bench(settings, sizes, device, precision, Path(folder))
        measure_limits(bench, findings)
        for name in sections:
            measures[name](bench, findings)
            targets = targets_table(TARGETS, findings.reached, sections, device.type, settings.full)
            save_report(output, machine, findings.comparisons, targets)
    say(f"\nTargets; a ratio of 1 or more reaches them\n{terminal_table(*target_cells(targets))}")
    seconds = format_duration(time.monotonic() - began)
    say(f"\nmeasured in {seconds}; written: {output / 'benchmark.json'}, benchmark.md")
    return findings


if __name__ == "__main__":
    run_command(main)
