"""Cache of parsed rows, beside their file, so that reading them again takes next to no time.

    cache = RowCache(path, settings)
    kept = cache.load()
    if kept is None:
        ...  # read the file, all its bytes through `content = new_digest()`
        cache.store(content.hexdigest(), arrays, facts)

The entry of `data/train.jsonl` is `data/.cache/train.jsonl.rows.safetensors`. It is valid only for
the same content of the file, the same settings and the same code; anything else, damage included,
counts as no entry, and the next `store` replaces it. The folder may be deleted at any time.

The array `facts` of an entry holds JSON, whatever else there is to know. Its metadata is one text,
JSON too:

    key      digest of settings, code and Python version
    content  digest of the file's content
    digest   digest of the entry without these 64 letters
    arrays   names of the other arrays, in their order
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from smallgpt.console import progress_bar, say
from smallgpt.errors import UserError
from smallgpt.files.locks import LOCK, lock
from smallgpt.files.reading import open_input
from smallgpt.files.writing import atomic_write, remove_leftovers

FOLDER = ".cache"
_SUFFIX = ".rows.safetensors"
_ENTRY = re.compile(r".+\.rows(\.safetensors)?")
# Bytes; a smaller file is read in less time than a person notices.
SMALLEST_FILE = 1_000_000
PACKAGE = Path(__file__).parents[1]
# An entry takes at most five times its file: 53 bytes and the tokens of a row whose line has 20.
_MOST_TIMES_LARGER = 16
_DIGEST = 32
_NO_DIGEST = "0" * 2 * _DIGEST
_METADATA, _FACTS = "entry", "facts"
_CHUNK = 1 << 20
# Raised by parsing a file that is no entry.
_NO_ENTRY = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
_DTYPES = {"BOOL": "?", "I8": "i1", "U8": "u1", "U16": "u2", "I32": "i4", "U32": "u4", "I64": "i8"}


def program() -> list[str]:
    """Paths in the package of the code that decides what reading gives."""
    files = [*PACKAGE.glob("rows/*.py"), *PACKAGE.glob("tokens/*.py"), PACKAGE / "files/reading.py"]
    return sorted(file.relative_to(PACKAGE).as_posix() for file in files)


def new_digest() -> hashlib.blake2b:
    """An empty digest of a file's content (BLAKE2b is fast on any CPU)."""
    return hashlib.blake2b(digest_size=_DIGEST)


class RowCache:
    """The cache entry of one file of rows, read with certain settings."""

    def __init__(self, source: Path, settings: dict[str, Any]):
        """`settings`: all besides the file that decides what reading gives, ready for JSON."""
        self.source = source
        self.path = source.parent / FOLDER / f"{source.name}{_SUFFIX}"
        key = new_digest()
        how = [settings, sys.version, sys.byteorder, version("tokenizers")]
        key.update(json.dumps(how).encode())
        # Any change of the code invalidates all entries: there is no version to forget to raise.
        for name in program():
            key.update((PACKAGE / name).read_bytes())
        self.key = key.hexdigest()

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The arrays and facts of the entry; None without a valid entry."""
        try:
            most = _MOST_TIMES_LARGER * max(os.path.getsize(self.source), SMALLEST_FILE)
            with open_input(self.path) as handle:
                size = os.fstat(handle.fileno()).st_size
                if size > most:
                    return None
                entry = bytearray(size)
                handle.readinto(entry)
            head, end = head_of(entry)
            about = json.loads(head.pop("__metadata__")[_METADATA])
            if about["key"] != self.key or about["content"] != _content_of(self.source):
                return None
            if about["digest"] != digest_of(entry, entry.index(about["digest"].encode())):
                return None
            # From here on every byte was written by `store` of this very code, or forged. The
            # arrays share the entry's memory; safetensors would copy each of them.
            arrays = {
                name: np.frombuffer(
                    memoryview(entry)[end:][slice(*each["data_offsets"])], _DTYPES[each["dtype"]]
                )
                for name, each in head.items()
            }
            facts = json.loads(arrays[_FACTS].tobytes())
            return {name: arrays[name] for name in about["arrays"]}, facts
        except (OSError, UserError, *_NO_ENTRY):
            return None

    def store(self, content: str, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Replace the entry; where that fails, print one line and go on without.

        `content` is the digest of the bytes that were read; the file may have changed since.
        `arrays` are flat; `facts` is whatever else there is to know, ready for JSON.
        """
        about = {
            "key": self.key,
            "content": content,
            "digest": _NO_DIGEST,
            "arrays": list(arrays),
        }
        flat = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        flat[_FACTS] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        entry = save(flat, {_METADATA: json.dumps(about)})
        place = entry.index(_NO_DIGEST.encode())
        folder = self.path.parent
        try:
            folder.mkdir(exist_ok=True)
            with open(folder / LOCK, "a+") as holder:
                if not lock(holder):
                    return  # another process writes here, usually the same entry
                remove_leftovers(folder, _ENTRY)  # of processes that died: the lock is ours
                with atomic_write(self.path, "wb") as handle:
                    handle.write(entry[:place])
                    handle.write(digest_of(entry, place).encode())
                    handle.write(memoryview(entry)[place + len(_NO_DIGEST) :])
                earlier = self.path.with_suffix("")  # of versions with another format
                if earlier.is_file():
                    earlier.unlink()
        except OSError as error:
            say(f"{self.source}: will be read anew next time: {folder}: {error.strerror}")


def head_of(entry: bytes | bytearray) -> tuple[Any, int]:
    """The header of a safetensors file and where it ends; raises `_NO_ENTRY` for other files."""
    end = 8 + int.from_bytes(entry[:8], "little")
    return json.loads(entry[8:end]), end


def digest_of(entry: bytes | bytearray, place: int) -> str:
    """Digest of an entry's bytes without its own digest, which begins at `place`."""
    digest, view = new_digest(), memoryview(entry)
    digest.update(view[:place])
    digest.update(view[place + len(_NO_DIGEST) :])
    return digest.hexdigest()


def _content_of(path: Path) -> str:
    digest = new_digest()
    chunk = bytearray(_CHUNK)
    view = memoryview(chunk)
    with (
        open_input(path) as handle,
        progress_bar(f"comparing {path.name}", os.path.getsize(path), "B") as bar,
    ):
        while count := handle.readinto(chunk):
            digest.update(view[:count])
            bar.update(count)
    return digest.hexdigest()
