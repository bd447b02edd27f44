"""Rows of tokens: read, check, complete, cut, split and batch.

    vocabulary = Vocabulary.load("data/digits/vocab.json")
    rows = TokenLabelDataset.read("data/digits/train.jsonl", vocabulary, max_length=1024)
    train, validation = rows.split(fraction=0.2, seed=42)
    for indices in train.epoch_batches(batch_size=32, seed=42, epoch=0):
        ids_N, lengths_B = train.gather(indices)

What a row may look like stands in `rows.py`.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.rows.bad_rows import (
    MOST_BAD_ROWS,
    MOST_ERRORS_SHOWN,
    BadRow,
    RowError,
    bad_rows_remedy,
)
from smallgpt.rows.cache import SMALLEST_FILE, RowCache, new_digest
from smallgpt.rows.groups import group_value, has_plain_variant, variant_of
from smallgpt.rows.label_tail import TAIL_LENGTH
from smallgpt.rows.lines import read_json_lines
from smallgpt.rows.row import Row, cut_row, parse_row
from smallgpt.rows.splitting import _linked, number_keys, split_rows
from smallgpt.tokens.vocabulary import Vocabulary

_CACHED_ARRAYS = (
    "tokens",
    "starts_N",
    "lengths_N",
    "classes_N",
    "body_lengths_N",
    "prompt_lengths_N",
    "lines_N",
    "groups_N",
    "sources_N",
    "augmented_N",
)
# Rows whose lengths are sorted together before cutting batches: enough to leave next to no
# padding, few enough that rows still meet different company in every epoch.
_BATCHES_SORTED_TOGETHER = 50


@dataclass
class ReadCounts:
    """What reading changed or met, in rows unless said otherwise."""

    rows: int = 0
    labelled: int = 0
    completed: int = 0  # label tail added from `label`
    repaired: int = 0  # broken tail <CLS> <CLS> <EOS> or <CLS> <EOS> put right from `label`
    cut: int = 0
    cut_tokens: int = 0
    unknown_tokens: int = 0  # tokens, not rows
    padding_dropped: int = 0  # rows that ended in <PAD>
    other_labels: int = 0  # rows whose `label` is spelled as another one of the same token
    first_other_label: str = ""
    plain_variants: int = 0  # rows with a `meta.variant` of the user's own
    skipped: int = 0
    first_skipped: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What a person should know about the reading, one line each; empty if nothing."""
        found = []
        if self.completed:
            found.append(f"{plural(self.completed, 'label tail')} completed")
        if self.repaired:
            found.append(f"{plural(self.repaired, 'broken label tail')} repaired")
        if self.cut:
            found.append(
                f"{plural(self.cut, 'row')} cut to max_length, "
                f"{plural(self.cut_tokens, 'token')} left out"
            )
        if self.unknown_tokens:
            found.append(f"{plural(self.unknown_tokens, 'unknown token')} read as <UNK>")
        if self.padding_dropped:
            found.append(f"<PAD> at the end of {plural(self.padding_dropped, 'row')} dropped")
        if self.other_labels:
            found.append(
                f"{plural(self.other_labels, 'row')} whose label takes the token of another, the "
                f"first: {self.first_other_label}"
            )
        if self.plain_variants:
            found.append(
                f"{plural(self.plain_variants, 'row')} with a `meta.variant` of your own, which is "
                f"not the mark of prepare_data.py --augment: an epoch visits every one of them"
            )
        if self.skipped:
            found.append(f"{plural(self.skipped, 'bad row')} skipped, the first:")
            found += [f"  {line}" for line in self.first_skipped]
        return found


