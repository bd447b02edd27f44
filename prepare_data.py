"""Make rows of tokens and their vocabulary from raw data.

    python prepare_data.py digits
    python prepare_data.py images --input train-images-idx3-ubyte.gz \\
        --labels train-labels-idx1-ubyte.gz --test_last 10000 --output_dir data/mnist
    python prepare_data.py images --input pictures/ --image_size 32 --output_dir data/pictures
    python prepare_data.py tokens --input rows.jsonl --min_count 2 --output_dir data/rows
    python prepare_data.py text --input book.txt --output_dir data/book
    python prepare_data.py text --input reviews.csv --text_column text --label_column label
    python prepare_data.py instructions --input alpaca.json

Every command writes train.jsonl, test.jsonl, vocab.json and prepared.json (what was done) into
--output_dir; for images also codebook.npz, codebook.png and reconstructions.png; for texts also
tokenizer.json and val.jsonl. The same input, settings and seed give the same files, byte for byte.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_line import read_settings
from console import (
    SettingsError,
    UserError,
    command_hint,
    format_duration,
    format_table,
    plural,
    printable_lines,
    run_command,
)
from input_files import shown
from prepare_text import prepare_instructions, prepare_text
from prepared_folder import (
    CODEBOOK,
    CODEBOOK_PICTURE,
    RECONSTRUCTIONS,
    TEST,
    TRAIN,
    VALIDATION,
    VOCABULARY,
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
    write_text,
)
from run_folder import atomic_write
from settings import (
    DigitsSettings,
    ImagesSettings,
    InstructionsSettings,
    TextSettings,
    TokensSettings,
    TrainSettings,
)
from vocabulary import (
    CLS,
    END_IMG,
    EOS,
    IMG,
    MOST_LABELS,
    MOST_TOKEN_LETTERS,
    PAD,
    UNK,
    LabelNames,
    Vocabulary,
    is_label_token,
    label_text,
    label_token,
    sorted_labels,
    too_long,
)

# numpy, scikit-learn, Pillow and matplotlib are imported where they are used, so that --help
# answers at once.
if TYPE_CHECKING:
    import numpy as np

    from dataset import TokenLabelDataset
    from image_files import LabelledImages
    from image_tokens import Codebook

_SPECIAL = (PAD, UNK, IMG, END_IMG, CLS, EOS)
_IMAGES_DRAWN, _DRAWN_IN_A_ROW = 20, 10
# The codebook must know how turned strokes look, but need not see all variants.
_FITTED_VARIANTS = 7


# ------------------------------------------------------------------------------- digits, images


@holding_output
def prepare_digits(settings: DigitsSettings) -> dict[str, Any]:
    """Prepare the 1,797 handwritten digits that come with scikit-learn (8x8, values 0..16).

    Returns:
        The summary, as written to prepared.json.

    Raises:
        UserError: output_dir holds somebody's own data, or no test images are left.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    from image_files import LabelledImages

    check_output(settings.output_dir, ())
    digits = load_digits()
    images_NxHxWxC = digits.images.astype(np.uint8)[..., None]
    labels = [str(label) for label in digits.target.tolist()]
    return _prepare("digits", settings, LabelledImages(images_NxHxWxC, labels))


@holding_output
def prepare_images(settings: ImagesSettings) -> dict[str, Any]:
    """Prepare images of one's own: IDX, .npz, or a folder with one subfolder per class.

    Returns:
        The summary, as written to prepared.json.

    Raises:
        UserError: files that cannot be read or do not belong together, output_dir holds
            somebody's own data, no images are left for one side of the split.
    """
    from image_files import read_images

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

    from dataset import number_keys
    from image_tokens import Codebook

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

    from dataset import number_keys, split_rows

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

    from augmentation import vary_images

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
    from augmentation import vary_images

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

    from rows import VARIANT

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
    from plots import draw_codebook, draw_reconstructions

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


# ------------------------------------------------------------------------------- tokens


