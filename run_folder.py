"""Files of a run: where each lies, atomic writes, the lock, and stopping on a signal.

outputs/
  settings.yaml  data_report.json  data_report.png  metrics.jsonl  train.log
  events.out.tfevents.*  (--tensorboard)
  plots/  checkpoints/  best_model/  final_model/  evaluation/

Whatever else lies in these folders belongs to somebody else: a run neither writes nor deletes it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from console import (
    EXIT_HUNG_UP,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    SettingsError,
    UserError,
    command_hint,
    plural,
    printable_lines,
    tell,
)

if TYPE_CHECKING:
    import torch

EVENT_FILES = "events.out.tfevents.*"
LOCK = ".lock"

# The names that are a run's own, by the folder below its root that they stand in; "" is the root,
# which goes last when a run is deleted: only beside a model or figures do pictures pass for its.
CHECKPOINT_NAME = re.compile(r"step_\d{8,}(_evaluated|_finished)?")
_OWN = {
    "checkpoints": CHECKPOINT_NAME,
    "plots": re.compile(r"(loss|perplexity|accuracy)\.png"),
    "evaluation": re.compile(
        r"metrics\.json|predictions\.jsonl"
        r"|(confusion_matrix|reliability|class_accuracy|mistakes)\.png"
    ),
    "": re.compile(
        r"settings\.yaml|data_report\.(json|png)|metrics\.jsonl|train\.log"
        r"|events\.out\.tfevents\..+|best_model|final_model"
    ),
}
_WRITTEN_IN = ("", "plots", "checkpoints")  # by training, of these
# What checkpoints and model folders consist of. They come and go as wholes.
_PARTS = {
    *("state.json", "training.safetensors", "model.safetensors", "config.json"),
    *("generation_config.json", "adapter_config.json", "adapter_model.safetensors"),
    *("vocab.json", "tokenizer.json", "tokenizer_config.json", "settings.yaml", "codebook.npz"),
}
# How settings.yaml and train.log of a run are told from files of others that bear their names.
_SETTINGS_LINE = re.compile(r"(# (Data|Model|Training|Run)|[a-z][a-z0-9_]*: .+| .+|)")
_SETTINGS_KEYS = ("\ndata_path: ", "\nvocab_path: ", "\noutput_dir: ")
_LOG_START = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  |$")
_REPORT_START = b'{\n  "rows": '
# How an evaluation's files are told from files of others that bear their names.
_EVALUATION_STARTS = {"predictions.jsonl": b'{"line": ', "metrics.json": b'{\n  "model": '}


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
        return any(
            os.path.lexists(path)
            for path in (self.best_model, self.final_model, *self._own_in("checkpoints"))
        )

    def check_start(self, clearing: bool) -> None:
        """Refuse a folder in which a run would write or delete what no run has left there.

        Args:
            clearing: the run that is there is to be deleted.

        Raises:
            UserError: names the file that stands in the way.
        """
        for folder in (self.root / place for place in _WRITTEN_IN):
            if os.path.lexists(folder) and not folder.is_dir():
                raise UserError(
                    f"{folder} is no folder, and a run has one of that name: move it, or choose "
                    f"another --output_dir"
                )
        if not self._left_by_run():
            for path in (p for place in _WRITTEN_IN for p in self._own_in(place)):
                if not self._is_own(path):
                    raise UserError(
                        f"{path} was left by no training run, and one writes under that name: "
                        f"move it, or choose another --output_dir"
                    )
        elif clearing:
            check_evaluation_folder(self.evaluation, "--overwrite would delete it")
            wholes = (self.best_model, self.final_model, *self._own_in("checkpoints"))
            for path in (path for whole in wholes for path in _inside(whole)):
                if path.name not in _PARTS:
                    raise UserError(
                        f"{path} is no file of a training run, and --overwrite would delete it: "
                        f"move it, or choose another --output_dir"
                    )

    def check_inputs(self, inputs: Mapping[str, str | Path | None]) -> None:
        """Refuse to clear the folder of what the new run reads.

        Args:
            inputs: files and folders by the name of their option.

        Raises:
            SettingsError: one line for each that lies in what `clear` deletes.
        """
        cleared = [path for place in _OWN for path in self._own_in(place)]
        mistakes = []
        for name, given in inputs.items():
            if given is None or not os.path.exists(given):
                continue
            for path in (given, *_inside(Path(given))):  # a folder may hold links
                deleted = next((own for own in cleared if _lies_in(path, own)), None)
                if deleted is not None:
                    mistakes.append(
                        f"{name} {given}: --overwrite deletes {deleted}; copy what is needed of it "
                        f"to another place, or choose another --output_dir"
                    )
                    break
        if mistakes:
            raise SettingsError(mistakes)

    def clear(self) -> list[Path]:
        """Delete the run's own files, and its folders where nothing else is in them.

        The oldest checkpoint goes first, and the newest of them before anything else of the run:
        a half-deleted run is the whole one yet, or does not pass for one to go on with. Of the
        rest best_model goes last: as long as anything is left it is seen to be a run's.

        Returns:
            what else lies in the run's folders, or where links of the run lead to, and stays.
        """
        strangers = []
        for place in _OWN:
            folder = self.root / place
            own = [folder] if place and folder.is_symlink() else self._own_in(place)
            own.sort(key=lambda path: path.name in _EVALUATION_STARTS)  # what pictures are told by
            strangers += [Path(os.path.realpath(path)) for path in own if path.is_symlink()]
            for path in own if place else reversed(own):
                remove(path)
            if place and folder.is_dir():
                remove_leftovers(folder, _OWN[place])
                with suppress(OSError):  # it is not empty
                    folder.rmdir()
                strangers += _inside(folder)
        return strangers

    def remove_leftovers(self) -> None:
        """Delete the temporary files and folders that a killed run left."""
        for place in _OWN:
            remove_leftovers(self.root / place, _OWN[place])

    def _own_in(self, place: str) -> list[Path]:
        """What lies in a folder of `_OWN` and bears a name of the run's, sorted."""
        return [p for p in _inside(self.root / place) if _OWN[place].fullmatch(p.name)]

    def _left_by_run(self) -> bool:
        """Whether figures, a checkpoint or a model show that a run was here."""
        return (
            any((path / "state.json").is_file() for path in self._own_in("checkpoints"))
            or any(_are_settings(m / "settings.yaml") for m in (self.best_model, self.final_model))
            or bool(read_metrics(self.metrics))
        )

    def _is_own(self, path: Path) -> bool:
        """Whether a file could be of a run that has not come to its first checkpoint."""
        if path == self.settings:
            return _are_settings(path)
        if path == self.log:
            return path.is_file() and _LOG_START.match(_start_of(path)) is not None
        if path == self.metrics:
            return path.is_file() and _start_of(path) == b""
        if path in (self.data_report, self.data_picture):
            return path.is_file() and _start_of(self.data_report).startswith(_REPORT_START)
        return path.match(EVENT_FILES)  # a run adds one and leaves the others

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process alone; the kernel frees the lock when it dies.

        Raises:
            UserError: another process trains in this folder.
        """
        with hold_folder(self.root, "training run"):
            yield


@contextmanager
def hold_folder(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder, which is made, for this process alone; the kernel frees it when that dies.

    Whoever holds it may delete its file `LOCK`.

    Args:
        folder: the folder.
        work: what is done in it, for the message.

    Raises:
        UserError: another process holds it.
    """
    import fcntl

    make_folder(folder)
    while True:
        with _open_own(folder / LOCK) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{folder}: another {work} uses this folder; wait for it or give another "
                    f"--output_dir"
                ) from None
            if os.path.exists(folder / LOCK) and os.path.samefile(handle.fileno(), folder / LOCK):
                yield
                return
            # Deleted after it was opened here: the lock is on a file that nobody else will meet.


