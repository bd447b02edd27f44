"""Reader of picture folders: one subfolder of picture files per class."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from smallgpt.console import plural, printable, progress_bar
from smallgpt.errors import UserError
from smallgpt.files.reading import open_input, size_text
from smallgpt.inputs.labelled_images import (
    FEWER_IMAGES,
    MOST_IMAGE_BYTES,
    ImageOptions,
    LabelledImages,
    label_name,
)
from smallgpt.tokens.codebook import MOST_IMAGE_VALUES
from smallgpt.tokens.labels import LabelNames

# No EPS: Pillow would hand the file to Ghostscript.
PICTURE_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")
_GREY_MODES = ("1", "L", "LA", "I;16")
_ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112

Found = TypeVar("Found")


def read_picture_folder(root: Path, options: ImageOptions) -> LabelledImages:
    """Read the pictures of all classes, sorted by class and file name."""
    files, labels, notes = _list_pictures(root, options.names)
    images_NxHxWxC = _load_pictures(files, options.image_size, options.color, notes)
    relative = [path.relative_to(root).as_posix() for path in files]
    # File names may hold bytes that are not UTF-8, which JSON cannot.
    relative = [name.encode(errors="backslashreplace").decode() for name in relative]
    return LabelledImages(images_NxHxWxC, labels, 255.0, relative, notes)


@cache
def _formats() -> list[str]:
    """Picture formats that this build of Pillow reads."""
    Image.init()
    return [name for name in PICTURE_FORMATS if name in Image.OPEN]


def _list_pictures(root: Path, names: LabelNames) -> tuple[list[Path], list[str], list[str]]:
    """Picture files of the class folders in order of their names, their labels, and notes."""
    extensions = Image.registered_extensions()
    suffixes = {suffix for suffix, kind in extensions.items() if kind in _formats()}
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files: list[Path] = []
    labels: list[str] = []
    passed_over: Counter[str] = Counter()
    for path in sorted(root.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            passed_over["beside the class folders"] += 1
    for folder in classes:
        before = len(files)
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                passed_over["hidden"] += 1
            elif path.is_dir():
                passed_over["in deeper folders"] += 1
            elif path.suffix.lower() not in suffixes:
                passed_over["no picture"] += 1
            else:
                files.append(path)
        if len(files) == before:
            passed_over["class folder without pictures"] += 1
        else:
            place = f"{root}/{printable(folder.name)}"
            labels += [label_name(folder.name, place, names)] * (len(files) - before)
    if not files:
        raise UserError(
            f"{root}: no pictures in it; expected one subfolder per class, with the pictures "
            f"(PNG, JPEG, ...) directly in it: {root}/cat/1.png"
        )
    notes = []
    if passed_over:
        what = ", ".join(f"{count:,} {reason}" for reason, count in passed_over.items())
        notes.append(f"{root}: passed over {what}")
    return files, labels, notes


def _load_pictures(
    files: Sequence[Path], image_size: int | None, color: str, notes: list[str]
) -> np.ndarray:
    """Decode pictures into one array; two passes, so that headers are checked before pixels."""
    problems: list[str] = []
    sizes: list[tuple[int, int]] = []
    grey_only = True
    root = files[0].parent.parent
    with progress_bar("reading pictures", 2 * len(files), "file") as bar:
        for path in files:
            header = _from_picture(path, _size_and_greyness, problems)
            if header is not None:
                sizes.append(header[0])
                grey_only &= header[1]
            bar.update()
        _refuse_unreadable(problems)
        width, height = _common_size(files, sizes, image_size, notes)
        channels = 1 if color == "grey" or (color == "auto" and grey_only) else 3
        shape = (len(files), height, width, channels)
        if math.prod(shape[1:]) > MOST_IMAGE_VALUES:
            raise UserError(
                f"{root}: pictures of {width:,} x {height:,} pixels; one may have at most "
                f"{MOST_IMAGE_VALUES:,} values: give a smaller --image_size"
            )
        if math.prod(shape) > MOST_IMAGE_BYTES:
            raise UserError(
                f"{root}: {len(files):,} pictures of {width}x{height} take "
                f"{math.prod(shape):,} bytes; at most {size_text(MOST_IMAGE_BYTES)} are read"
                f"{FEWER_IMAGES} (or a smaller --image_size)"
            )
        images_NxHxWxC = np.empty(shape, np.uint8)
        for index, path in enumerate(files):
            pixels_HxWxC = _from_picture(
                path, lambda picture: _pixels(picture, (width, height), channels), problems
            )
            if pixels_HxWxC is not None:
                images_NxHxWxC[index] = pixels_HxWxC
            bar.update()
        _refuse_unreadable(problems)
    if color == "auto" and channels == 3 and _is_grey(images_NxHxWxC):
        return images_NxHxWxC[..., :1].copy()
    return images_NxHxWxC


def _from_picture(
    path: Path, read: Callable[[Image.Image], Found], problems: list[str]
) -> Found | None:
    """The result of `read` on a picture; any error becomes a line in `problems`."""
    try:
        with warnings.catch_warnings(), open_input(path) as handle:
            warnings.simplefilter("ignore")  # broken EXIF and the like: the pixels are what counts
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(handle, formats=_formats()) as picture:
                return read(picture)
    except UserError as error:
        problems.append(str(error))
    except UnidentifiedImageError:
        problems.append(f"{path}: not a picture that Pillow can read")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problems.append(f"{path}: far too many pixels")
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        problems.append(f"{path}: {reason}")
    return None


def _refuse_unreadable(problems: list[str]) -> None:
    if problems:
        lines = problems[:3]
        if len(problems) > len(lines):
            lines.append(f"... and {plural(len(problems) - len(lines), 'more picture')}")
        raise UserError("\n".join([*lines, "mend or remove unreadable pictures"]))


def _common_size(
    files: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    image_size: int | None,
    notes: list[str],
) -> tuple[int, int]:
    """Width and height that all pictures get; without `image_size` they must agree."""
    if image_size is not None:
        stretched = sum(width != height for width, height in sizes)
        if stretched:
            size = f"{image_size}x{image_size}"
            notes.append(
                f"{plural(stretched, 'picture')} not square: resized to {size} all the same"
            )
        return image_size, image_size
    for path, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise UserError(
                f"pictures differ in size: {files[0]} is {sizes[0][0]}x{sizes[0][1]}, {path} is "
                f"{size[0]}x{size[1]}; give --image_size N to resize all"
            )
    return sizes[0]


def _size_and_greyness(picture: Image.Image) -> tuple[tuple[int, int], bool]:
    """Width and height of an upright picture, and whether it is grey."""
    width, height = picture.size
    rotated = picture.getexif().get(_ORIENTATION) in _ROTATED
    return (height, width) if rotated else (width, height), picture.mode in _GREY_MODES


def _pixels(picture: Image.Image, size: tuple[int, int], channels: int) -> np.ndarray:
    """Pixels as uint8 HxWxC, upright, transparent parts over white."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "I;16":  # Pillow would clip 16-bit grey instead of scaling it
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {picture.mode}: save the picture with 8 bits per channel")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(size[1], size[0], channels)


def _is_grey(images_NxHxWxC: np.ndarray) -> bool:
    return all(
        (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all()
        for image in images_NxHxWxC
    )
