"""Rows of tokens to a vocabulary and split rows: prepare_data.py tokens."""

from __future__ import annotations

import dataclasses
import sys
from array import array
from collections.abc import Iterator
from itertools import chain, repeat
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
from smallgpt.preparation.splits import check_split, label_notes, leave_out_shared, move_shared
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

_TRAIN, _TEST, _LEFT_OUT = range(3)  # where a row goes


@holding_output
def prepare_tokens(settings: TokensSettings) -> dict[str, Any]:
    """Make a vocabulary for rows of tokens, complete their label tails, split; returns the summary.

    Raises:
        UserError: bad rows (with file, line and reason), rows of ids, an empty side of the split,
            or foreign files in output_dir.
    """
    check_output("tokens", settings, [*settings.input, *settings.test_input])
    notes: list[str] = []
    sources = _sources(settings, notes)
    rows, bad_rows, in_own_test_N = _read_token_rows(sources, settings, notes)
    default_key = settings.group_by == TokensSettings.group_by
    if settings.group_by and not default_key and not (rows.groups_N >= 0).any():
        raise UserError(f"no row has the key --group_by {settings.group_by}")
    keys = [number_keys(rows.body_keys()), rows.groups_N]
    notes += rows.counts.lines()
    if settings.test_input:
        train, test = np.flatnonzero(~in_own_test_N), np.flatnonzero(in_own_test_N)
        split = leave_out_shared(train, test, keys, notes, "the tokens or the group"), test
    else:
        split = split_rows(keys, rows.classes_N, settings.test_fraction, settings.seed)
    check_split(*split)

    min_count, reason = settings.min_count, ""
    if min_count is None:
        min_count, reason = least_count(rows, split[0])
    own_test = bool(settings.test_input)
    coded, train, test, moved = _with_final_tokens(rows, *split, min_count, own_test)
    if settings.min_count is None and not len(test):
        # Rows that only tokens of their own told apart: there would be nothing to test with.
        min_count, reason = 1, ""
        coded, train, test, moved = _with_final_tokens(rows, *split, min_count, own_test)
    check_split(train, test, "a lower --min_count tells more rows apart")
    notes += moved
    seen, vocabulary = rows.vocabulary, coded.vocabulary

    side_N = np.full(len(rows), _LEFT_OUT)
    side_N[train], side_N[test] = _TRAIN, _TEST
    replaced = (coded.tokens == vocabulary.unk_id) & (rows.tokens != seen.unk_id)
    replaced &= np.repeat(side_N != _LEFT_OUT, rows.lengths_N)
    if replaced.any():
        kinds = plural(len(np.unique(rows.tokens[replaced])), "token")
        places = plural(int(replaced.sum()), "place")
        seldom = f"seen less than {min_count} times" if min_count > 1 else "not seen"
        line = f"{kinds} {seldom} in training written as {UNK} in {places}"
        notes.append(line + reason)
    labels = [seen.labels[number] if number >= 0 else None for number in rows.classes_N.tolist()]
    notes += label_notes([labels[i] for i in train], [labels[i] for i in test])

    def figures(side: int) -> dict[str, Any]:
        is_side_N = side_N == side
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
        **summarize_lengths(rows.lengths_N[side_N != _LEFT_OUT], of_text=False, notes=notes),
        "train": figures(_TRAIN),
        "test": figures(_TEST),
        "notes": notes,
    }
    with publishing(settings) as folder:
        _write_token_rows(folder, sources, bad_rows, coded, side_N)
        write_text(folder / VOCABULARY, vocabulary.to_json())
        write_summary(folder, summary)
    return summary


def _sources(settings: TokensSettings, notes: list[str]) -> list[TokenSource]:
    """The rows of --input and, where there are such files, of --test_input."""
    sources = [token_source(settings, settings.input, notes)]
    if settings.test_input:
        of_test: list[str] = []
        sources.append(token_source(settings, settings.test_input, of_test))
        notes += [f"--test_input: {note}" for note in of_test]
    return sources


