"""Reader of pictures: one file, a folder of them, or one subfolder per class."""

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
    Unreadable,
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


def read_pictures(path: Path, options: ImageOptions) -> LabelledImages:
    """Read one picture, the pictures of a folder, or those of one subfolder per class.

    They come sorted by class and file name; a folder without subfolders gives no labels.
    """
    notes: list[str] = []
    if path.is_dir():
        files, labels = _list_pictures(path, options.names, notes)
    else:
        files, labels = [path], None
    root = path if path.is_dir() else path.parent
    names = [file.relative_to(root).as_posix() for file in files]
    # File names may hold bytes that are not UTF-8, which JSON cannot.
    names = [name.encode(errors="backslashreplace").decode() for name in names]
    images_NxHxWxC, problems = _load_pictures(root, files, options, notes)
    unreadable = {
        place: Unreadable(names[place], labels[place] if labels else None, reason)
        for place, reason in problems.items()
    }
    readable = [place for place in range(len(files)) if place not in unreadable]
    return LabelledImages(
        images_NxHxWxC,
        None if labels is None else [labels[place] for place in readable],
        255.0,
        [names[place] for place in readable],
        notes,
        unreadable,
    )


def is_picture(path: Path) -> bool:
    """Whether a file is named as a picture."""
    return path.suffix.lower() in _suffixes()


@cache
def _formats() -> list[str]:
    """Picture formats that this build of Pillow reads."""
    Image.init()
    return [name for name in PICTURE_FORMATS if name in Image.OPEN]


@cache
def _suffixes() -> frozenset[str]:
    """Endings of the names of such pictures, in small letters."""
    extensions = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in extensions.items() if kind in _formats())


def _list_pictures(
    root: Path, names: LabelNames, notes: list[str]
) -> tuple[list[Path], list[str] | None]:
    """Picture files in order of their classes and names, and their labels, None without classes."""
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files: list[Path] = []
    labels: list[str] = []
    left_out: Counter[tuple[str, str]] = Counter()  # what they are, where
    for path in sorted(root.iterdir()) if classes else ():
        if not path.is_dir() or path.name.startswith("."):
            left_out["file", " beside the class folders"] += 1
    for folder in classes or [root]:
        before = len(files)
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                left_out["hidden file", ""] += 1
            elif path.is_dir():
                left_out["deeper folder", ""] += 1
            elif not is_picture(path):
                left_out["file", " of another kind"] += 1
            else:
                files.append(path)
        if classes and len(files) == before:
            left_out["class folder", " without pictures"] += 1
        elif classes:
            place = f"{root}/{printable(folder.name)}"
            labels += [label_name(folder.name, place, names)] * (len(files) - before)
    if not files:
        raise UserError(
            f"{root}: no pictures in it; expected pictures (PNG, JPEG, ...), or one subfolder per "
            f"class, with the pictures directly in it: {root}/cat/1.png"
        )
    if left_out:
        what = ", ".join(f"{plural(n, kind)}{where}" for (kind, where), n in left_out.items())
        notes.append(f"{root}: left out {what}")
    return files, labels if classes else None


def _load_pictures(
    root: Path, files: Sequence[Path], options: ImageOptions, notes: list[str]
) -> tuple[np.ndarray, dict[int, str]]:
    """The readable pictures in one array, and why others are not, by their place in `files`.

    Two passes, so that headers are checked before pixels.
    """
    problems: dict[int, str] = {}
    sizes: dict[int, tuple[int, int]] = {}
    grey_only = True
    with progress_bar("reading pictures", 2 * len(files), "file") as bar:
        for place, path in enumerate(files):
            try:
                sizes[place], is_grey = _from_picture(path, _size_and_greyness)
                grey_only &= is_grey
            except UserError as error:
                problems[place] = str(error)
            bar.update()
        _refuse(problems, options, len(files))
        width, height = _common_size(files, sizes, options.size, notes)
        channels = 1 if options.color == "grey" or (options.color == "auto" and grey_only) else 3
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
        recoloured = 0
        for place, path in enumerate(files):
            if place in sizes:
                try:
                    images_NxHxWxC[place], other_colour = _from_picture(
                        path, lambda picture: _pixels(picture, (width, height), channels)
                    )
                    recoloured += other_colour
                except UserError as error:
                    problems[place] = str(error)
            bar.update()
        _refuse(problems, options, len(files))
    images_NxHxWxC = np.delete(images_NxHxWxC, list(problems), axis=0)
    if options.color == "auto" and channels == 3 and _is_grey(images_NxHxWxC):
        return images_NxHxWxC[..., :1].copy(), problems
    if recoloured:
        before, after = ("coloured", "grey") if channels == 1 else ("grey", "rgb")
        notes.append(f"{plural(recoloured, f'{before} picture')} read as {after}")
    return images_NxHxWxC, problems


