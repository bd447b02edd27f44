"""Rows of texts and instructions: cut from documents, augmented, counted and written."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from smallgpt.console import plural, progress_bar
from smallgpt.errors import UserError
from smallgpt.files.writing import write_text
from smallgpt.options.preparation import InstructionsSettings, TextSettings
from smallgpt.preparation.augmentation import vary_text
from smallgpt.preparation.examples import Text
from smallgpt.preparation.folder import (
    SIDES,
    publishing,
    row_line,
    stored_settings,
    write_lines,
    write_summary,
)
from smallgpt.preparation.suggested_length import summarize_lengths
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.prepared_summary import VOCABULARY
from smallgpt.rows.row import IDS_OF, parse_row
from smallgpt.tokens.text_tokenizer import TOKENIZER, TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary


def document_rows(
    texts: Sequence[Text], vocabulary: Vocabulary, length: int, stride: int | None
) -> Iterator[dict[str, Any]]:
    """Rows of at most `length` ids, `stride` ids from one to the next; none spans two texts.

    Without a stride rows overlap by one token, so that every token but a text's first is predicted
    once. Unlike other rows of text they hold ids, since they begin and end within words; the digest
    in `meta` makes readers refuse them with another vocabulary.
    """
    stride, tokenizer = stride or length - 1, _tokenizer_of(vocabulary)
    with progress_bar("cutting", len(texts), "text") as bar:
        for text in texts:
            try:
                ids = [*tokenizer.encode(text.text), vocabulary.eos_id]
            except ValueError as error:
                raise UserError(f"{text.place}: {error}") from None
            start = 0
            while len(ids) - start > 1:
                yield {
                    "input_ids": ids[start : start + length],
                    "meta": {"source": text.source, "start": start, IDS_OF: vocabulary.digest},
                } | text.others
                if start + length >= len(ids):
                    break
                start += stride
            bar.update()


def with_variants(
    texts: Sequence[Text], held_out: set[str], settings: TextSettings, notes: list[str]
) -> list[dict[str, Any]]:
    """Rows of labelled texts and of their variants: no repeats, none equal to `held_out` texts."""
    source = random.Random(settings.seed)
    rows, elsewhere, alike = [], 0, 0
    with progress_bar("varying the texts", len(texts), "text") as bar:
        for text in texts:
            variants = {text.question: 0}
            for variant in range(1, settings.augment + 1):
                varied = vary_text(text.text, source)
                if varied in held_out:
                    elsewhere += 1
                elif variants.setdefault(varied, variant) != variant:
                    alike += 1
            row = text.row()
            for varied, variant in variants.items():
                meta = {**row["meta"], VARIANT: variant}
                rows.append({**row, "text": varied if variant else text.text, "meta": meta})
            bar.update()
    if elsewhere:
        notes.append(f"{plural(elsewhere, 'variant')} equal to a held-out text left out")
    if alike:
        notes.append(f"{plural(alike, 'variant')} equal to the text itself or to another left out")
    return rows


def write_rows(
    command: str,
    settings: TextSettings | InstructionsSettings,
    rows: dict[str, list[dict[str, Any]]],  # of each side by file name
    vocabulary: Vocabulary,
    notes: list[str],
) -> dict[str, Any]:
    """Write all files of a preparation of text; returns the summary, as in prepared.json.

    Raises:
        UserError: training could not read a row.
    """
    figures, all_lengths = {}, []
    for name, side in SIDES.items():
        originals = [row for row in rows[name] if not row["meta"].get(VARIANT)]
        lengths, unknown = _lengths(originals, vocabulary)
        all_lengths += lengths
        figures[side] = {
            "rows": len(lengths),
            "labelled": sum("label" in row for row in originals),
            "tokens": sum(lengths),
            "unknown_tokens": unknown,
        }
        if len(originals) < len(rows[name]):
            figures[side]["variants"] = len(rows[name]) - len(originals)
    summary = {
        "command": command,
        "settings": stored_settings(settings),
        "vocabulary_size": len(vocabulary),
        "labels": vocabulary.label_names,
        **summarize_lengths(np.array(all_lengths), of_text=True, notes=notes),
        **figures,
        "notes": notes,
    }
    with publishing(settings) as folder:
        for name in SIDES:
            if rows[name]:
                write_lines(folder / name, map(row_line, rows[name]), len(rows[name]))
        write_text(folder / VOCABULARY, vocabulary.to_json())
        write_text(folder / TOKENIZER, _tokenizer_of(vocabulary).to_json())
        write_summary(folder, summary)
    return summary


def _lengths(rows: Sequence[dict[str, Any]], vocabulary: Vocabulary) -> tuple[list[int], int]:
    """Number of tokens of each row as training reads it, and of unknown tokens in all."""
    lengths, unknown, tokenizer = [], 0, _tokenizer_of(vocabulary)
    with progress_bar("counting tokens", len(rows), "row") as bar:
        for row in rows:
            try:
                parsed = parse_row(row, vocabulary)
            except RowError as error:  # a pretrained tokenizer may give no tokens, or fail
                raise UserError(f"{row['meta']['source']}: {error}") from None
            lengths.append(len(parsed.ids))
            unknown += tokenizer.count_unknown(parsed.ids)
            bar.update()
    return lengths, unknown


def _tokenizer_of(vocabulary: Vocabulary) -> TextTokenizer:
    assert vocabulary.tokenizer is not None  # `make_vocabulary` gives it one
    return vocabulary.tokenizer
