"""Split of texts and instructions into training, validation and test.

Labelled texts, instructions and long lists of documents are held out whole, at random; of a few
documents the last part is held out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.options.preparation import InstructionsSettings, TextSettings
from smallgpt.preparation.examples import Example, Text
from smallgpt.preparation.folder import SIDES, TEST, TRAIN, VALIDATION
from smallgpt.rows.splitting import number_keys, split_rows

# Fewer documents than this are cut at the border of a share; more are held out whole, at random.
_FEW_DOCUMENTS = 20


def split_examples(
    examples: Sequence[Example],
    own_test: Sequence[Example],
    settings: TextSettings | InstructionsSettings,
    notes: list[str],
) -> dict[str, list[Example]]:
    """Examples of each side, by file name; no question (of a pair, in no order) is on two sides.

    `own_test` examples are kept unchanged; `notes` gets lines about what was left out.

    Raises:
        UserError: a side would be empty.
    """
    numbers = number_keys(example.kept_together for example in [*examples, *own_test])
    numbers_N, taken = numbers[: len(examples)], numbers[len(examples) :]
    train, validation, test = _hold_out(examples, numbers_N, bool(own_test), settings)

    # Training and validation get no test question.
    taken = np.concatenate([taken, numbers_N[test]])
    before = len(validation) + len(train)
    validation = validation[~np.isin(numbers_N[validation], taken)]
    train = train[~np.isin(numbers_N[train], np.concatenate([taken, numbers_N[validation]]))]
    if before > len(validation) + len(train):
        left_out = plural(before - len(validation) - len(train), "record")
        notes.append(f"{left_out} left out that stand among held-out ones as well")
    wholes_N = number_keys((example.question, example.answer) for example in examples)
    before = len(train) + len(validation)
    train, validation = (
        rows[np.sort(np.unique(wholes_N[rows], return_index=True)[1])]
        for rows in (train, validation)
    )
    if before > len(train) + len(validation):
        repeated = plural(before - len(train) - len(validation), "repeated record")
        notes.append(f"{repeated} left out of training and validation")
    kept = np.sort(np.concatenate([train, validation, test]))
    notes += _conflict_notes([*(examples[i] for i in kept), *own_test])
    parts = {TRAIN: train, VALIDATION: validation, TEST: test}
    sides = {name: [examples[i] for i in rows] for name, rows in parts.items()}
    if own_test:
        sides[TEST] = list(own_test)
    _check_sides(sides, settings)
    return sides


def _hold_out(
    examples: Sequence[Example],
    questions_N: np.ndarray,
    has_own_test: bool,
    settings: TextSettings | InstructionsSettings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count, validation_share = len(examples), settings.validation_fraction
    test_share = 0.0 if has_own_test else settings.test_fraction
    if settings.in_order:
        ends = [round(count * (1 - test_share - validation_share)), round(count * (1 - test_share))]
        train, validation, test = np.split(np.arange(count), ends)
        return train, validation, test
    classes_N = number_keys(example.label for example in examples)

    def part(rows: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        if share == 0 or not len(rows):
            return rows, rows[:0]
        kept, held = split_rows([questions_N[rows]], classes_N[rows], share, settings.seed)
        return rows[kept], rows[held]

    train, test = part(np.arange(count), test_share)
    train, validation = part(train, validation_share / (1 - test_share))
    return train, validation, test


def _conflict_notes(examples: Iterable[Example]) -> list[str]:
    """A note on texts with several labels; they stay, since the right label is unknown."""
    first_of: dict[str, Example] = {}
    conflicts: dict[str, Example] = {}
    for example in examples:
        if example.label is not None:
            first = first_of.setdefault(example.question, example)
            if first.label != example.label:
                conflicts.setdefault(example.question, example)
    if not conflicts:
        return []
    question, second = next(iter(conflicts.items()))
    first = first_of[question]
    return [
        f"{plural(len(conflicts), 'text')} with more than one label, the first: {first.place} has "
        f"{shown(first.label)}, {second.place} has {shown(second.label)}"
    ]


def split_documents(
    texts: Sequence[Text], own_test: Sequence[Text], settings: TextSettings, notes: list[str]
) -> dict[str, list[Text]]:
    """Unlabelled texts of each side: whole ones at random, or the last part of a few.

    Raises:
        UserError: a side would be empty.
    """
    if len(texts) >= _FEW_DOCUMENTS and not settings.in_order:
        return split_examples(texts, own_test, settings, notes)
    seen = {text.question for text in own_test}
    kept = []
    for text in texts:
        if text.question not in seen:
            seen.add(text.question)
            kept.append(text)
    if len(kept) < len(texts):
        left_out = plural(len(texts) - len(kept), "text")
        notes.append(f"{left_out} left out that stand elsewhere as well")
    total = sum(len(text.text) for text in kept)
    test = 0 if own_test else round(settings.test_fraction * total)
    validation = round(settings.validation_fraction * total)
    sides: dict[str, list[Text]] = {name: [] for name in SIDES}
    borders = [total - test - validation, total - test, total]
    place = 0
    for text in kept:
        begin = place
        for name, border in zip(sides, borders, strict=True):
            part = text.text[max(0, begin - place) : max(0, border - place)]
            if part.strip():
                # A source of its own: rows of one part overlap, rows of two parts do not.
                source = text.source if part == text.text else f"{text.source} ({name})"
                sides[name].append(dataclasses.replace(text, text=part, source=source))
            begin = max(begin, border)
        place += len(text.text)
    if own_test:
        sides[TEST] = list(own_test)
    _check_sides(sides, settings)
    if validation or test:
        notes.append("held out: the last part of the text, in the order of the files")
    return sides


def _check_sides(
    sides: dict[str, list[Example]], settings: TextSettings | InstructionsSettings
) -> None:
    wanted = {
        TRAIN: True,
        VALIDATION: settings.validation_fraction > 0,
        TEST: settings.test_fraction > 0 or bool(settings.test_input),
    }
    if not any(sides.values()):
        raise UserError(f"{', '.join(settings.input)}: nothing in it")
    if settings.test_input and not sides[TRAIN] and not sides[VALIDATION]:
        raise UserError(
            "every record stands in --test_input as well: nothing is left to learn from"
        )
    for name, is_wanted in wanted.items():
        if is_wanted and not sides[name]:
            raise UserError(
                f"nothing is left for {name}: give more text, or other --test_fraction and "
                f"--validation_fraction"
            )
