"""Rows of tokens to a vocabulary and split rows: prepare_data.py tokens."""

from __future__ import annotations

import dataclasses
import sys
from array import array
from collections.abc import Sequence
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
    write_summary,
)
from smallgpt.preparation.splits import check_split, label_notes, move_shared
from smallgpt.preparation.suggested_length import summarize_lengths
from smallgpt.rows.bad_rows import BadRows, RowError
from smallgpt.rows.builder import RowsBuilder
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.groups import group_value
from smallgpt.rows.lines import read_json_lines
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
    sorted_labels,
    too_long,
)
from smallgpt.tokens.vocabulary import CLS, END_IMG, EOS, IMG, PAD, UNK, Vocabulary

_SPECIAL = (PAD, UNK, IMG, END_IMG, CLS, EOS)


@holding_output
def prepare_tokens(settings: TokensSettings) -> dict[str, Any]:
    """Make a vocabulary for rows of tokens, complete their label tails, split; returns the summary.

    Raises:
        UserError: bad rows (with file, line and reason), rows of ids, an empty side of the split,
            or foreign files in output_dir.
    """
    paths = [Path(path) for path in settings.input]
    check_output(settings.output_dir, settings.input)
    rows, bad_lines, label_lines = _read_token_rows(paths, settings)
    default_key = settings.group_by == TokensSettings.group_by
    if settings.group_by and not default_key and not (rows.groups_N >= 0).any():
        raise UserError(f"no row has the key --group_by {settings.group_by}")
    seen = rows.vocabulary
    train, test = split_rows(
        [number_keys(rows.body_keys()), rows.groups_N],
        rows.classes_N,
        settings.test_fraction,
        settings.seed,
    )
    check_split(train, test)

    vocabulary = _final_vocabulary(rows, train, settings.min_count)
    final_ids = [vocabulary.ids.get(token, vocabulary.unk_id) for token in seen.tokens]
    recoded = np.array(final_ids, np.uint32)[rows.tokens]
    coded = dataclasses.replace(rows, vocabulary=vocabulary, tokens=recoded)
    notes = label_lines + rows.counts.lines()
    # Rows that differed only in rare tokens, now <UNK>, may have become equal.
    train, test = move_shared(train, test, [number_keys(coded.body_keys()), rows.groups_N], notes)
    check_split(train, test, "a lower --min_count tells more rows apart")

    is_test_N = np.zeros(len(rows), bool)
    is_test_N[test] = True
    replaced = (coded.tokens == vocabulary.unk_id) & (rows.tokens != seen.unk_id)
    if replaced.any():
        kinds = plural(len(np.unique(rows.tokens[replaced])), "token")
        places = plural(int(replaced.sum()), "place")
        least = plural(settings.min_count, "time")
        notes.append(f"{kinds} seen less than {least} in training written as {UNK} in {places}")
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
        "settings": dataclasses.asdict(settings),
        "vocabulary_size": len(vocabulary),
        "labels": vocabulary.labels,
        **summarize_lengths(rows.lengths_N, of_text=False, notes=notes),
        "train": figures(~is_test_N),
        "test": figures(is_test_N),
        "notes": notes,
    }
    with publishing(settings.output_dir) as folder:
        _write_token_rows(folder, paths, bad_lines, coded, is_test_N)
        write_text(folder / VOCABULARY, vocabulary.to_json())
        write_summary(folder, summary)
    return summary


