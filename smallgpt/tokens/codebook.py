"""Codebook of images: patches to tokens by k-means, and back to pixels.

    codebook = Codebook.fit(images_NxHxWxC, patch_size=4, size=500, seed=42, max_images=10_000)
    codes_NxP = codebook.encode(images_NxHxWxC)
    images_NxHxWxC = codebook.decode(codes_NxP)
    codebook.save("codebook.npz")

An image is cut into patches, row by row from the top left; each patch becomes the number of the
nearest codebook entry, written `<Z_190>`. Entries are sorted by brightness: code 0 is the darkest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from smallgpt.console import progress_bar
from smallgpt.errors import UserError
from smallgpt.files.npz import read_npz
from smallgpt.files.reading import size_text
from smallgpt.files.writing import atomic_write
from smallgpt.tokens.familiarity import Familiarity
from smallgpt.tokens.k_means import (
    chunks,
    cut_patches,
    distinct_patches,
    few_distinct_patches,
    k_means,
)
from smallgpt.tokens.vocabulary import END_IMG, IMG, Vocabulary

MOST_CODES = 65_000
# In one image: 2364 x 2364 pixels in colour, tens of thousands of tokens.
MOST_IMAGE_VALUES = 2**24
LARGEST_VALUE = 1e6  # of a pixel; float32 distances stay exact enough below it
_MOST_FILE_BYTES = 2**28  # 65,000 codes for patches of 18 x 18 pixels in colour
_HEADS_BYTES = 2**14  # of the file, beside the codes
_CHUNK_DISTANCES = 2**18  # float64 distances computed at once: 2 MiB, which stays in the cache
# The kernel of `embeddings`: its width, in units of the mean distance to so many neighbours.
_KERNEL_WIDTH, _KERNEL_NEIGHBOURS = 4, 8
_NUMBERS = ("patch_size", "height", "width", "channels")
_RANGE = ("low", "high")
_FAMILIARITY = ("rmse", "surprise_K", "least", "most")


@dataclass(frozen=True, eq=False)
class Codebook:
    """A codebook of image patches; D = patch_size * patch_size * channels."""

    centers_KxD: np.ndarray  # float32, a patch a code: row, column, channel; from dark to bright
    patch_size: int  # its side in pixels
    height: int  # of the images
    width: int
    channels: int
    low: float  # pixel value drawn as black
    high: float  # as white: the brightest of the training images
    white: float  # pixel value that was white where the images came from, see `usual_white`
    familiarity: Familiarity | None = None  # of the training images; None in earlier versions

    def __len__(self) -> int:
        return len(self.centers_KxD)

    @property
    def patches_per_image(self) -> int:
        """Codes of one image."""
        return -(-self.height // self.patch_size) * -(-self.width // self.patch_size)

    @property
    def color(self) -> str:
        """Colour of the images: "grey" or "rgb"."""
        return "grey" if self.channels == 1 else "rgb"

    @cached_property
    def digest(self) -> str:
        """A short hash of all that decides the codes of an image, stored in prepared rows."""
        digest = hashlib.sha256(repr([getattr(self, name) for name in _NUMBERS]).encode())
        digest.update(np.ascontiguousarray(self.centers_KxD, "<f4").data)
        return digest.hexdigest()[:12]

    @cached_property
    def code_tokens(self) -> list[str]:
        """The token of each code, as in `Vocabulary.for_images`."""
        return Vocabulary.for_images(len(self), ()).tokens[-len(self) :]

    # ---------------------------------------------------------------------------- fitting

    @classmethod
    def fit(
        cls, images_NxHxWxC: np.ndarray, patch_size: int, size: int, seed: int, max_images: int
    ) -> Codebook:
        """Make a codebook of at most `size` codes from training images, uint8 or float32.

        Where the images have no more than `size` distinct patches, these are the codebook and it
        loses nothing. Else k-means over the distinct patches, weighted by their number, of at most
        `max_images` images drawn at random.

        Raises:
            UserError: it could become larger than `load` allows.
        """
        count, height, width, channels = images_NxHxWxC.shape
        patches = count * -(-height // patch_size) * -(-width // patch_size)
        most_bytes = 4 * min(size, patches) * channels * patch_size**2
        if most_bytes > _MOST_FILE_BYTES - _HEADS_BYTES:
            raise UserError(
                f"{min(size, patches):,} codes of {patch_size} x {patch_size} pixels would make a "
                f"codebook larger than {size_text(_MOST_FILE_BYTES)}: lower --codebook_size or "
                f"--patch_size"
            )
        centers = few_distinct_patches(images_NxHxWxC, patch_size, size)
        if centers is None:
            random = np.random.default_rng(seed)
            if count > max_images:
                chosen = np.sort(random.choice(count, max_images, replace=False))
                images_NxHxWxC = images_NxHxWxC[chosen]
            distinct, _, weights = distinct_patches(cut_patches(images_NxHxWxC, patch_size))
            centers = (
                distinct if len(distinct) <= size else k_means(distinct, weights, size, random)
            )
        centers = centers.astype(np.float32)
        order = np.lexsort((*centers.T[::-1], centers.mean(axis=1)))  # ties: top left first
        low = min(0.0, float(images_NxHxWxC.min()))
        high = float(images_NxHxWxC.max())
        high = high if high > low else low + 1
        shape = (patch_size, height, width, channels)
        return cls(centers[order], *shape, low, high, usual_white(high))

    # ---------------------------------------------------------------------------- coding

    def encode(self, images_NxHxWxC: np.ndarray) -> np.ndarray:
        """Nearest code of every patch by squared distance (uint16); ties go to the lower code."""
        if images_NxHxWxC.shape[1:] != (self.height, self.width, self.channels):
            raise ValueError(
                f"images of shape {images_NxHxWxC.shape[1:]}, the codebook is for "
                f"{(self.height, self.width, self.channels)}"
            )
        # In float64 the distances of whole-number pixels are exact, so equal patches get equal
        # codes on every machine and a codebook of all patches loses nothing.
        centers_KxD = self.centers_KxD.astype(np.float64)
        half_squares_K = (centers_KxD**2).sum(axis=1) / 2
        codes_NxP = np.empty((len(images_NxHxWxC), self.patches_per_image), np.uint16)
        rows = max(1, _CHUNK_DISTANCES // len(self))
        # One thread loses little on such small products; several wait for one another where other
        # programs run too, and took up to ten times as long.
        with (
            threadpool_limits(limits=1),
            progress_bar("images to codes", len(images_NxHxWxC), "image") as bar,
        ):
            for part in chunks(images_NxHxWxC):
                # Blank patches are most of many images: each distinct patch is looked up once.
                distinct, places, _ = distinct_patches(
                    cut_patches(images_NxHxWxC[part], self.patch_size)
                )
                nearest = np.empty(len(distinct), np.uint16)
                for start in range(0, len(distinct), rows):
                    patches = distinct[start : start + rows].astype(np.float64)
                    distances = half_squares_K - patches @ centers_KxD.T
                    nearest[start : start + rows] = distances.argmin(axis=1)
                codes_NxP[part] = nearest[places].reshape(-1, self.patches_per_image)
                bar.update(part.stop - part.start)
        return codes_NxP

    def decode(self, codes_NxP: np.ndarray) -> np.ndarray:
        """Images of codes: float32 NxHxWxC in the pixel values of the training images."""
        size, channels = self.patch_size, self.channels
        rows, columns = -(-self.height // size), -(-self.width // size)
        patches = self.centers_KxD[codes_NxP].reshape(-1, rows, columns, size, size, channels)
        images = patches.transpose(0, 1, 3, 2, 4, 5)
        images = images.reshape(-1, rows * size, columns * size, channels)
        return images[:, : self.height, : self.width]

    def error(self, images_NxHxWxC: np.ndarray, codes_NxP: np.ndarray) -> float:
        """Root mean square error of decoding the images' codes, as a share of the range."""
        total = 0.0
        for part in chunks(images_NxHxWxC):
            difference = images_NxHxWxC[part] - self.decode(codes_NxP[part]).astype(np.float64)
            total += float((difference**2).sum())
        return (total / images_NxHxWxC.size) ** 0.5 / (self.high - self.low)

    def errors(self, images_NxHxWxC: np.ndarray, codes_NxP: np.ndarray) -> np.ndarray:
        """`error` of each image by itself (N floats)."""
        squares_N = np.empty(len(images_NxHxWxC))
        for part in chunks(images_NxHxWxC):
            difference = images_NxHxWxC[part] - self.decode(codes_NxP[part]).astype(np.float64)
            squares_N[part] = (difference**2).mean(axis=(1, 2, 3))
        return squares_N**0.5 / (self.high - self.low)

    def looks_inverted(self, images_NxHxWxC: np.ndarray, codes_NxP: np.ndarray) -> np.ndarray:
        """Whether each of these unlike images is like training with dark and bright exchanged.

        Its border has to speak for it too: dark where the training images are bright, or bright
        where they are dark. A large filled blob on the right ground has so much ink that its
        inverse has more of the usual ground, but its border is the ground of training.
        """
        familiar = self.familiarity
        if familiar is None:
            return np.zeros(len(images_NxHxWxC), bool)
        inverted = self.low + self.white - images_NxHxWxC.astype(np.float32)
        codes = self.encode(inverted)
        alike_N = familiar.more_like(self.errors(inverted, codes), codes, codes_NxP)
        border_HxW = np.ones((self.height, self.width), bool)
        border_HxW[1:-1, 1:-1] = False
        border_N = images_NxHxWxC[:, border_HxW].mean(axis=(1, 2), dtype=np.float64)
        middle = (self.low + self.white) / 2
        is_bright = familiar.usual_brightness(self.centers_KxD) > middle
        return alike_N & ((border_N > middle) != is_bright)

    def embeddings(self, width: int, seed: int) -> np.ndarray:
        """Initial embeddings of the codes (float32, E = width): similar patches lie close together.

        Random Fourier features of the patches (Rahimi and Recht, 2007): the inner product of two
        rows approximates a Gaussian kernel of the two patches. With them a model learns from few
        rows what it otherwise needs many for (docs/measurements.md). Mean 0 in each column,
        standard deviation 1 over all.
        """
        from sklearn.neighbors import NearestNeighbors  # slow, and rarely needed

        random = np.random.default_rng(seed)
        scaled_KxD = (self.centers_KxD / (self.high - self.low)).astype(np.float64)
        mean_distance = 0.0
        if len(self) > 1:
            neighbours = min(_KERNEL_NEIGHBOURS, len(self) - 1)
            distances = NearestNeighbors(n_neighbors=neighbours).fit(scaled_KxD).kneighbors()[0]
            mean_distance = float(distances.mean())
        directions_DxE = random.normal(size=(scaled_KxD.shape[1], width))
        phases_E = random.uniform(0, 2 * np.pi, width)
        # 1.0 where all patches are the same.
        width_of_kernel = _KERNEL_WIDTH * mean_distance or 1.0
        features_KxE = np.cos(scaled_KxD @ directions_DxE / width_of_kernel + phases_E)
        features_KxE -= features_KxE.mean(axis=0)
        return (features_KxE / (features_KxE.std() or 1.0)).astype(np.float32)

    # ---------------------------------------------------------------------------- tokens

    def row_text(self, codes_P: Sequence[int] | np.ndarray) -> str:
        """Tokens of one image: `<IMG> <Z_190> ... </IMG>`."""
        return " ".join([IMG, *[self.code_tokens[code] for code in codes_P], END_IMG])

    def codes_from_tokens(self, tokens: Sequence[str]) -> list[int]:
        """The codes among `tokens` up to a closing </IMG>; all other tokens are skipped."""
        codes = {token: code for code, token in enumerate(self.code_tokens)}
        end = tokens.index(END_IMG) if END_IMG in tokens else len(tokens)
        return [codes[token] for token in tokens[:end] if token in codes]

    def image_from_tokens(self, tokens: Sequence[str]) -> tuple[np.ndarray, int]:
        """The picture (float32) of a row, perhaps a generated one, and how many codes the row had.

        Missing patches are drawn as the darkest one, surplus codes are left out.
        """
        codes = self.codes_from_tokens(tokens)
        wanted = self.patches_per_image
        filled = (codes + [0] * (wanted - len(codes)))[:wanted]
        return self.decode(np.array([filled]))[0], len(codes)

    # ---------------------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Write an .npz, atomically."""
        arrays: dict[str, Any] = {
            "centers": self.centers_KxD,
            **{name: np.int64(getattr(self, name)) for name in _NUMBERS},
            **{name: np.float64(getattr(self, name)) for name in (*_RANGE, "white")},
            **({} if self.familiarity is None else vars(self.familiarity)),
        }
        with atomic_write(path, "wb") as handle:
            np.savez(handle, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Codebook:
        """Read and check what `save` wrote.

        Raises:
            UserError: no such file, or not a codebook.
        """
        path = Path(path)
        arrays = read_npz(path, _MOST_FILE_BYTES)
        missing = sorted({"centers", *_NUMBERS, *_RANGE} - arrays.keys())
        if missing:
            raise UserError(f"{path}: not a codebook: {', '.join(missing)} missing")
        for name in _NUMBERS:
            value = arrays[name]
            if value.shape != () or value.dtype.kind not in "iu" or not 1 <= value <= 2**16:
                raise UserError(f"{path}: not a codebook: {name} is no whole number from 1")
        # Files of earlier versions have neither white nor familiarity.
        of_images = _FAMILIARITY if set(_FAMILIARITY) <= arrays.keys() else ()
        for name in (*_RANGE, *(arrays.keys() & {"white"}), *of_images):
            shape = (len(arrays["centers"]),) if name == "surprise_K" else ()
            if arrays[name].shape != shape or arrays[name].dtype.kind != "f":
                raise UserError(f"{path}: not a codebook: {name} is no number")
        numbers = {name: int(arrays[name]) for name in _NUMBERS}
        low, high = float(arrays["low"]), float(arrays["high"])
        white = float(arrays.get("white", usual_white(high)))
        familiarity = None
        if of_images:
            rmse, surprise_K, least, most_surprise = (arrays[name] for name in of_images)
            familiarity = Familiarity(
                float(rmse), surprise_K.astype(float), float(least), float(most_surprise)
            )
        if numbers["height"] * numbers["width"] * numbers["channels"] > MOST_IMAGE_VALUES:
            raise UserError(
                f"{path}: not a codebook: images of {numbers['height']} x {numbers['width']} "
                f"pixels; one may have at most {MOST_IMAGE_VALUES:,} values"
            )
        values = numbers["patch_size"] ** 2 * numbers["channels"]
        centers = arrays["centers"]
        if centers.ndim != 2 or centers.dtype != np.float32 or centers.shape[1] != values:
            raise UserError(
                f"{path}: not a codebook: centers are {centers.dtype} of shape {centers.shape}, "
                f"expected float32 with {values} values a patch"
            )
        if not 1 <= len(centers) <= MOST_CODES or numbers["channels"] not in (1, 3):
            raise UserError(f"{path}: not a codebook: wrong number of codes or channels")
        most = 2 * LARGEST_VALUE  # k-means keeps to the range of the pixels, but for rounding
        if not (np.abs(centers).max() <= most and -most <= low < high <= most):  # also NaN
            raise UserError(f"{path}: not a codebook: values that are not finite or no range")
        if not low < white <= most or not all(
            np.isfinite(arrays[name]).all() for name in of_images
        ):
            raise UserError(
                f"{path}: not a codebook: {', '.join(('white', *of_images))} out of range"
            )
        return cls(centers, **numbers, low=low, high=high, white=white, familiarity=familiarity)


def usual_white(brightest: float) -> float:
    """The pixel value of white in images whose brightest pixel is `brightest`.

    255 from 128 to 255, and 1 from 0.5 to 1, since few images reach the end of their range; any
    other range ends with its brightest pixel.
    """
    for least, white in ((0.5, 1.0), (128, 255.0)):
        if least <= brightest <= white:
            return white
    return brightest
