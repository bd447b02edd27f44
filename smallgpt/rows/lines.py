"""Reads the lines of a JSONL file, each at most 16 MiB long."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Any

from smallgpt.console import progress_bar
from smallgpt.files.reading import open_input, parse_json, size_text

# Parsing takes up to 30 times the size in memory (a line of nothing but {"":0},{"":0},...). This
# many bytes hold about a million tokens, more than a row of any model here.
MOST_LINE_BYTES = 2**24


def read_json_lines(
    path: Path, content: Any = None, only: Container[int] | None = None
) -> Iterator[tuple[int, Any, str | None]]:
    """Each line of a JSONL file as (line number, value, problem); blank lines are skipped.

    The value is None where there is a problem: not UTF-8, not JSON, NaN, a key given twice.
    `content`, where given, is a hashlib digest that is updated with the bytes read. `only`: the
    lines that are asked for; the others are not parsed.

    Raises:
        UserError: no such file, or not a plain file that can be read.
    """
    with open_input(path) as handle:
        yield from json_lines_of(
            handle, path.name, os.fstat(handle.fileno()).st_size, content, only
        )


def json_lines_of(
    handle: IO[bytes],
    name: str,
    size: int,
    content: Any = None,
    only: Container[int] | None = None,
) -> Iterator[tuple[int, Any, str | None]]:
    """`read_json_lines` of a file that is open; `name` and `size` in bytes are for its progress."""
    with progress_bar(f"reading {name}", size, "B") as bar:
        waiting = 0
        for line, (raw, length) in enumerate(_bounded_lines(handle, content), 1):
            waiting += length
            if waiting > 1_000_000:
                bar.update(waiting)
                waiting = 0
            if only is not None and line not in only:
                continue
            if line == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if length > MOST_LINE_BYTES:
                yield line, None, f"longer than {size_text(MOST_LINE_BYTES)}, the most for a line"
                continue
            if raw.isspace() or not raw:
                continue
            try:
                yield line, parse_json(raw.decode()), None
            except UnicodeDecodeError as error:
                yield line, None, f"not UTF-8 text (byte {error.start + 1} of the line)"
            except ValueError as error:
                yield line, None, str(error)


def _bounded_lines(handle: IO[bytes], content: Any) -> Iterator[tuple[bytes, int]]:
    """Each line and its length in bytes; of a line that is too long only the first bytes."""
    while raw := handle.readline(MOST_LINE_BYTES + 1):
        if content is not None:
            content.update(raw)
        length = len(raw)
        if length > MOST_LINE_BYTES:
            part = raw
            while part and not part.endswith(b"\n"):
                part = handle.readline(MOST_LINE_BYTES)
                if content is not None:
                    content.update(part)
                length += len(part)
        yield raw, length
