"""Images to rows: prepare_data.py digits and images.

Each patch of an image becomes a code of a codebook (tokens/codebook.py) that is fitted on training
images only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from smallgpt.console import plural
from smallgpt.errors import SettingsError, UserError
from smallgpt.files.writing import write_text
from smallgpt.inputs.image_formats import read_images
from smallgpt.inputs.labelled_images import LabelledImages
from smallgpt.inputs.like_codebook import unlike_training
from smallgpt.options.option import AUTO
from smallgpt.options.preparation import DigitsSettings, ImagesSettings
from smallgpt.preparation.augmentation import vary_images
from smallgpt.preparation.folder import (
    CODEBOOK,
    TEST,
    TRAIN,
    check_output,
    holding_output,
    publishing,
    row_line,
    stored_settings,
    write_lines,
    write_summary,
)
from smallgpt.preparation.image_codebook import (
    ExistingCodebook,
    draw_pictures,
    fit_codebook,
    load_codebook,
    vocabulary_with,
)
from smallgpt.preparation.recipe import codes_for, color_for, patch_size_for, variants_for
from smallgpt.preparation.splits import check_split, label_notes, leave_out_shared, move_shared
from smallgpt.preparation.suggested_length import summarize_lengths
from smallgpt.rows.codebook_of_rows import CODES_OF
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.prepared_summary import VOCABULARY
from smallgpt.rows.splitting import number_keys, split_rows
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.familiarity import Familiarity
from smallgpt.tokens.labels import LabelNames, label_text, label_token, sorted_labels
from smallgpt.tokens.vocabulary import CLS, EOS, Vocabulary


@holding_output
def prepare_digits(settings: DigitsSettings) -> dict[str, Any]:
    """Prepare scikit-learn's 1,797 handwritten digits (8x8, values 0..16); returns the summary.

    Raises:
        UserError: output_dir holds foreign files, or no test images are left.
    """
    check_output("digits", settings, ())
    digits = load_digits()
    images_NxHxWxC = digits.images.astype(np.uint8)[..., None]
    labels = [label_text(label) for label in digits.target.tolist()]
    return _prepare("digits", settings, LabelledImages(images_NxHxWxC, labels))


@holding_output
def prepare_images(settings: ImagesSettings) -> dict[str, Any]:
    """Prepare IDX, .npz or a folder of pictures; returns the summary, as in prepared.json.

    Raises:
        UserError: unreadable or contradictory files, foreign files in output_dir, or an empty side
            of the split.
        SettingsError: options that the input does not take.
    """
    check_output("images", settings, ())
    path = settings.input
    assert path is not None  # its absence is a contradiction of the settings
    if settings.test_last is not None and Path(path).is_dir():
        raise SettingsError(
            [
                "--test_last would hold out the last class of a folder: leave it out for a "
                "random share, or give --test_input"
            ]
        )
    names = LabelNames()
    existing = None if settings.codebook is None else load_codebook(settings.codebook)
    codebook = None if existing is None else existing.codebook

    def read(color: str) -> LabelledImages:
        return read_images(
            path, settings.labels, settings.image_size, color, names, codebook=codebook
        )

    source, recipe = read(settings.color), []
    if settings.color == AUTO and codebook is None:
        settings, reason = _with_color(settings, source)
        if reason:
            recipe.append(f"{settings.color}, {reason}")
        if settings.color != _color(source):
            source = read(settings.color)  # as the flag would, to the last bit of a resized picture
    own_test = None
    if settings.test_input is not None:
        folder = Path(settings.test_input).is_dir()
        own_test = read_images(
            settings.test_input,
            settings.test_labels,
            settings.image_size if folder else None,
            _color(source),  # the training images decide
            names,
            codebook=codebook,
        )
        _check_same_kind(settings, source, own_test)
    source = dataclasses.replace(source, notes=[*names.notes(), *source.notes])
    return _prepare(
        "images", settings, source, own_test, settings.test_last, settings.codebook_images,
        existing, recipe,
    )  # fmt: skip


def _with_color(settings: ImagesSettings, source: LabelledImages) -> tuple[ImagesSettings, str]:
    """Settings with the colour that suits the training images, and why where there was a choice."""
    color, reason = "grey", ""
    if _color(source) == "rgb":
        train = np.arange(len(source))
        if settings.test_input is None:
            train, _ = _split(settings, source, None, settings.test_last)
        labels = None if source.labels is None else [source.labels[i] for i in train]
        color, reason = color_for(source.images_NxHxWxC[train], labels, settings.seed)
    return dataclasses.replace(settings, color=color), reason


def _color(source: LabelledImages) -> str:
    return "grey" if source.images_NxHxWxC.shape[3] == 1 else "rgb"


def _check_same_kind(
    settings: ImagesSettings, source: LabelledImages, own_test: LabelledImages
) -> None:
    """Refuse test images of another size or type, and labels that the training images lack."""
    kinds = []
    for images in (source.images_NxHxWxC, own_test.images_NxHxWxC):
        _, height, width, channels = images.shape
        kinds.append(f"{width}x{height} {'grey' if channels == 1 else 'rgb'} {images.dtype}")
    if kinds[0] != kinds[1] and settings.codebook is None:
        raise UserError(
            f"the images of {settings.input} are {kinds[0]}, those of {settings.test_input} are "
            f"{kinds[1]}: both must be of one kind"
        )
    if source.labels is None and own_test.labels is not None:
        raise UserError(
            f"{settings.test_input} has labels and {settings.input} has none: give --labels"
        )


def _prepare(
    command: str,
    settings: DigitsSettings | ImagesSettings,
    source: LabelledImages,
    own_test: LabelledImages | None = None,
    test_last: int | None = None,
    codebook_images: int = ImagesSettings.codebook_images,
    existing: ExistingCodebook | None = None,
    recipe: Sequence[str] = (),
) -> dict[str, Any]:
    """Split, choose what is `auto`, fit the codebook (or take the `existing` one), encode, augment,
    write all files. `recipe`: what was chosen already.
    """
    _, height, width, channels = source.images_NxHxWxC.shape
    if existing is None and settings.patch_size == AUTO:
        settings = dataclasses.replace(settings, patch_size=patch_size_for(height, width))
        patches = -(-height // settings.patch_size) * -(-width // settings.patch_size)
        size = f"{settings.patch_size}x{settings.patch_size}"
        recipe = [*recipe, f"patches of {size} pixels, {patches} an image"]
    if existing is None and settings.patch_size > max(height, width):
        raise SettingsError(
            [f"--patch_size {settings.patch_size} is larger than the images ({width}x{height})"]
        )
    sources = [source] if own_test is None else [source, own_test]
    notes = [note for part in sources for note in part.notes]
    labels: list[str | None] = []
    for part in sources:
        labels += part.labels or [None] * len(part)
    images_NxHxWxC = source.images_NxHxWxC
    if own_test is not None:
        images_NxHxWxC = np.concatenate([images_NxHxWxC, own_test.images_NxHxWxC])

    train, test = _split(settings, source, own_test, test_last)
    if existing is None and settings.codebook_size == AUTO:
        codes = codes_for(images_NxHxWxC[train], settings.patch_size, settings.seed)
        settings = dataclasses.replace(settings, codebook_size=codes)
        recipe = [*recipe, plural(codes, "code")]
    if settings.augment == AUTO:
        shape = (len(train), *images_NxHxWxC.shape[1:])
        settings = dataclasses.replace(settings, augment=variants_for(shape))
        recipe = [*recipe, _told_variants(settings.augment)]
    if recipe:
        notes.append(f"recipe: {'; '.join(recipe)}")
    check_output(command, settings, ())  # once more, with what was chosen
    if existing is not None:
        codebook = existing.codebook
    else:
        codebook = fit_codebook(images_NxHxWxC[train], settings, codebook_images)
        codebook = dataclasses.replace(codebook, white=source.white or codebook.white)
    codes_NxP = codebook.encode(images_NxHxWxC)
    bodies_N = number_keys(codes.tobytes() for codes in codes_NxP)
    if own_test is None and test_last is None:
        train, test = move_shared(train, test, [bodies_N], notes)
    else:  # the test images are given, and stay
        train = leave_out_shared(train, test, [bodies_N], notes, "the tokens")
    finer = "finer tokens tell images apart: --patch_size, --codebook_size"
    check_split(train, test, finer if existing is None else "give more images")

    names = sorted_labels(label for label in labels if label is not None)
    if existing is not None and existing.vocabulary is not None:
        vocabulary = vocabulary_with(existing.vocabulary, names, existing.path, notes)
    else:
        vocabulary = Vocabulary.for_images(len(codebook), names)
    if source.labels is None:
        notes.append("no labels: the rows end <EOS>, a model of them generates but cannot classify")
    notes += label_notes([labels[i] for i in train], [labels[i] for i in test])
    if existing is not None:
        notes += filter(None, [unlike_training(codebook, images_NxHxWxC, codes_NxP)])
    elif len(codebook) < settings.codebook_size:
        patches = plural(len(codebook), "distinct patch", "distinct patches")
        notes.append(f"the training images have {patches}: the codebook loses nothing of them")
    length = codebook.patches_per_image + (3 if source.labels is None else 5)
    summary = {
        "command": command,
        "settings": stored_settings(settings),
        "images": {"height": height, "width": width, "channels": channels},
        "vocabulary_size": len(vocabulary),
        "labels": vocabulary.label_names,
        "codebook": {
            "size": len(codebook),
            "patch_size": codebook.patch_size,
            "codes_in_training_rows": len(np.unique(codes_NxP[train])),
        },
        **summarize_lengths(np.array([length]), of_text=False, notes=notes),
        "train": _figures(images_NxHxWxC, codes_NxP, codebook, labels, train),
        "test": _figures(images_NxHxWxC, codes_NxP, codebook, labels, test),
        "notes": notes,
    }
    if existing is None:
        rmse = summary["train"]["rmse"]
        seen = Familiarity.measured(rmse, codes_NxP[train], len(codebook))
        codebook = dataclasses.replace(codebook, familiarity=seen)
    row = _row_writer(sources, codebook)
    train_lines = [row(number, codes_NxP[number]) for number in train.tolist()]
    if settings.augment:
        of_variants = [codes_NxP[train]]
        for variant in range(1, settings.augment + 1):
            varied_NxHxWxC = vary_images(images_NxHxWxC[train], settings.seed, variant)
            of_variants.append(codebook.encode(varied_NxHxWxC))
        in_test = {codes.tobytes() for codes in codes_NxP[test]}
        train_lines = [
            row(number, codes_TxP[place], {"source": number, VARIANT: variant})
            for place, number in enumerate(train.tolist())
            for variant, codes_TxP in enumerate(of_variants)
            if variant == 0 or codes_TxP[place].tobytes() not in in_test
        ]
        summary["train"]["variants"] = len(train_lines) - len(train)
        left_out = len(train) * settings.augment - summary["train"]["variants"]
        if left_out:
            notes.append(f"{plural(left_out, 'variant')} with the tokens of a test row left out")
    with publishing(settings) as folder:
        write_lines(folder / TRAIN, train_lines, len(train_lines))
        test_lines = (row(number, codes_NxP[number]) for number in test.tolist())
        write_lines(folder / TEST, test_lines, len(test))
        write_text(folder / VOCABULARY, vocabulary.to_json())
        codebook.save(folder / CODEBOOK)
        rmse = summary["test"]["rmse"]
        draw_pictures(folder, codebook, images_NxHxWxC, codes_NxP, labels, test, rmse)
        write_summary(folder, summary)
    return summary


def _told_variants(count: int) -> str:
    if not count:
        return "no variants, since the images are many"
    return (
        f"{plural(count, 'variant')} of each image (--augment 0 where turning or shifting an image "
        f"changes its meaning)"
    )


def _split(
    settings: DigitsSettings | ImagesSettings,
    source: LabelledImages,
    own_test: LabelledImages | None,
    test_last: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of training and test images; those of `own_test` follow those of `source`."""
    count = len(source)
    if own_test is not None:
        return np.arange(count), np.arange(count, count + len(own_test))
    if test_last is not None:
        if test_last >= count:
            raise UserError(f"--test_last {test_last:,} leaves none of {count:,} images to train")
        return np.arange(count - test_last), np.arange(count - test_last, count)
    pixels_N = number_keys(
        hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in source.images_NxHxWxC
    )
    classes_N = np.full(count, -1) if source.labels is None else number_keys(source.labels)
    train, test = split_rows([pixels_N], classes_N, settings.test_fraction, settings.seed)
    check_split(train, test)
    return train, test