@dataclass(frozen=True)
class TokenLabelDataset:
    """Checked rows in compact arrays; subsets share the token array.

    Attributes:
        vocabulary: the vocabulary of the ids.
        max_length: rows are cut to this many tokens.
        tokens: every row's ids after one another, uint16 (uint32 for large vocabularies).
        starts_N, lengths_N: where row i lies in `tokens`.
        classes_N: index into `vocabulary.labels`, -1 for an unlabelled row.
        body_lengths_N: tokens before the label tail (or before a closing <CLS> or <EOS>).
        prompt_lengths_N: tokens at the start of a row that are read but neither learned nor
            scored: the prompt of an instruction. 0 for all other rows.
        lines_N: line number in the file, from 1.
        groups_N: rows with the same number >= 0 must stay on one side of a split.
        sources_N: rows with the same number >= 0 are variants of one another, -1 for a row
            without the mark `rows.VARIANT`.
        augmented_N: whether a row is a variant made for training, not an original.
        group_names: value of each group number, as JSON text; the numbers are those of one file.
        counts: what reading met (of the whole file, also in a subset).
        records: the parsed JSON objects, where asked for.
        bad_rows: rows that could not be read, with on_bad_row="keep".
    """

    vocabulary: Vocabulary
    max_length: int
    tokens: np.ndarray
    starts_N: np.ndarray
    lengths_N: np.ndarray
    classes_N: np.ndarray
    body_lengths_N: np.ndarray
    prompt_lengths_N: np.ndarray
    lines_N: np.ndarray
    groups_N: np.ndarray
    sources_N: np.ndarray
    augmented_N: np.ndarray
    group_names: list[str]
    counts: ReadCounts
    records: list[dict[str, Any]] | None = None
    bad_rows: list[BadRow] = field(default_factory=list)

    # ---------------------------------------------------------------------------- reading

    @classmethod
    def read(
        cls,
        path: str | Path,
        vocabulary: Vocabulary,
        *,
        max_length: int,
        on_bad_row: str = "error",
        unknown_token: str = "error",
        group_by: str | None = None,
        keep_records: bool = False,
        for_label: bool = False,
    ) -> TokenLabelDataset:
        """Read a JSONL file of rows; a large one that was read before, from the cache beside it.

        Args:
            path: the file.
            vocabulary: token -> id.
            max_length: cut longer rows, see `RowsBuilder.add`.
            on_bad_row: "error" lists the first 20 bad rows and fails, "skip" counts them,
                "keep" collects them in `bad_rows`.
            unknown_token: "error" makes a row with an unknown token a bad row, "unk" maps it
                to <UNK> and counts it.
            group_by: key path such as `meta.source`; rows with the same value form a group.
            keep_records: keep the parsed objects, also those of bad rows (evaluation returns the
                user's own keys).
            for_label: the rows are only to be classified, see `parse_row` and `RowsBuilder.add`.

        Raises:
            UserError: no such file, bad rows (with file, line and reason), no rows at all.
        """
        path = Path(path)
        if unknown_token == "unk" and vocabulary.unk_id is None:
            raise UserError("--unknown_token unk needs <UNK> in the vocabulary")
        how = {
            "max_length": max_length,
            "on_bad_row": on_bad_row,
            "unknown_token": unknown_token,
            "group_by": group_by,
            "for_label": for_label,
        }
        # Whole objects are not cached: parsing them takes most of the time of reading.
        whole_objects = keep_records or on_bad_row == "keep"
        if whole_objects or not os.path.isfile(path) or os.path.getsize(path) < SMALLEST_FILE:
            return cls._parse(path, vocabulary, keep_records=keep_records, **how)
        # The path stands in the reasons of skipped rows.
        cache = RowCache(path, {"path": str(path), "vocabulary": vocabulary.fingerprint(), **how})
        kept = cache.load()
        if kept is not None and _is_sound(*kept, vocabulary):
            arrays, facts = kept
            return cls(
                vocabulary,
                max_length,
                **arrays,
                group_names=facts["group_names"],
                counts=ReadCounts(**facts["counts"]),
            )
        content = new_digest()
        rows = cls._parse(path, vocabulary, content=content, **how)
        arrays = {name: getattr(rows, name) for name in _CACHED_ARRAYS}
        facts = {"group_names": rows.group_names, "counts": asdict(rows.counts)}
        cache.store(content.digest(), arrays, facts)
        return rows

    @classmethod
    def _parse(
        cls,
        path: Path,
        vocabulary: Vocabulary,
        *,
        max_length: int,
        on_bad_row: str,
        unknown_token: str,
        group_by: str | None,
        for_label: bool,
        keep_records: bool = False,
        content: Any = None,
    ) -> TokenLabelDataset:
        """Read a JSONL file line by line; arguments and errors of `read`.

        `content` is a digest that takes in the file's bytes.
        """
        builder = RowsBuilder(vocabulary, max_length, for_label)
        bad_rows: list[BadRow] = []
        bad_count = 0
        spellings: dict[int, tuple[str, int]] = {}  # of each class the first, and its line
        records: list[dict[str, Any]] = []
        for line, record, problem in read_json_lines(path, content):
            try:
                if problem is not None:
                    raise RowError(problem)
                row = parse_row(record, vocabulary, unknown_token, for_label)
            except RowError as error:
                if on_bad_row == "skip":
                    builder.counts.skipped += 1
                    if len(builder.counts.first_skipped) < 5:
                        builder.counts.first_skipped.append(f"{path}:{line}: {error}")
                    continue
                bad_count += 1
                # A file of the wrong kind is all bad rows: only those that are told are kept.
                if on_bad_row == "keep" and bad_count > MOST_BAD_ROWS:
                    raise UserError(
                        f"{path}:{line}: {error}\n"
                        f"more than {MOST_BAD_ROWS:,} bad rows: is this a file of rows?"
                    ) from None
                if on_bad_row == "keep" or bad_count <= MOST_ERRORS_SHOWN:
                    kept = record if keep_records and isinstance(record, dict) else {}
                    bad_rows.append(BadRow(line, str(error), kept))
                continue
            builder.add(row, line, group_value(record, group_by), *variant_of(record))
            if row.label_class >= 0 and record.get("label") is not None:
                label = str(record["label"])
                first, first_line = spellings.setdefault(row.label_class, (label, line))
                if first != label and first.split() != label.split():
                    builder.counts.other_labels += 1
                    builder.counts.first_other_label = builder.counts.first_other_label or (
                        f"{path}:{line} has {shown(label)}, {path}:{first_line} {shown(first)}"
                    )
            builder.counts.plain_variants += has_plain_variant(record)
            if keep_records:
                records.append(record)
        if bad_rows and on_bad_row == "error":
            told = [f"{path}:{bad.line}: {bad.reason}" for bad in bad_rows]
            rest = bad_count - len(told)
            if rest:
                told.append(f"... and {plural(rest, 'more bad row')}")
            told.append(bad_rows_remedy([bad.reason for bad in bad_rows], len(builder.starts)))
            raise UserError("\n".join(told))
        if not builder.starts and not (bad_rows and on_bad_row == "keep"):
            for line in builder.counts.first_skipped:
                raise UserError(f"{path}: every row is bad; the first: {line}")
            raise UserError(f"{path}: no rows in this file")
        return replace(
            builder.finish(), records=records if keep_records else None, bad_rows=bad_rows
        )

    @classmethod
    def from_records(
        cls,
        records: Iterable[dict[str, Any]],
        vocabulary: Vocabulary,
        *,
        max_length: int,
        on_bad_row: str = "error",
        unknown_token: str = "error",
        for_label: bool = False,
    ) -> TokenLabelDataset:
        """Rows given as Python objects; the same rules as a file's, their numbers for lines.

        Raises:
            UserError: a record breaks the format, and bad rows are not to be skipped.
        """
        builder = RowsBuilder(vocabulary, max_length, for_label)
        for number, record in enumerate(records, 1):
            try:
                builder.add(parse_row(record, vocabulary, unknown_token, for_label), number, None)
            except RowError as error:
                if on_bad_row == "skip":
                    builder.counts.skipped += 1
                    continue
                raise UserError(f"row {number}: {error}" if number > 1 else str(error)) from None
        return builder.finish()

    # ---------------------------------------------------------------------------- looking

    def __len__(self) -> int:
        return len(self.starts_N)

    def row(self, index: int) -> np.ndarray:
        """Ids of one row, without padding."""
        start = self.starts_N[index]
        return self.tokens[start : start + self.lengths_N[index]]

    def body(self, index: int) -> np.ndarray:
        """Ids of one row without its tail."""
        start = self.starts_N[index]
        return self.tokens[start : start + self.body_lengths_N[index]]

    def classification_prompt(self, index: int) -> np.ndarray:
        """The question for a row's label: its body and <CLS>, whatever tail it has.

        The row is labelled or was read with `for_label`, so that the body left room for a tail.

        Raises:
            UserError: the vocabulary has no <CLS>.
        """
        cls_id = self.vocabulary.cls_id
        if cls_id is None:
            raise UserError("the vocabulary has no <CLS>: rows cannot be classified")
        body = self.body(index)
        return np.append(body, np.array([cls_id], body.dtype))

    @cached_property
    def scored_counts(self) -> np.ndarray:
        """Tokens of each row that count for loss and perplexity.

        A row's first token has nothing before it, and a prompt is not scored.
        """
        return self.lengths_N - np.maximum(self.prompt_lengths_N, 1)

    @property
    def target_count(self) -> int:
        """Tokens of all rows that count for loss and perplexity."""
        return int(self.scored_counts.sum())

    @property
    def has_variants(self) -> bool:
        """Whether any row is a variant of another."""
        return bool(self.augmented_N.any())

    @cached_property
    def visits(self) -> np.ndarray:
        """How often one epoch visits each row on average: variants of one source share a visit."""
        visits_N = np.ones(len(self))
        if self.has_variants:
            sourced_N = self.sources_N >= 0
            sources = self.sources_N[sourced_N]
            visits_N[sourced_N] /= np.bincount(sources)[sources]
        return visits_N

    @property
    def epoch_share(self) -> float:
        """The share of the rows that one epoch visits: one variant of each source."""
        return round(float(self.visits.sum())) / len(self) if self.has_variants else 1.0

    @property
    def has_labels(self) -> bool:
        """Whether any row is labelled."""
        return bool((self.classes_N >= 0).any())

    @cached_property
    def has_prompts(self) -> bool:
        """Whether any row is an instruction with its answer."""
        return bool(self.prompt_lengths_N.any())

    def subset(self, indices: np.ndarray) -> TokenLabelDataset:
        """The rows `indices`, sharing the token array."""
        return replace(
            self,
            starts_N=self.starts_N[indices],
            lengths_N=self.lengths_N[indices],
            classes_N=self.classes_N[indices],
            body_lengths_N=self.body_lengths_N[indices],
            prompt_lengths_N=self.prompt_lengths_N[indices],
            lines_N=self.lines_N[indices],
            groups_N=self.groups_N[indices],
            sources_N=self.sources_N[indices],
            augmented_N=self.augmented_N[indices],
            records=[self.records[i] for i in indices] if self.records is not None else None,
        )

    def without_tails(self) -> TokenLabelDataset:
        """The rows as a model with a head for labels reads them: bodies, their classes kept."""
        return replace(self, lengths_N=self.body_lengths_N)

    def sample(self, most_rows: int, most_tokens: int, seed: int) -> TokenLabelDataset:
        """At most so many rows with about so many tokens in all, drawn at random; in file order."""
        if len(self):
            most_rows = min(most_rows, max(1, int(most_tokens / self.lengths_N.mean())))
        if len(self) <= most_rows:
            return self
        chosen = np.random.default_rng(seed).choice(len(self), most_rows, replace=False)
        return self.subset(np.sort(chosen))

    def body_keys(self) -> list[bytes]:
        """A 128-bit fingerprint of each row's body: equal bodies have equal keys.

        Of an instruction it is the prompt's: two answers to one question belong together.
        """
        lengths_N = np.where(self.prompt_lengths_N > 0, self.prompt_lengths_N, self.body_lengths_N)
        flat = np.ascontiguousarray(self.tokens)
        size = flat.itemsize
        view = memoryview(flat).cast("B")
        return [
            hashlib.blake2b(view[start * size : (start + length) * size], digest_size=16).digest()
            for start, length in zip(self.starts_N.tolist(), lengths_N.tolist(), strict=True)
        ]

    def group_values(self) -> list[str | None]:
        """The value of each row's group, None for a row of none; comparable between files."""
        return [self.group_names[i] if i >= 0 else None for i in self.groups_N.tolist()]

    def fingerprint(self) -> str:
        """SHA-256 over the rows, their labels and sources: the same data gives the same text."""
        digest = hashlib.sha256()
        # Sources and variants decide which rows an epoch visits.
        visited = (self.sources_N, self.augmented_N)
        lengths = (self.lengths_N, self.prompt_lengths_N)
        for array_ in (*lengths, self.classes_N, *visited, self.starts_N, self.tokens):
            digest.update(np.ascontiguousarray(array_).tobytes())
        return digest.hexdigest()

    # ---------------------------------------------------------------------------- splitting

    def split(self, fraction: float, seed: int) -> tuple[TokenLabelDataset, TokenLabelDataset]:
        """Split into training and held-out rows; see `split_rows`.

        Variants of one source stay together, and those made for training are not held out: the
        held-out rows are like those that a model will meet.

        Raises:
            UserError: all rows belong together, so nothing can be held out.
        """
        bodies = number_keys(self.body_keys())
        keys = [bodies, self.groups_N, self.sources_N]
        train, held_out = split_rows(keys, self.classes_N, fraction, seed)
        held_out = held_out[~self.augmented_N[held_out]]
        if not len(train) or not len(held_out):
            raise UserError(
                f"the rows cannot be split into training and validation: "
                f"{self._why_unsplit(keys)}; give more rows or --val_data_path"
            )
        return self.subset(train), self.subset(held_out)

    def _why_unsplit(self, keys: list[np.ndarray]) -> str:
        """Why `split` can hold nothing out, `keys` being those it split by."""
        if len(self) < 2:
            return f"there is {plural(len(self), 'row')}"
        linked_N = _linked(keys, len(self))
        if not linked_N.any():
            return f"all {len(self):,} rows belong together, by a shared body or group"
        if self.augmented_N.any():
            return "too few of them are originals, and variants are not held out"
        labels = len(np.unique(self.classes_N))
        return (
            f"each of {plural(labels, 'label')} has one row alone, or rows of one body or group, "
            f"and holding those out would leave none to learn from"
        )

    # ---------------------------------------------------------------------------- batching

    def epoch_batches(self, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
        """Row indices of each batch of one epoch, shuffled, rows of like length together.

        Of the variants of one source an epoch has one, drawn anew in every epoch. The order
        follows from seed and epoch alone, so a resumed run needs no replay.
        """
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(self))
        if self.has_variants:
            # The first of each source in shuffled order: any of its variants is as likely.
            units_N = np.where(self.sources_N >= 0, self.sources_N, -1 - np.arange(len(self)))
            order = order[np.sort(np.unique(units_N[order], return_index=True)[1])]
        pool = batch_size * _BATCHES_SORTED_TOGETHER
        batches = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(self.lengths_N[part], kind="stable")]
            batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        return [batches[i] for i in random.permutation(len(batches))]

    def batches_by_length(self, batch_size: int) -> Iterator[np.ndarray]:
        """Row indices of batches for scoring: longest rows first, next to no padding.

        Longest first, so that too little memory shows at once and not at the end.
        """
        order = np.argsort(-self.lengths_N.astype(np.int64), kind="stable")
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows one after another, without padding.

        Returns:
            ids_N: int64, the tokens of all rows.
            lengths_B: int64, tokens of each row.
        """
        lengths_B = self.lengths_N[indices].astype(np.int64)
        shift_B = self.starts_N[indices] - (np.cumsum(lengths_B) - lengths_B)
        places_N = np.arange(lengths_B.sum()) + np.repeat(shift_B, lengths_B)
        return self.tokens[places_N].astype(np.int64), lengths_B

    def shifted(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a model reads and what it is to predict: the one place where targets are shifted.

        Returns:
            inputs_M: int64, the rows one after another, each without its last token.
            targets_M: int64, the token that follows each input.
            counts_B: int64, inputs of each row.
        """
        ids_N, lengths_B = self.gather(indices)
        ends_B = np.cumsum(lengths_B)
        return np.delete(ids_N, ends_B - 1), np.delete(ids_N, ends_B - lengths_B), lengths_B - 1

    def scored(self, indices: np.ndarray) -> np.ndarray:
        """Whether each target of `shifted` counts, M booleans: those of a prompt do not."""
        counts_B = self.lengths_N[indices].astype(np.int64) - 1
        place_M = np.arange(counts_B.sum()) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
        return place_M >= np.repeat(self.prompt_lengths_N[indices] - 1, counts_B)


