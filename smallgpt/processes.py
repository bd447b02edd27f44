"""Several processes that train one model: what each is, and what they send one another.

    with joined(settings) as processes:        # alone: sends nothing, and changes nothing
        total = processes.sum(gradients)
        plan = processes.of_first(plan)

torchrun starts them, or `training/launch.py`, and tells each by its environment which one it is.
The model, the optimizers and the loop are the same in all of them. Of the rows of an update each
takes a part, and the sum of their gradients is that of the whole (`training/gradients.py`). The
first process alone writes files and talks to a person: what hangs on a clock, a file or a signal is
decided there, or by all together, and sent to the others.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import (
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from smallgpt.console import say
from smallgpt.errors import SettingsError, UserError
from smallgpt.exit_codes import EXIT_TERMINATED

if TYPE_CHECKING:  # --help and wrong flags answer without them
    import numpy as np
    import torch

MEETING_FILE = "SMALLGPT_MEETING_FILE"  # of the processes that `training/launch.py` starts
LAUNCHER = "SMALLGPT_LAUNCHER"  # its process number
_MET = ".met"  # beside that file, when all have come
_LONG = timedelta(days=30)  # for what the first process does alone: a report, a checkpoint, a model
_PARENT_DIED = 1  # PR_SET_PDEATHSIG of Linux

T = TypeVar("T")


class LostContactError(UserError):
    """Another process has ended or does not answer."""


class LeftToFirstError(UserError):
    """The first process tells the error; its text is empty, and nothing is printed."""

    def __init__(self, exit_code: int):
        super().__init__("")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Processes:
    """The processes that train one model, as one of them sees them.

    Attributes:
        rank: number of this one, from 0.
        count: how many they are.
        local_rank: number among those of this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    _updates: Any = field(default=None, repr=False)  # a group of torch.distributed
    _waiting: Any = field(default=None, repr=False)  # another one, which waits for `_LONG`

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    @property
    def are_many(self) -> bool:
        """Whether there is more than one."""
        return self.count > 1

    def device(self, name: str) -> str:
        """The device for this process, of an option `auto|cpu|cuda|...`: each has its own GPU."""
        if not self.are_many:
            return name
        import torch

        if name == "mps" or (name == "auto" and torch.backends.mps.is_available()):
            raise UserError("--device mps: Apple's GPU takes one process; use --device cpu")
        if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return name

    def parts(self, batches: Sequence[np.ndarray], lengths_N: np.ndarray) -> list[list[np.ndarray]]:
        """The rows of an update divided among the processes, the batches of each.

        Rows of about the same length (`lengths_N` of all rows) go to each of them. A process with
        many has several batches, none larger than the largest of `batches`. Fewer rows than
        processes leave some of them without any.
        """
        if not self.are_many:
            return [list(batches)]
        import numpy as np

        rows, size = np.concatenate(batches), max(map(len, batches))
        rows = rows[np.argsort(lengths_N[rows], kind="stable")]
        shares = [rows[rank :: self.count] for rank in range(self.count)]
        return [[share[i : i + size] for i in range(0, len(share), size)] for share in shares]

    def seed_update(self, seed: int, step: int) -> torch.Generator | None:
        """Seed torch's generator for this process and update; returns one that is alike in all.

        So no process has a state of its own that a checkpoint would have to keep. One process
        alone keeps torch's generator as it is: None.
        """
        if not self.are_many:
            return None
        import numpy as np
        import torch

        def drawn(*words: int) -> int:
            return int(np.random.SeedSequence([seed, step, *words]).generate_state(1, np.uint64)[0])

        torch.manual_seed(drawn(self.rank, self.count))
        return torch.Generator().manual_seed(drawn())

    # ---------------------------------------------------------------------------- sending

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a tensor, in place.

        Raises:
            LostContactError: as all others of this section.
        """
        if self.are_many:
            with _contact():
                _torch_distributed().all_reduce(tensor, group=self._updates)
        return tensor

    def gathered(self, array: np.ndarray, is_own: np.ndarray) -> np.ndarray:
        """`array` with the entries of every process, where each has those of `is_own`, in place.

        Nothing is added to a number that somebody owns but zeros, so that it stays to the bit.
        """
        import torch

        array[~is_own] = 0
        self.sum(torch.from_numpy(array))
        return array

    def highest(self, number: int) -> int:
        """The highest of the numbers that the processes have."""
        if not self.are_many:
            return number
        import torch

        tensor = torch.tensor([number])
        with _contact():
            distributed = _torch_distributed()
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX, self._updates)
        return int(tensor)

    def of_first(self, value: T) -> T:
        """What the first process has; anything that can be pickled."""
        if not self.are_many:
            return value
        box = [value]
        with _contact():
            _torch_distributed().broadcast_object_list(box, src=0, group=self._waiting)
        return box[0]

    def take_of_first(self, tensor: torch.Tensor) -> None:
        """Overwrite a tensor by that of the first process."""
        with _contact():
            _torch_distributed().broadcast(tensor, src=0, group=self._updates)

    def on_first(self, work: Callable[[], T]) -> T:
        """Have the first process work, for as long as it takes; all get what it returns.

        Raises:
            UserError: what `work` raised, in the first process; it ends the others as well.
        """
        result: Any = None
        try:
            if self.is_first:
                result = work()
        except UserError as error:
            with suppress(LostContactError):
                self.of_first((None, error.exit_code))
            raise
        result, exit_code = self.of_first((result, None))
        if exit_code is not None and not self.is_first:
            raise LeftToFirstError(exit_code)
        return result

    def of_all(self, value: T) -> list[T]:
        """What each process has, by rank."""
        if not self.are_many:
            return [value]
        found: list[Any] = [None] * self.count
        with _contact():
            _torch_distributed().all_gather_object(found, value, group=self._waiting)
        return found

    @contextmanager
    def one_of_each_machine_first(self) -> Iterator[None]:
        """One process of each machine does this before the others, who find what it left there."""
        if self.local_rank:
            self.of_all(None)
        yield
        if not self.local_rank:
            self.of_all(None)

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Raise UserError, in the first process, where another one has other `facts`."""
        if not self.are_many:
            return
        theirs = self.of_all((socket.gethostname(), dict(facts)))
        (_, first), *others = theirs
        mistakes = [
            f"process {rank} ({host}) has another {name}: {about[name]}, and the first process "
            f"({theirs[0][0]}) {first[name]}"
            for rank, (host, about) in enumerate(others, 1)
            for name in first
            if about[name] != first[name]
        ]
        if mistakes:
            raise self.told_once(UserError("\n".join(mistakes)))

    def told_once(self, error: UserError) -> UserError:
        """The error to raise for what every process finds at the same time."""
        return error if self.is_first else LeftToFirstError(error.exit_code)


