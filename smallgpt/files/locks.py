"""File locks: a folder held by one process alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from smallgpt.errors import UserError
from smallgpt.files.writing import make_folder, open_to_append

LOCK = ".lock"


class FolderInUseError(UserError):
    """Another process holds a folder."""


def lock(handle: IO) -> bool:
    """Lock an open file until it is closed; False if another process holds the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def hold_folder(folder: Path, work: str) -> Iterator[None]:
    """Make a folder and lock it for this process; the kernel frees it when the process dies.

    `work` names the work in it, for the message. The holder may delete the file `LOCK`: whoever
    waits for the deleted one notices and opens a new one.

    Raises:
        FolderInUseError: another process holds it.
        UserError: its file system has no locks.
    """
    make_folder(folder)
    while True:
        with open_to_append(folder / LOCK) as handle:
            try:
                if not lock(handle):
                    raise FolderInUseError(
                        f"{folder}: another {work} uses this folder; wait for it or give another "
                        f"--output_dir"
                    )
            except OSError as error:
                raise UserError(
                    f"{folder}: its file system cannot lock files ({error.strerror}); give an "
                    f"--output_dir on another"
                ) from None
            # False where its holder deleted it after it was opened here.
            if os.path.exists(folder / LOCK) and os.path.samefile(handle.fileno(), folder / LOCK):
                yield
                return


@contextmanager
def hold_output(folder: Path, work: str) -> Iterator[None]:
    """`hold_folder` for one command: the lock file goes in the end, and so do new empty folders.

    Raises:
        UserError: as `hold_folder`, or something else than a folder has its name.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder as --output_dir")
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    with hold_folder(folder, work):
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                if not (folder / LOCK).lstat().st_size:  # nothing is ever written to ours
                    (folder / LOCK).unlink()
            for path in new:
                with suppress(OSError):  # not empty: the files are there
                    path.rmdir()
