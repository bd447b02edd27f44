"""Rows of tokens to a vocabulary and split rows: prepare_data.py tokens."""

from __future__ import annotations

import dataclasses
import sys
from array import array
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.files.writing import atomic_write, write_text
from smallgpt.options.preparation import TokensSettings
from smallgpt.preparation.folder import (
    TEST,
    TRAIN,
    check_output,
    holding_output,
    publishing,
    row_line,
    stored_settings,
    write_summary,
)
from smallgpt.preparation.splits import check_split, label_notes, move_shared
from smallgpt.preparation.suggested_length import summarize_lengths
from smallgpt.preparation.token_sources import TokenSource, token_source
from smallgpt.preparation.token_vocabulary import SPECIAL, final_vocabulary, least_count
from smallgpt.rows.bad_rows import BadRows, RowError
from smallgpt.rows.builder import RowsBuilder
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.groups import group_value
from smallgpt.rows.prepared_summary import VOCABULARY
from smallgpt.rows.row import parse_row, split_words
from smallgpt.rows.splitting import number_keys, split_rows
from smallgpt.tokens.labels import (
    MOST_LABELS,
    MOST_TOKEN_LETTERS,
    LabelNames,
    label_of_token,
    label_text,
    label_token,
    too_long,
)
from smallgpt.tokens.vocabulary import UNK, Vocabulary


@holding_output
def prepare_tokens(settings: TokensSettings) -> dict[str, Any]:
    """Make a vocabulary for rows of tokens, complete their label tails, split; returns the summary.

    Raises:
        UserError: bad rows (with file, line and reason), rows of ids, an empty side of the split,
            or foreign files in output_dir.
    """
    check_output("tokens", settings, settings.input)
    notes: list[str] = []
    source = token_source(settings, notes)
    rows, bad_rows = _read_token_rows(source, settings, notes)
    default_key = settings.group_by == TokensSettings.group_by
    if settings.group_by and not default_key and not (rows.groups_N >= 0).any():
        raise UserError(f"no row has the key --group_by {settings.group_by}")
    split = split_rows(
        [number_keys(rows.body_keys()), rows.groups_N],
        rows.classes_N,
        settings.test_fraction,
        settings.seed,
    )
    check_split(*split)
    notes += rows.counts.lines()

    min_count, reason = settings.min_count, ""
    if min_count is None:
        min_count, reason = least_count(rows, split[0])
    coded, train, test, moved = _with_final_tokens(rows, *split, min_count)
    if settings.min_count is None and not len(test):
        # Rows that only tokens of their own told apart: there would be nothing to test with.
        min_count, reason = 1, ""
        coded, train, test, moved = _with_final_tokens(rows, *split, min_count)
    check_split(train, test, "a lower --min_count tells more rows apart")
    notes += moved
    seen, vocabulary = rows.vocabulary, coded.vocabulary

    is_test_N = np.zeros(len(rows), bool)
    is_test_N[test] = True
    replaced = (coded.tokens == vocabulary.unk_id) & (rows.tokens != seen.unk_id)
    if replaced.any():
        kinds = plural(len(np.unique(rows.tokens[replaced])), "token")
        places = plural(int(replaced.sum()), "place")
        seldom = f"seen less than {min_count} times" if min_count > 1 else "not seen"
        line = f"{kinds} {seldom} in training written as {UNK} in {places}"
        notes.append(line + reason)
    labels = [seen.labels[number] if number >= 0 else None for number in rows.classes_N.tolist()]
    notes += label_notes([labels[i] for i in train], [labels[i] for i in test])

    def figures(is_side_N: np.ndarray) -> dict[str, Any]:
        lengths = rows.lengths_N[is_side_N]
        return {
            "rows": len(lengths),
            "labelled": int((rows.classes_N[is_side_N] >= 0).sum()),
            "tokens": int(lengths.sum()),
            "unknown_tokens": int((replaced & np.repeat(is_side_N, rows.lengths_N)).sum()),
        }

    summary = {
        "command": "tokens",
        "settings": stored_settings(settings),
        "vocabulary_size": len(vocabulary),
        "labels": vocabulary.labels,
        **summarize_lengths(rows.lengths_N, of_text=False, notes=notes),
        "train": figures(~is_test_N),
        "test": figures(is_test_N),
        "notes": notes,
    }
    with publishing(settings) as folder:
        _write_token_rows(folder, source, bad_rows, coded, is_test_N)
        write_text(folder / VOCABULARY, vocabulary.to_json())
        write_summary(folder, summary)
    return summary


