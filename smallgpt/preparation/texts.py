"""Texts to rows: prepare_data.py text.

A labelled text is one row of text, encoded when it is read; texts without labels are cut into rows
of ids. The tokenizer is learned from training texts only.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.options.option import AUTO
from smallgpt.options.preparation import TextSettings
from smallgpt.preparation.examples import Text, read_examples
from smallgpt.preparation.folder import TEST, TRAIN, VALIDATION, check_output, holding_output
from smallgpt.preparation.recipe import variants_for_texts
from smallgpt.preparation.splits import label_notes
from smallgpt.preparation.text_files import read_texts
from smallgpt.preparation.text_rows import document_rows, with_variants, write_rows
from smallgpt.preparation.text_splits import split_documents, split_examples
from smallgpt.preparation.text_vocabulary import make_vocabulary, pretrained_tokenizer
from smallgpt.tokens.labels import LabelNames, sorted_labels
from smallgpt.tokens.text_tokenizer import WHITESPACE_MARKS
from smallgpt.tokens.vocabulary import Vocabulary

# With at least this many texts, mostly distinct labels mean that the column holds no labels.
_ENOUGH_TO_JUDGE = 20
_MOST_NAMED = 10  # columns in a note


@holding_output
def prepare_text(settings: TextSettings) -> dict[str, Any]:
    """Prepare texts with or without labels; returns the summary, as in prepared.json.

    Raises:
        UserError: unreadable files, bad records (with file, line and reason), too few texts,
            foreign files in output_dir, or no such tokenizer.
    """
    check_output("text", settings, [*settings.input, *settings.test_input])
    pretrained = pretrained_tokenizer(settings.tokenizer)
    notes: list[str] = []
    left_out: set[str] = set()
    read = partial(
        read_texts,
        text_column=settings.text_column,
        pair_column=settings.pair_column,
        label_column=settings.label_column,
        left_out=left_out,
    )
    texts, own_test = read_examples(settings, read, notes)
    _tell_other_columns([*texts, *own_test], left_out, notes)
    labels: list[str] = []
    if settings.label_column is None:
        sides = split_documents(texts, own_test, settings, notes)
    else:
        texts, own_test = _with_label_names(texts, own_test, settings.label_column, notes)
        sides = split_examples(texts, own_test, settings, notes)
        labels = sorted_labels(
            text.label for side in sides.values() for text in side if text.label is not None
        )
        notes += label_notes(*([text.label for text in sides[name]] for name in (TRAIN, TEST)))

    of_pairs = settings.pair_column is not None
    learned_from = [text.text for text in sides[TRAIN]]
    if of_pairs:
        learned_from = [part for text in sides[TRAIN] for part in text.parts]
        _tell_shared_texts(sides, notes)
    chosen = settings.augment == AUTO and settings.label_column is not None and not of_pairs
    if settings.augment == AUTO:
        variants = variants_for_texts(len(learned_from)) if chosen else 0
        settings = dataclasses.replace(settings, augment=variants)
        check_output("text", settings, ())  # once more, with what was chosen
    marked = sum(any(map(text.__contains__, WHITESPACE_MARKS.values())) for text in learned_from)
    if settings.tokenizer == "chars" and marked:
        pictures = " ".join(WHITESPACE_MARKS.values())
        notes.append(f"{plural(marked, 'text')} with {pictures} in it: read as whitespace")
    vocabulary = make_vocabulary(settings, pretrained, learned_from, labels, notes, of_pairs)
    of_others = len(vocabulary.labels) - len(labels)
    if of_others:
        notes.append(f"{plural(of_others, 'label')} of the tokenizer's own, which no row has, stay")

    if settings.label_column is None:
        rows = _cut(sides, vocabulary, settings)
    else:
        rows = {name: [text.row() for text in side] for name, side in sides.items()}
        of_variants: list[str] = []
        if settings.augment:
            held_out = {text.question for name in (VALIDATION, TEST) for text in sides[name]}
            rows[TRAIN] = with_variants(sides[TRAIN], held_out, settings, of_variants)
        if chosen:
            made = len(rows[TRAIN]) / len(sides[TRAIN]) - 1
            notes.append(f"recipe: {_told_variants(settings.augment, made)}")
        notes += of_variants
    return write_rows("text", settings, rows, vocabulary, notes)


def _tell_shared_texts(sides: dict[str, list[Text]], notes: list[str]) -> None:
    """Note how many held-out pairs share a text with a training pair."""
    learned = {part for text in sides[TRAIN] for part in text.parts}
    held_out = [text for name in (VALIDATION, TEST) for text in sides[name]]
    shared = sum(not learned.isdisjoint(text.parts) for text in held_out)
    if shared:
        notes.append(
            f"{shared:,} of {plural(len(held_out), 'held-out pair')} have a text that stands in a "
            f"training pair too: figures are of new pairs, not of new texts"
        )


def _told_variants(count: int, made: float) -> str:
    """`made`: how many different ones a text has on average; of few clauses there are few."""
    if not count:
        return "no variants of the texts, which are many"
    unless = "--augment 0 where the order of its clauses decides"
    return f"up to {plural(count, 'variant')} of each text, {made:.1f} on average ({unless})"


def _tell_other_columns(texts: Sequence[Text], left_out: set[str], notes: list[str]) -> None:
    """Note which columns beside text and label stay with the rows, and which cannot."""
    kept = list(dict.fromkeys(name for text in texts for name in text.others))
    if kept:
        notes.append(f"kept with each row: {_listed(kept)}")
    if left_out:
        names = _listed(sorted(left_out))
        notes.append(f"left out, since rows need the name for something else: {names}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(shown(name)[1:-1] for name in names[:_MOST_NAMED]) + more


def _cut(
    sides: dict[str, list[Text]], vocabulary: Vocabulary, settings: TextSettings
) -> dict[str, list[dict[str, Any]]]:
    """Rows of unlabelled texts; only training rows may overlap."""
    strides = {TRAIN: settings.stride, VALIDATION: None, TEST: None}
    return {
        name: list(document_rows(side, vocabulary, settings.max_length, strides[name]))
        for name, side in sides.items()
    }


def _with_label_names(
    texts: Sequence[Text], own_test: Sequence[Text], column: str, notes: list[str]
) -> tuple[list[Text], list[Text]]:
    """Both with one spelling of each label, the first; refuses invalid and ambiguous labels."""
    _check_label_column(texts, column)
    names = LabelNames()
    named = [
        [dataclasses.replace(text, label=names.add(text.label, text.place)) for text in some]
        for some in (texts, own_test)
    ]
    notes += names.notes()
    if column.isdecimal():
        for some in named:
            _check_first_lines(some)
    return named[0], named[1]


def _check_label_column(texts: Sequence[Text], column: str) -> None:
    """Refuse a label column in which most records have a label of their own."""
    labels = {text.label for text in texts}
    if len(texts) >= _ENOUGH_TO_JUDGE and len(labels) > len(texts) / 2:
        raise UserError(
            f"--label_column {column}: {len(labels):,} different labels in "
            f"{plural(len(texts), 'record')}, the first: {shown(texts[0].label)}; is it the right "
            f"column?"
        )


def _check_first_lines(texts: Sequence[Text]) -> None:
    """Where columns are counted, refuse a heading that was read as a record."""
    # A heading's label occurs on no other line, while all others occur on several.
    counts = Counter(text.label for text in texts)
    firsts = [text for text in texts if text.place.endswith(":1")]
    in_firsts = Counter(text.label for text in firsts)
    others = [count for label, count in counts.items() if label not in in_firsts]
    if not others or min(others) < 2 or counts.items() & in_firsts.items() != in_firsts.items():
        return
    if firsts:
        raise UserError(
            f"{firsts[0].place}: no other line has the label {shown(firsts[0].label)}: if this "
            f"line is a heading, name the columns as it does (--text_column, --label_column)"
        )
