"""A trained model that answers many requests at once, for any server on top of it.

    served = ServedModel(trained, most_waiting=256)
    served.start()                                     # its thread, which alone computes
    answers = await served.label(served.rows_to_label(["<IMG> ... </IMG>"]))
    async for piece in served.go_on(Wish(served.prompt("<IMG> <Z_190>"), seed=7)): ...
    served.stop()

Rows are read by whoever asks, and computed by one thread (`smallgpt/serving/turns.py`). Methods
that read rows may be called from any thread.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from smallgpt.decoding.sampling import Sampling, UniformNumbers
from smallgpt.engines.engine import log_softmax
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.evaluation.label_probabilities import LabelProbabilities
from smallgpt.evaluation.predictions import predictions_of
from smallgpt.evaluation.scoring import rows_asked, score_rows
from smallgpt.inference.classify import answers_by, refuse_without_labels
from smallgpt.inference.prompts import (
    ids_to_continue,
    record_of_prompt,
    refuse_labels_only,
    token_text,
)
from smallgpt.inference.python_rows import PythonRows, python_rows, rows_to_classify
from smallgpt.inference.room import first_tokens, room_after
from smallgpt.inference.unknown_tokens import refuse_unknown_tokens, unknown_token_of
from smallgpt.inference.well_formed import any_token, well_formed
from smallgpt.rows.builder import RowsBuilder
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.row import parse_row
from smallgpt.serving.continuation import Continuation, Piece
from smallgpt.serving.growth import Choosing, EngineFailedError, Growth
from smallgpt.serving.turns import Turns

# Pieces of one continuation come at most so often: an event each token would take more of the
# machine than the token itself.
_PIECE_SECONDS = 0.02
_SCORED_AT_ONCE = 4096  # tokens of a part
_MANY_ROWS = 256  # whose answers are put together beside the event loop


@dataclass(frozen=True)
class Wish:
    """What a prompt is to be continued to.

    The rows are those of `smallgpt.inference.generate.generate` with the same arguments; `free`
    is True for no rules of well-formed rows.
    """

    prompt: list[int] | None  # ids of `ServedModel.prompt`; None: rows begin as those of training
    count: int = 1
    max_new_tokens: int | None = None  # None: to the end of the row, as `generate`
    greedy: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int | None = None  # None: another one each time
    stop: tuple[str, ...] = ()  # texts before which a continuation ends
    shares: int | None = None  # how many of the likeliest tokens are told at each place, 0 to 20
    free: bool = False


@dataclass(frozen=True)
class RowsRead:
    """Rows that were read and checked, ready to be computed."""

    dataset: TokenLabelDataset
    is_one: bool  # whether it was one row and no list of rows
    notes: list[str]  # what reading changed, such as rows that were cut; for the user


class ServedModel:
    """See the module.

    Attributes:
        trained: the model.
        names_labels: whether `label` works.
        goes_on: whether `go_on` works: it predicts tokens.
    """

    def __init__(self, trained: TrainedModel, most_waiting: int, most_rows: int = 64):
        """Hold the model.

        Args:
            most_waiting: requests that may wait for their turn; more raise `QueueFullError`.
            most_rows: continuations that grow at once.
        """
        self.trained = trained
        vocabulary = trained.vocabulary
        self._engine = trained.engines.for_server()
        self.goes_on = not self._engine.by_head
        self.names_labels = bool(vocabulary.labels) and (
            vocabulary.cls_id is not None or self._engine.by_head
        )
        self._unknown_token = unknown_token_of(trained, None)
        self._plan = well_formed(trained, label_given=False) if self.goes_on else any_token()
        choosing = Choosing(vocabulary.stop_ids, vocabulary.never_ids, self._plan.rules)
        self._turns = Turns(self._engine, choosing, most_waiting, most_rows)

    @property
    def engine(self) -> str:
        """The engine and its precision."""
        return f"{self._engine.name} {self._engine.precision}"

    def start(self) -> None:
        """Start the thread that computes, and let it compute once."""
        self._turns.start()
        first = np.zeros(1, np.int64)
        if self.names_labels:
            self._turns.label([first]).result()
        if self.goes_on:
            growth = Growth([0], 2, Sampling(greedy=True), np.zeros(2), rules=False)
            done: Future[None] = Future()
            growth.on_change = lambda: _set_once(done, growth)
            self._turns.grow([growth])
            done.result()

    def stop(self) -> None:
        """End the thread; what it still computes or holds fails with `EngineFailedError`."""
        self._turns.stop()

    @property
    def works(self) -> bool:
        """Whether the thread that computes is there."""
        return self._turns.works

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is computed."""
        return self._turns.is_idle

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._turns.waiting

    @property
    def growing(self) -> int:
        """Continuations that grow now."""
        return self._turns.growing

    # ------------------------------------------------------------------- reading

    def rows_to_label(self, rows: Any) -> RowsRead:
        """Rows as `inference.classify` takes them: a string, ids, an object, or a list of these.

        Raises:
            UserError: a row that breaks the format (named as rows[i]), no rows, or a model
                without labels.
        """
        refuse_without_labels(self.trained)
        given = python_rows(self.trained, rows)
        return self._read(given, rows_to_classify(self.trained, given))

    def rows_to_score(self, rows: Any) -> RowsRead:
        """Rows of which every token is to be scored, labels included.

        Raises:
            UserError: as `rows_to_label`.
        """
        vocabulary = self.trained.vocabulary
        given = python_rows(self.trained, rows)
        builder = RowsBuilder(vocabulary, self.trained.max_length)
        for index, record in enumerate(given.records):
            with given.row(index):
                refuse_unknown_tokens(self.trained, record, self._unknown_token)
                row = parse_row(record, vocabulary, self._unknown_token)
            builder.add(row, index + 1, None)
        return self._read(given, builder.finish())

    def _read(self, given: PythonRows, dataset: TokenLabelDataset) -> RowsRead:
        notes = dataset.counts.lines(self.trained.learned_unknown)
        return RowsRead(dataset, given.is_one, notes)

    def prompt(self, prompt: str | Sequence[int] | Mapping[str, Any]) -> list[int] | None:
        """Ids that the model goes on from; None for an empty string where rows may begin freely.

        An object is like a line of a JSONL file.

        Raises:
            UserError: tokens that the vocabulary lacks, an id outside of it, no tokens, or a
                model that predicts none.
        """
        refuse_labels_only(self.trained)
        if isinstance(prompt, Mapping):
            record = dict(prompt)
        elif not isinstance(prompt, str):
            record = {"input_ids": list(prompt)}
        elif prompt.strip() or self.trained.is_instructed:
            record = record_of_prompt(self.trained, prompt)
        else:
            return None
        return ids_to_continue(self.trained, record, self._unknown_token)[0]

    # ------------------------------------------------------------------- computing

    async def label(self, rows: RowsRead) -> list[dict[str, Any]]:
        """Of each row `prediction`, `confidence`, `raw_confidence`, `probabilities` (descending).

        They equal `inference.classify`. Above 200 labels `probabilities` has the 50 largest, and
        `probabilities_left_out` the number of the others and their share.

        Raises:
            QueueFullError, EngineFailedError
        """
        if len(rows.dataset) < _MANY_ROWS:
            asked = self._asked(rows.dataset)
            return self._answers(rows.dataset, await asyncio.wrap_future(self._turns.label(asked)))
        asked = await asyncio.to_thread(self._asked, rows.dataset)
        logits_BxL = await asyncio.wrap_future(self._turns.label(asked))
        return await asyncio.to_thread(self._answers, rows.dataset, logits_BxL)

    def _asked(self, dataset: TokenLabelDataset) -> list[np.ndarray]:
        ids_M, lengths_B = rows_asked(self._engine, dataset, np.arange(len(dataset)))
        return np.split(ids_M, np.cumsum(lengths_B)[:-1])

    def _answers(self, dataset: TokenLabelDataset, logits_BxL: np.ndarray) -> list[dict[str, Any]]:
        probs = LabelProbabilities.empty(
            len(dataset), len(dataset.vocabulary.labels), self.trained.temperature
        )
        probs.put(np.arange(len(dataset)), log_softmax(logits_BxL))
        try:
            answers = answers_by(self.trained, dataset, probs)
        except UserError as error:  # rows were checked: it is the model
            raise EngineFailedError(str(error)) from error
        return [_without_place(answer) for answer in answers]

    async def score(self, rows: RowsRead, tokens: bool = False) -> list[dict[str, Any]]:
        """Of each row what predictions.jsonl has of it, without `row` and `line`.

        That is `nll_sum`, `token_count`, `correct_tokens`, `body_nll_sum`, `body_token_count`, and
        where the row has a label `label`, `label_nll`, `prediction`, `confidence`,
        `raw_confidence`, `probabilities`. With `tokens` also `tokens`: a list of {"id", "text",
        "nll"}, `nll` null for the first, which nothing predicts.

        Raises:
            QueueFullError, EngineFailedError
        """
        parts = self._score_parts(rows.dataset, tokens)
        found: list[dict[str, Any]] = await asyncio.wrap_future(
            self._turns.in_parts(parts, _SCORED_AT_ONCE)
        )
        return found

    def _score_parts(
        self, dataset: TokenLabelDataset, tokens: bool
    ) -> Iterator[list[dict[str, Any]]]:
        """The scores of all rows so far, after each part of them."""
        found: list[dict[str, Any]] = []
        for part in _parts_of(dataset):
            temperature = self.trained.temperature
            scores = score_rows(self._engine, part, batch_size=len(part), temperature=temperature)
            for row in predictions_of(part, scores.label_probs, temperature, scores):
                if row["label"] is None:
                    row = {k: v for k, v in row.items() if not k.endswith(_OF_LABELS)}
                found.append(_without_place(row))
            if tokens:
                for row, told in zip(found[-len(part) :], self._tokens_of(part), strict=True):
                    row["tokens"] = told
            yield found

    def _tokens_of(self, dataset: TokenLabelDataset) -> Iterator[list[dict[str, Any]]]:
        """The tokens of each row, with what each costs."""
        ids_M, targets_M, counts_B = dataset.shifted(np.arange(len(dataset)))
        nll_M = np.full(len(ids_M), np.nan)
        if self.goes_on:
            none = np.zeros(0, np.int64)
            nll_M = self._engine.score_tokens(ids_M, counts_B, targets_M, none).nll_M
        ends_B = np.cumsum(counts_B)
        for index, nll_T in enumerate(np.split(nll_M, ends_B[:-1])):
            costs = [None, *(None if np.isnan(nll) else nll for nll in nll_T.tolist())]
            yield [
                {"id": token, "text": token_text(self.trained, token), "nll": cost}
                for token, cost in zip(dataset.row(index).tolist(), costs, strict=True)
            ]

    async def go_on(self, wish: Wish) -> AsyncGenerator[Piece]:
        """The continuations, in pieces as they grow; each ends with a `finish_reason`.

        What stops asking for pieces (`aclose`, a cancelled task) frees its places at the next
        token. Many tokens may come as one piece where they come faster than they are taken.

        Raises (before the first piece):
            UserError: a prompt that no row begins with, or no room after it.
            QueueFullError, EngineFailedError
        """
        signal = _Signal()
        growths, firsts = self._growths(wish, signal)
        following = [
            Continuation(self.trained, growth, index, wish.stop, firsts[index])
            for index, growth in enumerate(growths)
        ]
        try:
            self._turns.grow(growths)
            told = 0.0
            while True:
                signal.arm()
                pieces = [piece for each in following if (piece := each.take()) is not None]
                for piece in pieces:
                    yield piece
                if all(each.is_done for each in following):
                    return
                if pieces:
                    told = time.monotonic()
                await signal.wait()
                await asyncio.sleep(max(0.0, told + _PIECE_SECONDS - time.monotonic()))
        finally:
            for growth in growths:
                growth.is_cancelled = True

    def _growths(self, wish: Wish, signal: _Signal) -> tuple[list[Growth], list[list[int]]]:
        """What is to grow, and what of each prompt nobody has given."""
        trained = self.trained
        refuse_labels_only(trained)
        seed = random.getrandbits(32) if wish.seed is None else wish.seed
        numbers = UniformNumbers(seed)
        sampling = Sampling(wish.greedy, wish.temperature, wish.top_k, wish.top_p)
        plan = any_token() if wish.free else self._plan
        growths, firsts = [], []
        for _ in range(wish.count):
            first = [] if wish.prompt is not None else [self._beginning(wish.greedy, numbers)]
            prompt = first if wish.prompt is None else wish.prompt
            most = room_after(trained, prompt, plan, False, wish.max_new_tokens).most
            growths.append(
                Growth(
                    prompt,
                    most,
                    sampling,
                    numbers.draw(most),
                    not wish.free and plan.rules is not None,
                    wish.shares,
                    signal.notify,
                )
            )
            firsts.append(first)
        return growths, firsts

    def _beginning(self, greedy: bool, numbers: UniformNumbers) -> int:
        """The first token of a row, drawn as the training rows began."""
        if self.trained.vocabulary.img_id is not None:
            return self.trained.vocabulary.img_id
        ids, counts = zip(*first_tokens(self.trained), strict=True)
        sums = np.cumsum(counts)
        drawn = 0 if greedy else int(np.searchsorted(sums, numbers.draw(1)[0] * sums[-1], "right"))
        return int(ids[drawn])