def check_evaluation_folder(folder: Path, otherwise: str) -> None:
    """Refuse a folder in which files of others bear the names of an evaluation's.

    Its rows and figures are told by how they begin, its pictures by these beside them.

    Args:
        folder: where an evaluation's files are to be written or deleted.
        otherwise: what would happen to such a file.

    Raises:
        UserError: names the first one.
    """
    own = [path for path in _inside(folder) if _OWN["evaluation"].fullmatch(path.name)]
    told = [path for path in own if path.name in _EVALUATION_STARTS]
    foreign = [p for p in told if not _start_of(p).startswith(_EVALUATION_STARTS[p.name])]
    for path in foreign or (own if not told else ()):
        raise UserError(
            f"{path} was left by no evaluation, and {otherwise}: move it, or choose another "
            f"--output_dir"
        )


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing where there is none."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _lies_in(path: str | Path, place: Path) -> bool:
    """Whether deleting `place` takes `path` away: by its name, or by what links lead to."""
    paths, places = ({os.path.abspath(name), os.path.realpath(name)} for name in (path, place))
    return any(p == q or p.startswith(q + os.sep) for p in paths for q in places)


def _start_of(path: Path) -> bytes:
    """The first bytes of a plain file; nothing of what is none, since a pipe has no end."""
    if not path.is_file():
        return b""
    with open(path, "rb") as handle:
        return handle.read(2**16)


