"""Benchmark report: benchmark.json and benchmark.md."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from smallgpt.benchmark.comparison import Comparison
from smallgpt.benchmark.targets import target_cells
from smallgpt.files.writing import write_json, write_text
from smallgpt.model.processor import processor_name

PACKAGES = (
    "torch", "transformers", "numpy", "accelerate", "onnx", "onnxruntime", "ctranslate2",
)  # fmt: skip


def describe_machine(device: torch.device) -> dict[str, str]:
    """Date, machine and package versions."""
    machine = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": processor_name(),
        "cores": f"{os.cpu_count()}, {torch.get_num_threads()} threads used",
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    for name in PACKAGES:
        try:
            machine[name] = version(name)
        except PackageNotFoundError:
            machine[name] = "not installed"
    return machine


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned as in the terminal."""
    rule = ["---", *["---:"] * (len(header) - 2), "---"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def save_report(
    folder: Path,
    machine: dict[str, str],
    comparisons: Sequence[Comparison],
    targets: Sequence[dict[str, Any]],
) -> None:
    """Write benchmark.json (every round) and benchmark.md."""
    measured = [
        {
            "title": found.title,
            "unit": found.unit,
            "entries": [
                {**asdict(entry), "median": entry.median, "best": found.best(entry)}
                for entry in found.entries
            ],
        }
        for found in comparisons
    ]
    report = {"machine": machine, "comparisons": measured, "targets": list(targets)}
    write_json(folder / "benchmark.json", report)
    parts = ["# Benchmark", "\n".join(f"- {name}: {text}" for name, text in machine.items())]
    for found in comparisons:
        parts += [f"## {found.title}", markdown_table(*found.cells())]
    parts += ["## Targets", markdown_table(*target_cells(targets))]
    write_text(folder / "benchmark.md", "\n\n".join(parts) + "\n")
