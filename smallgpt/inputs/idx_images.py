"""Reader of IDX image files, the format of MNIST, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from smallgpt.errors import UserError
from smallgpt.files.reading import open_input, size_text
from smallgpt.inputs.labelled_images import (
    FEWER_IMAGES,
    MOST_IMAGE_BYTES,
    ImageOptions,
    LabelledImages,
    check_image_count,
    check_label_count,
    checked_images,
    file_labels,
)

_CHUNK = 2**24


def read_idx_images(path: Path, options: ImageOptions) -> LabelledImages:
    """Read an IDX file of images and, if given, the IDX file of their labels."""
    labels_path = options.labels_path
    images = _read_idx(path)
    if images.ndim not in (3, 4):
        what = "labels" if images.ndim == 1 else f"{images.ndim} dimensions"
        raise UserError(f"{path}: expected images (3 or 4 dimensions), found {what}")
    images_NxHxWxC = checked_images(path, images)
    if labels_path is None:
        return LabelledImages(images_NxHxWxC, None)
    if not os.path.exists(labels_path):
        raise UserError(f"{labels_path}: no such file (the labels)")
    labels = _read_idx(labels_path)
    if labels.ndim != 1:
        raise UserError(f"{labels_path}: expected labels (1 dimension), found {labels.ndim}")
    check_label_count(path, len(images), labels_path, len(labels))
    return LabelledImages(images_NxHxWxC, file_labels(labels.tolist(), labels_path, options.names))


def _read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file: magic 0 0 type dimensions, sizes as big-endian uint32, data.

    Format: http://yann.lecun.com/exdb/mnist/. Only unsigned bytes (type 8) are read.
    """
    try:
        with open_input(path) as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            if packed:
                with gzip.open(plain) as handle:
                    return _parse_idx(path, handle)
            return _parse_idx(path, plain)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error}); download it again") from None


def _parse_idx(path: Path, handle: BufferedIOBase) -> np.ndarray:
    magic = handle.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= 4:
        raise UserError(
            f"{path}: not an IDX file (first bytes {magic.hex(' ') or 'missing'}); images come "
            f"as IDX, as .npz or as a folder of pictures"
        )
    if magic[2] != 8:
        raise UserError(
            f"{path}: IDX data of type 0x{magic[2]:02x}; only bytes (0x08) are read, save other "
            f"numbers as .npz"
        )
    sizes = handle.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise UserError(f"{path}: the IDX header is cut off; download it again")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    promised = math.prod(shape)
    shape_text = " x ".join(f"{size:,}" for size in shape)
    if not promised:  # beside a 0 the other sizes may exceed any array
        raise UserError(f"{path}: no images or labels in it: its header says {shape_text}")
    if promised > MOST_IMAGE_BYTES:
        raise UserError(
            f"{path}: its header promises {shape_text} bytes; at most "
            f"{size_text(MOST_IMAGE_BYTES)} are read{FEWER_IMAGES}"
        )
    check_image_count(path, shape[0])
    data = bytearray()
    while len(data) <= promised:
        part = handle.read(min(_CHUNK, promised + 1 - len(data)))
        if not part:
            break
        data += part
    if len(data) != promised:
        found = f"only {len(data):,}" if len(data) < promised else "more"
        raise UserError(
            f"{path}: its header promises {shape_text} = {promised:,} bytes, the file holds "
            f"{found}; download it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
