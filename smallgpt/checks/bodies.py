"""The rows that leaks are looked for in, without their tails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smallgpt.checks.thresholds import _EXAMPLES, _SEED
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.vocabulary import Vocabulary

MOST_ROWS, MOST_TOKENS = 100_000, 4_000_000  # looked at; more are sampled


# ------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class _Bodies:
    """Bodies of labelled rows of both sides, one entry per token.

    Attributes:
        vocabulary: names of the token ids and of the classes.
        row_M, place_M, id_M: row, place from the start of the body, and id of each token.
        classes_N, lengths_N: class and body length of each row.
        side_N, lines_N: where each row stands: 0 or 1 for its file in `names`, and the line.
    """

    vocabulary: Vocabulary
    row_M: np.ndarray
    place_M: np.ndarray
    id_M: np.ndarray
    classes_N: np.ndarray
    lengths_N: np.ndarray
    names: tuple[str, str]
    side_N: np.ndarray
    lines_N: np.ndarray

    @classmethod
    def of(
        cls, train: TokenLabelDataset, validation: TokenLabelDataset, names: tuple[str, str]
    ) -> _Bodies:
        """Labelled rows with a body, sampled where they are too many."""
        sides = []
        for side, rows in enumerate((train, validation)):
            chosen = np.flatnonzero((rows.classes_N >= 0) & (rows.body_lengths_N > 0))
            sides.append(np.stack([np.full(len(chosen), side), chosen]))
        places_2xN = np.concatenate(sides, axis=1)
        lengths_N = np.concatenate(
            [train.body_lengths_N[sides[0][1]], validation.body_lengths_N[sides[1][1]]]
        ).astype(np.int64)
        most = min(
            MOST_ROWS, int(MOST_TOKENS / max(1.0, lengths_N.mean() if len(lengths_N) else 1))
        )
        if len(lengths_N) > most:
            random = np.random.default_rng(_SEED)
            kept = np.sort(random.choice(len(lengths_N), most, replace=False))
            places_2xN, lengths_N = places_2xN[:, kept], lengths_N[kept]
        row_M = np.repeat(np.arange(len(lengths_N)), lengths_N)
        place_M = np.arange(len(row_M)) - np.repeat(np.cumsum(lengths_N) - lengths_N, lengths_N)
        parts, classes, lines = [], [], []
        for side, rows in enumerate((train, validation)):
            chosen = places_2xN[1, places_2xN[0] == side]
            lengths = rows.body_lengths_N[chosen].astype(np.int64)
            starts_M = np.repeat(rows.starts_N[chosen], lengths)
            offset_M = np.arange(len(starts_M)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            parts.append(rows.tokens[starts_M + offset_M].astype(np.int64))
            classes.append(rows.classes_N[chosen].astype(np.int64))
            lines.append(rows.lines_N[chosen])
        return cls(
            train.vocabulary,
            row_M,
            place_M,
            np.concatenate(parts),
            np.concatenate(classes),
            lengths_N,
            names,
            places_2xN[0],
            np.concatenate(lines),
        )

    def without(self, left_out_N: np.ndarray) -> _Bodies:
        """The bodies less some rows."""
        if not left_out_N.any():
            return self
        stays_N = ~left_out_N
        stays_M = stays_N[self.row_M]
        return _Bodies(
            self.vocabulary,
            (np.cumsum(stays_N) - 1)[self.row_M[stays_M]],
            self.place_M[stays_M],
            self.id_M[stays_M],
            self.classes_N[stays_N],
            self.lengths_N[stays_N],
            self.names,
            self.side_N[stays_N],
            self.lines_N[stays_N],
        )

    @property
    def tokens(self) -> list[str]:
        return self.vocabulary.tokens

    def label(self, of_class: int) -> str:
        return self.vocabulary.labels[of_class]

    def examples(self, rows: np.ndarray) -> list[str]:
        """The first of some rows as `file:line`."""
        first = rows[np.lexsort((self.lines_N[rows], self.side_N[rows]))[:_EXAMPLES]]
        return [f"{self.names[self.side_N[i]]}:{self.lines_N[i]}" for i in first]


def _files(
    train: TokenLabelDataset, validation: TokenLabelDataset, names: tuple[str, str]
) -> list[tuple[TokenLabelDataset, str]]:
    """Each file once: two sides of one file share what its reading met."""
    both = [(train, names[0]), (validation, names[1])]
    return both[:1] if validation.counts is train.counts else both
