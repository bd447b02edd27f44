"""The end of a labelled row, <CLS> <CLS_k> <EOS>: read, checked, completed, repaired."""

from __future__ import annotations

from typing import Any

from smallgpt.files.reading import shown
from smallgpt.rows.bad_rows import RowError
from smallgpt.tokens.labels import label_text, label_token
from smallgpt.tokens.vocabulary import Vocabulary

TAIL_LENGTH = 3  # <CLS> <CLS_k> <EOS>
_MOST_LABELS_NAMED = 10
LABEL_BEFORE_TAIL = "a label token stands before the label tail: it gives the label away"


def settle_tail(
    ids: list[int], label: Any, vocabulary: Vocabulary, for_label: bool
) -> tuple[int, int, str]:
    """Check, complete or repair the label tail of a row, in place.

    With a `label`, a missing tail is completed and the broken tails `<CLS> <CLS> <EOS>` and `<CLS>
    <EOS>` are repaired; without one, the label is read from the tail. With `for_label`, for rows
    that are only to be classified, the vocabulary may lack the label, and a broken tail without
    `label` is read as the question `<CLS>`.

    Returns label_class, body_length and change, the fields of a `Row`.

    Raises:
        RowError: tail and label contradict each other, no label mends a broken tail, the
            vocabulary lacks a token of the tail, or a label stands before it.
    """
    cls_id, eos_id = vocabulary.cls_id, vocabulary.eos_id
    given = _class_of(label, vocabulary, for_label)
    in_tail, body_length, broken = _read_tail(ids, vocabulary)
    if in_tail >= 0 and given >= 0 and in_tail != given:
        raise RowError(
            f"the tail says {vocabulary.tokens[vocabulary.label_ids[in_tail]]} but label is "
            f"{shown(label)}"
        )
    label_class = given if given >= 0 else in_tail
    change = ""
    if label_class >= 0:
        if cls_id is None or eos_id is None:
            raise RowError("a labelled row needs <CLS> and <EOS> in the vocabulary")
        tail = [cls_id, vocabulary.label_ids[label_class], eos_id]
        if ids[body_length:] != tail:
            # What is only classified is read without its label: there it is no news.
            change = "repaired" if broken else "" if for_label else "completed"
            ids[body_length:] = tail
    elif broken:
        if not for_label:
            words = " ".join(vocabulary.tokens[index] for index in ids[body_length:])
            raise RowError(f"the tail {words} names no label and the row has no `label`")
        del ids[body_length + 1 :]  # after the first <CLS>
    if not body_length and (label_class >= 0 or for_label):
        raise RowError("the row has nothing before its label tail")
    # Without any <CLS> no label is predicted, so none can leak.
    if (cls_id in ids or for_label) and not vocabulary.label_id_set.isdisjoint(ids[:body_length]):
        raise RowError(LABEL_BEFORE_TAIL)
    return label_class, body_length, change


def _read_tail(ids: list[int], vocabulary: Vocabulary) -> tuple[int, int, bool]:
    """The tail of a row: (its class or -1, length of the body, whether the tail is broken)."""
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


def _class_of(label: Any, vocabulary: Vocabulary, may_be_unknown: bool) -> int:
    """Class of a record's label, -1 without one, or for one unknown here."""
    if label is None:
        return -1
    try:
        token = label_token(label_text(label))
    except ValueError as error:
        raise RowError(str(error)) from None
    index = vocabulary.class_of_id.get(vocabulary.ids.get(token, -1))
    if index is not None:
        return index
    if may_be_unknown:
        return -1
    known = ", ".join(vocabulary.label_names[:_MOST_LABELS_NAMED]) or "none"
    more = len(vocabulary.labels) - _MOST_LABELS_NAMED
    raise RowError(
        f"label {shown(label)}: the vocabulary has no token {shown(token)}; its labels are {known}"
        + (f" and {more:,} more" if more > 0 else "")
    )