def _rows_of(sources: list[TokenSource], bad: BadRows) -> Iterator[tuple[str, Any]]:
    """The places and the rows of all sources, one source after the other."""
    return chain.from_iterable(source(bad) for source in sources)


def _with_final_tokens(
    rows: TokenLabelDataset, train: np.ndarray, test: np.ndarray, min_count: int, own_test: bool
) -> tuple[TokenLabelDataset, np.ndarray, np.ndarray, list[str]]:
    """The rows over their final vocabulary, the split of them, and notes on what was moved.

    `own_test`: the test rows are the user's own and stay; what equals them is left out of training.
    """
    seen, vocabulary = rows.vocabulary, final_vocabulary(rows, train, min_count)
    final_ids = [vocabulary.ids.get(token, vocabulary.unk_id) for token in seen.tokens]
    recoded = np.array(final_ids, np.uint32)[rows.tokens]
    coded = dataclasses.replace(rows, vocabulary=vocabulary, tokens=recoded)
    # Rows that differed only in rare tokens, now <UNK>, may have become equal.
    notes: list[str] = []
    keys = [number_keys(coded.body_keys()), rows.groups_N]
    if own_test:
        train = leave_out_shared(train, test, keys, notes, f"the tokens, rare ones as {UNK},")
    else:
        train, test = move_shared(train, test, keys, notes)
    return coded, train, test, notes


def _read_token_rows(
    sources: list[TokenSource], settings: TokensSettings, notes: list[str]
) -> tuple[TokenLabelDataset, array, np.ndarray]:
    """All rows over a provisional vocabulary, the numbers of bad rows of the sources, ascending,
    and which rows are of --test_input.

    `notes` gets lines on label names. The `lines_N` of the rows are their numbers in the sources.
    """
    files = ", ".join([*settings.input, *settings.test_input])
    builder = RowsBuilder(_everything_seen(sources, files), max_length=sys.maxsize)
    label_names = LabelNames()
    bad, bad_rows, in_own_test = BadRows(), array("q"), bytearray()
    numbered = chain.from_iterable(
        zip(repeat(is_test), source(bad)) for is_test, source in enumerate(sources)
    )
    for number, (is_test, (place, record)) in enumerate(numbered, 1):
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
            in_own_test.append(is_test)
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
    return builder.finish(), bad_rows, np.frombuffer(in_own_test, bool)


def _everything_seen(sources: list[TokenSource], files: str) -> Vocabulary:
    """A provisional vocabulary of all tokens and labels of the rows."""
    found: set[bytes] = set()
    for _, record in _rows_of(sources, BadRows()):
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
    sources: list[TokenSource],
    bad_rows: array,
    rows: TokenLabelDataset,
    side_N: np.ndarray,
) -> None:
    """Write the rows with their final tokens; every other key is unchanged."""
    index, upcoming = 0, chain(bad_rows, [0])  # no row has the number 0
    next_bad = next(upcoming)
    with atomic_write(folder / TRAIN) as train_file, atomic_write(folder / TEST) as test_file:
        for number, (place, record) in enumerate(_rows_of(sources, BadRows()), 1):
            if number == next_bad:
                next_bad = next(upcoming)
                continue
            has_tokens = isinstance(record, dict) and "tokens" in record
            if index == len(rows) or rows.lines_N[index] != number or not has_tokens:
                raise UserError(f"{place}: the file changed while it was read; run again")
            side, ids = side_N[index], rows.row(index).tolist()
            index += 1
            if side == _LEFT_OUT:
                continue
            text = rows.vocabulary.decode(ids)
            record["tokens"] = text.split(" ") if isinstance(record["tokens"], list) else text
            (test_file if side == _TEST else train_file).write(row_line(record))
    if index < len(rows):
        raise UserError("an input file became shorter while it was read; run again")
