"""What training images or texts decide about their preparation: colour, patches, codes, variants.

    color, why = color_for(images_NxHxWxC, labels, seed)
    size = patch_size_for(height, width)
    codes = codes_for(images_NxHxWxC, size, seed)
    variants = variants_for(images_NxHxWxC.shape)
    variants = variants_for_texts(len(texts))

Options of `prepare_data.py` that are `auto` are chosen so; no test row has a say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from smallgpt.console import progress_bar
from smallgpt.inputs.picture_folder import is_grey_image
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.k_means import chunks, distinct_patches

# A row of so many codes is learned in minutes on a CPU, and patches are small enough for strokes.
_MOST_PATCHES = 64

_FOLDS = 5  # each image is held out once
_SIZES = (16, 32, 64, 128, 256)
# A model has to meet a code some times to learn what it means.
_PATCHES_PER_CODE = 20
# Held-out squared error over that of the images fitted on: codes beyond fit the noise of these.
_MOST_OVERFIT = 1.10
# Images that the number of codes is chosen by, and their pixel values: seconds of k-means.
_MOST_JUDGED, _MOST_JUDGED_VALUES = 1000, 2**21

_MOST_COLORED = 2000  # images whose colours are looked at
_LEAST_COLORED = 50  # with fewer, colours that matter would not stand out from chance
_GRID, _HUES = 4, 8
_SIGNIFICANT = 0.01  # how often colours that say nothing are kept

# Variants help most where images or texts are few; from here on there are enough (docs/data.md).
_ENOUGH, _FEWEST_VARIANTS, _MOST_VARIANTS = 100_000, 4, 100
_MOST_VARIED_VALUES = 2**31  # pixel values in all variants: a few minutes
_MOST_VARIANTS_OF_TEXTS = 30


def patch_size_for(height: int, width: int) -> int:
    """The smallest side of a patch that cuts an image into at most 64."""
    size = 1
    while -(-height // size) * -(-width // size) > _MOST_PATCHES:
        size += 1
    return min(size, max(height, width))


def codes_for(images_NxHxWxC: np.ndarray, patch_size: int, seed: int) -> int:
    """How many codes the patches of training images carry: a power of two from 16 to 256.

    The largest for which enough patches fall on a code on average, and whose codes reproduce
    images held out nearly as well as those they were fitted on.
    """
    random = np.random.default_rng(seed)
    most = min(_MOST_JUDGED, max(_FOLDS, _MOST_JUDGED_VALUES // images_NxHxWxC[0].size))
    some = images_NxHxWxC[random.permutation(len(images_NxHxWxC))[:most]]
    # An image that comes twice would be held out and known.
    distinct, _, _ = distinct_patches(some.reshape(len(some), -1))
    some = distinct[random.permutation(len(distinct))].reshape(-1, *some.shape[1:])
    _, height, width, _ = some.shape
    patches = len(some) * -(-height // patch_size) * -(-width // patch_size)
    sizes = [size for size in _SIZES if _PATCHES_PER_CODE * size <= patches]
    best = _SIZES[0]
    if len(some) < _FOLDS:
        return best
    folds_N = np.arange(len(some)) % _FOLDS
    with progress_bar("choosing the number of codes", len(sizes), "size") as bar:
        for size in sizes:
            known_error = held_out_error = 0.0
            for fold in range(_FOLDS):
                known, held_out = some[folds_N != fold], some[folds_N == fold]
                codebook = Codebook.fit(known, patch_size, size, seed, len(known))
                if len(codebook) < size:  # all distinct patches are codes
                    return size
                known_error += codebook.error(known, codebook.encode(known)) ** 2
                held_out_error += codebook.error(held_out, codebook.encode(held_out)) ** 2
            if held_out_error > _MOST_OVERFIT * known_error:
                break
            best = size
            bar.update()
    return best


def variants_for(shape: tuple[int, ...]) -> int:
    """Variants of each of N training images; `shape` is N x H x W x C."""
    count = shape[0]
    if count >= _ENOUGH:
        return 0
    affordable = min(_ENOUGH // count, _MOST_VARIED_VALUES // math.prod(shape))
    return min(max(affordable, _FEWEST_VARIANTS), _MOST_VARIANTS)


def variants_for_texts(count: int) -> int:
    """Variants of each of so many labelled training texts."""
    if count >= _ENOUGH:
        return 0
    return min(max(_ENOUGH // max(1, count), _FEWEST_VARIANTS), _MOST_VARIANTS_OF_TEXTS)


def color_for(
    images_NxHxWx3: np.ndarray, labels: Sequence[str] | None, seed: int
) -> tuple[str, str]:
    """grey or rgb for coloured training images, and the reason in words.

    Grey where a simple classifier (linear discriminant analysis, cross-validated) that sees colours
    alone is not significantly better than the most frequent label.
    """
    if all(is_grey_image(image) for image in images_NxHxWx3):
        return "grey", "since no training image has colour"
    if labels is None or len(set(labels)) < 2:
        return "rgb", "since no labels tell whether colours matter"
    chosen = np.random.default_rng(seed).permutation(len(labels))[:_MOST_COLORED]
    counts = Counter(labels[i] for i in chosen)
    chosen = np.sort([i for i in chosen if counts[labels[i]] >= _FOLDS])
    classes_N = np.array([labels[i] for i in chosen])
    if len(chosen) < _LEAST_COLORED or len(set(classes_N)) < 2:
        return "rgb", "since too few images tell whether colours matter"
    if _tells(_color_features(images_NxHxWx3[chosen]), classes_N, seed):
        return "rgb", "since the colours tell of the labels"
    return "grey", "since the colours say nothing of the labels"


def _tells(features_NxF: np.ndarray, classes_N: np.ndarray, seed: int) -> bool:
    """Whether a classifier of the features is better than the most frequent class."""
    from scipy.special import bdtrc
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(
        StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    )
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    told_N = cross_val_predict(classifier, features_NxF, classes_N, cv=folds)
    right, count = int((told_N == classes_N).sum()), len(classes_N)
    chance = np.unique(classes_N, return_counts=True)[1].max() / count
    # The chance of at least so many right ones, were each as likely as the most frequent class.
    return right > 0 and float(bdtrc(right - 1, count, chance)) < _SIGNIFICANT


def _color_features(images_NxHxWx3: np.ndarray) -> np.ndarray:
    """Mean colours of the cells of a grid, and shares of the hues, of each image (NxF).

    The strength of colours is left out wherever it only repeats what grey images show. Colours that
    follow from the brightness of the cells are subtracted, for ink of one tint is strong where
    there is much of it; and no spread is measured, for it outlines every coloured shape.
    """
    cells, hues, bright = [], [], []
    for part in chunks(images_NxHxWx3):
        red, green, blue = np.moveaxis(images_NxHxWx3[part].astype(np.float32), 3, 0)
        # Two axes of colour, at right angles, both 0 for grey.
        colors = np.stack([(red - green) * 0.75**0.5, blue - (red + green) / 2], axis=3)
        cells.append(_cell_means(colors))
        bright.append(_cell_means((0.299 * red + 0.587 * green + 0.114 * blue)[..., None]))
        turns = np.arctan2(colors[..., 1], colors[..., 0]) / (2 * np.pi) + 0.5
        hue = (turns * _HUES).astype(int) % _HUES
        weights = (colors**2).sum(axis=3)
        amounts = [(weights * (hue == one)).sum(axis=(1, 2)) for one in range(_HUES)]
        hues.append(np.stack(amounts, axis=1))
    cells_NxF, bright_NxG, hues_NxQ = map(np.concatenate, (cells, bright, hues))
    known = np.column_stack([bright_NxG, np.ones(len(bright_NxG))])
    cells_NxF = cells_NxF - known @ np.linalg.lstsq(known, cells_NxF, rcond=None)[0]
    shares_NxQ = hues_NxQ / np.maximum(hues_NxQ.sum(axis=1, keepdims=True), 1e-9)
    return np.hstack([cells_NxF, shares_NxQ])


def _cell_means(values_NxHxWxC: np.ndarray) -> np.ndarray:
    """Means over the cells of a grid of at most 4x4 (NxF)."""
    for axis in (1, 2):
        parts = np.array_split(values_NxHxWxC, min(_GRID, values_NxHxWxC.shape[axis]), axis)
        values_NxHxWxC = np.stack([part.mean(axis=axis) for part in parts], axis)
    return values_NxHxWxC.reshape(len(values_NxHxWxC), -1)
