"""Contenders beside one another, and what all comparisons found.

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
    """A number as a person reads it: three digits that count, `-` for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass
class Findings:
    """What was found so far.

    Attributes:
        comparisons: in the order of measuring.
        reached: what was measured of the targets, by their key; other keys may be there too.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    reached: dict[str, float] = field(default_factory=dict)

    def add(self, comparison: Comparison) -> None:
        """Note a comparison and print it."""
        self.comparisons.append(comparison)
        say(f"\n{comparison.title}\n{terminal_table(*comparison.cells())}")

    def reach(self, key: str, value: float | None) -> None:
        """Note what a target reached, if it was measured."""
        if value is not None:
            self.reached[key] = value


def terminal_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal; the first and the last column are text, the others numbers."""
    return format_table(header, rows, left=(0, len(header) - 1))
