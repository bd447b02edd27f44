"""The life of the server: the requests that run, and how they end when it is told to end."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from smallgpt.serving.errors import CLOSE, SHORT_WAIT, ApiError


def ending() -> ApiError:
    """What a request is answered that comes, or still runs, when the server ends."""
    text = "the server is about to end and takes no more requests"
    return ApiError(503, text, headers={**SHORT_WAIT, **CLOSE})


class Turn:
    """A request that runs.

    Attributes:
        limit: its time; it is cancelled at the end of it.
        is_gone: whether its client has left.
        is_over: whether its answer is complete.
    """

    def __init__(self, life: Life, limit: asyncio.Timeout):
        self.limit = limit
        self._seconds = 0.0
        self.is_gone = self.is_over = False
        self._life = life

    @property
    def is_late(self) -> bool:
        """Whether its time was up, by itself or since the server ends."""
        return self.limit.expired()

    def begin(self, seconds: float) -> None:
        """Give it so many seconds from now, or less where the server ends before."""
        self._seconds = seconds
        when = asyncio.get_running_loop().time() + seconds
        self.limit.reschedule(min(when, self._life.ends_at))

    def hasten(self, when: float) -> None:
        """Let it end at this time of the event loop, if it would not end before."""
        before = self.limit.when()
        if not self.is_late and (before is None or when < before):
            self.limit.reschedule(when)

    def why_late(self) -> ApiError:
        """What to answer where its time is up."""
        if self._life.is_ending:
            return ending()
        text = f"the answer took more than {self._seconds:g} seconds: ask for less at once"
        return ApiError(504, text)


class Life:
    """Whether the server takes requests, and those that it has taken.

    Attributes:
        is_ending: it was told to end; it takes no more requests.
        ends_at: when the last request has to have ended, in time of the event loop.
    """

    def __init__(self, grace_seconds: float):
        self.is_ending = False
        self.ends_at = math.inf
        self._grace_seconds = grace_seconds
        self._turns: set[Turn] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def running(self) -> int:
        """Requests that run."""
        return len(self._turns)

    @contextmanager
    def turn(self, limit: asyncio.Timeout) -> Iterator[Turn]:
        """A request that runs within a limit of time."""
        turn = Turn(self, limit)
        self._turns.add(turn)
        try:
            yield turn
        finally:
            self._turns.discard(turn)

    def end(self) -> None:
        """Take no more requests; those that run end within the grace time. A signal may call it."""
        self.is_ending = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._hasten)

    def _hasten(self) -> None:
        assert self._loop is not None
        self.ends_at = min(self.ends_at, self._loop.time() + self._grace_seconds)
        for turn in list(self._turns):
            turn.hasten(self.ends_at)

    async def all_ended(self) -> None:
        """Wait until no request runs."""
        while self._turns:
            await asyncio.sleep(0.02)

    @contextmanager
    def hearing_signals(self) -> Iterator[None]:
        """Within this, SIGTERM and Ctrl-C call `end` before what else they do.

        Whatever server runs the app has its own handlers by then, which it does not tell of.
        """
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():  # no signal comes here
            yield
            return
        before: dict[signal.Signals, Any] = {}

        def heard(number: int, frame: FrameType | None) -> None:
            self.end()
            then: Callable[[int, FrameType | None], object] = before[signal.Signals(number)]
            then(number, frame)

        for number in (signal.SIGTERM, signal.SIGINT):
            if callable(handler := signal.getsignal(number)):
                before[number] = handler
                signal.signal(number, heard)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
