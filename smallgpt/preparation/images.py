"""Images to rows: prepare_data.py images."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallgpt.console import plural
from smallgpt.errors import SettingsError, UserError
from smallgpt.files.writing import write_text
from smallgpt.options.preparation import DigitsSettings, ImagesSettings
from smallgpt.preparation.folder import (
    CODEBOOK,
    CODEBOOK_PICTURE,
    RECONSTRUCTIONS,
    TEST,
    TRAIN,
    check_output,
    check_split,
    holding_output,
    label_notes,
    move_shared,
    moved_notes,
    publishing,
    row_line,
    write_lines,
    write_summary,
)
from smallgpt.rows.prepared_summary import VOCABULARY
from smallgpt.tokens.labels import LabelNames, label_token, sorted_labels
from smallgpt.tokens.vocabulary import CLS, EOS, Vocabulary

if TYPE_CHECKING:
    import numpy as np

    from smallgpt.preparation.labelled_images import LabelledImages
    from smallgpt.tokens.codebook import Codebook


_IMAGES_DRAWN, _DRAWN_IN_A_ROW = 20, 10
# The codebook must know how turned strokes look, but need not see all variants.
_FITTED_VARIANTS = 7


@holding_output
def prepare_images(settings: ImagesSettings) -> dict[str, Any]:
    """Prepare images of one's own: IDX, .npz, or a folder with one subfolder per class.

    Returns:
        The summary, as written to prepared.json.

    Raises:
        UserError: files that cannot be read or do not belong together, output_dir holds
            somebody's own data, no images are left for one side of the split.
    """
    from smallgpt.preparation.image_files import read_images

    check_output(settings.output_dir, ())
    if settings.test_last is not None and Path(settings.input).is_dir():
        raise SettingsError(
            [
                "--test_last would hold out the last class of a folder: leave it out for a "
                "random share, or give --test_input"
            ]
        )
    names = LabelNames()
    source = read_images(
        settings.input, settings.labels, settings.image_size, settings.color, names
    )
    own_test = None
    if settings.test_input is not None:
        folder = Path(settings.test_input).is_dir()
        own_test = read_images(
            settings.test_input,
            settings.test_labels,
            settings.image_size if folder else None,
            # Whether there is colour was decided by the training images.
            ("grey" if source.images_NxHxWxC.shape[3] == 1 else "rgb") if folder else "auto",
            names,
        )
        _check_same_kind(settings, source, own_test)
    source = dataclasses.replace(source, notes=[*names.notes(), *source.notes])
    return _prepare(
        "images", settings, source, own_test, settings.test_last, settings.codebook_images
    )


def _check_same_kind(
    settings: ImagesSettings, source: LabelledImages, own_test: LabelledImages
) -> None:
    """Refuse test images that cannot be coded or labelled like the training images."""
    kinds = []
    for images in (source.images_NxHxWxC, own_test.images_NxHxWxC):
        _, height, width, channels = images.shape
        kinds.append(f"{width}x{height} {'grey' if channels == 1 else 'rgb'} {images.dtype}")
    if kinds[0] != kinds[1]:
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
) -> dict[str, Any]:
    """Split, fit the codebook on training images, code, and write all files."""
    import numpy as np

    from smallgpt.rows.splitting import number_keys
    from smallgpt.tokens.codebook import Codebook

    images, notes = source.images_NxHxWxC, list(source.notes)
    _, height, width, channels = images.shape
    if settings.patch_size > max(height, width):
        raise SettingsError(
            [f"--patch_size {settings.patch_size} is larger than the images ({width}x{height})"]
        )
    train, test = _split_images(settings, source, own_test, test_last)
    codebook = Codebook.fit(
        _images_to_fit(images[train], settings, codebook_images),
        settings.patch_size,
        settings.codebook_size,
        settings.seed,
        codebook_images,
    )
    sources = [source]
    if own_test is not None:
        sources.append(own_test)
        notes += own_test.notes
        images = np.concatenate([images, own_test.images_NxHxWxC])
    codes_NxP = codebook.encode(images)

    bodies_N = number_keys(codes.tobytes() for codes in codes_NxP)
    if own_test is None and test_last is None:
        before = len(test)
        train, test = move_shared(train, test, [bodies_N])
        notes += moved_notes(before - len(test))
    else:
        shared = np.isin(bodies_N[train], bodies_N[test])
        train = train[~shared]
        if shared.any():
            count = plural(int(shared.sum()), "training row")
            notes.append(f"{count} with the tokens of a test row left out")
    check_split(train, test, "finer tokens tell images apart: --patch_size, --codebook_size")

    labels = [label for part in sources for label in part.labels or [None] * len(part)]
    vocabulary = Vocabulary.for_images(
        len(codebook), sorted_labels(label for label in labels if label is not None)
    )
    if source.labels is None:
        notes.append("no labels: the rows end <EOS>, a model of them generates but cannot classify")
    notes += label_notes([labels[i] for i in train], [labels[i] for i in test])
    if len(codebook) < settings.codebook_size:
        patches = plural(len(codebook), "distinct patch", "distinct patches")
        notes.append(f"the training images have {patches}: the codebook loses nothing of them")
    summary = {
        "command": command,
        "settings": dataclasses.asdict(settings),
        "images": {"height": height, "width": width, "channels": channels},
        "vocabulary_size": len(vocabulary),
        "labels": vocabulary.labels,
        "codebook": {
            "size": len(codebook),
            "patch_size": codebook.patch_size,
            "codes_in_training_rows": len(np.unique(codes_NxP[train])),
        },
        "longest_row": codebook.patches_per_image + (3 if source.labels is None else 5),
        "train": _image_figures(images, codes_NxP, codebook, labels, train),
        "test": _image_figures(images, codes_NxP, codebook, labels, test),
        "notes": notes,
    }
    row = _image_row(sources, codebook, settings.augment > 0)
    train_codes = [codes_NxP[train], *_variant_codes(images[train], codebook, settings)]
    in_test = {codes.tobytes() for codes in codes_NxP[test]}
    train_lines = [
        row(number, codes[place], variant)
        for place, number in enumerate(train.tolist())
        for variant, codes in enumerate(train_codes)
        if variant == 0 or codes[place].tobytes() not in in_test
    ]
    if settings.augment:
        summary["train"]["variants"] = len(train_lines) - len(train)
        left_out = len(train) * settings.augment - summary["train"]["variants"]
        if left_out:
            notes.append(f"{plural(left_out, 'variant')} with the tokens of a test row left out")
    with publishing(settings.output_dir) as folder:
        write_lines(folder / TRAIN, train_lines, len(train_lines))
        test_lines = (row(number, codes_NxP[number]) for number in test.tolist())
        write_lines(folder / TEST, test_lines, len(test))
        write_text(folder / VOCABULARY, vocabulary.to_json())
        codebook.save(folder / CODEBOOK)
        _draw(folder, codebook, images, codes_NxP, labels, test, summary["test"]["rmse"])
        write_summary(folder, summary)
    return summary


def _split_images(
    settings: DigitsSettings | ImagesSettings,
    source: LabelledImages,
    own_test: LabelledImages | None,
    test_last: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for training and test; images of `own_test` count on after the source's."""
    import numpy as np

    from smallgpt.rows.splitting import number_keys, split_rows

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


