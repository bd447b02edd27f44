"""One thread that computes for all requests, in turns.

A turn labels some rows of every request that waits for labels, does a part of one other piece of
work, lets waiting continuations join, and gives each continuation its next token. So no request
waits for another to end, and none is held up longer than a turn takes.

    turns = Turns(engine, vocabulary, most_waiting=256, most_rows=64)
    turns.start()
    logits_BxL = await asyncio.wrap_future(turns.label(rows))
    turns.stop()

Everything here is called from other threads, but for methods whose names begin with `_`.

Sizes in names: B rows, L labels, V vocabulary.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smallgpt.decoding.growing_rows import close_gaps
from smallgpt.engines.engine import Engine
from smallgpt.serving.growth import Choosing, EngineFailedError, Growth

_log = logging.getLogger("smallgpt.serving")
# Tokens of a turn: rows that are labelled, and prompts that join. A turn of a small model then
# takes some dozen milliseconds.
_LABEL_TOKENS, _JOIN_TOKENS = 4096, 2048


class QueueFullError(Exception):
    """So many requests wait already that one more is not taken."""


@dataclass(eq=False)
class _Labelling:
    """Rows that wait for the logits of their labels."""

    rows: list[np.ndarray]
    logits: list[np.ndarray] = field(default_factory=list)  # of the first rows
    future: Future[np.ndarray] = field(default_factory=Future)


@dataclass(eq=False)
class _InParts:
    """Work that is done a part at a time; its last part is the result."""

    parts: Iterator[Any]
    tokens: int  # about, of a part
    last: Any = None
    future: Future[Any] = field(default_factory=Future)


class Turns:
    """See the module."""

    def __init__(self, engine: Engine, choosing: Choosing, most_waiting: int, most_rows: int):
        """Hold what computes.

        Args:
            choosing: chooses next tokens.
            most_waiting: requests that may wait.
            most_rows: continuations that grow at once.
        """
        self._engine, self._choosing = engine, choosing
        self._most_waiting, self._most_rows = most_waiting, most_rows
        self._changed = threading.Condition()
        self._labelling: deque[_Labelling] = deque()
        self._in_parts: deque[_InParts] = deque()
        self._arriving: deque[Growth] = deque()
        self._growing: list[Growth] = []
        self._busy = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its turn; what is not done then fails."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    @property
    def works(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests that wait, or that wait for a next part."""
        return len(self._labelling) + len(self._in_parts) + len(self._arriving)

    @property
    def growing(self) -> int:
        """Continuations that grow."""
        return len(self._growing)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is computed."""
        return not (self._busy or self.waiting or self._growing)

    # ------------------------------------------------------------------- asking

    def label(self, rows: Sequence[np.ndarray]) -> Future[np.ndarray]:
        """Logits of the labels of rows, B x L; each ends where its label is asked for.

        A future that is cancelled frees its place.

        Raises:
            QueueFullError
        """
        task = _Labelling(list(rows))
        self._add(self._labelling, [task])
        return task.future

    def in_parts(self, parts: Iterator[Any], tokens: int) -> Future[Any]:
        """The last of some parts, which are taken one a turn; each computes so many tokens, about.

        Raises:
            QueueFullError
        """
        task = _InParts(parts, tokens)
        self._add(self._in_parts, [task])
        return task.future

    def grow(self, growths: Sequence[Growth]) -> None:
        """Let continuations grow until each has ended or was cancelled.

        Raises:
            QueueFullError: there is no place for all of them.
        """
        self._add(self._arriving, growths)

    def _add(self, queue: deque[Any], tasks: Sequence[Any]) -> None:
        with self._changed:
            if self._stopping:
                raise EngineFailedError("the server is stopping")
            if self.waiting + len(tasks) > self._most_waiting:
                raise QueueFullError
            queue.extend(tasks)
            self._changed.notify()

    # ------------------------------------------------------------------- the thread

    def _run(self) -> None:
        self._rows = self._engine.growing_rows() if not self._engine.by_head else None
        stopped: Exception = EngineFailedError("the server is stopping")
        try:
            while self._wait():
                self._turn()
        except BaseException as error:  # a bug of ours: nothing may wait for ever
            stopped = EngineFailedError("the engine has stopped")
            stopped.__cause__ = error
            raise
        finally:
            with self._changed:
                self._stopping = True
                futures = [task.future for task in self._labelling]
                for future in (*futures, *(task.future for task in self._in_parts)):
                    _settle(future, error=stopped)
                for growth in (*self._arriving, *self._growing):
                    growth.fail(stopped)

    def _wait(self) -> bool:
        """Wait for work; False where the thread has to end."""
        with self._changed:
            self._busy = False
            self._changed.wait_for(lambda: self._stopping or self.waiting or self._growing)
            self._busy = True
            return not self._stopping

    def _turn(self) -> None:
        if self._labelling:
            self._label_some()
        if self._in_parts:
            self._do_a_part()
        if self._growing or self._arriving:
            self._grow()

    def _label_some(self) -> None:
        with self._changed:
            for task in [task for task in self._labelling if task.future.cancelled()]:
                self._labelling.remove(task)
            tasks = list(self._labelling)
        chosen = _rows_of_each(tasks)
        rows = [row for task, count in chosen for row in _next_rows(task, count)]
        if not rows:
            return
        try:
            lengths_B = np.array([len(row) for row in rows])
            self._engine.share_cores(int(lengths_B.sum()))
            logits_BxL = self._engine.label_logits(np.concatenate(rows), lengths_B)
        except Exception as error:
            self._report(error)
            for task, _ in chosen:
                self._done(self._labelling, task)
                _settle(task.future, error=EngineFailedError(str(error)))
            return
        start = 0
        for task, count in chosen:
            task.logits.append(logits_BxL[start : start + count])
            start += count
            if sum(map(len, task.logits)) == len(task.rows):
                self._done(self._labelling, task)
                _settle(task.future, np.concatenate(task.logits))

    def _do_a_part(self) -> None:
        with self._changed:
            task = self._in_parts[0]
            self._in_parts.rotate(-1)
        ended = task.future.cancelled()
        error = None
        if not ended:
            try:
                self._engine.share_cores(task.tokens)
                task.last = next(task.parts)
            except StopIteration:
                ended = True
            except Exception as raised:
                self._report(raised)
                ended, error = True, EngineFailedError(str(raised))
        if ended:
            self._done(self._in_parts, task)
            _settle(task.future, task.last, error)

    def _grow(self) -> None:
        assert self._rows is not None  # a model with a label head is asked for nothing of the kind
        try:
            self._drop([growth for growth in self._growing if growth.is_cancelled])
            if self._growing:
                ids_B = np.array([growth.ids[-1] for growth in self._growing])
                self._engine.share_cores(len(ids_B))
                logits_BxV = self._rows.step(ids_B)
                ended = self._choosing.choose(self._growing, logits_BxV)
                self._drop(ended)
            self._join()
        except Exception as error:
            self._report(error)
            for growth in self._growing:
                growth.fail(EngineFailedError(str(error)))
            self._growing = []
            self._rows = self._engine.growing_rows()

    def _join(self) -> None:
        """Let waiting continuations join, as many as there are places for."""
        assert self._rows is not None
        tokens = 0
        joined: list[np.ndarray] = []
        while self._arriving and len(self._growing) < self._most_rows and tokens < _JOIN_TOKENS:
            with self._changed:
                growth = self._arriving.popleft()
                # (It is never seen as gone: here and in the list of those that grow.)
                if not growth.is_cancelled:
                    self._growing.append(growth)
            if growth.is_cancelled:
                continue
            self._engine.share_cores(len(growth.prompt))
            joined.append(self._rows.join(growth.prompt))
            tokens += len(growth.prompt)
        if joined:
            newest = self._growing[-len(joined) :]
            self._drop(self._choosing.choose(newest, np.stack(joined)))

    def _drop(self, gone: Sequence[Growth]) -> None:
        """Free the places of continuations."""
        if not gone or self._rows is None:
            return
        left = [row for row, growth in enumerate(self._growing) if growth not in gone]
        rows = close_gaps(left)
        self._rows.keep(rows)
        with self._changed:
            self._growing = [self._growing[row] for row in rows]

    def _done(self, queue: deque[Any], task: Any) -> None:
        with self._changed:
            queue.remove(task)

    def _report(self, error: Exception) -> None:
        # Its message may quote what a user sent.
        _log.error("the engine failed: %s", type(error).__name__, exc_info=error)


def _settle(future: Future[Any], result: Any = None, error: Exception | None = None) -> None:
    """Give a future its result, unless nobody waits for it any more."""
    with suppress(InvalidStateError):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


def _rows_of_each(tasks: Sequence[_Labelling]) -> list[tuple[_Labelling, int]]:
    """How many rows of each request a turn labels: about as many tokens of each."""
    chosen = []
    left = _LABEL_TOKENS
    for place, task in enumerate(tasks):
        share = left / (len(tasks) - place)
        count = tokens = 0
        for row in task.rows[sum(map(len, task.logits)) :]:
            if count and tokens + len(row) > share:
                break
            count, tokens = count + 1, tokens + len(row)
        left -= tokens
        chosen.append((task, count))
        if left <= 0:
            break
    return chosen


def _next_rows(task: _Labelling, count: int) -> list[np.ndarray]:
    start = sum(map(len, task.logits))
    return task.rows[start : start + count]
