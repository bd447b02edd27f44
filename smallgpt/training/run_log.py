"""Output of a run: terminal and train.log, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO, Any

from smallgpt.console import plural, printable_lines, say
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.files.writing import (
    json_line,
    make_folder,
    naming_file,
    open_to_append,
    write_text,
)
from smallgpt.training.run_folder import RunFolder


class RunLog:
    """Lines to terminal and train.log, figures to metrics.jsonl and (`events`) TensorBoard."""

    def __init__(self, folder: RunFolder, later: bool = False, shown: bool = True):
        """`later`: write no file before `open`, which then writes the lines said until then.

        `shown`: whether lines go to the terminal as well.
        """
        self.events: Any = None
        self._shown = shown
        self._folder = folder
        self._log, self._metrics = _AppendedFile(folder.log), _AppendedFile(folder.metrics)
        if not later:
            self.open()

    def open(self) -> None:
        """Open the files."""
        make_folder(self._folder.root)
        self._log.open()
        self._metrics.open()

    def say(self, text: str) -> None:
        """Print `text` above a progress bar and append it with the time to train.log."""
        text = printable_lines(text)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for line in [*text.splitlines(), *(say(text) if self._shown else [])]:
            self._log.write(f"{stamp}  {line}\n")

    def record(self, row: dict[str, Any]) -> None:
        """Append one row of figures to metrics.jsonl."""
        self._metrics.write(json_line(row))
        if self.events is not None:
            self.events.record(row)

    def sync(self) -> None:
        """Flush what was written to the disk."""
        self._log.sync()
        self._metrics.sync()

    def keep_rows(self, count: int) -> None:
        """Cut metrics.jsonl to its first `count` rows: a resumed run writes the others again."""
        kept = read_metrics(self._folder.metrics)[:count]
        if len(kept) < count:
            self.say(
                f"warning: {self._folder.metrics} is damaged after row {len(kept):,}: "
                f"{plural(count - len(kept), 'row')} of figures lost"
            )
        self._metrics.close()
        write_text(self._folder.metrics, "".join(map(json_line, kept)))
        self._metrics.open()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        self._metrics.close()
        if self.events is not None:
            self.events.close()


class _AppendedFile:
    """A text file that grows; what is written before `open` waits for it.

    Unbuffered, so closing it cannot fail on a full disk.
    """

    def __init__(self, path: Path):
        self._path = path
        self._waiting: list[str] = []
        self._handle: IO[bytes] | None = None

    def open(self) -> None:
        self._handle = open_to_append(self._path)
        waiting, self._waiting = self._waiting, []
        for text in waiting:
            self.write(text)

    def write(self, text: str) -> None:
        if self._handle is None:
            self._waiting.append(text)
            return
        data = text.encode("utf-8", "backslashreplace")
        with naming_file(self._path):
            while data:
                data = data[self._handle.write(data) :]

    def sync(self) -> None:
        if self._handle is not None:
            with naming_file(self._path):
                os.fsync(self._handle.fileno())

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