@holding_output
def prepare_tokens(settings: TokensSettings) -> dict[str, Any]:
    """Make a vocabulary for rows of tokens, put their label tails in order, and split them.

    Returns:
        The summary, as written to prepared.json.

    Raises:
        UserError: bad rows (with file, line and reason), rows of ids, no rows for one side of
            the split, or output_dir holds somebody's own data.
    """
    import numpy as np

    from dataset import number_keys, split_rows

    paths = [Path(path) for path in settings.input]
    check_output(settings.output_dir, paths)
    rows, bad_lines, label_lines = _read_token_rows(paths, settings)
    default_key = settings.group_by == TokensSettings.group_by
    if settings.group_by and not default_key and not (rows.groups_N >= 0).any():
        raise UserError(f"no row has the key --group_by {settings.group_by}")
    seen = rows.vocabulary
    train, test = split_rows(
        [number_keys(rows.body_keys()), rows.groups_N],
        rows.classes_N,
        settings.test_fraction,
        settings.seed,
    )
    check_split(train, test)

    vocabulary = _final_vocabulary(rows, train, settings.min_count)
    final_ids = [vocabulary.ids.get(token, vocabulary.unk_id) for token in seen.tokens]
    recoded = np.array(final_ids, np.uint32)[rows.tokens]
    coded = dataclasses.replace(rows, vocabulary=vocabulary, tokens=recoded)
    notes = label_lines + rows.counts.lines()
    # Rows that differed in rare tokens alone may have become equal.
    before = len(test)
    train, test = move_shared(train, test, [number_keys(coded.body_keys()), rows.groups_N])
    notes += moved_notes(before - len(test))
    check_split(train, test, "a lower --min_count tells more rows apart")

    is_test_N = np.zeros(len(rows), bool)
    is_test_N[test] = True
    replaced = (coded.tokens == vocabulary.unk_id) & (rows.tokens != seen.unk_id)
    if replaced.any():
        kinds = plural(len(np.unique(rows.tokens[replaced])), "token")
        places = plural(int(replaced.sum()), "place")
        least = plural(settings.min_count, "time")
        notes.append(f"{kinds} seen less than {least} in training written as {UNK} in {places}")
    labels = [seen.labels[number] if number >= 0 else None for number in rows.classes_N.tolist()]
    notes += label_notes([labels[i] for i in train], [labels[i] for i in test])

    def figures(is_side_N: np.ndarray) -> dict[str, Any]:
        lengths = rows.lengths_N[is_side_N]
        return {
            "rows": len(lengths),
            "labelled": int((rows.classes_N[is_side_N] >= 0).sum()),
            "tokens": int(lengths.sum()),
            "unknown_tokens": int((replaced & np.repeat(is_side_N, rows.lengths_N)).sum()),
        }

    summary = {
        "command": "tokens",
        "settings": dataclasses.asdict(settings),
        "vocabulary_size": len(vocabulary),
        "labels": vocabulary.labels,
        "longest_row": int(rows.lengths_N.max()),
        "train": figures(~is_test_N),
        "test": figures(is_test_N),
        "notes": notes,
    }
    with publishing(settings.output_dir) as folder:
        _write_token_rows(folder, paths, bad_lines, coded, is_test_N)
        write_text(folder / VOCABULARY, vocabulary.to_json())
        write_summary(folder, summary)
    return summary


