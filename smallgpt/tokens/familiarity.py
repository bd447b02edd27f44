"""What the training images of a codebook were like, and which other images are not like them.

The loss of the codebook alone does not tell: small patches fit almost any image. How usual the
codes of an image are does: an inverted digit has a background of codes that were rare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smallgpt.console import plural

if TYPE_CHECKING:
    from smallgpt.tokens.codebook import Codebook

# An image is unlike the training images where it loses so many times as much as they did, and at
# least this share of the range (a codebook may lose nothing of its own images) ...
_MOST_TIMES, _LEAST_LOSS = 3, 0.1
# ... or where its codes are more or less usual than those of all but so few training images.
_FEW = 0.005
_TOLD = 0.1  # a line is due when more than this share of the images is unlike
_MOST_INVERTED = 1000  # images tried inverted


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Figures of the training images, stored with their codebook."""

    rmse: float  # `Codebook.error` of all of them
    surprise_K: np.ndarray  # of each code: -log of its share of their codes
    least: float  # mean surprise of an image's codes: from here ...
    most: float  # ... to here for all but the outermost of them

    @classmethod
    def measured(
        cls, codebook: Codebook, images_NxHxWxC: np.ndarray, codes_NxP: np.ndarray
    ) -> Familiarity:
        """The figures of training images and their codes."""
        counts_K = np.bincount(codes_NxP.ravel(), minlength=len(codebook)) + 0.5
        surprise_K = -np.log(counts_K / counts_K.sum())
        least, most = np.quantile(surprise_K[codes_NxP].mean(axis=1), (_FEW, 1 - _FEW))
        rmse = codebook.error(images_NxHxWxC, codes_NxP)
        return cls(rmse, surprise_K, float(least), float(most))

    def unlike(
        self, codebook: Codebook, images_NxHxWxC: np.ndarray, codes_NxP: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whether each image is unlike the training images (N booleans), and its mean surprise."""
        surprise_N = self.surprise_K[codes_NxP].mean(axis=1)
        lossy_N = codebook.errors(images_NxHxWxC, codes_NxP) > max(
            _MOST_TIMES * self.rmse, _LEAST_LOSS
        )
        return lossy_N | (surprise_N < self.least) | (surprise_N > self.most), surprise_N


def unlike_training(codebook: Codebook, images_NxHxWxC: np.ndarray, codes_NxP: np.ndarray) -> str:
    """A line if many images are unlike the training images of the codebook, and why; else "".

    What a model says of such images means little.
    """
    familiar = codebook.familiarity
    if familiar is None:
        return ""
    unlike_N, surprise_N = familiar.unlike(codebook, images_NxHxWxC, codes_NxP)
    if unlike_N.sum() <= _TOLD * len(unlike_N):
        return ""
    some = np.flatnonzero(unlike_N)[:_MOST_INVERTED]
    inverted = codebook.low + codebook.white - images_NxHxWxC[some].astype(np.float32)
    unlike_inverted, _ = familiar.unlike(codebook, inverted, codebook.encode(inverted))
    if unlike_inverted.mean() < 0.5:
        why = "inverted (white - pixel) they would"
    elif (surprise_N[some] < familiar.least).mean() > 0.5:
        why = "little but background: too small in the frame, or too dark?"
    else:
        why = "another size in the frame, another brightness, another subject?"
    return (
        f"{int(unlike_N.sum()):,} of {plural(len(unlike_N), 'image')} do not look like the "
        f"training images: {why}"
    )
