"""Speed of training in several processes beside one, on the same cores."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

from smallgpt.benchmark.bench import ROOT, Bench, Measure
from smallgpt.benchmark.comparison import Comparison, Findings
from smallgpt.benchmark.training import write_job
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.options.config_file import to_yaml

_EPOCHS, _STEPS = 4, 2  # of two updates each; two of them are one figure
MANY, ONE = "2 processes of 1 thread", "1 process of 2 threads"


def measure_processes(bench: Bench, findings: Findings) -> None:
    """Tokens per second of `train_gpt.py`, its start not counted; the exchange of an update."""
    job, shares = bench.sizes.jobs[0], []

    def rate(processes: int, threads: int) -> Measure:
        def measure() -> float:
            folder = bench.folder / f"processes_{processes}"
            folder.mkdir(exist_ok=True)
            settings = replace(write_job(bench, job, folder), num_epochs=_EPOCHS, log_steps=_STEPS)
            (folder / "config.yaml").write_text(to_yaml(settings), encoding="utf-8")
            words = ["--config", f"{folder / 'config.yaml'}", "--overwrite"]
            done = subprocess.run(
                [sys.executable, "train_gpt.py", *words, "--processes", f"{processes}"],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": f"{threads}"},
                capture_output=True,
                text=True,
                check=True,
            )
            found = re.search(r"takes \S+ ms, (\S+) % of it", done.stdout)
            if found:
                shares.append(float(found[1]) / 100)
            rows = read_metrics(Path(settings.output_dir) / "metrics.jsonl")
            speeds = [row["tokens_per_second"] for row in rows if row["kind"] == "train"]
            return median(speeds[1:] or speeds)  # the first waits for memory

        return measure

    contenders = {MANY: rate(2, 1), ONE: rate(1, 2)}
    entries = bench.take_turns("processes", contenders)
    found = Comparison(
        f"Training {job.name} in processes, {bench.precision.name}",
        "tokens/s",
        list(entries.values()),
    )
    findings.add(found)
    findings.reach(f"{job.name}, two processes against two threads", found.lead(ONE))
    findings.reach(f"{job.name}, exchange of an update", median(shares))