def _read_token_rows(
    paths: Sequence[Path], settings: TokensSettings
) -> tuple[TokenLabelDataset, list[array], list[str]]:
    """All rows over a provisional vocabulary; the bad lines of each file, rising; notes.

    Raises:
        UserError: the first 20 bad rows, no rows at all, or labels that cannot be told apart.
    """
    from dataset import MOST_ERRORS_SHOWN, RowsBuilder
    from rows import RowError, group_value, parse_row, read_json_lines

    builder = RowsBuilder(_everything_seen(paths), max_length=sys.maxsize)
    label_names = LabelNames()
    bad_lines = [array("q") for _ in paths]
    reasons: list[str] = []  # the first; a file of the wrong kind is all bad rows
    for number, path in enumerate(paths):
        for line, record, problem in read_json_lines(path):
            try:
                if problem is not None:
                    raise RowError(problem)
                if isinstance(record, dict) and record.get("input_ids") is not None:
                    raise RowError(
                        "a row of `input_ids`; only the vocab.json that made the ids knows their "
                        "tokens: train with it directly (train_gpt.py --vocab_path)"
                    )
                _check_new_tokens(record)
                row = parse_row(record, builder.vocabulary)
                if record.get("label") is not None:
                    label_names.add(record["label"], f"{path}:{line}")
                builder.add(row, line, group_value(record, settings.group_by))
            except RowError as error:
                bad_lines[number].append(line)
                if len(reasons) < MOST_ERRORS_SHOWN:
                    reasons.append(f"{path}:{line}: {error}")
    bad_count = sum(map(len, bad_lines))
    if reasons and settings.on_bad_row == "error":
        more = bad_count - MOST_ERRORS_SHOWN
        rest = [f"... and {plural(more, 'more bad row')}"] if more > 0 else []
        remedy = "correct them, or leave them out with --on_bad_row skip"
        raise UserError("\n".join([*reasons, *rest, remedy]))
    if not builder.counts.rows:
        names = ", ".join(map(str, paths))
        raise UserError(
            f"every row is bad; the first: {reasons[0]}" if reasons else f"{names}: no rows in it"
        )
    builder.counts.skipped = bad_count
    builder.counts.first_skipped = reasons[:5]
    return builder.finish(), bad_lines, label_names.notes()


def _everything_seen(paths: Sequence[Path]) -> Vocabulary:
    """A provisional vocabulary of all tokens and labels in the files.

    Raises:
        UserError: they have more labels than a vocabulary can have.
    """
    from rows import RowError, read_json_lines, split_words

    found: set[bytes] = set()
    for path in paths:
        for _, record, _ in read_json_lines(path):
            if not isinstance(record, dict) or record.get("input_ids") is not None:
                continue
            try:
                _check_new_tokens(record)
                found.update(split_words(record.get("tokens")))
                if record.get("label") is not None:
                    found.add(label_token(label_text(record["label"])).encode())
            except (RowError, ValueError):
                continue  # told when the row is read
    tokens = {word.decode() for word in found if word.split() == [word]}
    labels = sum(map(is_label_token, tokens))
    if labels > MOST_LABELS:
        raise UserError(
            f"{', '.join(map(str, paths))}: {labels:,} labels, and there may be {MOST_LABELS:,} of "
            f"them: is `label` the class of each row?"
        )
    try:
        return Vocabulary([*_SPECIAL, *sorted(tokens.difference(_SPECIAL))])
    except ValueError as error:
        raise UserError(
            f"{', '.join(map(str, paths))}: {error}; write rare tokens as one of your own"
        ) from None


def _check_new_tokens(record: Any) -> None:
    """Refuse tokens that no vocabulary can hold: too long, or in a list empty or with whitespace.

    Raises:
        RowError: such a token.
    """
    from rows import RowError

    tokens = record.get("tokens") if isinstance(record, dict) else None
    if isinstance(tokens, str) and len(tokens) > MOST_TOKEN_LETTERS:
        for token in tokens.split():
            if too_long(token):
                raise RowError(too_long(token))
    for token in tokens if isinstance(tokens, list) else ():
        if isinstance(token, str):
            word = token.encode(errors="replace")
            if word.split() != [word]:
                raise RowError(f"token {shown(token)} is empty or has whitespace in it")
            if too_long(token):
                raise RowError(too_long(token))


