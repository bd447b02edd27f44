"""The end of a labelled row, <CLS> <CLS_k> <EOS>: read, completed, repaired."""

from __future__ import annotations

from typing import Any

from smallgpt.files.reading import shown
from smallgpt.rows.bad_rows import RowError
from smallgpt.tokens.labels import label_text, label_token
from smallgpt.tokens.vocabulary import Vocabulary

TAIL_LENGTH = 3  # <CLS> <CLS_k> <EOS>
LABEL_BEFORE_TAIL = "a label token stands before the label tail: it gives the label away"


def read_tail(ids: list[int], vocabulary: Vocabulary) -> tuple[int, int, bool]:
    """The tail of a row: (class named in it or -1, length of the body, whether it is broken)."""
    cls_id, eos_id, n = vocabulary.cls_id, vocabulary.eos_id, len(ids)
    if cls_id is None:
        return -1, n - (ids[-1] == eos_id), False
    end = n - 1 if ids[-1] == eos_id else n  # the closing <EOS> may be missing
    if end >= 2 and ids[end - 2] == cls_id and ids[end - 1] in vocabulary.class_of_id:
        return vocabulary.class_of_id[ids[end - 1]], end - 2, False
    if end >= 1 and ids[end - 1] == cls_id:
        doubled = end >= 2 and ids[end - 2] == cls_id
        return -1, end - 1 - doubled, doubled or end < n
    return -1, end, False


def label_class_of(label: Any, vocabulary: Vocabulary, may_be_unknown: bool) -> int:
    """Index of a record's label, -1 where it has none (absent or null), or one unknown here."""
    if label is None:
        return -1
    try:
        token = label_token(label_text(label))
    except ValueError as error:
        raise RowError(str(error)) from None
    index = vocabulary.class_of_id.get(vocabulary.ids.get(token, -1))
    if index is None and may_be_unknown:
        return -1
    if index is None:
        raise RowError(f"label {shown(label)}: the vocabulary has no token {shown(token)}")
    return index
