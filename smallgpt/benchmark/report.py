"""What benchmark.py found, as tables: contenders beside one another, targets, the machine.

comparison = Comparison("Training", "tokens/s", [Entry("ours", [9]), Entry("peer", [5])])
findings.add(comparison)                             # tells the table
findings.reach("training, against the best peer", comparison.lead())
save_report(folder, describe_machine(device), findings.comparisons, rows)
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallgpt.console import format_table, say
from smallgpt.files.writing import write_json, write_text

if TYPE_CHECKING:
    import torch


PACKAGES = (
    "torch", "transformers", "numpy", "accelerate", "onnx", "onnxruntime", "ctranslate2",
)  # fmt: skip


# ------------------------------------------------------------------------------- contenders


@dataclass(frozen=True)
class Entry:
    """One contender of a comparison.

    Attributes:
        name: who.
        values: one figure a round; none where it was not measured.
        note: why not, or what to know.
        share: of the machine's limit, where there is one.
    """

    name: str
    values: list[float] = field(default_factory=list)
    note: str = ""
    share: float | None = None

    @property
    def median(self) -> float | None:
        """The middle round."""
        return statistics.median(self.values) if self.values else None


@dataclass(frozen=True)
class Comparison:
    """What took turns.

    Attributes:
        title: what it is about.
        unit: of the values; what ends in /s is better where it is larger.
        entries: who took part; the first is ours.
        race: whether all did the same, so that one is faster than another.
    """

    title: str
    unit: str
    entries: list[Entry]
    race: bool = True

    def best(self, entry: Entry) -> float | None:
        """The best round of an entry."""
        best = max if self.unit.endswith("/s") else min
        return best(entry.values) if entry.values else None

    def advantage(self, entry: Entry, over: Entry) -> float | None:
        """How many times as fast `entry` is as `over`, by their medians; None if not measured."""
        if entry.median is None or over.median is None:
            return None
        if self.unit.endswith("/s"):
            return entry.median / over.median
        return over.median / entry.median

    def lead(self, named: str = "", of: Entry | None = None) -> float | None:
        """How many times as fast an entry (ours) is as the fastest of others; None without any.

        Args:
            named: what the names of the others have in them; the entry itself never counts.
            of: the entry; None = the first.
        """
        mine = of or self.entries[0]
        others = [entry for entry in self.entries if entry is not mine and named in entry.name]
        leads = [self.advantage(mine, other) for other in others]
        return min((lead for lead in leads if lead is not None), default=None)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text."""
        shares = any(entry.share is not None for entry in self.entries)
        header = ["", f"median {self.unit}", "best"]
        header += [f"{self.entries[0].name} is"] if self.race else []
        header += ["of the peak"] if shares else []
        rows = []
        for entry in self.entries:
            cells = [entry.name, figure(entry.median), figure(self.best(entry))]
            if self.race:
                factor = self.advantage(self.entries[0], entry)
                first = entry is self.entries[0]
                cells.append("" if factor is None or first else f"{factor:.2f}x as fast")
            if shares:
                cells.append("" if entry.share is None else f"{entry.share:.0%}")
            rows.append([*cells, entry.note])
        return [*header, ""], rows


def figure(value: float | None) -> str:
    """A number as a person reads it: three digits that count, `-` for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass
class Findings:
    """What a section found.

    Attributes:
        comparisons: in the order of measuring.
        reached: what was measured of the targets, by their key; other keys may be there too.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    reached: dict[str, float] = field(default_factory=dict)

    def add(self, comparison: Comparison) -> None:
        """Note a comparison and tell it."""
        self.comparisons.append(comparison)
        say(f"\n{comparison.title}\n{plain_table(*comparison.table())}")

    def reach(self, key: str, value: float | None) -> None:
        """Note what a target reached, if it was measured."""
        if value is not None:
            self.reached[key] = value


# ------------------------------------------------------------------------------- targets


@dataclass(frozen=True)
class Target:
    """A figure that is to be reached.

    Attributes:
        section: what measures it.
        key: its name, under which the section notes what it measured.
        goal: the figure.
        unit: "x" times as fast, "%" a share, "s" or "MB".
        at_most: reached from above instead of from below.
        device: where it holds.
        full: only measured with --full.
    """

    section: str
    key: str
    goal: float
    unit: str = "x"
    at_most: bool = False
    device: str = "cpu"
    full: bool = False

    def show(self, value: float) -> str:
        """A value in the target's unit."""
        if self.unit == "%":
            return f"{value:.0%}"
        return f"{value:.2f}x" if self.unit == "x" else f"{figure(value)} {self.unit}"

    def ratio(self, measured: float) -> float:
        """1 where the target is just met, above 1 where it is passed."""
        return self.goal / measured if self.at_most else measured / self.goal


def targets_table(
    targets: Sequence[Target],
    findings: Findings,
    sections: Sequence[str],
    device: str,
    full: bool,
) -> list[dict[str, Any]]:
    """Each target of the sections that ran, with what was measured.

    Returns:
        objects of target (its key), goal and measured (text), value and ratio (numbers, None
        where it was not measured).
    """
    rows = []
    for target in targets:
        if target.section not in sections:
            continue
        value = findings.reached.get(target.key) if target.device == device else None
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


# ------------------------------------------------------------------------------- writing


def describe_machine(device: torch.device) -> dict[str, str]:
    """Machine, date and versions, for whoever reads the figures later."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    machine = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": names[0] if names else platform.processor() or platform.machine(),
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


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal; the first and the last column are text, the others numbers."""
    return format_table(header, rows, left=(0, len(header) - 1))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    rule = ["---", *["---:"] * (len(header) - 2), "---"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def target_rows(targets: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of targets as text."""
    rows = []
    for target in targets:
        ratio = target["ratio"]
        said = "" if ratio is None else "reached" if ratio >= 1 else "missed"
        reach = "" if ratio is None else f"{ratio:.2f}"
        rows.append([target["target"], target["goal"], target["measured"], reach, said])
    return ["target", "goal", "measured", "ratio", ""], rows


def save_report(
    folder: Path,
    machine: dict[str, str],
    comparisons: Sequence[Comparison],
    targets: Sequence[dict[str, Any]],
) -> None:
    """Write benchmark.json and benchmark.md."""
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
        parts += [f"## {found.title}", markdown_table(*found.table())]
    parts += ["## Targets", markdown_table(*target_rows(targets))]
    write_text(folder / "benchmark.md", "\n\n".join(parts) + "\n")
