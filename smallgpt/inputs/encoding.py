"""Text of files in UTF-8, or UTF-16 with a byte order mark; another encoding is told by name."""

from __future__ import annotations

import re
import shlex
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

from smallgpt.errors import UserError
from smallgpt.files.reading import read_bytes, shown

_ZIP = b"PK\x03\x04"
MOST_BYTES = 2**32  # of a file that is read as a whole: all but JSONL


def read_text_file(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        UserError: it cannot be read, or is in another encoding.
    """
    return decoded(read_bytes(path, MOST_BYTES), str(path))


def has_mark(content: bytes) -> bool:
    """Whether a content begins with a byte order mark."""
    return content.startswith((BOM_UTF8, BOM_UTF16_LE, BOM_UTF16_BE))


def decoded(content: bytes, source: str) -> str:
    """The text of a content, without a byte order mark; `source` names it in messages.

    Raises:
        UserError: it is in another encoding.
    """
    if content.startswith(_ZIP):
        raise UserError(f"{source}: a zip file or an Excel workbook; save its sheet as CSV")
    encoding = "utf-8-sig"
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise UserError(f"{source}: not UTF-16 text (byte {error.start + 1})") from None
        start = content.rfind(b"\n", 0, error.start) + 1
        end = content.find(b"\n", start)
        line = content[start : end if end >= 0 else None]
        number = content.count(b"\n", 0, start) + 1
        raise UserError(
            f"{source}:{number}: not UTF-8 text (byte {error.start - start + 1} of the line); "
            f"{remedy(line, source)}"
        ) from None


def remedy(line: bytes, source: str) -> str:
    """How to convert a file to UTF-8, of which `line` is not; with what that makes of the line."""
    # Bytes above ASCII come in pairs and more in Chinese text, alone in most European words.
    runs = re.findall(rb"[\x80-\xff]+", line)
    pairs = sum(len(run) > 1 for run in runs)
    encoding = "GB18030" if 2 * pairs > len(runs) else "WINDOWS-1252"
    text = line.decode(encoding, errors="replace").strip()
    command = f"iconv -f {encoding} -t UTF-8"
    if Path(source).is_file():
        command += f" {shlex.quote(source)} > utf8{Path(source).suffix}"
    return f"as {encoding} it reads {shown(text)}: convert it, for example: {command}"
