"""Readers of images, their labels and codebooks."""

from __future__ import annotations

import gzip
import io
import struct
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from hostile.reader import Reader
from PIL import Image

from smallgpt.inputs.image_formats import read_images
from smallgpt.tokens.codebook import Codebook

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 4, 4), dtype=np.uint8)


def _idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def _idx_labels() -> bytes:
    return _idx(np.arange(6, dtype=np.uint8))


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _npz(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            # Under the date of ZipInfo, 1980: two calls a second apart must give the same bytes.
            member = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _images_npz() -> bytes:
    return _npz(images=_npy(PIXELS), labels=_npy(np.array(["a", "b", "c"] * 2)))


def _picture(kind: str, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS[0]).resize((9, 7)).convert(mode).save(stream, kind)
    return stream.getvalue()


def _read_pictures(folder: Path) -> None:
    read_images(folder, image_size=8)


def _codebook() -> Codebook:
    return Codebook.fit(PIXELS[..., None], patch_size=2, size=8, seed=0, max_images=6)


@cache
def _codebook_arrays() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(_codebook_file())) as archive:
        return {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}


@cache
def _codebook_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        _codebook().save(Path(folder) / "codebook.npz")
        return (Path(folder) / "codebook.npz").read_bytes()


def _read_codebook(folder: Path) -> None:
    codebook = Codebook.load(folder / "codebook.npz")
    codebook.image_from_tokens(["<IMG>", "<Z_000>", "<Z_001>"])
    codebook.row_text([0])
    vectors = codebook.embeddings(4, seed=0)
    assert np.isfinite(vectors).all()


READERS = (
    Reader("codebook.npz", "codebook.npz", _codebook_file, _read_codebook),
    Reader(
        "codebook.npz: centers",
        "codebook.npz",
        lambda: _codebook_arrays()["centers"],
        _read_codebook,
        wrap=lambda content: _npz(**{**_codebook_arrays(), "centers": content}),
        words=("<f4", "|O", "<U9", "True", "(8, 4)", "(8,4,1)"),
    ),
    Reader(
        "codebook.npz: a number",
        "codebook.npz",
        lambda: _codebook_arrays()["height"],
        _read_codebook,
        wrap=lambda content: _npz(**{**_codebook_arrays(), "height": content}),
    ),
    Reader(
        "IDX images",
        "images.idx",
        lambda: _idx(PIXELS),
        lambda folder: read_images(folder / "images.idx", folder / "labels.idx"),
        beside=lambda: {"labels.idx": _idx_labels()},
    ),
    Reader(
        "IDX labels",
        "labels.idx",
        _idx_labels,
        lambda folder: read_images(folder / "images.idx", folder / "labels.idx"),
        beside=lambda: {"images.idx": _idx(PIXELS)},
    ),
    Reader(
        "IDX in damaged gzip",
        "images.idx.gz",
        lambda: gzip.compress(_idx(PIXELS), mtime=0),
        lambda folder: read_images(folder / "images.idx.gz"),
    ),
    Reader(
        "damaged IDX in gzip",
        "images.idx.gz",
        lambda: _idx(PIXELS),
        lambda folder: read_images(folder / "images.idx.gz"),
        wrap=gzip.compress,
    ),
    Reader("npz", "images.npz", _images_npz, lambda folder: read_images(folder / "images.npz")),
    Reader(
        "npz: images",
        "images.npz",
        lambda: _npy(PIXELS),
        lambda folder: read_images(folder / "images.npz"),
        wrap=lambda content: _npz(images=content),
        words=("<f8", "|O", "<i8", "<f2", "|b1", "<c8", "<M8[s]", "(6, 4, 4)", "(96,)"),
    ),
    Reader(
        "npz: labels",
        "images.npz",
        lambda: _npy(np.array(["a", "b", "c"] * 2)),
        lambda folder: read_images(folder / "images.npz"),
        wrap=lambda content: _npz(images=_npy(PIXELS), labels=content),
        words=("<U1", "<U0", "|S4", "|O", "<i4", "<M8[s]", "(6,)", "(6, 1)"),
    ),
    *(
        Reader(
            f"picture: {kind}",
            f"a/1.{suffix}",
            lambda kind=kind, mode=mode: _picture(kind, mode),
            _read_pictures,
            beside=lambda: {"b/2.png": _picture("PNG")},
        )
        for kind, suffix, mode in (
            ("PNG", "png", "RGBA"),
            ("JPEG", "jpg", "RGB"),
            ("GIF", "gif", "P"),
            ("BMP", "bmp", "RGB"),
            ("TIFF", "tif", "RGB"),
            ("WEBP", "webp", "RGB"),
            ("PPM", "ppm", "RGB"),
            ("TGA", "tga", "RGB"),
        )
    ),
)
