"""Reading of untrusted files: plain files only, up to a limit; strict JSON; values in messages.

    value = parse_json(read_text(path, MOST_BYTES))
    raise UserError(f"{path}: the id of {shown(token)} is {shown(index)}, not a whole number")

A pipe would hang a command, a device never ends, and a small file can promise to become a large
one. So every reader of the toolkit opens through `open_input` and checks sizes before it takes
memory; each limit is a constant with its reason beside it.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from smallgpt.console import printable
from smallgpt.errors import UserError

# Deeper values are refused: parsing and writing them recurses, which Python ends at about 1000
# levels, wherever it happens to be. Nothing of ours is deeper than 5.
MOST_JSON_LEVELS = 64
_MOST_SHOWN = 60
_CHUNK = 2**20
# A JSON string, also an unterminated one; without backtracking, so in time linear in its length.
_JSON_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


@contextmanager
def open_input(path: str | Path) -> Iterator[BufferedReader]:
    """Open a plain file for reading bytes; symbolic links are followed.

    Raises:
        UserError: no such file, no permission, not a plain file, or a read error in the block.
    """
    try:
        # A pipe without a writer would block the opening itself.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    kind = os.fstat(number).st_mode
    if not stat.S_ISREG(kind):
        os.close(number)
        if stat.S_ISDIR(kind):
            raise UserError(f"{path}: is a folder, not a file")
        raise UserError(f"{path}: a pipe or device; write what it gives to a plain file first")
    try:
        with open(number, "rb") as handle:
            yield handle
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise  # not from reading this file: a damaged gzip, another file
        raise UserError(f"{path}: {error.strerror}") from None


def read_bytes(path: str | Path, most_bytes: int) -> bytes:
    """The content of a small file.

    Raises:
        UserError: as `open_input`, or the file is larger than `most_bytes`.
    """
    with open_input(path) as handle:
        # Python sets aside as much memory as it is asked to read, whatever is there.
        content = handle.read(min(os.fstat(handle.fileno()).st_size, most_bytes) + 1)
        while len(content) <= most_bytes and (more := handle.read(_CHUNK)):  # it grew meanwhile
            content += more
    if len(content) > most_bytes:
        raise UserError(f"{path}: larger than {size_text(most_bytes)}, which is the most read here")
    return content


def read_text(path: str | Path, most_bytes: int) -> str:
    """The content of a small UTF-8 file, without a byte order mark.

    Raises:
        UserError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start + 1})") from None


def size_text(count: int) -> str:
    """A limit in bytes as `64 KiB`, `16 MiB`, `2 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"


def contents(folder: Path) -> list[Path]:
    """The paths in a folder, sorted; none if there is no folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def first_bytes(path: Path) -> bytes:
    """The first 64 KiB of a plain file; nothing of anything else, since a pipe has no end."""
    if not path.is_file():
        return b""
    with open(path, "rb") as handle:
        return handle.read(2**16)


def same_file(path: str | Path, other: str | Path) -> bool:
    """Whether two paths name one file, however they are written."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there
        return False


# ------------------------------------------------------------------------------- JSON


def parse_json(text: str, most_values: int | None = None) -> Any:
    """A JSON value, stricter than `json.loads`: no NaN, no key twice, no deep nesting.

    More than `most_values` values, nested ones included, are refused before they take memory: a
    file of 64 MiB could have 30 million. None = no limit.

    Raises:
        ValueError: with the reason, in words for a person.
    """
    if most_values is not None and count_values(text) > most_values:
        raise ValueError(f"more than {most_values:,} values")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise ValueError(f"not valid JSON: {what} at character {error.pos + 1}") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    # Few values have so many brackets at all, and only they can be so deep.
    if text.count("[") + text.count("{") > MOST_JSON_LEVELS and _is_deep(value):
        raise ValueError("nested too deeply")
    return value


def count_values(text: str, starts: str = "[{,") -> int:
    """Upper bound of the values in a JSON text; of the objects with `starts="{"`."""
    bare = _JSON_STRING.sub("", text)
    return 1 + sum(bare.count(start) for start in starts)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_JSON_LEVELS):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(level)


def _pairs_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} stands twice in one object")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{shown(text)} is too large a number")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs_once, parse_constant=_refuse_constant, parse_float=_finite_float
)


# ------------------------------------------------------------------------------- libraries in Rust


@contextmanager
def rust_errors(path: str | Path, what: str) -> Iterator[None]:
    """Turn a panic of `tokenizers` or `safetensors`, which is no Exception, into one line.

    Rust has by then printed a line of its own to standard error, which cannot be kept back.

    Raises:
        UserError: the library panicked inside the block.
    """
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise UserError(f"{path}: {what} ({shown(str(error))})") from None


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust panicked; the class of its error cannot be imported."""
    return type(error).__name__ == "PanicException"


# ------------------------------------------------------------------------------- messages


def shown(value: Any) -> str:
    """A value for a message: one short, printable line."""
    if isinstance(value, str):
        text = repr(value[: _MOST_SHOWN + 1])  # never a copy of 100 MB
    else:
        try:
            text = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):  # not JSON, or nested to the limit
            text = f"a value of type {type(value).__name__}"
    text = text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
    return printable(text)
