"""Damage to a sound file, and files made up, as an attacker would write them."""

from __future__ import annotations

import json
import re
import struct
from random import Random
from typing import Any

from hostile.reader import Reader

NUMBERS = (
    "0", "-1", "1", "2", "3.5", "true", "null", '""', "NaN", "-Infinity", "1e999", "1e308",
    str(2**31), str(2**63), str(-(2**63)), "9" * 30, "9" * 5000, "[]", "{}", '"x"', "0x7f",
    "1e-320",
)  # fmt: skip
BYTES = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\r\n", b"\r", b"\n", b"\x85",
    b"\xe2\x80\xa8", b'"', b"{", b"[" * 80, b"[" * 3000, b"]", b"}", b":", b",", b"\\ud800",
    b"\\u0000",
    b"&a ", b"*a", b"!!python/name:os.system ", b"<<: ", b"? ", b"- " * 50, b"\xf0\x9f\x98\x80",
)  # fmt: skip


def hostile_content(reader: Reader, random: Random) -> bytes:
    kind = random.randrange(10)
    if kind == 0:
        return made_up(reader, random)
    content = reader.sound()
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        content = random.choice(DAMAGES)(content, random, reader)
    return content


def made_up(reader: Reader, random: Random) -> bytes:
    """Random JSON that uses the format's words, or random bytes."""
    if random.randrange(4) == 0:
        return bytes(random.randrange(256) for _ in range(random.randrange(40)))
    lines = [json.dumps(_value(reader, random, 3)) for _ in range(random.choice((1, 1, 3)))]
    return "\n".join(lines).encode()


def _value(reader: Reader, random: Random, depth: int) -> Any:
    kind = random.randrange(9 if depth else 6)
    words = reader.words or ("a",)
    if kind == 0:
        return random.choice((None, True, False, 0, 1, -1, 2.5, 2**31, 2**70, 10**30, 1e308))
    if kind == 1:
        return random.randrange(12)
    if kind in (2, 3):
        return random.choice(words)
    if kind == 4:
        return " ".join(random.choice(words) for _ in range(random.randrange(8)))
    if kind == 5:
        return random.choice(("", " ", "\0", "\ud800", "x" * 2000, "猫", "$\\frac$", "-", "a\nb"))
    if kind == 6:
        return [_value(reader, random, depth - 1) for _ in range(random.randrange(5))]
    return {
        random.choice(words): _value(reader, random, depth - 1) for _ in range(random.randrange(6))
    }


def _span(content: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice((1, 1, 2, 4, 8, 30, 200)))


def _flip(content: bytes, random: Random, _: Reader) -> bytes:
    if not content:
        return b"\1"
    place = random.randrange(len(content))
    flipped = content[place] ^ (1 << random.randrange(8))
    return content[:place] + bytes([flipped]) + content[place + 1 :]


def _cut(content: bytes, random: Random, _: Reader) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _delete(content: bytes, random: Random, _: Reader) -> bytes:
    start, end = _span(content, random)
    return content[:start] + content[end:]


def _repeat(content: bytes, random: Random, _: Reader) -> bytes:
    start, end = _span(content, random)
    return content[:end] + content[start:end] * random.choice((1, 2, 20)) + content[end:]


def _move(content: bytes, random: Random, _: Reader) -> bytes:
    start, end = _span(content, random)
    place = random.randrange(len(content) + 1)
    return content[:place] + content[start:end] + content[place:]


def _insert(content: bytes, random: Random, reader: Reader) -> bytes:
    start, end = _span(content, random)
    word = (
        random.choice(reader.words).encode() if reader.words and random.randrange(3) == 0 else None
    )
    end = random.choice((start, end))
    return content[:start] + (word or random.choice(BYTES)) + content[end:]


def _overwrite(content: bytes, random: Random, _: Reader) -> bytes:
    start, _ = _span(content, random)
    number = random.choice((0, 1, 255, 2**16, 2**31, 2**32 - 1))
    packed = struct.pack(random.choice("<>") + "I", number)
    return content[:start] + packed + content[start + 4 :]


def _number(content: bytes, random: Random, _: Reader) -> bytes:
    """Another value where a number, a text or a word of JSON or YAML stands."""
    found = [*re.finditer(rb'-?\d[\d.e+-]*|"(?:[^"\\]|\\.)*"|true|false|null|gelu', content)]
    if not found:
        return content
    match = found[random.randrange(len(found))]
    return content[: match.start()] + random.choice(NUMBERS).encode() + content[match.end() :]


DAMAGES = (_flip, _cut, _delete, _repeat, _move, _insert, _overwrite, _number, _number, _number)