def _from_picture(path: Path, read: Callable[[Image.Image], Found]) -> Found:
    """The result of `read` on a picture; any error becomes a UserError that names it."""
    try:
        with warnings.catch_warnings(), open_input(path) as handle:
            warnings.simplefilter("ignore")  # broken EXIF and the like: the pixels are what counts
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(handle, formats=_formats()) as picture:
                return read(picture)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: not a picture that Pillow can read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path}: far too many pixels") from None
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: {reason}") from None


def _refuse(problems: dict[int, str], options: ImageOptions, count: int) -> None:
    """Raise for unreadable pictures, unless they are to be kept and others can be read."""
    if not problems or (options.keep_unreadable and len(problems) < count):
        return
    lines = list(problems.values())[:3]
    if len(problems) > len(lines):
        lines.append(f"... and {plural(len(problems) - len(lines), 'more picture')}")
    what = "mend or remove unreadable pictures"
    if options.keep_unreadable:
        what = f"not one of {plural(count, 'picture')} can be read"
    raise UserError("\n".join([*lines, what]))


def _common_size(
    files: Sequence[Path],
    sizes: dict[int, tuple[int, int]],
    wanted: tuple[int, int] | None,
    notes: list[str],
) -> tuple[int, int]:
    """Width and height that all pictures get; without `wanted` they must agree."""
    first, own = next(iter(sizes.items()))
    if wanted is not None:
        width, height = wanted
        others = {place: size for place, size in sizes.items() if size != wanted}
        if others:
            place, size = next(iter(others.items()))
            stretched = sum(w * height != h * width for w, h in others.values())
            notes.append(
                f"{plural(len(others), 'picture')} resized to {width}x{height} (the first: "
                f"{printable(files[place].name)}, {size[0]}x{size[1]})"
                + (f", {stretched:,} of them stretched to this shape" if stretched else "")
            )
        return wanted
    for place, size in sizes.items():
        if size != own:
            raise UserError(
                f"pictures differ in size: {files[first]} is {own[0]}x{own[1]}, {files[place]} is "
                f"{size[0]}x{size[1]}; give --image_size N to resize all"
            )
    return own


def _size_and_greyness(picture: Image.Image) -> tuple[tuple[int, int], bool]:
    """Width and height of an upright picture, and whether it is grey."""
    width, height = picture.size
    rotated = picture.getexif().get(_ORIENTATION) in _ROTATED
    return (height, width) if rotated else (width, height), picture.mode in _GREY_MODES


def _pixels(picture: Image.Image, size: tuple[int, int], channels: int) -> tuple[np.ndarray, bool]:
    """Pixels as uint8 HxWxC, upright, transparent parts over white; whether colour changed."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "I;16":  # Pillow would clip 16-bit grey instead of scaling it
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {picture.mode}: save the picture with 8 bits per channel")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    is_grey = picture.mode in _GREY_MODES or is_grey_image(np.asarray(picture.convert("RGB")))
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(size[1], size[0], channels), is_grey != (channels == 1)


def _is_grey(images_NxHxWxC: np.ndarray) -> bool:
    return all(is_grey_image(image) for image in images_NxHxWxC)


def is_grey_image(image_HxWx3: np.ndarray) -> bool:
    """Whether the three channels are equal."""
    first_HxW = image_HxWx3[..., 0]
    return all((image_HxWx3[..., channel] == first_HxW).all() for channel in (1, 2))
