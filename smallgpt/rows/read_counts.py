"""Counts what reading a file of rows changed or skipped, and words it for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from smallgpt.console import plural
from smallgpt.files.reading import shown
from smallgpt.rows.bad_rows import BadRows

_MOST_SKIPPED_SHOWN = 5
_MOST_UNKNOWN, _MOST_UNKNOWN_SHOWN = 10_000, 5  # different tokens


@dataclass
class ReadCounts:
    """What reading changed or met, in rows unless said otherwise."""

    rows: int = 0
    labelled: int = 0
    completed: int = 0  # label tail added from `label`
    repaired: int = 0  # broken tail <CLS> <CLS> <EOS> or <CLS> <EOS> replaced from `label`
    cut: int = 0
    cut_tokens: int = 0
    max_length: int = 0  # which they were cut to
    longest_cut: int = 0  # tokens of the longest of them, with its label tail
    unknown_tokens: int = 0  # tokens, not rows
    unknown_names: dict[str, int] = field(default_factory=dict)  # how often each, of many not all
    padding_dropped: int = 0  # rows that ended in <PAD>
    other_labels: int = 0  # rows whose `label` has another spelling than the first of that token
    first_other_label: str = ""
    without_codebook: int = 0  # image rows that do not say which codebook made them
    plain_variants: int = 0  # rows with a `meta.variant` of the user's own
    skipped: int = 0
    first_skipped: list[str] = field(default_factory=list)

    def skip(self, bad: BadRows) -> None:
        self.skipped, self.first_skipped = bad.count, bad.first[:_MOST_SKIPPED_SHOWN]

    def note_unknown(self, names: Collection[str]) -> None:
        """Count tokens that are read as <UNK>."""
        self.unknown_tokens += len(names)
        for name in names:
            if name in self.unknown_names or len(self.unknown_names) < _MOST_UNKNOWN:
                self.unknown_names[name] = self.unknown_names.get(name, 0) + 1

    def lines(self, learned_unknown: bool | None = None) -> list[str]:
        """What a person should know about the reading, one line each.

        `learned_unknown`: whether the model that the rows are for had <UNK> in training; None:
        they are for training one.
        """
        found = []
        if self.completed:
            whose = "its" if self.completed == 1 else "their"
            found.append(
                f"the `label` of {plural(self.completed, 'row')} put at {whose} end as tokens: "
                f"<CLS> <CLS_...> <EOS>"
            )
        if self.repaired:
            found.append(f"{plural(self.repaired, 'broken label tail')} repaired")
        if self.cut:
            up_to = "" if self.cut == 1 else "up to "
            cut_to = f"max_length, {self.max_length:,}"
            if learned_unknown is not None:
                cut_to = f"{self.max_length:,}, the most that the model has learned to read"
            found.append(
                f"{plural(self.cut, 'row')} of {up_to}{self.longest_cut:,} tokens cut to "
                f"{cut_to}: {plural(self.cut_tokens, 'token')} left out"
            )
        if self.unknown_tokens:
            learned = learned_unknown is not False
            found.append(unknown_line(self.unknown_tokens, self.unknown_names, learned))
        if self.padding_dropped:
            found.append(f"<PAD> at the end of {plural(self.padding_dropped, 'row')} dropped")
        if self.other_labels:
            found.append(
                f"{plural(self.other_labels, 'row')} whose label takes the token of another, the "
                f"first: {self.first_other_label}"
            )
        found += self.codebook_lines()
        if self.plain_variants:
            found.append(
                f"{plural(self.plain_variants, 'row')} with a `meta.variant` of your own, which is "
                f"not the mark of prepare_data.py --augment: an epoch visits every one of them"
            )
        if self.skipped:
            found.append(f"{plural(self.skipped, 'bad row')} skipped, the first:")
            found += [f"  {line}" for line in self.first_skipped]
        return found

    def codebook_lines(self) -> list[str]:
        """The line about image rows that do not name their codebook, if there are any."""
        if not self.without_codebook:
            return []
        return [
            f"{plural(self.without_codebook, 'row')} without `meta.codebook_digest`, which tells "
            f"rows of another codebook apart: read as rows of this one"
        ]


def unknown_line(count: int, names: Mapping[str, int], learned: bool = True) -> str:
    """How many tokens were read as <UNK>, and the most frequent of them.

    Args:
        names: how often each occurs, in the order of the rows; {} where they are not known.
        learned: whether the model had <UNK> in training.
    """
    frequent = sorted(names, key=lambda name: -names[name])
    told = [
        shown(name) + (f" ({names[name]:,} times)" if names[name] > 1 else "")
        for name in frequent[:_MOST_UNKNOWN_SHOWN]
    ]
    line = f"{plural(count, 'unknown token')} read as <UNK>"
    if told:
        line += f": {', '.join(told)}" + (", ..." if len(frequent) > len(told) else "")
    if not learned:
        line += "; training never had <UNK>, so what the model makes of it is worth little"
    return line
