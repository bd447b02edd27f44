"""Data augmentation: affine variants of images, clause permutation and deletion for texts.

    variants_NxHxWxC = vary_images(images_NxHxWxC, seed=42, variant=1)
    variant = vary_text("The room was small, the staff friendly.", random.Random(1))

`prepare_data.py --augment N` writes N variants of each training image or labelled text beside it.
"""

from __future__ import annotations

import random
import re

import numpy as np

from smallgpt.console import progress_bar

# Small enough that no digit or letter turns into another, and nothing is mirrored.
_MOST_DEGREES = 10.0
_MOST_SHIFT = 0.08  # share of a side
_MOST_SCALE = 0.10  # natural logarithm of the factor
_MOST_STRETCH = 0.05  # the same, height against width

_CLAUSE_LEFT_OUT = 0.2  # chance
_EAST_ASIAN = r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]"  # written without spaces
_STOP = "[，。！？；：、…～]"
# A clause ends after punctuation (Western only before a space or an East Asian character, since it
# also occurs within numbers and names), at a line's end, and at a space between East Asian
# characters, which need none.
_CLAUSE_END = re.compile(
    rf"(?<={_STOP})(?!{_STOP})|(?<=[.,!?;:])(?=\s|{_EAST_ASIAN})|(?<=\n)"
    rf"|(?<={_EAST_ASIAN})(?=\s{_EAST_ASIAN})"
)
_JOINED_PLAINLY = re.compile(rf"\s|{_EAST_ASIAN}")


def vary_images(images_NxHxWxC: np.ndarray, seed: int, variant: int) -> np.ndarray:
    """A random variant of each image (uint8 or float32, like the result), interpolated linearly.

    Rotated by up to 10 degrees about the middle, scaled by up to 10 %, stretched by up to 5 % and
    shifted by up to 8 % of a side, each uniformly at random; what moves in from outside has the
    median value of the images' borders. `seed` and `variant` determine the result.
    """
    from scipy.ndimage import affine_transform

    count, height, width, channels = images_NxHxWxC.shape
    random = np.random.default_rng([seed, variant])
    angles_N = np.deg2rad(random.uniform(-_MOST_DEGREES, _MOST_DEGREES, count))
    scales_N = np.exp(random.uniform(-_MOST_SCALE, _MOST_SCALE, count))
    stretches_N = np.exp(random.uniform(-_MOST_STRETCH, _MOST_STRETCH, count))
    shifts_Nx2 = random.uniform(-_MOST_SHIFT, _MOST_SHIFT, (count, 2)) * [height, width]
    middle = np.array([height - 1, width - 1]) / 2
    outside_C = _border_median(images_NxHxWxC)
    whole = np.issubdtype(images_NxHxWxC.dtype, np.integer)
    varied = np.empty_like(images_NxHxWxC)
    with progress_bar(f"variant {variant} of the images", count, "image") as bar:
        for index in range(count):
            cosine, sine = np.cos(angles_N[index]), np.sin(angles_N[index])
            # affine_transform wants the inverse: where each new pixel comes from.
            back = np.array([[cosine, -sine], [sine, cosine]]) / scales_N[index]
            back[0] /= stretches_N[index]
            offset = middle - back @ (middle + shifts_Nx2[index])
            for channel in range(channels):
                plane = affine_transform(
                    images_NxHxWxC[index, :, :, channel].astype(np.float32),
                    back,
                    offset,
                    order=1,
                    cval=outside_C[channel],
                )
                varied[index, :, :, channel] = np.rint(plane) if whole else plane
            bar.update()
    return varied


def vary_text(text: str, source: random.Random) -> str:
    """A random variant of a text: its clauses shuffled, about a fifth of them left out.

    The order of clauses hardly matters to what a review says: sentence permutation as in BART
    (Lewis et al., 2020) and random deletion as in EDA (Wei and Zou, 2019), by clauses, so that
    phrases stay whole. At least one clause remains, and the text itself may come out again. The
    text must not be blank.
    """
    clauses = [clause for clause in _CLAUSE_END.split(text) if clause.strip()]
    kept = [clause for clause in clauses if source.random() >= _CLAUSE_LEFT_OUT]
    kept = kept or [source.choice(clauses)]
    source.shuffle(kept)
    variant = kept[0].lstrip()
    for clause in kept[1:]:
        plainly = _JOINED_PLAINLY.match(variant[-1]) or _JOINED_PLAINLY.match(clause)
        variant += clause if plainly else " " + clause
    return variant.rstrip()


def _border_median(images_NxHxWxC: np.ndarray) -> np.ndarray:
    """Median of the outermost pixels of up to 1,000 images, per channel."""
    some = images_NxHxWxC[:: -(-len(images_NxHxWxC) // 1000)]
    channels = some.shape[3]
    sides = [some[:, 0], some[:, -1], some[:, :, 0], some[:, :, -1]]
    return np.median(np.concatenate([side.reshape(-1, channels) for side in sides]), axis=0)