ALONE = Processes()


def are_joined() -> bool:
    """Whether this process was started as one of several, by torchrun or `training/launch.py`."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def check_count(asked: int) -> None:
    """Raise SettingsError where --processes asks for others than torchrun has started."""
    started = os.environ.get("WORLD_SIZE") if "RANK" in os.environ else None
    if started is not None and asked not in (1, int(started)):
        raise SettingsError(
            [f"processes {asked}: torchrun has started {started}, and says how many; drop it"]
        )


@contextmanager
def joined(exchange_timeout: float) -> Iterator[Processes]:
    """The processes that this one belongs to by its environment; alone if there are no others.

    `exchange_timeout`: seconds after which one that does not answer is given up.

    Raises:
        LostContactError: not all of them came.
    """
    if not are_joined():
        yield ALONE
        return
    distributed = _torch_distributed()
    import torch

    _end_with_parent()
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    file = os.environ.get(MEETING_FILE)
    is_new = not distributed.is_initialized()  # Ray Train has a group, which may be for GPUs alone
    with _contact():
        if is_new:
            distributed.init_process_group(
                "gloo",
                init_method=f"file://{file}" if file else "env://",
                rank=rank,
                world_size=count,
                timeout=timedelta(seconds=exchange_timeout),
            )
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        updates = distributed.new_group(
            backend=backend, timeout=timedelta(seconds=exchange_timeout)
        )
        waiting = distributed.new_group(backend="gloo", timeout=_LONG)
    if file and rank == 0:
        Path(file + _MET).touch()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    is_other_machine = rank > 0 and local_rank == 0
    if is_other_machine:
        say(f"process {rank} of {count} has joined; the first one tells how it goes, and writes")
    try:
        with _silent() if rank else nullcontext():  # the first process talks
            yield Processes(rank, count, local_rank, updates, waiting)
        if is_other_machine:
            say(f"process {rank} of {count} has ended; the run is with the first one")
    except LostContactError as error:
        if rank and file:  # the launcher and the first process tell it
            raise LeftToFirstError(error.exit_code) from None
        raise
    except UserError as error:
        if rank and str(error):
            error.args = (f"process {rank} ({socket.gethostname()}): {error}",)
        raise
    finally:
        if is_new:
            distributed.destroy_process_group()


def have_met(meeting: Path) -> bool:
    """Whether all processes have come to a meeting file; from then on each notices a loss."""
    return Path(f"{meeting}{_MET}").exists()


def _torch_distributed() -> Any:
    import torch.distributed

    if not torch.distributed.is_available():
        raise UserError("this torch has no torch.distributed: train in one process")
    return torch.distributed


@contextmanager
def _contact() -> Iterator[None]:
    """Turns what torch raises where another process is gone into LostContactError."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed's own are among them
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = re.sub(r"^\[\S+\] ", "", lines[0])  # the line of a source file
        raise LostContactError(f"lost contact with another process ({reason})") from None


def _end_with_parent() -> None:
    """Have the system stop this process, as SIGTERM does, when what started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGTERM)
    launcher = os.environ.get(LAUNCHER)
    if launcher and os.getppid() != int(launcher):  # it was killed before
        raise LeftToFirstError(EXIT_TERMINATED)


@contextmanager
def _silent() -> Iterator[None]:
    """Print nothing but what libraries write to standard error, and no progress bars."""
    with (
        open(os.devnull, "w") as nothing,
        redirect_stdout(nothing),
        redirect_stderr(_NoTerminal(sys.stderr)),
    ):
        yield


class _NoTerminal:
    """A stream on which no progress bar is drawn."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