def _is_sound(arrays: dict[str, np.ndarray], facts: Any, vocabulary: Vocabulary) -> bool:
    """Whether rows from the cache fit together, so that none can lead outside of an array."""
    try:
        tokens, starts_N, lengths_N = (arrays[name] for name in _CACHED_ARRAYS[:3])
        ReadCounts(**facts["counts"])
        names = facts["group_names"]
        return (
            set(arrays) == set(_CACHED_ARRAYS)
            and all(array_.dtype.kind in "iub" for array_ in arrays.values())
            and all(len(arrays[name]) == len(starts_N) > 0 for name in _CACHED_ARRAYS[1:])
            and isinstance(names, list)
            and all(isinstance(name, str) for name in names)
            and _within(tokens, 0, len(vocabulary))
            and _within(lengths_N, 1, len(tokens) + 1)
            and _within(starts_N, 0, len(tokens))
            and bool((starts_N + lengths_N <= len(tokens)).all())
            and _within(arrays["classes_N"], -1, len(vocabulary.labels))
            and _within(lengths_N - arrays["body_lengths_N"], 0, len(tokens) + 1)
            and _within(arrays["body_lengths_N"], 1, len(tokens) + 1)
            and _within(arrays["groups_N"], -1, len(names))
            and _within(arrays["sources_N"], -1, len(starts_N))
        )
    except (KeyError, TypeError):
        return False