def _final_vocabulary(rows: TokenLabelDataset, train: np.ndarray, min_count: int) -> Vocabulary:
    """Special tokens, then tokens by falling frequency in training rows, then labels."""
    import numpy as np

    seen = rows.vocabulary
    is_train_N = np.zeros(len(rows), bool)
    is_train_N[train] = True
    in_training = rows.tokens[np.repeat(is_train_N, rows.lengths_N)]
    counts = np.bincount(in_training, minlength=len(seen)).tolist()
    anywhere = np.bincount(rows.tokens, minlength=len(seen)).tolist()
    uses_images = anywhere[seen.img_id] or anywhere[seen.ids[END_IMG]]
    special = [PAD, UNK, *([IMG, END_IMG] if uses_images else [])]
    special += [CLS, EOS] if anywhere[seen.cls_id] else [EOS]
    ordinary = [
        token
        for token, number in seen.ids.items()
        if counts[number] >= min_count and number not in seen.label_id_set and token not in _SPECIAL
    ]
    ordinary.sort(key=lambda token: (-counts[seen.ids[token]], token))
    # Labels count in both splits: a label of test rows alone must still be sayable.
    labels = sorted_labels(seen.labels[seen.class_of_id[i]] for i in seen.label_ids if anywhere[i])
    return Vocabulary([*special, *ordinary, *map(label_token, labels)])


def _write_token_rows(
    folder: Path,
    paths: Sequence[Path],
    bad_lines: Sequence[array],
    rows: TokenLabelDataset,
    is_test_N: np.ndarray,
) -> None:
    """Write the rows again with their tokens in order, every other key untouched.

    Raises:
        UserError: a file has changed since it was read.
    """
    from rows import read_json_lines

    index = 0
    with atomic_write(folder / TRAIN) as train_file, atomic_write(folder / TEST) as test_file:
        for path, bad in zip(paths, bad_lines, strict=True):
            upcoming = chain(bad, [0])  # no line has the number 0
            next_bad = next(upcoming)
            for line, record, _ in read_json_lines(path):
                if line == next_bad:
                    next_bad = next(upcoming)
                    continue
                if index == len(rows) or rows.lines_N[index] != line or not _has_tokens(record):
                    raise UserError(f"{path}:{line}: the file changed while it was read; run again")
                text = rows.vocabulary.decode(rows.row(index).tolist())
                record["tokens"] = text.split(" ") if isinstance(record["tokens"], list) else text
                (test_file if is_test_N[index] else train_file).write(row_line(record))
                index += 1


def _has_tokens(record: Any) -> bool:
    return isinstance(record, dict) and "tokens" in record


# ------------------------------------------------------------------------------- command


COMMANDS: dict[str, tuple[type, Callable[[Any], dict[str, Any]], str]] = {
    "digits": (
        DigitsSettings,
        prepare_digits,
        "Prepare scikit-learn's 1,797 handwritten digits: no download, a few seconds.",
    ),
    "images": (
        ImagesSettings,
        prepare_images,
        "Prepare images of your own: IDX, .npz, or a folder with one subfolder per class.",
    ),
    "tokens": (
        TokensSettings,
        prepare_tokens,
        "Make a vocabulary for rows of tokens (JSONL), complete their label tails, split.",
    ),
    "text": (
        TextSettings,
        prepare_text,
        "Learn a tokenizer for texts of your own, with labels or without, and split them.",
    ),
    "instructions": (
        InstructionsSettings,
        prepare_instructions,
        "Learn a tokenizer for records of instruction, input and output, and split them.",
    ),
}


def main(argv: list[str]) -> int:
    """Run one command; see `python prepare_data.py --help`."""
    if argv and argv[0] in ("-h", "--help"):
        print("\n".join(_help_lines()))
        return 0
    if not argv or argv[0] not in COMMANDS:
        raise SettingsError([_command_mistake(argv)])
    settings_class, prepare, description = COMMANDS[argv[0]]
    settings = read_settings(
        settings_class, argv[1:], prog=f"prepare_data.py {argv[0]}", description=description
    )
    start = time.monotonic()
    summary = prepare(settings)
    print(printable_lines("\n".join(_report_lines(summary, time.monotonic() - start))))
    return 0


