"""Reading of untrusted .npz files, without unpickling."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path

import numpy as np

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.reading import open_input, size_text

_MOST_MEMBERS = 1000


def read_npz(path: Path, most_bytes: int, remedy: str = "") -> dict[str, np.ndarray]:
    """All arrays of an .npz file, by name.

    `most_bytes` limits the file, and its arrays together; `remedy` ends the message for a larger
    one, such as ": give fewer images".

    Raises:
        UserError: no such file, not an .npz, damaged, or larger than `most_bytes` unpacked.
    """
    limit = f"at most {size_text(most_bytes)} are read{remedy}"
    try:
        with open_input(path) as handle:
            if os.fstat(handle.fileno()).st_size > most_bytes:
                raise UserError(f"{path}: {limit}")
            with zipfile.ZipFile(handle) as archive:
                members = archive.infolist()
                unpacked = sum(member.file_size for member in members)
                if unpacked > most_bytes or len(members) > _MOST_MEMBERS:
                    raise UserError(
                        f"{path}: {plural(len(members), 'array')} of {unpacked:,} bytes unpacked; "
                        f"{limit}"
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
    """Refuse a header that promises another size: numpy would allocate it before reading."""
    with archive.open(member) as handle:
        version = np.lib.format.read_magic(handle)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(handle)
        rest = member.file_size - handle.tell()
    if dtype.hasobject:
        raise ValueError("an array of objects, which would have to be unpickled")
    items: int = math.prod(shape)
    # Items of no bytes could be any number of them.
    if dtype.itemsize * items != rest or (rest == 0 and items):
        raise ValueError(
            f"{member.filename} promises shape {shape} of {dtype}, holds {rest:,} bytes"
        )
