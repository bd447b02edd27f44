"""Patches of images: cut, made distinct, clustered by k-means."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from smallgpt.console import progress_bar

# Work of one k-means pass: distinct patches x codes x values. Up to here plain k-means takes
# seconds and is 3 % better (MNIST, 4x4 patches, 500 codes, 10,000 images: squared error 237
# after 4 s against 243 after 1 s for mini-batches).
_MOST_FULL_WORK = 5e9
_KMEANS_PASSES, _PASSES_A_CALL = 30, 5
_BATCH, _BATCH_EPOCHS = 4096, 3
# Patches that k-means++ sees: with all of them the start is no better and takes ten times as long
# (MNIST, 500 codes). For a large codebook it must see a few for each code.
_START_PATCHES, _START_PATCHES_PER_CODE = 20_000, 4
_CHUNK_VALUES = 2**21  # pixel values cut into patches at once


def cut_patches(images_NxHxWxC: np.ndarray, size: int) -> np.ndarray:
    """All patches of all images, one a row (MxD); edges are repeated to fill the last patches."""
    count, height, width, channels = images_NxHxWxC.shape
    below, right = -height % size, -width % size
    if below or right:
        border = ((0, 0), (0, below), (0, right), (0, 0))
        images_NxHxWxC = np.pad(images_NxHxWxC, border, mode="edge")
    rows, columns = (height + below) // size, (width + right) // size
    patches = images_NxHxWxC.reshape(count, rows, size, columns, size, channels)
    patches = patches.transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(patches).reshape(-1, size * size * channels)


def distinct_patches(patches_MxD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct patches, the index of each of the M patches among them, and their counts."""
    bytes_each = patches_MxD.shape[1] * patches_MxD.itemsize
    # Each row becomes one item to sort: an integer where it fits, which sorts much faster.
    kind = f"u{bytes_each}" if bytes_each in (1, 2, 4, 8) else f"V{bytes_each}"
    items_M = patches_MxD.view(kind).ravel()
    distinct, places_M, counts = np.unique(items_M, return_inverse=True, return_counts=True)
    return distinct.view(patches_MxD.dtype).reshape(len(distinct), -1), places_M, counts


def few_distinct_patches(images_NxHxWxC: np.ndarray, size: int, most: int) -> np.ndarray | None:
    """All distinct patches of the images, None if there are more than `most`."""
    found = None
    for part in chunks(images_NxHxWxC):
        patches = cut_patches(images_NxHxWxC[part], size)
        found, _, _ = distinct_patches(
            patches if found is None else np.concatenate([found, patches])
        )
        if len(found) > most:
            return None
    return found


def chunks(images_NxHxWxC: np.ndarray) -> Iterator[slice]:
    """Slices of the images that hold a bounded number of pixel values each."""
    step = max(1, _CHUNK_VALUES // images_NxHxWxC[0].size)
    for start in range(0, len(images_NxHxWxC), step):
        yield slice(start, min(start + step, len(images_NxHxWxC)))


def k_means(
    patches_UxD: np.ndarray, weights_U: np.ndarray, size: int, random: np.random.Generator
) -> np.ndarray:
    """Cluster centers of distinct patches, weighted by how often each occurs."""
    from sklearn.cluster import KMeans, MiniBatchKMeans, kmeans_plusplus  # slow, rarely needed

    patches_UxD = patches_UxD.astype(np.float32)
    weights_U = weights_U.astype(np.float32)
    count = len(patches_UxD)
    state = int(random.integers(2**31))
    start_count = min(count, max(_START_PATCHES, _START_PATCHES_PER_CODE * size))
    start = np.sort(random.choice(count, start_count, replace=False))
    # With several threads the order of the sums, hence the codebook, would differ between runs
    # and machines.
    with threadpool_limits(limits=1):
        centers, _ = kmeans_plusplus(
            patches_UxD[start], size, sample_weight=weights_U[start], random_state=state
        )
        if count * size * patches_UxD.shape[1] <= _MOST_FULL_WORK:
            with progress_bar("codebook: k-means", _KMEANS_PASSES, "pass") as bar:
                for _ in range(_KMEANS_PASSES // _PASSES_A_CALL):
                    model = KMeans(size, init=centers, n_init=1, max_iter=_PASSES_A_CALL)
                    model.fit(patches_UxD, sample_weight=weights_U)
                    centers = model.cluster_centers_
                    bar.update(_PASSES_A_CALL)
                    if model.n_iter_ < _PASSES_A_CALL:
                        break
            return centers
        # Reassignment would move the centers of all rare patches next to the blank patch, which
        # fills most images: squared error 459 instead of 243 on MNIST.
        model = MiniBatchKMeans(
            size, init=centers, n_init=1, reassignment_ratio=0, random_state=state
        )
        parts = max(1, count // max(_BATCH, size))
        with progress_bar("codebook: k-means", _BATCH_EPOCHS * parts, "batch") as bar:
            for _ in range(_BATCH_EPOCHS):
                for batch in np.array_split(random.permutation(count), parts):
                    model.partial_fit(patches_UxD[batch], sample_weight=weights_U[batch])
                    bar.update()
        return model.cluster_centers_
