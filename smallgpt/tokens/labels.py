"""Label names: how a label becomes its token <CLS_...>, and which spellings are one label."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.reading import shown

# A confusion matrix has the square of it as entries: 800 MB.
MOST_LABELS = 10_000
# Longer tokens are refused: as labels they would be drawn and printed.
MOST_TOKEN_LETTERS = 1000
_LABEL_TOKEN = re.compile(r"<CLS_(.+)>", re.DOTALL)


def label_token(label: str) -> str:
    """The token of a label: `7` -> `<CLS_7>`."""
    return f"<CLS_{label}>"


def label_text(label: Any) -> str:
    """A label as written in its token, runs of whitespace as one `_`: `very good` -> `very_good`.

    It is a whole number or a text; whitespace around a text is removed.

    Raises:
        ValueError: it is neither, only whitespace, not valid Unicode, or too long for a token.
    """
    if type(label) is int:
        text = str(label)
    elif isinstance(label, str) and label.split():
        text = "_".join(label.split())
    else:
        raise ValueError(f"label must be a whole number or a text, got {shown(label)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"label {shown(label)} is not valid Unicode") from None
    if too_long(label_token(text)):
        raise ValueError(f"label {too_long(label_token(text))}")
    return text


class LabelNames:
    """The labels of one preparation; no two labels may have the same token.

    Spellings that differ in whitespace alone are one label. `very good` and `very_good` are two,
    and would have the same token.
    """

    def __init__(self) -> None:
        self._first_of: dict[str, tuple[str, str]] = {}  # spelling and place, by name
        self._respelled: dict[str, tuple[str, str]] = {}

    def add(self, label: Any, place: str) -> str:
        """A label as it was spelled first; `place` is where it stands (a file and line, a folder).

        Raises:
            ValueError: see `label_text`.
            UserError: another label has its token, or there are too many labels.
        """
        name, spelling = label_text(label), str(label)
        first, first_place = self._first_of.setdefault(name, (spelling, place))
        if first != spelling:
            if first.split() != spelling.split():
                raise UserError(
                    f"{place}: the label {shown(spelling)} would become one with {shown(first)} of "
                    f"{first_place}, {shown(label_token(name))}: rename one of them"
                )
            self._respelled.setdefault(name, (spelling, place))
        elif len(self._first_of) > MOST_LABELS:
            raise UserError(
                f"{place}: {shown(spelling)} is label number {MOST_LABELS + 1:,}, and there may be "
                f"{MOST_LABELS:,} of them: are these the labels?"
            )
        return first

    def notes(self) -> list[str]:
        """How labels were changed, one line each."""
        notes = []
        changed = [(name, at) for name, at in self._first_of.items() if at[0] != name]
        if changed:
            name, (spelling, place) = changed[0]
            notes.append(
                f"{plural(len(changed), 'label')} with whitespace, which tokens leave out or write "
                f"as _, the first: {shown(spelling)} of {place} is {shown(label_token(name))}"
            )
        if self._respelled:
            name, (spelling, place) = next(iter(self._respelled.items()))
            first, first_place = self._first_of[name]
            notes.append(
                f"{plural(len(self._respelled), 'label')} spelled with different whitespace read "
                f"as one, the first: {shown(first)} of {first_place}, {shown(spelling)} of {place}"
            )
        return notes


def too_long(token: str) -> str:
    """Why a token is too long, "" if it is not."""
    if len(token) <= MOST_TOKEN_LETTERS:
        return ""
    return f"token {shown(token)} is longer than {MOST_TOKEN_LETTERS:,} letters"


def label_of_token(token: str) -> str | None:
    """The label of a token, `<CLS_7>` -> `7`; None for any other token."""
    match = _LABEL_TOKEN.fullmatch(token)
    return match and match[1]


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """Distinct labels: by value where all are whole numbers, else as in their tokens."""
    distinct = set(labels)
    try:
        return sorted(distinct, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(distinct, key=lambda label: "_".join(label.split()))