def _within(numbers: np.ndarray, least: int, end: int) -> bool:
    return bool(((numbers >= least) & (numbers < end)).all())


class RowsBuilder:
    """Collects parsed rows into the compact arrays of a dataset."""

    def __init__(self, vocabulary: Vocabulary, max_length: int, for_label: bool = False):
        """
        Args:
            vocabulary: of the rows' ids.
            max_length: rows are cut to this many tokens.
            for_label: the rows are only to be classified.
        """
        self.vocabulary, self.max_length, self.for_label = vocabulary, max_length, for_label
        self.tokens = array("H" if len(vocabulary) <= 65_536 else "I")
        self.starts, self.lines = array("q"), array("q")
        self.lengths, self.classes = array("i"), array("i")
        self.body_lengths, self.prompt_lengths = array("i"), array("i")
        self.groups, self.sources, self.augmented = array("q"), array("q"), array("b")
        self.group_numbers: dict[str, int] = {}
        self.source_numbers: dict[str, int] = {}
        self.counts = ReadCounts()

    def add(
        self,
        row: Row,
        line: int,
        group: str | None,
        source: str | None = None,
        variant: int = 0,
    ) -> None:
        """Add a row, cut to `max_length`.

        A row that is to be classified leaves room for a whole label tail, so that its body is cut
        alike whether or not its label is known.
        """
        room = TAIL_LENGTH - (len(row.ids) - row.body_length) if self.for_label else 0
        ids = cut_row(row.ids, self.max_length - room, self.vocabulary.first_ids)
        removed = len(row.ids) - len(ids)
        self.starts.append(len(self.tokens))
        # By way of an array, which takes half as long as extending by a list.
        self.tokens.extend(array(self.tokens.typecode, ids))
        self.lengths.append(len(ids))
        self.classes.append(row.label_class)
        self.body_lengths.append(row.body_length - removed)
        self.prompt_lengths.append(max(0, row.prompt_length - removed))
        self.lines.append(line)
        number = -1
        if group is not None:
            number = self.group_numbers.setdefault(group, len(self.group_numbers))
        self.groups.append(number)
        number = -1
        if source is not None:
            number = self.source_numbers.setdefault(source, len(self.source_numbers))
        self.sources.append(number)
        self.augmented.append(variant > 0)
        counts = self.counts
        counts.rows += 1
        counts.labelled += row.label_class >= 0
        counts.completed += row.change == "completed"
        counts.repaired += row.change == "repaired"
        counts.unknown_tokens += row.unknown_tokens
        counts.padding_dropped += row.padding_dropped
        counts.cut += removed > 0
        counts.cut_tokens += removed

    def finish(self) -> TokenLabelDataset:
        def numpy(values: array) -> np.ndarray:
            return np.frombuffer(values, dtype=values.typecode) if values else np.zeros(0, int)

        return TokenLabelDataset(
            self.vocabulary,
            self.max_length,
            numpy(self.tokens),
            numpy(self.starts),
            numpy(self.lengths),
            numpy(self.classes),
            numpy(self.body_lengths),
            numpy(self.prompt_lengths),
            numpy(self.lines),
            numpy(self.groups),
            numpy(self.sources),
            numpy(self.augmented).astype(bool),
            list(self.group_numbers),
            self.counts,
        )