def _are_settings(path: Path) -> bool:
    """Whether a file has what training writes as settings.yaml, and nothing that would be lost."""
    text = "\n" + _start_of(path).decode("utf-8", "replace")
    return all(key in text for key in _SETTINGS_KEYS) and all(
        _SETTINGS_LINE.fullmatch(line) for line in text.split("\n")
    )


# ------------------------------------------------------------------------------- writing


@contextmanager
def naming_file(path: str | Path) -> Iterator[None]:
    """Give an error of the disk the name of the file, which a write to an open file leaves out."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def disk_error(error: OSError, folder: RunFolder, step: int | None) -> UserError:
    """What a run says that could not write or read a file.

    Args:
        error: what the system said.
        folder: of the run.
        step: of its last whole checkpoint, None before the first.
    """
    place = error.filename or folder.root
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"no space left on the disk of {place}: free some"
    else:
        what = f"{place}: {error.strerror or error}; put that right"
    if step is None:
        return UserError(f"{what} and run again; nothing had been saved yet")
    return UserError(
        f"{what}, then go on from the checkpoint of step {step:,}, which is whole: "
        + command_hint("train_gpt.py", "--resume", "--output_dir", folder.root)
    )


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file beside `path` for writing; on success sync it and rename it into place.

    A reader sees the old file or the new one, never a half. On an error nothing changes.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = _name_beside(path)
    try:
        text = {"encoding": "utf-8", "newline": "\n"} if "b" not in mode else {}
        with naming_file(path):
            with open(temporary, mode, **text) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def json_line(value: Any, indent: int | None = None) -> str:
    """`value` as one line of JSONL, or as indented lines, readable where Unicode allows.

    A lone surrogate, which JSON can escape but UTF-8 cannot hold, stays an escape.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False, indent=indent)
    return text + "\n"


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text file as `atomic_write` does."""
    with atomic_write(path) as handle:
        handle.write(text)


def write_json(path: str | Path, value: Any, most_levels: int | None = None) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are a ValueError.

    Args:
        path: the file.
        value: what to write.
        most_levels: what lies deeper than so many levels stands in one line; None = nothing.
    """
    write_atomically(path, _indented(value, most_levels) + "\n")


