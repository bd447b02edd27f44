"""State that the leak searches share: bodies of the labelled rows, and leaks found so far.

There may be 10,000 labels: tables hold what occurs in the rows, never labels x tokens or x places.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from smallgpt.checks.sides import Sides, places_within, tokens_of
from smallgpt.console import printable, shorten
from smallgpt.tokens.vocabulary import Vocabulary

MOST_ROWS, MOST_TOKENS = 100_000, 4_000_000  # searched; more rows are sampled
MOST_FINDINGS = 10  # reported of each kind
EXAMPLES = 5  # rows listed in a finding
SEED = 0  # of samples and halves
_NAME_COLUMNS = 40  # width of a token or a label in a message


@dataclass(frozen=True)
class Bodies:
    """Bodies of the labelled rows of both sides."""

    sides: Sides
    row_M: np.ndarray
    place_M: np.ndarray  # from the start of the body
    id_M: np.ndarray
    classes_N: np.ndarray
    lengths_N: np.ndarray
    numbers_N: np.ndarray  # of each row in `sides`

    @classmethod
    def of(cls, sides: Sides) -> Bodies:
        """The labelled rows with a body, or a sample if there are too many."""
        classes_N = sides.joined("classes_N").astype(np.int64)
        lengths_N = sides.joined("body_lengths_N").astype(np.int64)
        numbers_N = np.flatnonzero((classes_N >= 0) & (lengths_N > 0))
        mean = lengths_N[numbers_N].mean() if len(numbers_N) else 1
        most = min(MOST_ROWS, int(MOST_TOKENS / max(1.0, mean)))
        if len(numbers_N) > most:
            random = np.random.default_rng(SEED)
            numbers_N = numbers_N[np.sort(random.choice(len(numbers_N), most, replace=False))]
        border = np.searchsorted(numbers_N, len(sides.train))
        chosen = sides.subset(numbers_N[:border], numbers_N[border:] - len(sides.train))
        ids = [tokens_of(rows.without_tails())[0] for rows in (chosen.train, chosen.validation)]
        lengths_N = lengths_N[numbers_N]
        row_M = np.repeat(np.arange(len(numbers_N)), lengths_N)
        return cls(
            sides,
            row_M,
            places_within(row_M),
            np.concatenate(ids),
            classes_N[numbers_N],
            lengths_N,
            numbers_N,
        )

    def without(self, left_out_N: np.ndarray) -> Bodies:
        """The bodies less some rows."""
        stays_N = ~left_out_N
        stays_M = stays_N[self.row_M]
        return replace(
            self,
            row_M=(np.cumsum(stays_N) - 1)[self.row_M[stays_M]],
            place_M=self.place_M[stays_M],
            id_M=self.id_M[stays_M],
            classes_N=self.classes_N[stays_N],
            lengths_N=self.lengths_N[stays_N],
            numbers_N=self.numbers_N[stays_N],
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """Names of the token ids and of the classes."""
        return self.sides.train.vocabulary

    @property
    def class_count(self) -> int:
        """Number of distinct classes."""
        return len(np.unique(self.classes_N))

    @property
    def longest(self) -> int:
        """Length of the longest body in tokens."""
        return int(self.lengths_N.max())

    def places_from_end(self) -> np.ndarray:
        """The place of each token counted from the end of its body."""
        return self.lengths_N[self.row_M] - 1 - self.place_M

    def halves(self) -> np.ndarray:
        """Mask of a random half of the rows."""
        rows = len(self.classes_N)
        return np.random.default_rng(SEED).permutation(rows) < rows // 2

    def examples(self, rows: np.ndarray) -> list[str]:
        """The first few of some rows as `file:line`, training rows first."""
        numbers_B = self.numbers_N[rows]
        in_validation_B = numbers_B >= len(self.sides.train)
        order = np.lexsort((self.sides.lines[numbers_B], in_validation_B))[:EXAMPLES]
        return [self.sides.place(number) for number in numbers_B[order]]


@dataclass
class LeakSearch:
    """State of a search, passed through the functions in `leaks.KINDS` one after another."""

    sides: Sides
    group_by: str | None = None  # for messages
    named_V: np.ndarray = field(init=False)  # tokens in a finding: one leak is reported once
    given_away_N: np.ndarray = field(init=False)  # rows of `bodies` that such a token gives away
    figures: dict[str, Any] = field(default_factory=dict)  # more for `leaks_search` of the report

    def __post_init__(self) -> None:
        self.named_V = np.zeros(len(self.bodies.vocabulary), bool)
        self.given_away_N = np.zeros(len(self.bodies.classes_N), bool)

    @cached_property
    def bodies(self) -> Bodies:
        """The bodies of the labelled rows."""
        return Bodies.of(self.sides)


def short_name(name: str) -> str:
    """A token, label or group for a message: printable, at most 40 columns."""
    return shorten(printable(name), _NAME_COLUMNS)
