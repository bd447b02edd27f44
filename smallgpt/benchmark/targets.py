"""Speed targets of the benchmark, and which of them it reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smallgpt.benchmark.comparison import Cells, figure

COMMANDS = (
    "train_gpt.py", "inference.py", "prepare_data.py", "export_model.py", "serve.py",
    "benchmark.py",
)  # fmt: skip
TRAINER = "transformers.Trainer"


@dataclass(frozen=True)
class Target:
    """A figure that is to be reached; `section` records what it measured under `key`.

    Units: "x" times as fast, "%" a share, "s", "MB". `full`: only measured with --full.
    """

    section: str
    key: str
    goal: float
    unit: str = "x"
    at_most: bool = False
    device: str = "cpu"
    full: bool = False

    def show(self, value: float) -> str:
        if self.unit == "%":
            return f"{value:.0%}"
        return f"{value:.2f}x" if self.unit == "x" else f"{figure(value)} {self.unit}"

    def ratio(self, measured: float) -> float:
        """1 where the target is just met, above 1 where it is exceeded."""
        return self.goal / measured if self.at_most else measured / self.goal


TARGETS = (
    Target("training", "64 x 54, as shipped, against the best peer", 1.3),
    Target("training", "64 x 54, as shipped, of the matmul peak", 0.55, "%"),
    Target("training", "8 x 789, as shipped, against transformers", 4.0),
    Target("training", "8 x 789, as shipped, against the best peer", 3.5),
    Target("training", "8 x 789, same work, against the best peer", 1.1),
    Target("training", "rows of 32 to 789, against equal rows", 0.9),
    Target("training", f"rows of 32 to 789, against {TRAINER}", 2.0),
    Target("processes", "64 x 54, two processes against two threads", 0.85),
    Target("processes", "64 x 54, exchange of an update", 0.15, "%", at_most=True),
    Target("generation", "batch 1, best against the best peer", 1.0, full=True),
    Target("generation", "batch 1, best against generate fp32", 5.0),
    Target("generation", "batch 1, fp32 against the best fp32 peer", 1.0, full=True),
    Target("generation", "batch 16, best against the best peer", 2.0, full=True),
    Target("generation", "batch 64, best against generate fp32", 4.0),
    Target("generation", "batch 64, best against generate bf16", 2.5),
    Target("generation", "batch 64, best against the best peer", 1.0, full=True),
    Target("classification", "one row, torch against transformers fp32", 1.5),
    Target("classification", "one row, best against ONNX Runtime int8", 1.0, full=True),
    Target("classification", "file, best against the best peer", 1.0, full=True),
    Target("classification", "file to predictions, of the matmul peak", 0.6, "%"),
    Target("reading", "60,000 rows, first", 2.0, "s", at_most=True),
    Target("reading", "60,000 rows, again", 0.2, "s", at_most=True),
    Target("reading", "1,000,000 rows, first", 40.0, "s", at_most=True, full=True),
    # 4 bytes a token of 54 million, and 500 MB
    Target("reading", "1,000,000 rows, peak memory", 716.0, "MB", at_most=True, full=True),
    *(Target("starting", f"{name} --help", 0.3, "s", at_most=True) for name in COMMANDS),
    Target("starting", "inference.py --prompt, time of a bare process", 1.2, at_most=True),
    Target("starting", "inference.py --prompt, onnx", 1.2, "s", at_most=True),
    Target("training", "1024 x 54, as shipped, of the matmul peak", 0.25, "%", device="cuda"),
    Target("training", f"1024 x 54, as shipped, against {TRAINER}", 3.0, device="cuda"),
    Target(
        "training", "16 x 1024, 124M, as shipped, of the matmul peak", 0.4, "%",
        device="cuda", full=True,
    ),
    Target("generation", "batch 64, best against the best generate", 5.0, device="cuda"),
)  # fmt: skip


def targets_table(
    targets: Sequence[Target],
    reached: Mapping[str, float],
    sections: Sequence[str],
    device: str,
    full: bool,
) -> list[dict[str, Any]]:
    """Each target of the sections that ran; value and ratio are None if it was not measured."""
    rows = []
    for target in targets:
        if target.section not in sections:
            continue
        value = reached.get(target.key) if target.device == device else None
        if value is not None:
            measured = target.show(value)
        elif target.device != device:
            measured = f"not measured: needs --device {target.device}"
        elif target.full and not full:
            measured = "not measured: needs --full"
        else:
            measured = "not measured: a peer, or bf16, is missing here"
        rows.append(
            {
                "target": (f"{target.device}: " if target.device != "cpu" else "") + target.key,
                "goal": ("at most " if target.at_most else "") + target.show(target.goal),
                "measured": measured,
                "value": value,
                "ratio": None if value is None else target.ratio(value),
            }
        )
    return rows


def target_cells(targets: Sequence[dict[str, Any]]) -> Cells:
    """Header and rows of the table of targets as text."""
    rows = []
    for target in targets:
        ratio = target["ratio"]
        verdict = "" if ratio is None else "reached" if ratio >= 1 else "missed"
        shown = "" if ratio is None else f"{ratio:.2f}"
        rows.append([target["target"], target["goal"], target["measured"], shown, verdict])
    return ["target", "goal", "measured", "ratio", ""], rows
