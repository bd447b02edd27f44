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

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from smallgpt.engines.trained import TrainedModel
from smallgpt.rows.dataset import TokenLabelDataset


class QueueFull(Exception):
    """So many requests wait already that one more is not taken."""


class EngineFailure(Exception):
    """The model failed while it computed; the request may be tried again."""


@dataclass(frozen=True)
class TokenShare:
    """A token, and the logarithm of the probability that the model gave it."""

    id: int
    text: str
    logprob: float


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
class Piece:
    """What one continuation got since its last piece; the last has a `finish_reason`."""

    index: int  # of the continuation, 0 to count - 1
    text: str  # to be appended to the prompt as it stands
    ids: list[int] = field(default_factory=list)
    chosen: list[TokenShare] = field(default_factory=list)  # with `shares`, one a token
    likeliest: list[list[TokenShare]] = field(default_factory=list)  # with `shares`, descending
    finish_reason: str | None = None  # "stop": an end of a row or a text of `stop`; "length"


@dataclass(frozen=True)
class RowsRead:
    """Rows that were read and checked, ready to be computed."""

    dataset: TokenLabelDataset
    is_one: bool  # whether it was one row and no list of rows
    notes: list[str]  # what reading changed, such as rows that were cut; for the user


class ServedModel:
    """See the module."""

    def __init__(self, trained: TrainedModel, most_waiting: int, most_rows: int = 64):
        """Hold the model.

        Args:
            most_waiting: requests that may wait for their turn; more raise `QueueFull`.
            most_rows: continuations that grow at once.
        """

    # What the model is.
    trained: TrainedModel
    names_labels: bool  # `label` works
    goes_on: bool  # `go_on` works: it predicts tokens

    def start(self) -> None:
        """Start the thread that computes, and let it compute once."""

    def stop(self) -> None:
        """End the thread; what it still computes or holds fails with `EngineFailure`."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is computed."""

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""

    # ------------------------------------------------------------------- reading

    def rows_to_label(self, rows: Any) -> RowsRead:
        """Rows as `inference.classify` takes them: a string, ids, an object, or a list of these.

        Raises:
            UserError: a row that breaks the format (named as rows[i]), or no rows.
        """

    def rows_to_score(self, rows: Any) -> RowsRead:
        """Rows of which every token is to be scored, labels included.

        Raises:
            UserError: as `rows_to_label`.
        """

    def prompt(self, prompt: str | Sequence[int]) -> list[int] | None:
        """Ids that the model goes on from; None for an empty string where rows may begin freely.

        Raises:
            UserError: tokens that the vocabulary lacks, an id outside of it, no tokens.
        """

    # ------------------------------------------------------------------- computing

    async def label(self, rows: RowsRead) -> list[dict[str, Any]]:
        """Of each row `prediction`, `confidence`, `raw_confidence`, `probabilities` (descending).

        They equal `inference.classify`. Above 200 labels `probabilities` has the 50 largest, and
        `probabilities_left_out` the number of the others and their share.

        Raises:
            QueueFull, EngineFailure
        """

    async def score(self, rows: RowsRead, tokens: bool = False) -> list[dict[str, Any]]:
        """Of each row what predictions.jsonl has of it, without `row` and `line`.

        That is `nll_sum`, `token_count`, `correct_tokens`, `body_nll_sum`, `body_token_count`,
        where the model has labels `prediction`, `confidence`, `raw_confidence`, `probabilities`,
        and where the row has one `label`, `label_nll`. With `tokens` also `tokens`: a list of
        {"id", "text", "nll"}, `nll` null for the first, which nothing predicts.

        Raises:
            QueueFull, EngineFailure
        """

    def go_on(self, wish: Wish) -> AsyncIterator[Piece]:
        """The continuations, in pieces as they grow; each ends with a `finish_reason`.

        What stops asking for pieces (`aclose`, a cancelled task) frees its places at the next
        token. Many tokens may come as one piece where they come faster than they are taken.

        Raises (before the first piece):
            UserError: a prompt that no row begins with, or no room after it.
            QueueFull, EngineFailure
        """