def _row_writer(sources: Sequence[LabelledImages], codebook: Codebook) -> Callable[..., str]:
    """A function of (image number, its codes, more `meta`) that returns the row's line."""
    # A label is written as a number only where that gives the same token: "007" is its own.
    whole = all(_is_whole(label) for part in sources for label in set(part.labels or ()))

    def row(number: int, codes_P: np.ndarray, more: dict[str, Any] | None = None) -> str:
        part, index = sources[0], number
        if index >= len(part):
            part, index = sources[1], index - len(part)
        meta: dict[str, Any] = {"index": index, CODES_OF: codebook.digest}
        if part.files is not None:
            meta["file"] = part.files[index]
        meta |= more or {}
        tokens = codebook.row_text(codes_P)
        if part.labels is None:
            return row_line({"tokens": f"{tokens} {EOS}", "meta": meta})
        label = part.labels[index]
        tokens = f"{tokens} {CLS} {label_token(label_text(label))} {EOS}"
        return row_line({"tokens": tokens, "label": int(label) if whole else label, "meta": meta})

    return row


def _is_whole(label: str) -> bool:
    # Python refuses to convert very long numbers.
    digits = label.removeprefix("-")
    return len(digits) < 20 and digits.isascii() and digits.isdigit() and str(int(label)) == label


def _figures(
    images_NxHxWxC: np.ndarray,
    codes_NxP: np.ndarray,
    codebook: Codebook,
    labels: Sequence[str | None],
    rows: np.ndarray,
) -> dict[str, Any]:
    """Counts and reconstruction error of one side of the split."""
    rmse = codebook.error(images_NxHxWxC[rows], codes_NxP[rows])
    return {
        "rows": len(rows),
        "labelled": sum(labels[i] is not None for i in rows),
        "rmse": rmse,  # as share of the pixel range
        "psnr_db": -20 * math.log10(rmse) if rmse > 0 else None,
    }
