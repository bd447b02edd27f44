"""Pictures that a model is used on: through its codebook to rows of tokens.

ids, notes = image_rows(trained, images_NxHxWxC)            # of an array
pictures = read_pictures(trained, "pictures/")              # of a file or folder
rows = given_rows(trained, pictures.found, pictures.source, for_label=True, made_here=True)
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smallgpt.console import plural, printable, printable_lines
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.inputs.image_formats import read_images
from smallgpt.inputs.labelled_images import LabelledImages, checked_images
from smallgpt.inputs.like_codebook import converted, unlike_training
from smallgpt.rows.reading import Found
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.labels import label_text, label_token
from smallgpt.tokens.vocabulary import END_IMG, IMG


@dataclass(frozen=True)
class Pictures:
    """Pictures as rows of tokens, ready to be checked, in the order of their files."""

    found: list[Found]
    source: str
    labelled: bool  # whether the source has labels


def image_rows(
    trained: TrainedModel, images_NxHxWxC: np.ndarray
) -> tuple[list[list[int]], list[str]]:
    """Ids of `<IMG> ... </IMG>` of each image, and lines about what a user should know.

    Images of any numbers, grey (also NxHxW) or rgb, of any size: they are converted to the size,
    colour and range of the model's training images (`inputs/like_codebook.py` has the rules).

    Raises:
        UserError: no images, or not a model of images.
    """
    codebook = codebook_of(trained)
    images_NxHxWxC = checked_images(Path("images"), images_NxHxWxC)
    images_NxHxWxC, notes = converted(codebook, images_NxHxWxC)
    return _ids_of(trained, codebook, images_NxHxWxC, notes)


def codebook_of(trained: TrainedModel) -> Codebook:
    """The codebook of a model of images.

    Raises:
        UserError: the model folder has none, or one of other tokens.
    """
    if trained.codebook is None:
        raise UserError(
            f"{trained.folder} holds no codebook.npz: only a model trained on rows of "
            f"`prepare_data.py images` (or digits) takes pictures"
        )
    codebook = Codebook.load(trained.codebook)
    if not trained.vocabulary.ids.keys() >= {IMG, END_IMG, *codebook.code_tokens}:
        raise UserError(
            f"{trained.codebook}: the vocabulary of the model lacks tokens of its codes: the files "
            f"belong to different models"
        )
    return codebook


def _ids_of(
    trained: TrainedModel, codebook: Codebook, images_NxHxWxC: np.ndarray, notes: Sequence[str]
) -> tuple[list[list[int]], list[str]]:
    """`image_rows` of converted images, after the lines `notes`."""
    codes_NxP = codebook.encode(images_NxHxWxC)
    unlike = unlike_training(codebook, images_NxHxWxC, codes_NxP)
    ids = trained.vocabulary.ids
    ids_K = np.array([ids[token] for token in codebook.code_tokens])
    rows = [[ids[IMG], *codes, ids[END_IMG]] for codes in ids_K[codes_NxP].tolist()]
    return rows, [*notes, *filter(None, [unlike])]


def read_pictures(
    trained: TrainedModel, path: str | Path, labels_path: str | Path | None = None
) -> Pictures:
    """Read pictures (`read_images` has the forms) as rows for a model.

    What was converted is printed on standard error. An unreadable picture becomes a row with its
    reason; the name of a picture's file is the key `file` of its row.

    Raises:
        UserError: nothing readable, or not a model of images.
    """
    codebook = codebook_of(trained)
    images = read_images(path, labels_path, codebook=codebook, keep_unreadable=True)
    rows, notes = _ids_of(trained, codebook, images.images_NxHxWxC, images.notes)
    for note in notes:
        print(printable_lines(note), file=sys.stderr)
    return Pictures(_found(images, rows), str(path), images.labels is not None)


def _found(images: LabelledImages, rows: list[list[int]]) -> list[Found]:
    """A record for each picture in their order, the unreadable ones with the reason."""
    found: list[Found] = []
    index = 0
    for place in range(len(rows) + len(images.unreadable)):
        unreadable = images.unreadable.get(place)
        if unreadable is not None:
            record = _record(unreadable.file, place, unreadable.label)
            found.append((place + 1, record, unreadable.reason))
            continue
        file = images.files[index] if images.files is not None else None
        label = images.labels[index] if images.labels is not None else None
        record = {"input_ids": rows[index], **_record(file, place, label)}
        found.append((place + 1, record, None))
        index += 1
    return found


def _record(file: str | None, place: int, label: str | None) -> dict[str, Any]:
    """The keys of a picture's row beside its tokens."""
    named: dict[str, Any] = {"index": place} if file is None else {"file": file}
    return named if label is None else {**named, "label": label}


def without_unknown_labels(trained: TrainedModel, found: list[Found]) -> list[Found]:
    """The rows without labels that the model does not have, which is printed.

    For rows that are only to be classified; an evaluation cannot score such rows.
    """
    known = trained.vocabulary.ids
    unknown: Counter[str] = Counter()
    for _, record, _ in found:
        label = record.get("label")
        if label is not None and label_token(label_text(label)) not in known:
            unknown[label] += 1
    if not unknown:
        return found
    names = ", ".join(map(printable, list(unknown)[:5])) + (" ..." if len(unknown) > 5 else "")
    print(
        f"{plural(sum(unknown.values()), 'picture')} of labels that the model does not have "
        f"({names}): classified all the same",
        file=sys.stderr,
    )
    return [
        (line, {k: v for k, v in record.items() if k != "label" or v not in unknown}, problem)
        for line, record, problem in found
    ]


# ------------------------------------------------------------------------------- completing


class Beginning(NamedTuple):
    """The upper part of a picture."""

    ids: list[int]  # <IMG> and its codes
    kept: int  # rows of patches
    of: int


def beginning(codebook: Codebook, ids: list[int], keep: float) -> Beginning:
    """The upper part of a picture, from the ids of its row.

    `keep`: share of its rows of patches, rounded, at least one and not all.

    Raises:
        UserError: the pictures of this model are a single row of patches.
    """
    rows, columns = (-(-side // codebook.patch_size) for side in (codebook.height, codebook.width))
    if rows < 2:
        raise UserError("a picture of this model is one row of patches: none can be kept")
    kept = min(max(1, round(keep * rows)), rows - 1)
    return Beginning(ids[: 1 + kept * columns], kept, rows)


def beginning_of(trained: TrainedModel, path: str | Path, keep: float) -> tuple[str, str]:
    """A prompt of the upper part of one picture, and a line that says what was kept.

    Raises:
        UserError: not exactly one picture, or one of a single row of patches.
    """
    pictures = read_pictures(trained, path)
    if len(pictures.found) != 1:
        raise UserError(
            f"{path}: {plural(len(pictures.found), 'picture')}; --keep completes one picture"
        )
    codebook = codebook_of(trained)
    ids, kept, rows = beginning(codebook, pictures.found[0][1]["input_ids"], keep)
    note = (
        f"kept the upper {kept} of {rows} rows of patches ({kept * codebook.patch_size} of "
        f"{codebook.height} rows of pixels, {plural(len(ids) - 1, 'code')}) of {path}"
    )
    return trained.vocabulary.decode(ids), note