def _indented(value: Any, levels: int | None, margin: str = "") -> str:
    if levels is None or levels == 0 or not value or not isinstance(value, (dict, list)):
        return json_line(value, indent=2 if levels is None else None).removesuffix("\n")
    inner = margin + "  "
    if isinstance(value, dict):
        parts = [
            f"{_indented(key, 0)}: {_indented(item, levels - 1, inner)}"
            for key, item in value.items()
        ]
    else:
        parts = [_indented(item, levels - 1, inner) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(parts) + f"\n{margin}{closing}"


@contextmanager
def folder_beside(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, to rename files from; it is deleted in the end."""
    path = Path(path)
    make_folder(path.parent)
    temporary = _name_beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with naming_file(path):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success sync its files and rename it to `path`.

    Raises:
        FileExistsError: `path` exists already.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    with folder_beside(path) as new:
        yield new
        for place in [*new.rglob("*"), new]:
            sync(place)
        os.rename(new, path)
        sync(path.parent)


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file; the same contents give the same bytes.

    Raises:
        OSError: the disk is full or failed; safetensors has an error of its own for that.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    if metadata:
        _sort_metadata(path)
    # safetensors makes a file that its owner alone may read; others are made as the umask says.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order; its library shuffles the keys."""
    with naming_file(path), open(path, "r+b") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        if len(text) != size:  # the tensors begin where they began
            raise RuntimeError(f"{path}: safetensors writes its header in another way than this")
        handle.seek(8)
        handle.write(text)


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, durably: the name of a new one is synced too."""
    path, missing = Path(path), []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Make a file durable, or the names in a folder (a rename is safe once its folder is)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there.

    A folder leaves its place by one rename, so that nobody meets a half of it.
    """
    if path.is_dir() and not path.is_symlink():
        with folder_beside(path) as grave:
            os.rename(path, grave / path.name)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, own: re.Pattern) -> None:
    """Delete what a killed process left half-written in `folder`.

    Args:
        folder: where to look.
        own: names that are written there; a temporary file or folder is called after one.
    """
    for path in _inside(folder):
        name = re.fullmatch(r"\.(.+)\.\d+\.tmp", path.name)
        if name is None or own.fullmatch(name[1]) is None:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _name_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


# ------------------------------------------------------------------------------- records


class RunLog:
    """What a run says: on the terminal and in train.log; figures go to metrics.jsonl.

    Attributes:
        events: takes the same figures for TensorBoard; None where nobody asked for it.
    """

    def __init__(self, folder: RunFolder, later: bool = False):
        """
        Args:
            folder: of the run.
            later: write nothing before `open`; what has been said until then is written then.
        """
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
        for line in [*text.splitlines(), *tell(text)]:
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
        """Make durable what was written so far."""
        self._log.sync()
        self._metrics.sync()

    def keep_rows(self, count: int) -> None:
        """Drop all rows of metrics.jsonl but the first `count`: a resumed run writes them again."""
        kept = read_metrics(self._folder.metrics)[:count]
        if len(kept) < count:
            self.say(
                f"warning: {self._folder.metrics} is damaged after row {len(kept):,}: "
                f"{plural(count - len(kept), 'row')} of figures lost"
            )
        self._metrics.close()
        write_atomically(self._folder.metrics, "".join(map(json_line, kept)))
        self._metrics = _AppendedFile(self._folder.metrics)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._log, self._metrics, self.events):
            if file is not None:
                file.close()


def _open_own(path: Path) -> IO[bytes]:
    """Open a file of the run to append to it.

    Raises:
        UserError: a pipe stands in its place, which would have no end.
    """
    how = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    with naming_file(path):
        number = os.open(path, how, 0o666)
    if stat.S_ISFIFO(os.fstat(number).st_mode):
        os.close(number)
        raise UserError(f"{path}: a pipe stands where a run keeps a file: remove it")
    return open(number, "ab", buffering=0)


class _AppendedFile:
    """A text file that grows. Nothing is held back, so closing it cannot fail on a full disk."""

    def __init__(self, path: Path):
        self._path = path
        self._handle = _open_own(path)

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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl up to the first that is none: the last may be half-written."""
    rows = []
    if path.is_file():
        for line in path.read_bytes().split(b"\n"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not _is_row(row):
                break
            rows.append(row)
    return rows


def _is_row(row: object) -> bool:
    """Whether a parsed line has the shape that a run writes."""
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return False
    if type(row.get("step")) is not int:
        return False
    return all(
        value is None
        or isinstance(value, str | float)
        or (isinstance(value, int) and abs(value) < 2**53)
        for value in row.values()
    )


# ------------------------------------------------------------------------------- stopping


_STOPPING = {
    signal.SIGINT: EXIT_INTERRUPTED,
    signal.SIGTERM: EXIT_TERMINATED,
    signal.SIGHUP: EXIT_HUNG_UP,
}


class StopRequestedError(Exception):
    """A signal to stop arrived and the work that was under way has been left."""


class StopSignal:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into a wish that the training loop asks for.

    A second Ctrl-C leaves at once with KeyboardInterrupt. SIGHUP comes when the terminal goes
    away. A signal that the caller has ignored stays so: `nohup` lets a run outlive its terminal.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None

    def __enter__(self) -> StopSignal:
        self._before: dict[int, Callable] = {}
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread handle signals
        for number in _STOPPING:
            # None: somebody handles it outside Python, and it could not be put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        if self.exit_code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.exit_code = _STOPPING[signal.Signals(number)]

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