def _with_final_tokens(
    rows: TokenLabelDataset, train: np.ndarray, test: np.ndarray, min_count: int
) -> tuple[TokenLabelDataset, np.ndarray, np.ndarray, list[str]]:
    """The rows over their final vocabulary, the split of them, and notes on what was moved."""
    seen, vocabulary = rows.vocabulary, final_vocabulary(rows, train, min_count)
    final_ids = [vocabulary.ids.get(token, vocabulary.unk_id) for token in seen.tokens]
    recoded = np.array(final_ids, np.uint32)[rows.tokens]
    coded = dataclasses.replace(rows, vocabulary=vocabulary, tokens=recoded)
    # Rows that differed only in rare tokens, now <UNK>, may have become equal.
    notes: list[str] = []
    train, test = move_shared(train, test, [number_keys(coded.body_keys()), rows.groups_N], notes)
    return coded, train, test, notes


def _read_token_rows(
    source: TokenSource, settings: TokensSettings, notes: list[str]
) -> tuple[TokenLabelDataset, array]:
    """All rows over a provisional vocabulary, and the numbers of bad rows of the source, ascending.

    `notes` gets lines on label names. The `lines_N` of the rows are their numbers in the source.
    """
    files = ", ".join(settings.input)
    builder = RowsBuilder(_everything_seen(source, files), max_length=sys.maxsize)
    label_names = LabelNames()
    bad, bad_rows = BadRows(), array("q")
    for number, (place, record) in enumerate(source(bad), 1):
        try:
            if isinstance(record, dict) and record.get("input_ids") is not None:
                raise RowError(
                    "a row of `input_ids`; only the vocab.json that made the ids knows their "
                    "tokens: train with it directly (train_gpt.py --vocab_path)"
                )
            _check_new_tokens(record)
            row = parse_row(record, builder.vocabulary)
            if record.get("label") is not None:
                label_names.add(record["label"], place)
            builder.add(row, number, group_value(record, settings.group_by))
        except RowError as error:
            bad_rows.append(number)
            bad.note(place, str(error))
    if settings.on_bad_row == "error":
        bad.raise_if_any()
    if not builder.counts.rows:
        if bad.count:
            raise UserError(f"every row is bad; the first: {bad.first[0]}")
        raise UserError(f"{files}: no rows in it")
    builder.counts.skip(bad)
    notes += label_names.notes()
    return builder.finish(), bad_rows


def _everything_seen(source: TokenSource, files: str) -> Vocabulary:
    """A provisional vocabulary of all tokens and labels of the rows."""
    found: set[bytes] = set()
    for _, record in source(BadRows()):
        if not isinstance(record, dict) or record.get("input_ids") is not None:
            continue
        try:
            _check_new_tokens(record)
            found.update(split_words(record.get("tokens")))
            if record.get("label") is not None:
                found.add(label_token(label_text(record["label"])).encode())
        except (RowError, ValueError):
            continue  # reported when the row is read
    tokens = {word.decode() for word in found if word.split() == [word]}
    labels = sum(label_of_token(token) is not None for token in tokens)
    if labels > MOST_LABELS:
        raise UserError(
            f"{files}: {labels:,} labels, and there may be {MOST_LABELS:,} of them: is `label` the "
            f"class of each row?"
        )
    try:
        return Vocabulary([*SPECIAL, *sorted(tokens.difference(SPECIAL))])
    except ValueError as error:
        raise UserError(f"{files}: {error}; write rare tokens as one of your own") from None


def _check_new_tokens(record: Any) -> None:
    """Refuse a token that is too long or, in a list, empty or with whitespace (RowError)."""
    tokens = record.get("tokens") if isinstance(record, dict) else None
    if isinstance(tokens, str) and len(tokens) > MOST_TOKEN_LETTERS:
        for token in tokens.split():
            if too_long(token):
                raise RowError(too_long(token))
    for token in tokens if isinstance(tokens, list) else ():
        if isinstance(token, str):
            word = token.encode(errors="replace")
            if word.split() != [word]:
                raise RowError(f"token {shown(token)} is empty or has whitespace in it")
            if too_long(token):
                raise RowError(too_long(token))


def _write_token_rows(
    folder: Path,
    source: TokenSource,
    bad_rows: array,
    rows: TokenLabelDataset,
    is_test_N: np.ndarray,
) -> None:
    """Write the rows with their final tokens; every other key is unchanged."""
    index, upcoming = 0, chain(bad_rows, [0])  # no row has the number 0
    next_bad = next(upcoming)
    with atomic_write(folder / TRAIN) as train_file, atomic_write(folder / TEST) as test_file:
        for number, (place, record) in enumerate(source(BadRows()), 1):
            if number == next_bad:
                next_bad = next(upcoming)
                continue
            has_tokens = isinstance(record, dict) and "tokens" in record
            if index == len(rows) or rows.lines_N[index] != number or not has_tokens:
                raise UserError(f"{place}: the file changed while it was read; run again")
            text = rows.vocabulary.decode(rows.row(index).tolist())
            record["tokens"] = text.split(" ") if isinstance(record["tokens"], list) else text
            (test_file if is_test_N[index] else train_file).write(row_line(record))
            index += 1
    if index < len(rows):
        raise UserError("an input file became shorter while it was read; run again")
