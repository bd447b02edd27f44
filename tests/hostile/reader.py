"""A reader of untrusted files, and what a test asks of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallgpt.errors import UserError


@dataclass(frozen=True)
class Reader:
    """One reader of files.

    Attributes:
        file: path of the hostile file, in a folder of the reader's own.
        sound: content that reads well; what is damaged.
        read: reads the folder, and uses what it read as a command would.
        wrap: makes the file of the (damaged) content: compresses it, corrects a length.
        beside: sound files that go with it, by name.
        words: strings with a meaning in this format.
        slow: too slow for many tries in the suite.
        names_file: whether every error names the folder; contradictions of settings do not.
    """

    name: str
    file: str
    sound: Callable[[], bytes]
    read: Callable[[Path], Any]
    wrap: Callable[[bytes], bytes] = bytes
    beside: Callable[[], dict[str, bytes]] = dict
    words: tuple[str, ...] = ()
    slow: bool = False
    names_file: bool = True

    def prepare(self, folder: Path) -> None:
        """Write the sound files that go with the hostile one."""
        for name, content in self.beside().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        (folder / self.file).parent.mkdir(parents=True, exist_ok=True)

    def try_content(self, folder: Path, content: bytes) -> bool:
        """Whether hostile content is read in a folder of `prepare`; False if properly refused.

        Raises:
            AssertionError: the error is long or does not name the file.
            Exception: any other error of the reader, which is a bug.
        """
        (folder / self.file).write_bytes(self.wrap(content))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of numpy about values that then are refused
                self.read(folder)
        except UserError as error:
            lines = str(error).splitlines()
            assert 1 <= len(lines) <= 25, f"{len(lines)} lines: {lines[:3]}"
            assert max(map(len, lines)) < 700, f"a line of {max(map(len, lines))} letters"
            assert not self.names_file or str(folder) in str(error), f"no file named: {error}"
            return False
        return True


def folder_reader(
    name: str,
    file: str,
    files: Callable[[], dict[str, bytes]],
    read: Callable[[Path], Any],
    sound: Callable[[], bytes] | None = None,
    **more: Any,
) -> Reader:
    """A reader of a folder of which one file is hostile.

    `files` makes all files, sound; `sound` makes what is damaged, None = the whole file.
    """

    def others() -> dict[str, bytes]:
        return {name: content for name, content in files().items() if name != file}

    return Reader(name, file, sound or (lambda: files()[file]), read, beside=others, **more)
