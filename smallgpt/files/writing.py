"""Atomic writing: a file or folder is written beside its place, synced, and renamed when whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from smallgpt.errors import UserError
from smallgpt.files.reading import contents


@contextmanager
def naming_file(path: str | Path) -> Iterator[None]:
    """Give a system error the file's name, which a write to an open file leaves out."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file beside `path`; on success sync it and rename it, on an error change nothing."""
    path = Path(path)
    make_folder(path.parent)
    temporary = _name_beside(path)
    try:
        encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
        with naming_file(path):
            with open(temporary, mode, encoding=encoding, newline=newline) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def json_line(value: Any, indent: int | None = None) -> str:
    """`value` as JSON and a line end; escaped if it has a lone surrogate, which is no UTF-8."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False, indent=indent)
    return text + "\n"


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as handle:
        handle.write(text)


def write_json(path: str | Path, value: Any, most_levels: int | None = None) -> None:
    """Write `value` as indented JSON, atomically; what is deeper than `most_levels` in one line.

    Raises:
        ValueError: `value` holds NaN or infinity.
    """
    write_text(path, _indented(value, most_levels) + "\n")


def _indented(value: Any, levels: int | None, margin: str = "") -> str:
    if levels is None or levels == 0 or not value or not isinstance(value, (dict, list)):
        return json_line(value, indent=2 if levels is None else None).removesuffix("\n")
    inner = margin + "  "
    if isinstance(value, dict):
        parts = [
            f"{_indented(key, 0)}: {_indented(item, levels - 1, inner)}"
            for key, item in value.items()
        ]
    else:
        parts = [_indented(item, levels - 1, inner) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(parts) + f"\n{margin}{closing}"


@contextmanager
def folder_beside(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, to rename files from; it is deleted in the end."""
    path = Path(path)
    make_folder(path.parent)
    temporary = _name_beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with naming_file(path):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success sync its files and rename it to `path`.

    Raises:
        FileExistsError: `path` exists already.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    with folder_beside(path) as new:
        yield new
        for place in [*new.rglob("*"), new]:
            sync(place)
        os.rename(new, path)
        sync(path.parent)


def open_to_append(path: Path) -> IO[bytes]:
    """Open a file to append bytes; it is made if missing.

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


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, durably: the folder that holds a new one is synced too."""
    path, missing = Path(path), []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Make a file durable, or the names in a folder (a rename is safe once its folder is)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with naming_file(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def replace_files(source: Path, target: Path, names: Sequence[str]) -> None:
    """Make files of `source` durable and move them to `target`, in the order of `names`."""
    for name in names:
        sync(source / name)
    for name in names:
        os.replace(source / name, target / name)
    sync(target)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there; a folder by one rename, so never seen half."""
    if path.is_dir() and not path.is_symlink():
        with folder_beside(path) as grave:
            os.rename(path, grave / path.name)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, own: re.Pattern) -> None:
    """Delete temporary files of killed processes; only those for names that match `own`."""
    for path in contents(folder):
        name = re.fullmatch(r"\.(.+)\.\d+\.tmp", path.name)
        if name is None or own.fullmatch(name[1]) is None:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _name_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
