"""Comparisons of measured contenders: medians, speed ratios, tables.

comparison = Comparison("Training", "tokens/s", [Entry("ours", [9]), Entry("peer", [5])])
findings.add(comparison)                             # prints the table
findings.reach("training, against the best peer", comparison.lead())
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from smallgpt.console import format_table, say

Cells = tuple[list[str], list[list[str]]]  # of a table: header and rows


@dataclass(frozen=True)
class Entry:
    """One contender of a comparison.

    `values` has one figure per round, none if it was not measured; `note` says why, or what else to
    know; `share` is its share of the machine's limit, if there is one.
    """

    name: str
    values: list[float] = field(default_factory=list)
    note: str = ""
    share: float | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None


@dataclass(frozen=True)
class Comparison:
    """Entries that took turns; the first is ours.

    `unit` is that of the values: one that ends in /s is better if larger, others if smaller.
    `race`: all did the same work, so that one is faster than another.
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
        """Speed of `of` (None = the first) over the fastest other with `named` in its name."""
        mine = of or self.entries[0]
        others = [entry for entry in self.entries if entry is not mine and named in entry.name]
        leads = [self.advantage(mine, other) for other in others]
        return min((lead for lead in leads if lead is not None), default=None)

    @property
    def is_complete(self) -> bool:
        """Whether every entry was measured: else the best peer may be one that is missing."""
        return all(entry.values for entry in self.entries)

    def lead_of_ours(self, ours: str = "ours", peers: str = "") -> float | None:
        """Speed of the fastest entry that is ours over the fastest peer.

        `ours`, `peers`: what stands in the names of those that count.
        """
        mine = [e for e in self.entries if e.name.startswith("ours") and ours in e.name]
        leads = []
        for each in mine:
            of_peers = [
                self.advantage(each, peer)
                for peer in self.entries
                if not peer.name.startswith("ours") and peers in peer.name
            ]
            known = [lead for lead in of_peers if lead is not None]
            leads += [min(known)] if known else []
        return max(leads, default=None)

    def cells(self) -> Cells:
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
    """A number with three significant digits, from 100 on as an integer; `-` for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass
class Findings:
    """All comparisons, in the order of measuring; `reached` has figures of targets by their key."""

    comparisons: list[Comparison] = field(default_factory=list)
    reached: dict[str, float] = field(default_factory=dict)

    def add(self, comparison: Comparison) -> None:
        """Record a comparison and print it."""
        self.comparisons.append(comparison)
        say(f"\n{comparison.title}\n{terminal_table(*comparison.cells())}")

    def reach(self, key: str, value: float | None) -> None:
        """Record the figure of a target, if it was measured."""
        if value is not None:
            self.reached[key] = value


def terminal_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal; first and last column are text, the others numbers."""
    return format_table(header, rows, left=(0, len(header) - 1))
