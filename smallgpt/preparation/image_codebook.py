"""Codebook of prepared images: fitted on training images only, or that of a model; drawn.

Called by `images.py`; the codebook itself is `smallgpt/tokens/codebook.py`, on `k_means.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.hub import folder_of
from smallgpt.options.preparation import DigitsSettings, ImagesSettings
from smallgpt.preparation.augmentation import vary_images
from smallgpt.preparation.folder import CODEBOOK, CODEBOOK_PICTURE, RECONSTRUCTIONS
from smallgpt.rows.prepared_summary import VOCABULARY
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.labels import label_text, label_token, sorted_labels
from smallgpt.tokens.pictures import draw_codebook, draw_reconstructions
from smallgpt.tokens.vocabulary import CLS, END_IMG, EOS, IMG, Vocabulary

_IMAGES_DRAWN, _DRAWN_IN_A_ROW = 20, 10
# The codebook has to contain rotated strokes, for which some of the variants suffice.
_FITTED_VARIANTS = 7


def fit_codebook(
    images_NxHxWxC: np.ndarray, settings: DigitsSettings | ImagesSettings, most_images: int
) -> Codebook:
    """Fit a codebook on training images; with --augment also on variants of some of them."""
    if settings.augment:
        rounds = min(settings.augment, _FITTED_VARIANTS) + 1
        random = np.random.default_rng(settings.seed)
        count = most_images // rounds + 1
        chosen = np.sort(random.permutation(len(images_NxHxWxC))[:count])
        some = images_NxHxWxC[chosen]
        varied = [vary_images(some, settings.seed, variant) for variant in range(1, rounds)]
        images_NxHxWxC = np.concatenate([some, *varied])
    return Codebook.fit(
        images_NxHxWxC, settings.patch_size, settings.codebook_size, settings.seed, most_images
    )


class ExistingCodebook(NamedTuple):
    """A codebook for whose model rows are made."""

    path: str  # as --codebook names it
    codebook: Codebook
    vocabulary: Vocabulary | None  # None without a vocab.json beside it


def load_codebook(path: str) -> ExistingCodebook:
    """The codebook of a folder, a file or a name on the hub, and the vocabulary beside it.

    Raises:
        UserError: no codebook there, or a vocabulary of other codes.
    """
    file = Path(path)
    if file.is_dir() or (not file.exists() and path.count("/") == 1 and file.suffix != ".npz"):
        file = folder_of(path, "codebook") / CODEBOOK
    if not file.exists():
        raise UserError(
            f"{file}: no such file: --codebook takes the folder of a model of images, its name "
            f"on the hub, or a codebook.npz"
        )
    codebook, beside = Codebook.load(file), file.with_name(VOCABULARY)
    if not beside.exists():
        return ExistingCodebook(path, codebook, None)
    vocabulary = Vocabulary.load(beside)
    if not vocabulary.ids.keys() >= {IMG, END_IMG, CLS, EOS, *codebook.code_tokens}:
        raise UserError(f"{beside}: lacks tokens of the rows of {file}: not its vocabulary")
    return ExistingCodebook(path, codebook, vocabulary)


def vocabulary_with(
    vocabulary: Vocabulary, labels: Sequence[str], codebook: str, notes: list[str]
) -> Vocabulary:
    """The vocabulary of a model with the labels that it lacks added at its end, which is told."""
    token_of = {label: label_token(label_text(label)) for label in labels}
    new = [label for label, token in token_of.items() if token not in vocabulary.ids]
    if not new:
        return vocabulary
    named = ", ".join(new[:10]) + (" ..." if len(new) > 10 else "")
    notes.append(
        f"{plural(len(new), 'label')} that {codebook} does not know ({named}) added at the end of "
        f"{VOCABULARY}: it learns them with --init_from, and cannot name them before"
    )
    return Vocabulary([*vocabulary.tokens, *(token_of[label] for label in new)])


def draw_pictures(
    folder: Path,
    codebook: Codebook,
    images_NxHxWxC: np.ndarray,
    codes_NxP: np.ndarray,
    labels: Sequence[str | None],
    test: np.ndarray,
    test_rmse: float,
) -> None:
    """Draw the codebook, and test images above their reconstructions."""
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
        images_NxHxWxC[chosen],
        codebook.decode(codes_NxP[chosen]),
        [labels[i] or "" for i in chosen],
        value_range,
        _DRAWN_IN_A_ROW,
        f"Test images, and below each what its {codes} give back (RMSE {test_rmse:.1%})",
    )


def _some_of_each(labels: Sequence[str | None], rows: np.ndarray) -> list[int]:
    """Rows to draw, ordered by label: the first of every label, then the second, ..."""
    seen: Counter[str | None] = Counter()
    ranked = []
    for row in rows.tolist():
        ranked.append((seen[labels[row]], row))
        seen[labels[row]] += 1
    chosen = [row for _, row in sorted(ranked)[:_IMAGES_DRAWN]]
    named = sorted_labels(label for label in seen if label is not None)
    order: dict[str | None, int] = {None: 0}
    order |= {label: place for place, label in enumerate(named)}
    return sorted(chosen, key=lambda row: (order[labels[row]], row))
