"""Output of a run: terminal and train.log, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from smallgpt.console import plural, printable_lines, say
from smallgpt.files.writing import (
    json_line,
    make_folder,
    naming_file,
    open_to_append,
    write_text,
)
from smallgpt.training.metrics_file import read_metrics
from smallgpt.training.run_folder import RunFolder


class RunLog:
    """Lines to terminal and train.log, figures to metrics.jsonl and (`events`) TensorBoard."""

    def __init__(self, folder: RunFolder, later: bool = False):
        """`later`: write no file before `open`, which then writes the lines said until then."""
        self.events: Any = None
        self._folder, self._early = folder, []
        self._log: _AppendedFile | None = None
        self._metrics: _AppendedFile | None = None
        if not later:
            self.open()

    def open(self) -> None:
        """Open the files."""
        make_folder(self._folder.root)
        self._log = _AppendedFile(self._folder.log)
        self._metrics = _AppendedFile(self._folder.metrics)
        for line in self._early:
            self._log.write(line)

    def say(self, text: str) -> None:
        """Print `text` above a progress bar and append it with the time to train.log."""
        text = printable_lines(text)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for line in [*text.splitlines(), *say(text)]:
            if self._log is None:
                self._early.append(f"{stamp}  {line}\n")
            else:
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
        self._metrics = _AppendedFile(self._folder.metrics)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._log, self._metrics, self.events):
            if file is not None:
                file.close()


class _AppendedFile:
    """A text file that grows. Unbuffered, so closing it cannot fail on a full disk."""

    def __init__(self, path: Path):
        self._path = path
        self._handle = open_to_append(path)

    def write(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        with naming_file(self._path):
            while data:
                data = data[self._handle.write(data) :]

    def sync(self) -> None:
        with naming_file(self._path):
            os.fsync(self._handle.fileno())

    def close(self) -> None:
        self._handle.close()
