"""Files of a run: where each lies, atomic writes, the lock, and stopping on a signal.

outputs/
  settings.yaml  data_report.json  data_report.png  metrics.jsonl  train.log
  events.out.tfevents.*  (--tensorboard)
  plots/  checkpoints/  best_model/  final_model/  evaluation/
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from console import EXIT_INTERRUPTED, EXIT_TERMINATED, UserError, tell

EVENT_FILES = "events.out.tfevents.*"


class RunFolder:
    """Paths of one training run below `root`."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.settings = self.root / "settings.yaml"
        self.data_report = self.root / "data_report.json"
        self.data_picture = self.root / "data_report.png"
        self.metrics = self.root / "metrics.jsonl"
        self.log = self.root / "train.log"
        self.plots = self.root / "plots"
        self.checkpoints = self.root / "checkpoints"
        self.best_model = self.root / "best_model"
        self.final_model = self.root / "final_model"
        self.evaluation = self.root / "evaluation"

    def holds_run(self) -> bool:
        """Whether a training run has left anything here that must not be lost."""
        if self.metrics.exists() and self.metrics.stat().st_size:
            return True
        return any(p.exists() for p in (self.checkpoints, self.best_model, self.final_model))

    def clear(self) -> None:
        """Delete the run's own files; whatever else lies in the folder stays."""
        for path in (
            self.settings,
            self.data_report,
            self.data_picture,
            self.metrics,
            self.log,
            self.plots,
            self.checkpoints,
            self.best_model,
            self.final_model,
            self.evaluation,
            *self.root.glob(EVENT_FILES),
        ):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process alone; the kernel frees the lock when it dies.

        Raises:
            UserError: another process trains in this folder.
        """
        import fcntl

        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.root}: another training run uses this folder; wait for it or give "
                    f"another --output_dir"
                ) from None
            yield


# ------------------------------------------------------------------------------- writing


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file beside `path` for writing; on success sync it and rename it into place.

    A reader sees the old file or the new one, never a half. On an error nothing changes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        text = {"encoding": "utf-8", "newline": "\n"} if "b" not in mode else {}
        with open(temporary, mode, **text) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def json_line(value: Any) -> str:
    """`value` as one line of JSONL, readable where Unicode allows.

    A lone surrogate, which JSON can escape but UTF-8 cannot hold, stays an escape.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False)
    return text + "\n"


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text file as `atomic_write` does."""
    with atomic_write(path) as handle:
        handle.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are a ValueError."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success sync its files and rename it to `path`.

    Raises:
        FileExistsError: `path` exists already.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        sync_folder(temporary)
        os.rename(temporary, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable (a rename is only safe once its folder is synced)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders that a killed process left in `folder`."""
    for path in folder.glob(".*.[0-9]*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# ------------------------------------------------------------------------------- records


class RunLog:
    """What a run says: on the terminal and in train.log; figures go to metrics.jsonl.

    Attributes:
        events: takes the same figures for TensorBoard; None where nobody asked for it.
    """

    def __init__(self, folder: RunFolder):
        self.events: Any = None
        folder.root.mkdir(parents=True, exist_ok=True)
        self._metrics_path = folder.metrics
        self._log = open(folder.log, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._open_metrics()

    def _open_metrics(self) -> None:
        path = self._metrics_path
        self._metrics = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def say(self, text: str) -> None:
        """Print `text` above a progress bar and append it with the time to train.log."""
        tell(text)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for line in text.splitlines():
            self._log.write(f"{stamp}  {line}\n")

    def record(self, row: dict[str, Any]) -> None:
        """Append one row of figures to metrics.jsonl."""
        self._metrics.write(json_line(row))
        if self.events is not None:
            self.events.record(row)

    def forget_after(self, step: int) -> None:
        """Drop the rows of metrics.jsonl after `step`, which a resumed run writes again."""
        self._metrics.close()
        kept = [row for row in read_metrics(self._metrics_path) if row["step"] <= step]
        write_atomically(self._metrics_path, "".join(map(json_line, kept)))
        self._open_metrics()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        self._metrics.close()
        if self.events is not None:
            self.events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a half-written last line is left out."""
    rows = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


# ------------------------------------------------------------------------------- stopping


class StopRequestedError(Exception):
    """Ctrl-C or SIGTERM arrived and the work that was under way has been left."""


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into a wish that the training loop asks for.

    A second Ctrl-C leaves at once with KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None

    def __enter__(self) -> StopSignal:
        self._before: dict[int, Callable] = {}
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread handle signals
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        if self.exit_code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED

    def requested(self) -> bool:
        """Whether to stop."""
        return self.exit_code is not None

    def raise_if_requested(self) -> None:
        """Leave the work under way.

        Raises:
            StopRequestedError: a signal has arrived.
        """
        if self.requested():
            raise StopRequestedError
