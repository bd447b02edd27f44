"""Reads rows from a JSONL file, from its cache, or from Python objects; formats: `rows/row.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.rows.bad_rows import MOST_BAD_ROWS, BadRow, BadRows, RowError, bad_rows_remedy
from smallgpt.rows.builder import RowsBuilder
from smallgpt.rows.cache import SMALLEST_FILE, RowCache, new_digest
from smallgpt.rows.codebook_of_rows import KnownCodebook
from smallgpt.rows.dataset import COLUMNS, TokenLabelDataset
from smallgpt.rows.groups import group_value, has_plain_variant, variant_of
from smallgpt.rows.lines import read_json_lines
from smallgpt.rows.read_counts import ReadCounts
from smallgpt.rows.row import parse_row
from smallgpt.tokens.vocabulary import Vocabulary

# What a reader found: number of the line, parsed value, why it cannot be used (None: it can).
Found = tuple[int, Any, str | None]


def read_dataset(
    path: str | Path,
    vocabulary: Vocabulary,
    *,
    max_length: int,
    on_bad_row: str = "error",
    unknown_token: str = "error",
    group_by: str | None = None,
    keep_records: bool = False,
    for_label: bool = False,
    codebook: KnownCodebook | None = None,
) -> TokenLabelDataset:
    """Read a JSONL file of rows; a large one that was read before, from the cache beside it.

    Args:
        max_length: cut longer rows, see `RowsBuilder.add`.
        on_bad_row: "error" lists the first 20 bad rows and fails, "skip" counts them,
            "keep" collects them in `bad_rows`.
        unknown_token: "error" makes a row with an unknown token a bad row, "unk" maps the token
            to <UNK> and counts it.
        group_by: key path such as `meta.source`; rows with the same value form a group.
        keep_records: keep the parsed objects, also those of bad rows (evaluation returns the
            user's own keys).
        for_label: the rows are only to be classified, see `parse_row` and `RowsBuilder.add`.
        codebook: of image rows; None takes rows of any codebook.

    Raises:
        UserError: no such file, bad rows (with file, line and reason), no rows at all, or a row
            of another codebook.
    """
    path = Path(path)
    how: dict[str, Any] = {
        "max_length": max_length,
        "on_bad_row": on_bad_row,
        "unknown_token": unknown_token,
        "group_by": group_by,
        "for_label": for_label,
        "codebook": codebook,
    }
    # Whole objects are not cached: parsing them takes most of the time of reading.
    whole_objects = keep_records or on_bad_row == "keep"
    if whole_objects or not os.path.isfile(path) or os.path.getsize(path) < SMALLEST_FILE:
        found = read_json_lines(path)
        return read_found(found, path, vocabulary, keep_records=keep_records, **how)
    # The path stands in the reasons of skipped rows.
    cache = RowCache(path, {"path": str(path), "vocabulary": vocabulary.fingerprint(), **how})
    rows = _load(cache, vocabulary, max_length)
    if rows is None:
        content = new_digest()
        rows = read_found(read_json_lines(path, content), path, vocabulary, **how)
        arrays = {name: getattr(rows, name) for name in ("tokens", *COLUMNS)}
        facts = {
            "group_names": rows.group_names,
            "label_spellings": rows.label_spellings,
            "counts": asdict(rows.counts),
        }
        cache.store(content.hexdigest(), arrays, facts)
    return rows


def _load(cache: RowCache, vocabulary: Vocabulary, max_length: int) -> TokenLabelDataset | None:
    """The rows of a cache entry; None without a valid one."""
    kept = cache.load()
    if kept is None:
        return None
    arrays, facts = kept
    columns: dict[str, Any] = {**arrays}
    try:
        names = {name: facts[name] for name in ("group_names", "label_spellings")}
        counts = ReadCounts(**facts["counts"])
        rows = TokenLabelDataset(vocabulary, max_length, **columns, **names, counts=counts)
    except (KeyError, TypeError):
        return None
    are_texts = all(
        isinstance(some, list) and all(isinstance(name, str) for name in some)
        for some in names.values()
    )
    return rows if are_texts and rows.is_sound() else None


def read_found(
    found: Iterable[Found],
    source: str | Path,
    vocabulary: Vocabulary,
    *,
    max_length: int,
    on_bad_row: str = "error",
    unknown_token: str = "error",
    group_by: str | None = None,
    keep_records: bool = False,
    for_label: bool = False,
    codebook: KnownCodebook | None = None,
    open_text: bool = False,
    visit: Callable[[int, dict[str, Any]], None] | None = None,
) -> TokenLabelDataset:
    """As `read_dataset`, of values that a reader has found; `source` names them in messages.

    `open_text`: see `parse_row`. `visit`: for a file whose rows do not fit into memory; it is
    called with the line and the record of each good row, and the dataset has neither their records
    nor their tokens, only its columns and bad rows.
    """
    if unknown_token == "unk" and vocabulary.unk_id is None:
        raise UserError("--unknown_token unk needs <UNK> in the vocabulary")
    builder = RowsBuilder(vocabulary, max_length, for_label, keep_tokens=visit is None)
    counts, bad = builder.counts, BadRows()
    kept_bad_rows: list[BadRow] = []
    spellings: dict[int, tuple[str, int]] = {}  # of each class the first, and its line
    records: list[dict[str, Any]] = []
    for line, record, problem in found:
        names_codebook = codebook is None or codebook.made(record, source, line)
        try:
            if problem is not None:
                raise RowError(problem)
            row = parse_row(record, vocabulary, unknown_token, for_label, open_text)
        except RowError as error:
            bad.note(f"{source}:{line}", str(error))
            if on_bad_row == "keep":
                if bad.count > MOST_BAD_ROWS:
                    raise UserError(
                        f"{source}:{line}: {error}\n"
                        f"more than {MOST_BAD_ROWS:,} bad rows: is this a file of rows?"
                    ) from None
                kept = record if keep_records and isinstance(record, dict) else {}
                kept_bad_rows.append(BadRow(line, str(error), kept))
            continue
        builder.add(row, line, group_value(record, group_by), *variant_of(record))
        if row.label_class >= 0 and record.get("label") is not None:
            label = str(record["label"])
            first, first_line = spellings.setdefault(row.label_class, (label, line))
            if first != label and first.split() != label.split():
                counts.other_labels += 1
                counts.first_other_label = counts.first_other_label or (
                    f"{source}:{line} has {shown(label)}, {source}:{first_line} {shown(first)}"
                )
        counts.without_codebook += not names_codebook
        counts.plain_variants += has_plain_variant(record)
        if visit is not None:
            visit(line, record)
        elif keep_records:
            records.append(record)
    if on_bad_row == "error":
        bad.raise_if_any(bad_rows_remedy(bad.reasons, len(builder)))
    elif on_bad_row == "skip":
        counts.skip(bad)
    if not len(builder) and not kept_bad_rows:
        if bad.count:
            raise UserError(f"{source}: every row is bad; the first: {bad.first[0]}")
        raise UserError(f"{source}: no rows in this file")
    return replace(
        builder.finish(),
        label_spellings=[spelling for spelling, _ in spellings.values()],
        records=records if keep_records and visit is None else None,
        bad_rows=kept_bad_rows,
    )


def dataset_from_records(
    records: Iterable[dict[str, Any]],
    vocabulary: Vocabulary,
    *,
    max_length: int,
    on_bad_row: str = "error",
    unknown_token: str = "error",
    for_label: bool = False,
) -> TokenLabelDataset:
    """A dataset of Python objects, by the rules of `read_dataset`; their numbers serve as lines.

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