def _help_lines() -> list[str]:
    return [
        "usage: prepare_data.py COMMAND [--option value ...]",
        "",
        __doc__.strip(),
        "",
        "commands:",
        *[f"  {name}   {description}" for name, (_, _, description) in COMMANDS.items()],
        "",
        "python prepare_data.py COMMAND --help lists the options of a command.",
    ]


def _command_mistake(argv: Sequence[str]) -> str:
    known = ", ".join(COMMANDS)
    if not argv:
        return f"no command given; choose one of {known} (see prepare_data.py --help)"
    if argv[0].startswith("-"):
        return f"the command comes before {argv[0]}; choose one of {known}"
    near = difflib.get_close_matches(argv[0], COMMANDS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {known}"
    return f"unknown command {argv[0]!r}; {hint}"


def _report_lines(summary: dict[str, Any], seconds: float) -> list[str]:
    """What was done, and the next command to type."""
    of_images = "codebook" in summary
    sides = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
    table, facts = [], []
    for name, key in sides.items():
        side = summary.get(key)
        if not side or not side["rows"]:
            continue
        cells = [name, f"{side['rows']:,}", f"{side['labelled']:,}"]
        if of_images:
            psnr = side["psnr_db"]
            cells += [f"{side['rmse']:.2%}", "exact" if psnr is None else f"{psnr:.1f} dB"]
        else:
            cells += [f"{side['tokens']:,}", f"{side['unknown_tokens']:,}"]
        table.append(cells)
    header = ["", "rows", "labelled", *(["RMSE", "PSNR"] if of_images else ["tokens", UNK])]
    if of_images:
        book = summary["codebook"]
        size, used = book["patch_size"], book["codes_in_training_rows"]
        facts.append(
            f"{plural(book['size'], 'code')} for patches of {size}x{size} pixels, {used:,} of them "
            f"in training rows"
        )
    if summary["train"].get("variants"):
        kind = "image" if of_images else "text"
        facts.append(
            f"{plural(summary['train']['variants'], 'variant')} of the training {kind}s beside "
            f"them in {TRAIN}; an epoch visits each {kind} once, in a variant drawn anew"
        )
    facts.append(
        f"{plural(summary['vocabulary_size'], 'token')} in the vocabulary, "
        f"{plural(len(summary['labels']), 'label')}; {'every' if of_images else 'longest'} row: "
        f"{plural(summary['longest_row'], 'token')}"
    )
    folder = Path(summary["settings"]["output_dir"])
    return [
        format_table(header, table),
        *facts,
        *summary["notes"],
        f"written to {folder} in {format_duration(seconds)}; next:",
        f"  {_next_command(summary, folder)}",
    ]


def _next_command(summary: dict[str, Any], folder: Path) -> str:
    """The training command for the prepared rows."""
    # The digits are the first example: their model goes where inference.py looks by default.
    run = "outputs" if summary["command"] == "digits" else f"outputs/{folder.resolve().name}"
    words: list[str | Path] = ["--data_path", folder / TRAIN]
    if summary.get("validation", {}).get("rows"):
        words += ["--val_data_path", folder / VALIDATION]
    words += ["--vocab_path", folder / VOCABULARY, "--output_dir", run]
    # Whoever took a pretrained model's tokens goes on from that model.
    base = summary["settings"].get("tokenizer", "chars")
    if base not in ("chars", "bpe") and (
        not Path(base).is_dir() or (Path(base) / "config.json").is_file()
    ):
        words += ["--init_from", base]
    # A few long texts are better cut than a model of many positions.
    of_text = "validation" in summary
    if not of_text and summary["longest_row"] > min(
        TrainSettings.max_length, TrainSettings.n_positions
    ):
        length = str(summary["longest_row"])
        words += ["--max_length", length, "--n_positions", length]
    return command_hint("train_gpt.py", *words)


if __name__ == "__main__":
    run_command(main)
