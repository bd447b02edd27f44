"""Labelled images from files: IDX (plain or .gz), .npz, or a folder of pictures.

    source = read_images("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    source.images_NxHxWxC, source.labels

Files come from anywhere and are not trusted: a header's promise is checked before memory is
given to it, nothing is unpickled, and every flaw is a UserError that names the file.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import sys
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from console import SettingsError, UserError, plural, printable, progress_bar
from input_files import open_input, size_text
from vocabulary import LabelNames

# More than a small model can learn from; what is read stays in memory, so it has a bound.
MOST_BYTES = 2**31
MOST_IMAGES = 10_000_000  # each also takes a label and a row
# Of one image: 2364 x 2364 in colour, tens of thousands of tokens. Codebooks keep to it too.
MOST_IMAGE_VALUES = 2**24
_MOST_MEMBERS = 1000
LARGEST_VALUE = 1e6  # float32 distances stay exact enough below it
# No EPS: Pillow would hand the file to Ghostscript.
PICTURE_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")
_GREY_MODES = ("1", "L", "LA", "I;16")
_CHUNK = 2**24
_ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images as they were read.

    Attributes:
        images_NxHxWxC: uint8, or float32 where the source has other numbers; C is 1 or 3.
        labels: of each image, as it stands in its token; None where the source has no labels.
        files: for a folder, each image's path below it; else None.
        notes: what a person should know about the reading, one line each.
    """

    images_NxHxWxC: np.ndarray
    labels: list[str] | None
    files: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images_NxHxWxC)


def read_images(
    path: str | Path,
    labels_path: str | Path | None = None,
    image_size: int | None = None,
    color: str = "auto",
    names: LabelNames | None = None,
) -> LabelledImages:
    """Read images and their labels; the kind of source is told by its content.

    Args:
        path: an IDX file (plain or .gz), an .npz with `images` NxHxW or NxHxWxC and perhaps
            `labels`, or a folder with one subfolder of pictures per class.
        labels_path: IDX file with the labels of an IDX file.
        image_size: resize the pictures of a folder to this many pixels a side, without
            keeping their proportions: nothing is cut off and nothing is added.
        color: read the pictures of a folder as "grey" or "rgb"; "auto" is rgb if any pixel of
            any picture has colour.
        names: takes in the labels; give the same for training and test images, which share their
            tokens.

    Raises:
        UserError: missing, damaged, oversized or contradictory files.
        SettingsError: options that the kind of source does not know.
    """
    path = Path(path)
    names = names or LabelNames()
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder (the images, --input)")
    if path.is_dir():
        if labels_path is not None:
            raise SettingsError(
                [f"{path} is a folder, whose subfolders name the classes: leave {labels_path} out"]
            )
        return _read_folder(path, names, image_size, color)
    if image_size is not None or color != "auto":
        raise SettingsError(
            [f"{path} is a file: --image_size and --color are for folders of pictures"]
        )
    with open_input(path) as handle:
        is_zip = handle.read(2) == b"PK"
    if is_zip:
        if labels_path is not None:
            raise SettingsError(
                [f"{path} is an .npz, which holds its own labels: leave {labels_path} out"]
            )
        return _read_npz_images(path, names)
    return _read_idx_images(path, None if labels_path is None else Path(labels_path), names)


# ------------------------------------------------------------------------------- IDX


def _read_idx_images(path: Path, labels_path: Path | None, names: LabelNames) -> LabelledImages:
    images = _read_idx(path)
    if images.ndim not in (3, 4):
        what = "labels" if images.ndim == 1 else f"{images.ndim} dimensions"
        raise UserError(f"{path}: expected images (3 or 4 dimensions), found {what}")
    images_NxHxWxC = _checked_images(path, images)
    if labels_path is None:
        return LabelledImages(images_NxHxWxC, None)
    if not os.path.exists(labels_path):
        raise UserError(f"{labels_path}: no such file (the labels)")
    labels = _read_idx(labels_path)
    if labels.ndim != 1:
        raise UserError(f"{labels_path}: expected labels (1 dimension), found {labels.ndim}")
    _check_counts(path, len(images), labels_path, len(labels))
    return LabelledImages(images_NxHxWxC, _named(labels.tolist(), labels_path, names))


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


def _parse_idx(path: Path, handle: IO[bytes]) -> np.ndarray:
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
    if not promised:  # beside a 0 the other sizes may be beyond any array
        raise UserError(f"{path}: no images or labels in it: its header says {shape_text}")
    if promised > MOST_BYTES:
        raise UserError(f"{path}: its header promises {shape_text} bytes; {_too_much()}")
    _check_image_count(path, shape[0])
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


# ------------------------------------------------------------------------------- .npz


