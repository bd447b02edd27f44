"""Stopping on Ctrl-C, SIGTERM and SIGHUP, between two steps.

The first signal is only noted. Before the next step or batch `stop.raise_if_requested()` raises;
`train_gpt.train_epochs` then saves a checkpoint and ends with `stop.exit_code` (143 for SIGTERM).
A second Ctrl-C ends the process at once. Of several processes each looks at the same places, so
that a signal to any of them stops all at one step.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from smallgpt.exit_codes import EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED
from smallgpt.processes import ALONE, Processes

STOPPING = {
    signal.SIGINT: EXIT_INTERRUPTED,
    signal.SIGTERM: EXIT_TERMINATED,
    signal.SIGHUP: EXIT_HUNG_UP,
}

# As the standard library describes a handler: a function, SIG_DFL or SIG_IGN, or one of C (None).
_Handler = Callable[[int, FrameType | None], Any] | int | None


class StopRequestedError(Exception):
    """A signal to stop arrived, and the work under way was left."""


class StopSignal:
    """Remembers the first Ctrl-C, SIGTERM or SIGHUP until the training loop asks for it.

    A second Ctrl-C raises KeyboardInterrupt at once. A signal that the caller ignores stays
    ignored: `nohup` lets a run outlive its terminal, whose closing sends SIGHUP. `exit_code` is
    None until a signal has come.
    """

    def __init__(self, processes: Processes = ALONE) -> None:
        self.exit_code: int | None = None
        self._processes = processes

    def __enter__(self) -> StopSignal:
        self._before: dict[int, _Handler] = {}
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread handle signals
        for number in STOPPING:
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
        self.exit_code = STOPPING[signal.Signals(number)]

    def requested(self) -> bool:
        """Whether a signal has come, to any process; all of them ask together."""
        asked = self._processes.highest(self.exit_code or EXIT_OK)
        if asked:  # else a signal that has come meanwhile stays, until all know of it
            self.exit_code = asked
        return bool(asked)

    def raise_if_requested(self) -> None:
        """Raise StopRequestedError if a signal has come."""
        if self.requested():
            raise StopRequestedError