def _read_token_rows(
    paths: Sequence[Path], settings: TokensSettings
) -> tuple[TokenLabelDataset, list[array], list[str]]:
    """All rows over a provisional vocabulary; the bad lines of each file, ascending; notes."""
    builder = RowsBuilder(_everything_seen(paths), max_length=sys.maxsize)
    label_names = LabelNames()
    bad_lines = [array("q") for _ in paths]
    bad = BadRows()
    for number, path in enumerate(paths):
        for line, record, problem in read_json_lines(path):
            try:
                if problem is not None:
                    raise RowError(problem)
                if isinstance(record, dict) and record.get("input_ids") is not None:
                    raise RowError(
                        "a row of `input_ids`; only the vocab.json that made the ids knows their "
                        "tokens: train with it directly (train_gpt.py --vocab_path)"
                    )
                _check_new_tokens(record)
                row = parse_row(record, builder.vocabulary)
                if record.get("label") is not None:
                    label_names.add(record["label"], f"{path}:{line}")
                builder.add(row, line, group_value(record, settings.group_by))
            except RowError as error:
                bad_lines[number].append(line)
                bad.note(f"{path}:{line}", str(error))
    if settings.on_bad_row == "error":
        bad.raise_if_any()
    if not builder.counts.rows:
        if bad.count:
            raise UserError(f"every row is bad; the first: {bad.first[0]}")
        raise UserError(f"{', '.join(map(str, paths))}: no rows in it")
    builder.counts.skip(bad)
    return builder.finish(), bad_lines, label_names.notes()


def _everything_seen(paths: Sequence[Path]) -> Vocabulary:
    """A provisional vocabulary of all tokens and labels in the files."""
    found: set[bytes] = set()
    for path in paths:
        for _, record, _ in read_json_lines(path):
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
            f"{', '.join(map(str, paths))}: {labels:,} labels, and there may be {MOST_LABELS:,} of "
            f"them: is `label` the class of each row?"
        )
    try:
        return Vocabulary([*_SPECIAL, *sorted(tokens.difference(_SPECIAL))])
    except ValueError as error:
        raise UserError(
            f"{', '.join(map(str, paths))}: {error}; write rare tokens as one of your own"
        ) from None


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


def _final_vocabulary(rows: TokenLabelDataset, train: np.ndarray, min_count: int) -> Vocabulary:
    """Special tokens, then tokens by falling frequency in training rows, then labels."""
    seen = rows.vocabulary
    is_train_N = np.zeros(len(rows), bool)
    is_train_N[train] = True
    in_training = rows.tokens[np.repeat(is_train_N, rows.lengths_N)]
    counts = np.bincount(in_training, minlength=len(seen)).tolist()
    anywhere = np.bincount(rows.tokens, minlength=len(seen)).tolist()
    uses_images = anywhere[seen.img_id] or anywhere[seen.ids[END_IMG]]
    special = [PAD, UNK, *([IMG, END_IMG] if uses_images else [])]
    special += [CLS, EOS] if anywhere[seen.cls_id] else [EOS]
    ordinary = [
        token
        for token, number in seen.ids.items()
        if counts[number] >= min_count and number not in seen.label_id_set and token not in _SPECIAL
    ]
    ordinary.sort(key=lambda token: (-counts[seen.ids[token]], token))
    # Labels of both splits: a model must be able to predict those of test rows alone.
    labels = sorted_labels(seen.labels[seen.class_of_id[i]] for i in seen.label_ids if anywhere[i])
    return Vocabulary([*special, *ordinary, *map(label_token, labels)])


def _write_token_rows(
    folder: Path,
    paths: Sequence[Path],
    bad_lines: Sequence[array],
    rows: TokenLabelDataset,
    is_test_N: np.ndarray,
) -> None:
    """Write the rows with their final tokens; every other key is unchanged."""
    index = 0
    with atomic_write(folder / TRAIN) as train_file, atomic_write(folder / TEST) as test_file:
        for path, bad in zip(paths, bad_lines, strict=True):
            upcoming = chain(bad, [0])  # no line has the number 0
            next_bad = next(upcoming)
            for line, record, _ in read_json_lines(path):
                if line == next_bad:
                    next_bad = next(upcoming)
                    continue
                has_tokens = isinstance(record, dict) and "tokens" in record
                if index == len(rows) or rows.lines_N[index] != line or not has_tokens:
                    raise UserError(f"{path}:{line}: the file changed while it was read; run again")
                text = rows.vocabulary.decode(rows.row(index).tolist())
                record["tokens"] = text.split(" ") if isinstance(record["tokens"], list) else text
                (test_file if is_test_N[index] else train_file).write(row_line(record))
                index += 1
