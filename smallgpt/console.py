"""What a person at the terminal sees: lines, errors, tables, durations, progress.

One word for one thing, in the whole package: `say` prints a line for a person (where a function
takes a parameter `say`, it is one that does, such as a run's log); `describe_...` returns the text
to say. `print` is left to the result that a command was asked for.

Foreign text (labels, tokens, file names) may hold what a terminal obeys. It is shown by `printable`
(a part of a line), `printable_lines` (whole texts) or `json_text` (the same value, escaped); `say`,
`print_error`, tables and the log of a run apply them by themselves.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
import unicodedata
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

# What a terminal obeys or what turns the order of letters around: controls but for line ends and
# tabs, overrides of the writing direction, halves of characters.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


# Standard outputs that can be written no more.
_GIVEN_UP: weakref.WeakSet[Any] = weakref.WeakSet()


def say(text: str) -> list[str]:
    """Print above a progress bar; where standard output takes no more, go on in silence.

    For work whose result is files: it must not die because its reader has left (`| head`), its
    terminal is gone or the disk behind `>` is full.

    Returns:
        a warning that standard output has just failed, for the log; else nothing.
    """
    from tqdm import tqdm  # here and below: --help answers without it

    stream = sys.stdout
    if stream is None or stream in _GIVEN_UP:
        return []
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = printable_lines(text)
    try:
        try:
            tqdm.write(text, file=stream)
        except UnicodeEncodeError:
            tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        _GIVEN_UP.add(stream)
        if isinstance(error, BrokenPipeError):
            return []
        reason = getattr(error, "strerror", None) or error
        line = f"warning: standard output: {reason}; the work goes on, and says no more there"
        print(line, file=forgiving(sys.stderr))
        return [line]
    return []


def has_given_up(stream: Any) -> bool:
    """Whether `say` has found that a stream takes no more."""
    return stream in _GIVEN_UP


def print_error(text: str) -> None:
    """Print a mistake to standard error, each line marked `error:`."""
    for line in printable_lines(text).splitlines() or [""]:
        print(f"error: {line}", file=forgiving(sys.stderr))


def command_hint(script: str, *words: str | Path) -> str:
    """A command for a person to type, its flags and values quoted for the shell."""
    return shlex.join(["python", script, *map(str, words)])


# ---- text ----------------------------------------------------------------------------


def printable(text: str) -> str:
    """Foreign text as a part of a line: what cannot be seen is written out, as in `\\x1b[31m`."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _written_out(letter) for letter in text)


def printable_lines(text: str) -> str:
    """Foreign text of many lines: what a terminal obeys is written out, line ends and tabs stay."""
    return _OBEYED.sub(lambda found: _written_out(found[0]), text)


def _written_out(letter: str) -> str:
    return ascii(letter)[1:-1]


def json_text(value: Any) -> str:
    """`value` as one line of JSON that standard output can show.

    Where its encoding lacks a letter, JSON's own escape stands for it: what Python writes out in
    its place, such as `\\xe9`, is no JSON.
    """
    encoding = getattr(sys.stdout, "encoding", None) or ""
    text = json.dumps(value, ensure_ascii=encoding.lower() not in ("utf-8", "utf8"))
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def text_width(text: str) -> int:
    """Columns that a text takes on a terminal: Chinese characters two, combining marks none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.category(letter) in ("Mn", "Me") for letter in text)


def shorten(text: str, columns: int, mark: str = "...") -> str:
    """A text of about so many columns; of a long one both ends stay, it may differ in either."""
    if text_width(text) <= columns:
        return text
    ends = []
    for letters in (text, text[::-1]):
        room, count = columns // 2, 0
        for letter in letters:
            room -= text_width(letter)
            if room < 0:
                break
            count += 1
        ends.append(letters[:count])
    return f"{ends[0]}{mark}{ends[1][::-1]}"


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `42 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 row`, `1,437 rows`; `nouns` where the plural is not noun + s."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def format_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)
) -> str:
    """A table in plain text; the columns `left` are left-aligned, the others right-aligned.

    Cells may hold anything, see `printable`.
    """
    lines = [[printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(text_width(line[column]) for line in lines) for column in range(len(header))]

    def padded(cell: str, column: int) -> str:
        space = " " * (widths[column] - text_width(cell))
        return cell + space if column in left else space + cell

    return "\n".join(
        "  ".join(padded(cell, column) for column, cell in enumerate(line)).rstrip()
        for line in lines
    )


def share_bar(share: float, width: int, blocks: bool) -> str:
    """A share from 0 to 1 as a bar of `width` characters; `blocks` where they can be shown."""
    filled = round(share * width)
    full, empty = ("█", "░") if blocks else ("#", ".")
    return full * filled + empty * (width - filled)


def can_show_blocks(stream: TextIO) -> bool:
    """Whether the encoding of a stream has the characters of `share_bar`."""
    try:
        "█░".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def progress_bar(description: str, total: int, unit: str, initial: int = 0) -> tqdm:
    """A tqdm bar with rate and time left on standard error; silent where that is no terminal."""
    from tqdm import tqdm

    try:
        has_width = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):
        has_width = False
    return tqdm(
        total=total,
        initial=initial,
        desc=printable(description),
        unit=unit,
        unit_scale=total >= 10_000,
        file=forgiving(sys.stderr),
        disable=None,
        leave=False,
        # A terminal that does not know its width (`script`, some containers) would get no bar.
        dynamic_ncols=has_width,
        ncols=None if has_width else 80,
        delay=0.5,
    )


# ---- streams -------------------------------------------------------------------------


class _Wrapped:
    """A text stream that is another one but for how it fails."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __eq__(self, other: object) -> bool:  # tqdm asks whether a bar is on standard error
        return self is other or self._stream is other

    def __hash__(self) -> int:
        return hash(self._stream)


class _Forgiving(_Wrapped):
    """For a person alone: what cannot be written is dropped, and ends no work."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self._stream.isatty()
        return False


class NamedStream(_Wrapped):
    """Its errors have a name, as those of files have."""

    def __init__(self, stream: TextIO, name: str):
        super().__init__(stream)
        self._name = name

    def write(self, text: str) -> int:
        with self._naming():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._naming():
            self._stream.flush()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = self._name
            raise


def forgiving(stream: TextIO | None) -> Any:
    """`stream` as one that drops what cannot be written; None, a missing one, takes nothing."""
    if stream is None:
        stream = io.StringIO()
    return stream if isinstance(stream, _Forgiving) else _Forgiving(stream)
