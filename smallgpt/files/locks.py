"""A folder held by one process alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from smallgpt.errors import UserError
from smallgpt.files.writing import make_folder, naming_file

LOCK = ".lock"


@contextmanager
def hold_folder(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder, which is made, for this process alone; the kernel frees it when that dies.

    Whoever holds it may delete its file `LOCK`.

    Args:
        folder: the folder.
        work: what is done in it, for the message.

    Raises:
        UserError: another process holds it.
    """
    import fcntl

    make_folder(folder)
    while True:
        with _open_own(folder / LOCK) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{folder}: another {work} uses this folder; wait for it or give another "
                    f"--output_dir"
                ) from None
            if os.path.exists(folder / LOCK) and os.path.samefile(handle.fileno(), folder / LOCK):
                yield
                return


def _open_own(path: Path) -> IO[bytes]:
    """Open a file of the run to append to it.

    Raises:
        UserError: a pipe stands in its place, which would have no end.
    """
    how = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    with naming_file(path):
        number = os.open(path, how, 0o666)
    if stat.S_ISFIFO(os.fstat(number).st_mode):
        os.close(number)
        raise UserError(f"{path}: a pipe stands where a run keeps a file: remove it")
    return open(number, "ab", buffering=0)
