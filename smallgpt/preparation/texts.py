"""Texts and instructions to rows: the commands `text` and `instructions` of prepare_data.py.

    python prepare_data.py text --input shakespeare.txt --output_dir data/shakespeare
    python prepare_data.py text --input reviews.tsv --text_column 1 --label_column 2
    python prepare_data.py instructions --input alpaca.json --tokenizer bpe

Labelled texts and instructions stay what they are, one row each, and become ids when they are
read. Texts without labels are cut into rows of ids. The tokenizer is learned from the training
rows alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallgpt.console import plural, progress_bar
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.files.writing import write_text
from smallgpt.options.preparation import InstructionsSettings, TextSettings
from smallgpt.preparation.folder import (
    TEST,
    TRAIN,
    VALIDATION,
    check_output,
    holding_output,
    label_notes,
    publishing,
    row_line,
    write_lines,
    write_summary,
)
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.prepared_summary import VOCABULARY
from smallgpt.rows.row import IDS_OF
from smallgpt.tokens.instruction_template import instruction_prompt
from smallgpt.tokens.labels import LabelNames, label_token, sorted_labels
from smallgpt.tokens.text_tokenizer import SMALLEST_BPE, TOKENIZER, WHITESPACE_MARKS, TextTokenizer
from smallgpt.tokens.vocabulary import CLS, EOS, PAD, UNK, Vocabulary

if TYPE_CHECKING:
    import numpy as np

    from smallgpt.preparation.records import Item
    from smallgpt.preparation.text_files import Text


SIDES = (TRAIN, VALIDATION, TEST)
_SPECIAL = (PAD, UNK, CLS, EOS)
_LEARNED = ("chars", "bpe")
_DEFAULT_BPE_SIZE = 4096
_MOST_BAD_SHOWN = 20
# Fewer documents than this are cut where a share ends; more are held out whole, at random.
_FEW_DOCUMENTS = 20


@holding_output
def prepare_text(settings: TextSettings) -> dict[str, Any]:
    """Prepare texts: with labels a row each, without labels rows cut from long texts.

    Returns:
        The summary, as written to prepared.json.

    Raises:
        UserError: files that cannot be read, bad records (with file, line and reason), too few
            texts, output_dir holds somebody's own data, no such tokenizer.
    """
    from smallgpt.preparation.text_files import read_texts, source_names

    paths, test_paths = _paths(settings.input), _paths(settings.test_input)
    check_output(settings.output_dir, [*paths, *test_paths])
    column, label = settings.text_column, settings.label_column
    pretrained = _pretrained(settings.tokenizer)
    notes: list[str] = []
    names = source_names([*paths, *test_paths])
    texts, own_test = (
        _good_of(
            (found for path in some for found in read_texts(path, column, label, names[path])),
            settings.on_bad_row,
            notes,
        )
        for some in (paths, test_paths)
    )
    if label is not None:
        _check_labels(texts, label)
        label_names = LabelNames()
        texts, own_test = (_with_label_names(some, label_names) for some in (texts, own_test))
        notes += label_names.notes()
        if label.isdecimal():
            for some in (texts, own_test):
                _check_first_lines(some)
    if label is None:
        sides = _split_documents(texts, own_test, settings, notes)
        labels: list[str] = []
    else:
        sides = _split_records(texts, own_test, settings, notes)
        labels = sorted_labels(t.label for side in sides.values() for t in side)
        by_side = [[text.label for text in sides[name]] for name in (TRAIN, TEST)]
        notes += label_notes(*by_side)
    learned_from = [text.text for text in sides[TRAIN]]
    marked = sum(any(map(text.__contains__, WHITESPACE_MARKS.values())) for text in learned_from)
    if settings.tokenizer == "chars" and marked:
        pictures = " ".join(WHITESPACE_MARKS.values())
        notes.append(f"{plural(marked, 'text')} with {pictures} in it: read as whitespace")
    vocabulary = _vocabulary(settings, pretrained, learned_from, labels)
    of_others = len(vocabulary.labels) - len(labels)
    if of_others:
        notes.append(f"{plural(of_others, 'label')} of the tokenizer's own, which no row has, stay")

    if label is None:
        rows = {
            name: list(
                _document_rows(
                    side,
                    vocabulary,
                    settings.max_length,
                    settings.stride if name == TRAIN else None,
                )
            )
            for name, side in sides.items()
        }
    else:
        rows = {
            name: [
                {"text": text.text, "label": text.label, "meta": {"source": text.source}}
                for text in side
            ]
            for name, side in sides.items()
        }
        if settings.augment:
            held_out = {_asked(text) for name in (VALIDATION, TEST) for text in sides[name]}
            rows[TRAIN] = _with_variants(rows[TRAIN], held_out, settings, notes)
    return _publish("text", settings, rows, vocabulary, notes)


# ------------------------------------------------------------------------------- reading


def _paths(names: Sequence[str]) -> list[Path]:
    return [Path(name) for name in names]


def _good_of(found: Iterable[Any], on_bad_row: str, notes: list[str]) -> list[Any]:
    """The records that can be used.

    Raises:
        UserError: the first 20 that cannot, unless they are to be skipped; only the first where
            no record can.
    """
    from smallgpt.preparation.records import BadRecordError

    good: list[Any] = []
    first_bad: list[str] = []
    bad = 0
    for each in found:
        if not isinstance(each, BadRecordError):
            good.append(each)
            continue
        bad += 1
        if len(first_bad) < _MOST_BAD_SHOWN:
            first_bad.append(str(each))
    if bad and not good:
        counted = f"not one of {plural(bad, 'record')} can be used, the first: "
        raise UserError((counted if bad > 1 else "") + first_bad[0])
    if bad and on_bad_row == "error":
        if bad > len(first_bad):
            first_bad.append(f"... and {plural(bad - len(first_bad), 'more bad record')}")
        remedy = "correct them, or leave them out with --on_bad_row skip"
        raise UserError("\n".join([*first_bad, remedy]))
    if bad:
        notes.append(f"{plural(bad, 'bad record')} skipped, the first: {first_bad[0]}")
    return good


def _with_variants(
    rows: Sequence[dict[str, Any]], held_out: set[str], settings: TextSettings, notes: list[str]
) -> list[dict[str, Any]]:
    """Rows of labelled texts, each followed by its variants: none twice, none of another side."""
    from smallgpt.preparation.augmentation import vary_text

    source = random.Random(settings.seed)
    found, elsewhere, alike = [], 0, 0
    with progress_bar("varying the texts", len(rows), "text") as bar:
        for row in rows:
            texts = {row["text"].strip(): 0}
            for variant in range(1, settings.augment + 1):
                text = vary_text(row["text"], source)
                if text in held_out:
                    elsewhere += 1
                elif texts.setdefault(text, variant) != variant:
                    alike += 1
            for text, variant in texts.items():
                meta = {**row["meta"], VARIANT: variant}
                found.append({**row, "text": text if variant else row["text"], "meta": meta})
            bar.update()
    if elsewhere:
        notes.append(f"{plural(elsewhere, 'variant')} equal to a held-out text left out")
    if alike:
        notes.append(f"{plural(alike, 'variant')} equal to another of the same text left out")
    return found


def _check_first_lines(texts: Sequence[Text]) -> None:
    """Where columns are counted, refuse a heading that was read as a record.

    Raises:
        UserError: the labels of first lines stand on no other line, all others on several.
    """
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


def _check_labels(texts: Sequence[Text], column: str) -> None:
    """Refuse a column of labels in which nearly every record has its own.

    Raises:
        UserError: so it is.
    """
    labels = {text.label for text in texts}
    if len(texts) >= _FEW_DOCUMENTS and len(labels) > len(texts) / 2:
        raise UserError(
            f"--label_column {column}: {len(labels):,} different labels in "
            f"{plural(len(texts), 'record')}, the first: {shown(texts[0].label)}; is it the right "
            f"column?"
        )


def _with_label_names(texts: Iterable[Text], names: LabelNames) -> list[Text]:
    """The texts with their labels as they stand in tokens."""
    return [dataclasses.replace(text, label=names.add(text.label, text.place)) for text in texts]


# ------------------------------------------------------------------------------- splitting


def _split_records(
    items: Sequence[Text | Item],
    own_test: Sequence[Text | Item],
    settings: TextSettings | InstructionsSettings,
    notes: list[str],
) -> dict[str, list[Any]]:
    """Records of each side: none has the text, or the prompt, of one on another side.

    Args:
        items: records to split.
        own_test: test records of the user's own, which stay as they are.
        settings: fractions, order and seed.
        notes: told to the user; grows.

    Raises:
        UserError: a side would be empty.
    """
    import numpy as np

    from smallgpt.rows.splitting import number_keys, split_rows

    numbers = number_keys(_asked(item) for item in [*items, *own_test])
    numbers_N, taken = numbers[: len(items)], numbers[len(items) :]
    count, validation_share = len(items), settings.validation_fraction
    test_share = 0.0 if own_test else settings.test_fraction
    if settings.in_order:
        ends = [round(count * (1 - test_share - validation_share)), round(count * (1 - test_share))]
        train, validation, test = np.split(np.arange(count), ends)
    else:
        classes_N = number_keys(getattr(item, "label", None) for item in items)

        def hold_out(rows: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
            if share == 0 or not len(rows):
                return rows, rows[:0]
            kept, held = split_rows([numbers_N[rows]], classes_N[rows], share, settings.seed)
            return rows[kept], rows[held]

        train, test = hold_out(np.arange(count), test_share)
        train, validation = hold_out(train, validation_share / (1 - test_share))

    # What is tested on is learned from nowhere.
    taken = np.concatenate([taken, numbers_N[test]])
    before = len(validation) + len(train)
    validation = validation[~np.isin(numbers_N[validation], taken)]
    train = train[~np.isin(numbers_N[train], np.concatenate([taken, numbers_N[validation]]))]
    if before > len(validation) + len(train):
        left_out = plural(before - len(validation) - len(train), "record")
        notes.append(f"{left_out} left out that stand among held-out ones as well")
    wholes_N = number_keys((_asked(item), _learned(item)) for item in items)
    before = len(train) + len(validation)
    train, validation = (
        rows[np.sort(np.unique(wholes_N[rows], return_index=True)[1])]
        for rows in (train, validation)
    )
    if before > len(train) + len(validation):
        repeated = plural(before - len(train) - len(validation), "repeated record")
        notes.append(f"{repeated} left out of training and validation")
    kept = np.sort(np.concatenate([train, validation, test]))
    notes += _conflict_notes([*(items[i] for i in kept), *own_test])
    parts = {TRAIN: train, VALIDATION: validation, TEST: test}
    sides = {name: [items[i] for i in rows] for name, rows in parts.items()}
    if own_test:
        sides[TEST] = list(own_test)
    _check_sides(sides, settings)
    return sides


def _asked(item: Text | Item) -> str:
    """What must not stand on two sides of a split: a text, or the prompt of an instruction."""
    if hasattr(item, "text"):
        return item.text.strip()
    return instruction_prompt(item.record["instruction"], item.record.get("input") or "")


def _learned(item: Text | Item) -> str:
    """What is to be learned of it: the label of a text, the answer of an instruction."""
    return item.label or "" if hasattr(item, "text") else item.record["output"]


def _conflict_notes(items: Iterable[Text | Item]) -> list[str]:
    """Texts with more than one label, which stay: which of them is right nobody knows here."""
    first_of: dict[str, Text] = {}
    conflicts: dict[str, Text] = {}
    for item in items:
        if getattr(item, "label", None) is not None:
            first = first_of.setdefault(_asked(item), item)
            if first.label != item.label:
                conflicts.setdefault(_asked(item), item)
    if not conflicts:
        return []
    key, second = next(iter(conflicts.items()))
    first = first_of[key]
    return [
        f"{plural(len(conflicts), 'text')} with more than one label, the first: {first.place} has "
        f"{shown(first.label)}, {second.place} has {shown(second.label)}"
    ]


def _split_documents(
    texts: Sequence[Text],
    own_test: Sequence[Text],
    settings: TextSettings,
    notes: list[str],
) -> dict[str, list[Text]]:
    """Texts without labels of each side: whole ones at random, or the last part of a few."""
    if len(texts) >= _FEW_DOCUMENTS and not settings.in_order:
        return _split_records(texts, own_test, settings, notes)
    seen = {_asked(text) for text in own_test}
    kept = []
    for text in texts:
        if _asked(text) not in seen:
            seen.add(_asked(text))
            kept.append(text)
    if len(kept) < len(texts):
        left_out = plural(len(texts) - len(kept), "text")
        notes.append(f"{left_out} left out that stand elsewhere as well")
    texts = kept
    total = sum(len(text.text) for text in texts)
    test = 0 if own_test else round(settings.test_fraction * total)
    validation = round(settings.validation_fraction * total)
    sides: dict[str, list[Text]] = {TRAIN: [], VALIDATION: [], TEST: []}
    borders = [total - test - validation, total - test, total]
    place = 0
    for text in texts:
        begin = place
        for name, border in zip(sides, borders, strict=True):
            part = text.text[max(0, begin - place) : max(0, border - place)]
            if part.strip():
                # Its rows overlap one another, but not those of the next part.
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
    sides: dict[str, list[Any]], settings: TextSettings | InstructionsSettings
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
        if is_wanted and not sides.get(name):
            raise UserError(
                f"nothing is left for {name}: give more text, or other --test_fraction and "
                f"--validation_fraction"
            )


# ------------------------------------------------------------------------------- tokens


def _pretrained(name: str) -> TextTokenizer | None:
    """The tokenizer of --tokenizer, None where one is to be learned; before any file is read.

    Raises:
        UserError: as `TextTokenizer.pretrained`.
    """
    if name in _LEARNED:
        return None
    try:
        return TextTokenizer.pretrained(name, _SPECIAL)
    except UserError as error:
        near = difflib.get_close_matches(name, _LEARNED, n=1)
        raise UserError(f"{error}{f'; did you mean {near[0]}?' if near else ''}") from None


def _vocabulary(
    settings: TextSettings | InstructionsSettings,
    pretrained: TextTokenizer | None,
    texts: Sequence[str],
    labels: Sequence[str],
) -> Vocabulary:
    """That of the pretrained tokenizer with the labels, or of one learned from training texts.

    Raises:
        UserError: --vocab_size is too small, or the pretrained tokens can be none of a vocabulary.
    """
    label_tokens = [label_token(label) for label in labels]
    if pretrained is not None:
        tokenizer = pretrained
    elif settings.tokenizer == "chars":
        size = None
        if settings.vocab_size is not None:
            size = settings.vocab_size - len(labels)
            _check_size(settings.vocab_size, labels, 1, "character")
        tokenizer = TextTokenizer.learn_characters(texts, _SPECIAL, size)
    else:
        size = settings.vocab_size or _DEFAULT_BPE_SIZE
        _check_size(size, labels, SMALLEST_BPE, "byte")
        tokenizer = TextTokenizer.learn_bpe(texts, _SPECIAL, size - len(labels))
    tokenizer = tokenizer.with_special(label_tokens)
    try:
        return Vocabulary(tokenizer.tokens, tokenizer)
    except ValueError as error:
        raise UserError(f"the tokenizer {settings.tokenizer}: {error}") from None


def _check_size(size: int, labels: Sequence[str], least: int, unit: str) -> None:
    """Refuse a --vocab_size without room for the labels and the `least` units of a text."""
    needed = least + len(_SPECIAL) + len(labels)
    if size < needed:
        raise UserError(
            f"--vocab_size {size} is too small: {plural(least, unit)}, {len(_SPECIAL)} special "
            f"tokens and {plural(len(labels), 'label')} need {needed:,}"
        )


def _document_rows(
    texts: Sequence[Text], vocabulary: Vocabulary, length: int, stride: int | None
) -> Iterator[dict[str, Any]]:
    """Rows of at most `length` ids, `stride` ids from one to the next; none spans two texts.

    Without a stride each row begins with the last token of the one before, so that every token
    but a text's first is predicted once.
    """
    stride = stride or length - 1
    with progress_bar("cutting", len(texts), "text") as bar:
        for text in texts:
            try:
                ids = [*vocabulary.tokenizer.encode(text.text), vocabulary.eos_id]
            except ValueError as error:
                raise UserError(f"{text.place}: {error}") from None
            start = 0
            while len(ids) - start > 1:
                yield {
                    "input_ids": ids[start : start + length],
                    "meta": {"source": text.source, "start": start, IDS_OF: vocabulary.digest},
                }
                if start + length >= len(ids):
                    break
                start += stride
            bar.update()


# ------------------------------------------------------------------------------- writing


def _publish(
    command: str,
    settings: TextSettings | InstructionsSettings,
    rows: dict[str, list[dict[str, Any]]],
    vocabulary: Vocabulary,
    notes: list[str],
) -> dict[str, Any]:
    """Write all files; returns the summary."""
    figures, longest = {}, 0
    for name in SIDES:
        originals = [row for row in rows.get(name, []) if not row["meta"].get(VARIANT)]
        varied = len(rows.get(name, [])) - len(originals)
        lengths, unknown = _lengths(originals, vocabulary)
        longest = max([longest, *lengths])
        figures[name] = {
            "rows": len(lengths),
            "labelled": sum("label" in row for row in originals),
            "tokens": sum(lengths),
            "unknown_tokens": unknown,
        }
        if varied:
            figures[name]["variants"] = varied
    summary = {
        "command": command,
        "settings": dataclasses.asdict(settings),
        "vocabulary_size": len(vocabulary),
        "labels": vocabulary.labels,
        "longest_row": longest,
        "train": figures[TRAIN],
        "validation": figures[VALIDATION],
        "test": figures[TEST],
        "notes": notes,
    }
    with publishing(settings.output_dir) as folder:
        for name in SIDES:
            if rows.get(name):
                lines = (row_line(row) for row in rows[name])
                write_lines(folder / name, lines, len(rows[name]))
        write_text(folder / VOCABULARY, vocabulary.to_json())
        write_text(folder / TOKENIZER, vocabulary.tokenizer.to_json())
        write_summary(folder, summary)
    return summary


def _lengths(rows: Sequence[dict[str, Any]], vocabulary: Vocabulary) -> tuple[list[int], int]:
    """Tokens of each row as training will read it, and how many of all are unknown.

    Raises:
        UserError: training could not read one.
    """
    from smallgpt.rows.bad_rows import RowError
    from smallgpt.rows.row import parse_row

    lengths, unknown = [], 0
    with progress_bar("counting tokens", len(rows), "row") as bar:
        for row in rows:
            try:
                parsed = parse_row(row, vocabulary)
            except RowError as error:  # a tokenizer of others may leave nothing of a text, or fail
                raise UserError(f"{row['meta']['source']}: {error}") from None
            lengths.append(len(parsed.ids))
            unknown += vocabulary.tokenizer.count_unknown(parsed.ids)
            bar.update()
    return lengths, unknown
