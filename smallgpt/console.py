"""Terminal output: lines, errors, tables, durations, progress bars, escaping of foreign text.

`say` prints a line for a person (a parameter named `say` is such a function, a run's log for
example); `describe_...` returns text to say; `print` is left to the result of a command.

Foreign text (labels, tokens, file names) may hold control characters. `printable` escapes them in
part of a line, `printable_lines` in whole texts, `json_text` in JSON; `say`, `print_error`, tables
and the log of a run do so by themselves.
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

from smallgpt.distribution import script_call

if TYPE_CHECKING:
    from tqdm import tqdm

# What controls a terminal or reorders letters: control characters except line ends and tabs,
# overrides of the writing direction, lone surrogates.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


# Standard outputs that can no longer be written.
_GIVEN_UP: weakref.WeakSet[Any] = weakref.WeakSet()


def say(text: str) -> list[str]:
    """Print a line above a progress bar; where standard output fails, go on in silence.

    Work whose result is files must not die because its reader has left (`| head`), its terminal is
    gone or the disk behind `>` is full. Returns the warning printed at the failure, for the log.
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
    """Whether `say` found that a stream can no longer be written."""
    return stream in _GIVEN_UP


def print_error(text: str) -> None:
    """Print to standard error, each line marked `error:`."""
    for line in printable_lines(text).splitlines() or [""]:
        print(f"error: {line}", file=forgiving(sys.stderr))


def command_hint(script: str, *words: str | Path) -> str:
    """A command for the user to type, quoted for the shell."""
    return shlex.join([*script_call(script), *map(str, words)])


# ---- text ----------------------------------------------------------------------------


def printable(text: str) -> str:
    """Foreign text as part of a line: invisible characters are escaped, as in `\\x1b[31m`."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _written_out(letter) for letter in text)


def printable_lines(text: str) -> str:
    """Foreign text of many lines: control characters are escaped, line ends and tabs stay."""
    return _OBEYED.sub(lambda found: _written_out(found[0]), text)


def _written_out(letter: str) -> str:
    return ascii(letter)[1:-1]


def json_text(value: Any) -> str:
    """`value` as JSON on one line; what standard output cannot encode is escaped as JSON has it."""
    encoding = getattr(sys.stdout, "encoding", None) or ""
    # Python itself would write an escape of its own, such as \xe9, which is not JSON.
    text = json.dumps(value, ensure_ascii=encoding.lower() not in ("utf-8", "utf8"))
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def text_width(text: str) -> int:
    """Columns of a text on a terminal: Chinese characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.category(letter) in ("Mn", "Me") for letter in text)


def shorten(text: str, columns: int, mark: str = "...") -> str:
    """A text cut to about `columns` columns; both ends stay, since texts may differ in either."""
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
    """Seconds as `0.4 s`, `42 s`, `3 min 05 s` or `2 h 07 min`."""
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
    """A plain-text table: the columns `left` are left-aligned, others right; cells are escaped."""
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
    """A share from 0 to 1 as a bar of `width` characters, of ASCII unless `blocks`."""
    filled = round(share * width)
    full, empty = ("█", "░") if blocks else ("#", ".")
    return full * filled + empty * (width - filled)


def can_show_blocks(stream: TextIO) -> bool:
    """Whether the encoding of a stream has the block characters of `share_bar`."""
    try:
        "█░".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def progress_bar(description: str, total: int, unit: str, initial: int = 0) -> tqdm:
    """A tqdm bar on standard error with rate and time left; silent if that is no terminal."""
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
    """Passes everything on to another text stream; subclasses treat errors differently."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __eq__(self, other: object) -> bool:  # tqdm asks whether a bar is on standard error
        return self is other or self._stream is other

    def __hash__(self) -> int:
        return hash(self._stream)


class _Forgiving(_Wrapped):
    """Ignores write errors: what is only for a person must not end the work."""

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
    """A stream whose errors carry a file name, as those of files do."""

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
    """`stream` with write errors ignored; None (closed by the caller) takes nothing."""
    if stream is None:
        stream = io.StringIO()
    return stream if isinstance(stream, _Forgiving) else _Forgiving(stream)