def read_npz(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """All arrays of an .npz file by name; nothing is unpickled.

    Raises:
        UserError: no such file, not an .npz, damaged, or larger than `most_bytes` unpacked.
    """
    try:
        with open_input(path) as handle:
            if os.fstat(handle.fileno()).st_size > most_bytes:
                raise UserError(f"{path}: {_too_much(most_bytes)}")
            with zipfile.ZipFile(handle) as archive:
                members = archive.infolist()
                unpacked = sum(member.file_size for member in members)
                if unpacked > most_bytes or len(members) > _MOST_MEMBERS:
                    raise UserError(
                        f"{path}: {plural(len(members), 'array')} of {unpacked:,} bytes unpacked; "
                        f"{_too_much(most_bytes)}"
                    )
                for member in members:
                    _check_npy_header(archive, member)
            handle.seek(0)
            with np.load(handle, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen kinds on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: not a readable .npz file ({reason})") from None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise UserError(f"{path}: not a readable .npz file (a member is no array)")
    return arrays


def _check_npy_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Refuse an array whose header promises another size than the member has.

    numpy would give it the promised memory first; and items of no bytes could be any number.
    """
    with archive.open(member) as handle:
        version = np.lib.format.read_magic(handle)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(handle)
        rest = member.file_size - handle.tell()
    if dtype.hasobject:
        raise ValueError("an array of objects, which would have to be unpickled")
    if dtype.itemsize * math.prod(shape) != rest or (rest == 0 and math.prod(shape)):
        raise ValueError(
            f"{member.filename} promises shape {shape} of {dtype}, holds {rest:,} bytes"
        )


def _check_image_count(path: Path, count: int) -> None:
    if count > MOST_IMAGES:
        raise UserError(f"{path}: {count:,} images; at most {MOST_IMAGES:,} are read")


def _read_npz_images(path: Path, names: LabelNames) -> LabelledImages:
    arrays = read_npz(path)
    if "images" not in arrays:
        names = ", ".join(map(repr, arrays)) or "nothing"
        raise UserError(
            f"{path}: no array `images` (it has {names}); save it with "
            f"numpy.savez(path, images=..., labels=...)"
        )
    images_NxHxWxC = _checked_images(path, arrays["images"])
    if "labels" not in arrays:
        return LabelledImages(images_NxHxWxC, None)
    labels = arrays["labels"]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise UserError(
            f"{path}: `labels` must be one whole number or text per image, not "
            f"{labels.dtype} of shape {labels.shape}"
        )
    _check_counts(path, len(images_NxHxWxC), path, len(labels))
    if labels.dtype.kind == "U" and labels.dtype.itemsize:
        # numpy takes any 32 bits for a letter, and fails when it makes a text of them.
        letters = np.ascontiguousarray(labels).view(labels.dtype.byteorder + "u4")
        if letters.max(initial=0) > sys.maxunicode:
            raise UserError(f"{path}: `labels` holds letters that are no Unicode")
    return LabelledImages(images_NxHxWxC, _named(labels.tolist(), path, names))


def _checked_images(path: Path, images: np.ndarray) -> np.ndarray:
    """Images as uint8 or float32 of shape NxHxWxC; a missing channel axis is added."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype.kind not in "buif":
        raise UserError(
            f"{path}: images must be numbers of shape N x H x W or N x H x W x C with C = 1 "
            f"(grey) or 3 (rgb), not {images.dtype} of shape {images.shape}"
        )
    if 0 in images.shape:
        raise UserError(f"{path}: no images in it (shape {images.shape})")
    _check_image_count(path, len(images))
    if math.prod(images.shape[1:]) > MOST_IMAGE_VALUES:
        raise UserError(
            f"{path}: images of {images.shape[1]:,} x {images.shape[2]:,} pixels; one may have at "
            f"most {MOST_IMAGE_VALUES:,} values"
        )
    if images.dtype == np.uint8 or images.dtype == bool:
        return images.astype(np.uint8, copy=False)
    low, high = images.min(), images.max()
    if images.dtype.kind in "iu" and low >= 0 and high <= 255:
        return images.astype(np.uint8)
    if not (low >= -LARGEST_VALUE and high <= LARGEST_VALUE):  # also NaN and infinity
        raise UserError(
            f"{path}: pixel values from {low:g} to {high:g}; they must be finite and within "
            f"{LARGEST_VALUE:,.0f}: scale them, to 0..1 for example"
        )
    return images.astype(np.float32) + np.float32(0)  # + 0 turns -0.0 into 0.0


# ------------------------------------------------------------------------------- folders


def _read_folder(
    root: Path, names: LabelNames, image_size: int | None, color: str
) -> LabelledImages:
    from PIL import Image

    extensions = Image.registered_extensions()
    suffixes = {suffix for suffix, kind in extensions.items() if kind in _formats()}
    files, labels, notes = _list_pictures(root, suffixes, names)
    images_NxHxWxC = _load_pictures(files, image_size, color, notes)
    relative = [path.relative_to(root).as_posix() for path in files]
    # A file name may hold bytes that are no UTF-8; JSON cannot carry them.
    relative = [name.encode(errors="backslashreplace").decode() for name in relative]
    return LabelledImages(images_NxHxWxC, labels, relative, notes)


@cache
def _formats() -> list[str]:
    """The picture formats that this build of Pillow can read."""
    from PIL import Image

    Image.init()
    return [name for name in PICTURE_FORMATS if name in Image.OPEN]


def _list_pictures(
    root: Path, suffixes: set[str], names: LabelNames
) -> tuple[list[Path], list[str], list[str]]:
    """Picture files of each class folder in order of their names, their labels, and notes."""
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
            labels += [_label(folder.name, place, names)] * (len(files) - before)
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
    """Decode pictures into one array; two passes, so that headers are checked before pixels.

    Raises:
        UserError: unreadable pictures (the first named), different sizes, too many pixels.
    """
    problems: list[str] = []
    sizes: list[tuple[int, int]] = []
    grey_only = True
    with progress_bar("reading pictures", 2 * len(files), "file") as bar:
        for path in files:
            with _OpenedPicture(path, problems) as picture:
                if picture is not None:
                    width, height = picture.size
                    rotated = picture.getexif().get(_ORIENTATION) in _ROTATED
                    sizes.append((height, width) if rotated else (width, height))
                    grey_only &= picture.mode in _GREY_MODES
            bar.update()
        _refuse_unreadable(problems)
        width, height = _common_size(files, sizes, image_size, notes)
        channels = 1 if color == "grey" or (color == "auto" and grey_only) else 3
        shape = (len(files), height, width, channels)
        if math.prod(shape[1:]) > MOST_IMAGE_VALUES:
            raise UserError(
                f"{files[0].parent.parent}: pictures of {width:,} x {height:,} pixels; one may "
                f"have at most {MOST_IMAGE_VALUES:,} values: give a smaller --image_size"
            )
        if math.prod(shape) > MOST_BYTES:
            raise UserError(
                f"{files[0].parent.parent}: {len(files):,} pictures of {width}x{height} take "
                f"{math.prod(shape):,} bytes; {_too_much()} (or a smaller --image_size)"
            )
        images_NxHxWxC = np.empty(shape, np.uint8)
        for index, path in enumerate(files):
            with _OpenedPicture(path, problems) as picture:
                if picture is not None:
                    images_NxHxWxC[index] = _pixels(picture, (width, height), channels)
            bar.update()
        _refuse_unreadable(problems)
    if color == "auto" and channels == 3 and _is_grey(images_NxHxWxC):
        return images_NxHxWxC[..., :1].copy()
    return images_NxHxWxC


class _OpenedPicture:
    """Open a picture; whatever goes wrong inside the block becomes a line in `problems`."""

    def __init__(self, path: Path, problems: list[str]):
        self.path, self.problems, self.picture = path, problems, None
        self.opened = ExitStack()

    def __enter__(self) -> Any:
        from PIL import Image

        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.simplefilter("ignore")  # broken EXIF and the like: the pixels are what counts
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            handle = self.opened.enter_context(open_input(self.path))
            self.picture = Image.open(handle, formats=_formats())
        except Exception as error:
            self._note(error)
        return self.picture

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        if self.picture is not None:
            self.picture.close()
        self.opened.close()
        self.warnings.__exit__(None, None, None)
        if isinstance(error, Exception):
            self._note(error)
            return True
        return False

    def _note(self, error: Exception) -> None:
        from PIL import Image, UnidentifiedImageError

        if isinstance(error, UserError):
            self.problems.append(str(error))
            return
        if isinstance(error, UnidentifiedImageError):
            reason = "not a picture that Pillow can read"
        elif isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
            reason = "far too many pixels"
        else:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        self.problems.append(f"{self.path}: {reason}")


def _refuse_unreadable(problems: list[str]) -> None:
    if problems:
        more = len(problems) - 3
        rest = [f"... and {plural(more, 'more picture')}"] if more > 0 else []
        raise UserError("\n".join([*problems[:3], *rest, "mend or remove unreadable pictures"]))


def _common_size(
    files: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    image_size: int | None,
    notes: list[str],
) -> tuple[int, int]:
    """Width and height that all pictures get.

    Raises:
        UserError: different sizes without --image_size, naming two of the files.
    """
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


def _pixels(picture: Any, size: tuple[int, int], channels: int) -> np.ndarray:
    """Pixels of an open picture as uint8 HxWxC, upright, transparent parts over white."""
    from PIL import Image, ImageOps

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


# ------------------------------------------------------------------------------- shared


def _label(label: str | int, place: str, names: LabelNames) -> str:
    """The text of a label in its token.

    Raises:
        UserError: it is none, or takes the token of another.
    """
    try:
        return names.add(label, place)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None


def _named(labels: Sequence[str | int], path: Path, names: LabelNames) -> list[str]:
    """`_label` of each label of a file."""
    return [_label(label, f"{path}: label {i}", names) for i, label in enumerate(labels, 1)]


def _check_counts(path: Path, images: int, labels_path: Path, labels: int) -> None:
    if images != labels:
        raise UserError(
            f"{labels_path} has {plural(labels, 'label')} for {plural(images, 'image')} in "
            f"{path}: they do not belong together"
        )


def _too_much(most_bytes: int = MOST_BYTES) -> str:
    return f"at most {size_text(most_bytes)} are read: give fewer or smaller images"