def _images_to_fit(
    images_NxHxWxC: np.ndarray, settings: DigitsSettings | ImagesSettings, most: int
) -> np.ndarray:
    """What the codebook is fitted on: the images, with --augment variants of them as well."""
    import numpy as np

    from smallgpt.preparation.augmentation import vary_images

    if not settings.augment:
        return images_NxHxWxC
    rounds = min(settings.augment + 1, _FITTED_VARIANTS + 1)
    random = np.random.default_rng(settings.seed)
    some = images_NxHxWxC[np.sort(random.permutation(len(images_NxHxWxC))[: most // rounds + 1])]
    varied = [vary_images(some, settings.seed, variant) for variant in range(1, rounds)]
    return np.concatenate([some, *varied])


def _variant_codes(
    images_NxHxWxC: np.ndarray, codebook: Codebook, settings: DigitsSettings | ImagesSettings
) -> list[np.ndarray]:
    """Codes (NxP) of each variant of the images, --augment of them."""
    from smallgpt.preparation.augmentation import vary_images

    return [
        codebook.encode(vary_images(images_NxHxWxC, settings.seed, variant))
        for variant in range(1, settings.augment + 1)
    ]


def _image_row(
    sources: Sequence[LabelledImages], codebook: Codebook, augmented: bool
) -> Callable[..., str]:
    """A function of (image, codes, variant) that gives the JSON text of a row.

    Images of the sources are numbered on from one to the next.
    """
    # A label is written as a number only where that gives the same token: "007" is its own.
    whole = all(_is_whole(label) for part in sources for label in set(part.labels or ()))

    from smallgpt.rows.groups import VARIANT

    def row(number: int, codes_P: np.ndarray, variant: int | None = None) -> str:
        part, index = sources[0], number
        if index >= len(part):
            part, index = sources[1], index - len(part)
        meta = {"index": index}
        if part.files is not None:
            meta["file"] = part.files[index]
        if augmented and variant is not None:
            meta |= {"source": number, VARIANT: variant}
        tokens = codebook.row_text(codes_P)
        if part.labels is None:
            return row_line({"tokens": f"{tokens} {EOS}", "meta": meta})
        label = part.labels[index]
        tokens = f"{tokens} {CLS} {label_token(label)} {EOS}"
        return row_line({"tokens": tokens, "label": int(label) if whole else label, "meta": meta})

    return row


def _is_whole(label: str) -> bool:
    # Python refuses to convert very long numbers.
    digits = label.removeprefix("-")
    return len(digits) < 20 and digits.isascii() and digits.isdigit() and str(int(label)) == label


def _image_figures(
    images: np.ndarray,
    codes_NxP: np.ndarray,
    codebook: Codebook,
    labels: Sequence[str | None],
    rows: np.ndarray,
) -> dict[str, Any]:
    """Counts and the reconstruction error of one side of the split."""
    rmse = codebook.error(images[rows], codes_NxP[rows])
    return {
        "rows": len(rows),
        "labelled": sum(labels[i] is not None for i in rows),
        "rmse": rmse,  # as share of the pixel range
        "psnr_db": -20 * math.log10(rmse) if rmse > 0 else None,
    }


def _draw(
    folder: Path,
    codebook: Codebook,
    images: np.ndarray,
    codes_NxP: np.ndarray,
    labels: Sequence[str | None],
    test: np.ndarray,
    test_rmse: float,
) -> None:
    """Draw the codebook, and test images above what their codes make of them."""
    from smallgpt.tokens.pictures import draw_codebook, draw_reconstructions

    size, value_range = codebook.patch_size, (codebook.low, codebook.high)
    draw_codebook(
        folder / CODEBOOK_PICTURE,
        codebook.centers_KxD.reshape(-1, size, size, codebook.channels),
        value_range,
        f"{plural(len(codebook), 'code')} for patches of {size}x{size} pixels",
    )
    chosen = _some_of_each(labels, test)
    codes = plural(codebook.patches_per_image, "code")
    draw_reconstructions(
        folder / RECONSTRUCTIONS,
        images[chosen],
        codebook.decode(codes_NxP[chosen]),
        [labels[i] or "" for i in chosen],
        value_range,
        _DRAWN_IN_A_ROW,
        f"Test images, and below each what its {codes} give back (RMSE {test_rmse:.1%})",
    )


def _some_of_each(labels: Sequence[str | None], rows: np.ndarray) -> list[int]:
    """Rows to draw, in order of their labels: the first of every label, then the second, ..."""
    seen: Counter[str | None] = Counter()
    ranked = []
    for row in rows.tolist():
        ranked.append((seen[labels[row]], row))
        seen[labels[row]] += 1
    chosen = [row for _, row in sorted(ranked)[:_IMAGES_DRAWN]]
    order = sorted_labels(label for label in seen if label is not None)
    return sorted(chosen, key=lambda row: (order.index(labels[row]) if order else 0, row))
