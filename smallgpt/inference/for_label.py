"""Rows for a label: from the label where training taught it, kept if the model reads them so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from smallgpt.console import plural, progress_bar
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.inference.classify import classify_dataset
from smallgpt.rows.builder import RowsBuilder
from smallgpt.rows.row import Row

_TRIES_PER_ROW = 200  # after so many samples for each row it gives up


class RowsOfLabel(NamedTuple):
    """Whole rows of a label, how many were sampled for them, and a line that says so."""

    rows: list[list[int]]
    tried: int
    note: str


def learned_label_first(trained: TrainedModel) -> bool:
    """Whether the model has learned rows from their labels (--label_first_share)."""
    return trained.settings.label_first_share > 0


def class_of(trained: TrainedModel, label: str, ids: list[int]) -> int:
    """Index of a label for rows beginning with `ids`.

    Raises:
        UserError: no such label, or no row that begins so can have it.
    """
    vocabulary = trained.vocabulary
    if label not in vocabulary.labels:  # `new york` of the user's rows is `new_york` in its token
        label = "_".join(label.split())
    if label not in vocabulary.labels:
        known = ", ".join(vocabulary.label_names[:20]) or "none"
        rest = f" and {len(vocabulary.labels) - 20:,} more" if len(vocabulary.labels) > 20 else ""
        raise UserError(f"label {shown(label)}: the model has no such label; it has {known}{rest}")
    if vocabulary.cls_id is None or vocabulary.eos_id is None:
        raise UserError("label: a labelled row needs <CLS> and <EOS> in the vocabulary")
    if not vocabulary.label_id_set.isdisjoint(ids):
        raise UserError("label: the prompt holds a label token already; leave it out")
    if vocabulary.pad_id in ids:
        raise UserError("<PAD> stands inside the row; it may only fill up its end")
    return vocabulary.labels.index(label)


def sample_for_label(
    trained: TrainedModel,
    sample: Callable[[int], list[list[int]]],
    wanted: int,
    longest: int,
    count: int,
    batch_size: int,
) -> RowsOfLabel:
    """Sample until `count` rows, of at most `longest` tokens before the tail, are read as `wanted`.

    Raises:
        UserError: too few were read as this label.
    """
    vocabulary, label_first = trained.vocabulary, learned_label_first(trained)
    name = vocabulary.label_names[wanted]
    cls_id, eos_id = vocabulary.cls_id, vocabulary.eos_id
    assert cls_id is not None and eos_id is not None  # see `class_of`
    kept: list[list[int]] = []
    found = tried = 0
    with progress_bar(f"rows read as {name}", count, "row") as bar:
        while found < count and tried < _TRIES_PER_ROW * count:
            asked = batch_size
            if label_first:  # as many as are likely to be enough
                likely = math.ceil((count - found) * (tried + 1) / (found + 1))
                asked = min(likely, max(count, batch_size))
            rows = [row[:-1] if row[-1] in (cls_id, eos_id) else row for row in sample(asked)]
            # Drop rows that found no end, and those that are nothing but a prompt with a tail.
            rows = [row for row in rows if len(row) <= longest and row[-1] not in (cls_id, eos_id)]
            tried += asked
            rows = _read_as(trained, rows, wanted, batch_size)
            found += len(rows)
            bar.update(min(len(rows), count - len(kept)))
            kept += rows[: count - len(kept)]
    if found < count:
        raise UserError(
            f"only {found} of {tried} samples were read as label {name}, {count} were "
            f"asked for: raise temperature, or the model does not know this label"
        )
    share = f"{found} of {plural(tried, 'sample')} ({found / tried:.1%}) were read as {name}"
    note = f"generated from the label {name}: {share}"
    if not label_first:
        note = f"{share}; trained with --label_first_share it would generate from the label"
    tail = [cls_id, vocabulary.label_ids[wanted], eos_id]
    return RowsOfLabel([row + tail for row in kept], tried, note)


def _read_as(
    trained: TrainedModel, rows: list[list[int]], wanted: int, batch_size: int
) -> list[list[int]]:
    """Those of the rows that the model reads as the label `wanted`."""
    if not rows:
        return []
    builder = RowsBuilder(trained.vocabulary, trained.max_length, for_label=True)
    for number, row in enumerate(rows, 1):
        builder.add(Row(row, -1, len(row)), number, None)
    read_as = classify_dataset(trained, builder.finish(), batch_size).predicted
    return [row for row, each in zip(rows, read_as, strict=True) if each == wanted]
