"""Rows read once, kept beside their file, so that reading them again takes next to no time.

    cache = RowCache(path, settings)  # settings: all that decides what reading the file gives
    kept = cache.load()
    if kept is None:
        ...  # read the file, all its bytes through `content = new_digest()`
        cache.store(content.digest(), arrays, facts)

What was read from `data/train.jsonl` lies in `data/.cache/train.jsonl.rows`, one entry a file. It
counts only for the same bytes in the file, the same settings and the same program; anything else,
damage included, is as good as no entry, and the next `store` replaces it. The folder may be deleted
at any time.

    32 bytes  key: settings, program and Python
    32 bytes  digest of the file's content
    32 bytes  digest of the two above and of all that follows
    one line of JSON: {"facts": ..., "arrays": [[name, dtype, entries], ...]}
    the arrays' bytes, each array from a multiple of 64 bytes on
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.console import progress_bar, say
from smallgpt.errors import UserError
from smallgpt.files.reading import open_input
from smallgpt.files.writing import atomic_write, remove_leftovers

_ENTRY = re.compile(r".+\.rows")
FOLDER = ".cache"
# A smaller file is read in less time than a person notices.
SMALLEST_FILE = 1_000_000
# The program: what reads a file.
PROGRAM = (
    "rows/reading.py",
    "rows/dataset.py",
    "rows/builder.py",
    "rows/row.py",
    "rows/lines.py",
    "rows/label_tail.py",
    "rows/groups.py",
    "tokens/vocabulary.py",
    "tokens/labels.py",
    "tokens/text_tokenizer.py",
    "tokens/instruction_template.py",
    "files/reading.py",
    "rows/cache.py",
)
# An entry takes at most five times its file: 53 bytes and the tokens of a row whose line has 20.
_MOST_TIMES_LARGER = 16
_DIGEST = 32
_ALIGNMENT = 64
_CHUNK = 1 << 20


def new_digest() -> hashlib.blake2b:
    """An empty digest of a file's content (BLAKE2b is fast on any CPU)."""
    return hashlib.blake2b(digest_size=_DIGEST)


class RowCache:
    """What reading one file with certain settings gave.

    Attributes:
        source: the file of rows.
        path: where its entry lies.
        key: digest of the settings and of the program.
    """

    def __init__(self, source: Path, settings: dict[str, Any]):
        """
        Args:
            source: the file of rows.
            settings: all that decides what reading gives besides the file, ready for JSON.
        """
        self.source = source
        self.path = source.parent / FOLDER / f"{source.name}.rows"
        key = new_digest()
        how = [settings, sys.version, sys.byteorder, version("tokenizers")]
        key.update(json.dumps(how).encode())
        # Any change of the code that reads makes all entries stale: no number to forget to raise.
        for name in PROGRAM:
            key.update((Path(__file__).parents[1] / name).read_bytes())
        self.key = key.digest()

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The arrays and facts of the entry, None where there is none to be trusted."""
        try:
            with open_input(self.path) as handle:
                if handle.read(_DIGEST) != self.key:
                    return None
                content = handle.read(_DIGEST)
                size = os.fstat(handle.fileno()).st_size
                most = _MOST_TIMES_LARGER * max(os.path.getsize(self.source), SMALLEST_FILE)
                if size > most or content != _content_of(self.source):
                    return None
                digest = handle.read(_DIGEST)
                rest = bytearray(max(0, size - handle.tell()))
                handle.readinto(rest)
        except (OSError, UserError):
            return None
        if digest != _digest_of(self.key, content, [rest]):
            return None
        # From here on every byte is what `store` of this very program wrote, or somebody forged it.
        try:
            end = rest.index(b"\n") + 1
            head = json.loads(rest[:end])
            arrays = {}
            for name, kind, entries in head["arrays"]:
                start = end + -end % _ALIGNMENT
                arrays[name] = np.frombuffer(rest, kind, entries, start)
                end = start + arrays[name].nbytes
            return arrays, head["facts"]
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            return None

    def store(self, content: bytes, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Replace the entry. Where that cannot be done, say so in one line and go on without.

        Args:
            content: digest of the bytes that were read, which need no longer be the file's.
            arrays: flat arrays of numbers by name.
            facts: whatever else there is to know, ready for JSON.
        """
        import fcntl

        parts = list(_parts(arrays, facts))
        folder = self.path.parent
        try:
            folder.mkdir(exist_ok=True)
            with open(folder / ".lock", "a+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_leftovers(folder, _ENTRY)  # nobody else writes: of processes that died
                with atomic_write(self.path, "wb") as handle:
                    handle.write(self.key + content + _digest_of(self.key, content, parts))
                    for part in parts:
                        handle.write(part)
        except BlockingIOError:
            return  # another process is writing here, as a rule the same entry
        except OSError as error:
            say(f"{self.source}: will be read anew next time: {folder}: {error.strerror}")


def _parts(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Iterator[bytes | np.ndarray]:
    """The bytes of an entry after its digests."""
    listed = [[name, values.dtype.str, len(values)] for name, values in arrays.items()]
    head = json.dumps({"facts": facts, "arrays": listed}).encode() + b"\n"
    yield head
    end = len(head)
    for values in arrays.values():
        yield bytes(-end % _ALIGNMENT)
        yield np.ascontiguousarray(values).view(np.uint8)
        end += -end % _ALIGNMENT + values.nbytes


def _digest_of(key: bytes, content: bytes, parts: list[Any]) -> bytes:
    digest = new_digest()
    for part in (key, content, *parts):
        digest.update(part)
    return digest.digest()


def _content_of(path: Path) -> bytes:
    """Digest of a file's bytes."""
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
    return digest.digest()
