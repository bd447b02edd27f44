"""What the training images of a codebook were like, and which other images are not like them.

The loss of the codebook alone does not tell: small patches fit almost any image. How usual the
codes of an image are does: an inverted digit has a background of codes that were rare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# An image is unlike the training images where it loses so many times as much as they did, and at
# least this share of the range (a codebook may lose nothing of its own images) ...
_MOST_TIMES, _LEAST_LOSS = 3, 0.1
# ... or where its codes are more or less usual than those of all but so few training images.
_FEW = 0.005


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Figures of the training images, stored with their codebook."""

    rmse: float  # `Codebook.error` of all of them
    surprise_K: np.ndarray  # of each code: -log of its share of their codes
    least: float  # mean surprise of an image's codes: from here ...
    most: float  # ... to here for all but the outermost of them

    @classmethod
    def measured(cls, rmse: float, codes_NxP: np.ndarray, codes: int) -> Familiarity:
        """The figures of training images, encoded by a codebook of `codes` codes."""
        counts_K = np.bincount(codes_NxP.ravel(), minlength=codes) + 0.5
        surprise_K = -np.log(counts_K / counts_K.sum())
        least, most = np.quantile(surprise_K[codes_NxP].mean(axis=1), (_FEW, 1 - _FEW))
        return cls(rmse, surprise_K, float(least), float(most))

    def surprise(self, codes_NxP: np.ndarray) -> np.ndarray:
        """Mean surprise of the codes of each image."""
        return self.surprise_K[codes_NxP].mean(axis=1)

    def unlike(self, errors_N: np.ndarray, codes_NxP: np.ndarray) -> np.ndarray:
        """Whether each image (its `Codebook.errors`, its codes) is unlike the training images."""
        surprise_N = self.surprise(codes_NxP)
        lossy_N = errors_N > max(_MOST_TIMES * self.rmse, _LEAST_LOSS)
        return lossy_N | (surprise_N < self.least) | (surprise_N > self.most)

    def usual_brightness(self, centers_KxD: np.ndarray) -> float:
        """Mean pixel value of the training images, as their codes tell it."""
        return float(np.exp(-self.surprise_K) @ centers_KxD.mean(axis=1))

    def more_like(
        self, errors_N: np.ndarray, codes_NxP: np.ndarray, before_NxP: np.ndarray
    ) -> np.ndarray:
        """Whether each image is like the training images, where another version of it is not.

        Its codes are more usual too: a dot on a dark ground is unlike for having little but
        ground, and inverted it has fewer usual codes, so its ground was not the wrong one.

        Args:
            errors_N: `Codebook.errors` of the images.
            codes_NxP: their codes.
            before_NxP: the codes of the other versions.
        """
        more_usual_N = self.surprise(codes_NxP) < self.surprise(before_NxP)
        return ~self.unlike(errors_N, codes_NxP) & more_usual_N