_OF_LABELS = ("label", "prediction", "confidence", "probabilities", "probabilities_left_out")


class _Signal:
    """Wakes a task of the event loop from the thread that computes, and only where it waits."""

    def __init__(self) -> None:
        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()
        self._armed = False

    def arm(self) -> None:
        """From now on what changes wakes the next `wait`; look for changes after this."""
        self._event.clear()
        self._armed = True

    def notify(self) -> None:
        """Something has changed."""
        if self._armed:
            self._armed = False
            with suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Wait for a change since `arm`."""
        await self._event.wait()


def _set_once(done: Future[None], growth: Growth) -> None:
    if growth.error is not None:
        done.set_exception(growth.error)
    elif growth.ended:
        done.set_result(None)


def _without_place(row: dict[str, Any]) -> dict[str, Any]:
    """A row of predictions.jsonl without what only a file has."""
    return {name: value for name, value in row.items() if name not in ("line", "row")}


def _parts_of(dataset: TokenLabelDataset) -> Iterator[TokenLabelDataset]:
    """Rows that follow one another, some tokens at a time."""
    part_N = (np.cumsum(dataset.lengths_N) - dataset.lengths_N) // _SCORED_AT_ONCE
    for rows in np.split(np.arange(len(dataset)), np.flatnonzero(np.diff(part_N)) + 1):
        yield dataset.subset(rows)
