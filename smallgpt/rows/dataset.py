"""The dataset: checked rows of tokens in compact arrays.

    rows = read_dataset("data/digits/train.jsonl", vocabulary, max_length=1024)  # rows/reading.py
    train, validation = split_dataset(rows, fraction=0.2, seed=42)            # rows/splitting.py
    for indices in epoch_batches(train, 32, seed=42, epoch=0):                # rows/batching.py
        inputs_M, targets_M, counts_B = train.shifted(indices)

A column is a number that every row has. A new one is added in one place, the fields of
`TokenLabelDataset`; collecting, subsets, the cache and its checks follow from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from smallgpt.rows.bad_rows import BadRow
from smallgpt.rows.read_counts import ReadCounts
from smallgpt.rows.row import Row
from smallgpt.tokens.vocabulary import Vocabulary


class NewRow(NamedTuple):
    """A row, cut to its final length, on its way into the columns."""

    row: Row
    length: int
    start: int  # where its ids begin in `tokens`
    line: int  # number in its file, from 1
    group: int  # -1 for none, as in the next
    source: int
    variant: int  # 0 for an original


class Column(NamedTuple):
    """How a column is stored, filled and checked."""

    dtype: str
    attribute: str  # of a `NewRow`, from where the number comes
    least: int  # smallest valid value
    below: Callable[[TokenLabelDataset], Any]  # exclusive bound: one, or one a row
    in_fingerprint: bool = True  # whether another value here makes it other data


def column(*args: Any, **kwargs: Any) -> dict[str, Column]:
    """The metadata of a field that is a column; arguments as for `Column`."""
    return {"column": Column(*args, **kwargs)}


@dataclass(frozen=True)
class TokenLabelDataset:
    """Checked rows; subsets share the token array."""

    vocabulary: Vocabulary
    max_length: int  # rows are cut to this many tokens
    tokens: np.ndarray  # ids of all rows, concatenated; uint16, uint32 for large vocabularies
    # The columns; `fingerprint` depends on their order, and checkpoints on the fingerprint.
    # A length counts the label tail.
    lengths_N: np.ndarray = field(
        metadata=column("i4", "length", 1, lambda rows: len(rows.tokens) + 1)
    )
    # Tokens of an instruction's prompt, read but neither learned nor scored; 0 for other rows.
    prompt_lengths_N: np.ndarray = field(
        metadata=column("i4", "row.prompt_length", 0, lambda rows: rows.lengths_N + 1)
    )
    # Index into `vocabulary.labels`, -1 for an unlabelled row.
    classes_N: np.ndarray = field(
        metadata=column("i4", "row.label_class", -1, lambda rows: len(rows.vocabulary.labels))
    )
    # Rows with the same number >= 0 are variants of one source, -1 for a row without the key
    # `groups.VARIANT`. An epoch visits one variant of each source.
    sources_N: np.ndarray = field(metadata=column("i8", "source", -1, lambda rows: len(rows)))
    # Whether a row is a variant made for training, not an original.
    augmented_N: np.ndarray = field(metadata=column("?", "variant", 0, lambda rows: 2))
    starts_N: np.ndarray = field(
        metadata=column("i8", "start", 0, lambda rows: len(rows.tokens) - rows.lengths_N + 1)
    )
    # Tokens before the label tail (or before a closing <CLS> or <EOS>).
    body_lengths_N: np.ndarray = field(
        metadata=column(
            "i4", "row.body_length", 1, lambda rows: rows.lengths_N + 1, in_fingerprint=False
        )
    )
    # Line number in the file, from 1.
    lines_N: np.ndarray = field(
        metadata=column("i8", "line", 1, lambda rows: np.inf, in_fingerprint=False)
    )
    # Rows with the same number >= 0 must stay on one side of a split.
    groups_N: np.ndarray = field(
        metadata=column("i8", "group", -1, lambda rows: len(rows.group_names), in_fingerprint=False)
    )
    group_names: list[str]  # value of each group number, as JSON; numbers are those of one file
    counts: ReadCounts  # of the whole file, also in a subset
    # The labels of the file that stand in `label` keys, each as it is spelled first.
    label_spellings: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] | None = None  # the parsed JSON objects, where asked for
    bad_rows: list[BadRow] = field(default_factory=list)  # with on_bad_row="keep"
    # How often an epoch visits each row with a label; one without is visited once.
    labelled_visits: int = 1

    def __len__(self) -> int:
        return len(self.starts_N)

    # ---------------------------------------------------------------------------- one row

    def row(self, index: int) -> np.ndarray:
        """Ids of one row, without padding."""
        start = self.starts_N[index]
        return self.tokens[start : start + self.lengths_N[index]]

    def body(self, index: int) -> np.ndarray:
        """Ids of one row without its label tail."""
        start = self.starts_N[index]
        return self.tokens[start : start + self.body_lengths_N[index]]

    # ---------------------------------------------------------------------------- all rows

    @property
    def kept_records(self) -> list[dict[str, Any]]:
        """`records`, of rows that were read with `keep_records`."""
        assert self.records is not None
        return self.records

    @property
    def label_names(self) -> list[str]:
        """The labels as people write them, by class."""
        return self.vocabulary.label_names

    @property
    def has_labels(self) -> bool:
        """Whether any row is labelled."""
        return bool((self.classes_N >= 0).any())

    @cached_property
    def has_prompts(self) -> bool:
        """Whether any row is an instruction with its answer."""
        return bool(self.prompt_lengths_N.any())

    @cached_property
    def has_unknown(self) -> bool:
        """Whether any row has <UNK>."""
        places_P = np.flatnonzero(self.tokens == self.vocabulary.unk_id)
        if not len(places_P):
            return False
        order_N = np.argsort(self.starts_N)  # subsets share the tokens of all rows
        row_P = order_N[np.searchsorted(self.starts_N[order_N], places_P, "right") - 1]
        inside_P = places_P - self.starts_N[row_P]
        return bool(((inside_P >= 0) & (inside_P < self.lengths_N[row_P])).any())

    def first_tokens(self, most: int) -> dict[str, int]:
        """How many rows begin with each token, the `most` most frequent; not of a special one."""
        counts_V = np.bincount(self.tokens[self.starts_N], minlength=len(self.vocabulary))
        counts_V[[*self.vocabulary.special_ids, *self.vocabulary.label_ids]] = 0
        ids = np.argsort(-counts_V, kind="stable")[:most].tolist()
        return {self.vocabulary.tokens[i]: int(counts_V[i]) for i in ids if counts_V[i]}

    @property
    def has_variants(self) -> bool:
        """Whether any row is a variant of another."""
        return bool(self.augmented_N.any())

    @cached_property
    def scored_counts(self) -> np.ndarray:
        """Scored tokens of each row: not the first, which has nothing before it, and no prompt."""
        return self.lengths_N - np.maximum(self.prompt_lengths_N, 1)

    @property
    def scored_body_counts(self) -> np.ndarray:
        """How many of them stand before the label tail (or before a closing <CLS> or <EOS>)."""
        return np.maximum(self.body_lengths_N - np.maximum(self.prompt_lengths_N, 1), 0)

    @property
    def target_count(self) -> int:
        """Scored tokens of all rows: those that count for loss and perplexity."""
        return int(self.scored_counts.sum())

    @cached_property
    def units(self) -> np.ndarray:
        """A number for what an epoch visits together: a row, or the variants of one source."""
        rows = -1 - np.arange(len(self))
        return np.where(self.sources_N >= 0, self.sources_N, rows) if self.has_variants else rows

    @cached_property
    def visits(self) -> np.ndarray:
        """How often an epoch visits each row on average: variants of one source share a visit."""
        _, unit_N, sizes = np.unique(self.units, return_inverse=True, return_counts=True)
        visits_N = 1 / sizes[unit_N]
        labelled_N = self.classes_N >= 0
        labelled = np.bincount(unit_N[labelled_N], minlength=len(sizes))
        visits_N[labelled_N] += (self.labelled_visits - 1) / labelled[unit_N[labelled_N]]
        return visits_N

    @property
    def visited_rows(self) -> int:
        """Rows that one epoch visits, a row as often as it does."""
        labelled = np.unique(self.units[self.classes_N >= 0])
        return len(np.unique(self.units)) + (self.labelled_visits - 1) * len(labelled)

    def group_values(self) -> list[str | None]:
        """The value of each row's group, None without one; comparable between files."""
        return [self.group_names[i] if i >= 0 else None for i in self.groups_N.tolist()]

    def body_keys(self) -> list[bytes]:
        """A 128-bit hash of each row's body: equal bodies have equal keys.

        Of an instruction only the prompt is hashed: two answers to one question belong together.
        """
        lengths_N = np.where(self.prompt_lengths_N > 0, self.prompt_lengths_N, self.body_lengths_N)
        flat = np.ascontiguousarray(self.tokens)
        size = flat.itemsize
        view = flat.data.cast("B")
        return [
            hashlib.blake2b(view[start * size : (start + length) * size], digest_size=16).digest()
            for start, length in zip(self.starts_N.tolist(), lengths_N.tolist(), strict=True)
        ]

    def fingerprint(self) -> str:
        """SHA-256 over the rows, their labels and sources."""
        digest = hashlib.sha256()
        for name, each in COLUMNS.items():
            if each.in_fingerprint:
                digest.update(np.ascontiguousarray(getattr(self, name)).data)
        digest.update(np.ascontiguousarray(self.tokens).data)
        return digest.hexdigest()

    def described_fingerprint(self) -> str:
        """The number of rows and the beginning of their fingerprint, as a person compares them."""
        return f"{len(self):,} rows ({self.fingerprint()[:16]})"

    def is_sound(self) -> bool:
        """Whether all columns have their types and keep to their bounds.

        Then no row points outside of an array, even if somebody else wrote the cache entry.
        """
        columns = {name: getattr(self, name) for name in COLUMNS}
        if any(
            values.dtype != COLUMNS[name].dtype or values.shape != self.starts_N.shape
            for name, values in columns.items()
        ):
            return False
        return (
            len(self) > 0
            and self.tokens.dtype.kind == "u"
            and bool((self.tokens < len(self.vocabulary)).all())
            and all(
                bool(((COLUMNS[name].least <= values) & (values < COLUMNS[name].below(self))).all())
                for name, values in columns.items()
            )
        )

    # ---------------------------------------------------------------------------- parts

    def subset(self, indices: np.ndarray | slice) -> TokenLabelDataset:
        """The rows `indices`, sharing the token array."""
        records = self.records
        if records is not None:
            records = [records[i] for i in np.arange(len(self))[indices]]
        columns = {name: getattr(self, name)[indices] for name in COLUMNS}
        return replace(self, **columns, records=records)

    def without_tails(self) -> TokenLabelDataset:
        """The rows as a model with a classification head reads them: bodies, their classes kept."""
        return replace(self, lengths_N=self.body_lengths_N)

    def sample(self, most_rows: int, most_tokens: int, seed: int) -> TokenLabelDataset:
        """At most so many rows with about so many tokens in all, drawn at random; in file order."""
        if len(self):
            most_rows = min(most_rows, max(1, int(most_tokens / self.lengths_N.mean())))
        if len(self) <= most_rows:
            return self
        chosen = np.random.default_rng(seed).choice(len(self), most_rows, replace=False)
        return self.subset(np.sort(chosen))

    # ---------------------------------------------------------------------------- batches

    def gather(
        self, indices: np.ndarray, label_first_B: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows concatenated without padding: ids_N and the lengths_B of the rows, both int64.

        Where `label_first_B` (bool, of labelled rows only) says so, a row is `<CLS_k>`, its body
        and `<CLS>`.
        """
        lengths_B = self.lengths_N[indices].astype(np.int64)
        if label_first_B is not None:
            lengths_B -= label_first_B
        starts_B = np.cumsum(lengths_B) - lengths_B
        places_N = np.arange(lengths_B.sum()) - np.repeat(starts_B, lengths_B)  # within the row
        if label_first_B is not None:
            places_N -= np.repeat(label_first_B, lengths_B)
            places_N[starts_B[label_first_B]] = self.body_lengths_N[indices][label_first_B] + 1
        places_N += np.repeat(self.starts_N[indices], lengths_B)
        return self.tokens[places_N].astype(np.int64), lengths_B

    def shifted(
        self, indices: np.ndarray, label_first_B: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs and targets of a model: the one place where targets are shifted.

        transformers' `labels=` is never used: it shifts by itself, and targets would be shifted
        twice. `label_first_B`: see `gather`.

        Returns:
            inputs_M: int64, the rows concatenated, each without its last token.
            targets_M: int64, the token that follows each input.
            counts_B: int64, inputs of each row.
        """
        ids_N, lengths_B = self.gather(indices, label_first_B)
        ends_B = np.cumsum(lengths_B)
        return np.delete(ids_N, ends_B - 1), np.delete(ids_N, ends_B - lengths_B), lengths_B - 1

    def scored(self, indices: np.ndarray) -> np.ndarray:
        """Whether each target of `shifted` counts (M booleans): those of a prompt do not."""
        counts_B = self.lengths_N[indices].astype(np.int64) - 1
        place_M = np.arange(counts_B.sum()) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
        return place_M >= np.repeat(self.prompt_lengths_N[indices] - 1, counts_B)


COLUMNS: dict[str, Column] = {
    each.name: each.metadata["column"]
    for each in fields(TokenLabelDataset)
    if "column" in each.metadata
}
