"""A continuation while it grows, and the choice of the next tokens of many.

Sizes in names: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from smallgpt.decoding.row_rules import RowRules
from smallgpt.decoding.sampling import Sampling, choose_in_arrays
from smallgpt.engines.engine import log_softmax


class EngineFailedError(Exception):
    """The model failed while it computed; the request may be tried again."""


class Shares(NamedTuple):
    """Logarithms of the probabilities that the model gave tokens at one place."""

    chosen: float
    likeliest: list[tuple[int, float]]  # ids, descending


@dataclass(eq=False)
class Growth:
    """A continuation; `ids`, `shares`, `ended` and `error` are written by the thread of `Turns`."""

    prompt: Sequence[int]
    most: int  # new tokens
    sampling: Sampling
    uniform: np.ndarray  # a number for each new token
    rules: bool  # whether the rules of rows hold
    likeliest: int | None = None  # how many tokens `shares` tells at each place; None: none at all
    on_change: Callable[[], object] = lambda: None  # called when `ids` grew or it ended
    ids: list[int] = field(default_factory=list)
    shares: list[Shares] = field(default_factory=list)
    ended: str | None = None  # "stop": by a token that ends rows; "length"
    error: Exception | None = None
    is_cancelled: bool = False  # nobody waits for it any more

    def fail(self, error: Exception) -> None:
        """End it by an error."""
        self.error = error
        self.on_change()


class Choosing:
    """Chooses the next tokens of continuations of one model."""

    def __init__(self, stops: Collection[int], never: Collection[int], rules: RowRules | None):
        """`stops`: tokens that end a row; `never`: tokens that never come."""
        self._stops, self._never, self._rules = frozenset(stops), list(never), rules

    def choose(self, growths: Sequence[Growth], logits_BxV: np.ndarray) -> list[Growth]:
        """Give each its next token; the ones that have ended, by it or by an error.

        Raises:
            ValueError: every token is forbidden.
        """
        logits_BxV = np.array(logits_BxV, np.float32)
        finite_B = np.isfinite(logits_BxV).all(axis=1)
        shares = [
            self._shares(growth, row) for growth, row in zip(growths, logits_BxV, strict=True)
        ]
        logits_BxV[~finite_B] = 0
        logits_BxV[:, self._never] = -np.inf
        self._apply_rules(growths, logits_BxV)
        ids_B = np.zeros(len(growths), np.int64)
        same: dict[Sampling, list[int]] = {}
        for index, growth in enumerate(growths):
            same.setdefault(growth.sampling, []).append(index)
        for sampling, rows in same.items():
            uniform = np.array([growths[row].uniform[len(growths[row].ids)] for row in rows])
            ids_B[rows] = choose_in_arrays(logits_BxV[rows], sampling, uniform)
        ended = []
        for growth, index, share, finite in zip(
            growths, ids_B.tolist(), shares, finite_B.tolist(), strict=True
        ):
            if not finite:
                growth.fail(EngineFailedError("the model gives no finite number"))
                ended.append(growth)
                continue
            if share is not None:
                growth.shares.append(share(index))
            growth.ids.append(index)
            if index in self._stops:
                growth.ended = "stop"
            elif len(growth.ids) == growth.most:
                growth.ended = "length"
            if growth.ended:
                ended.append(growth)
            growth.on_change()
        return ended

    def _apply_rules(self, growths: Sequence[Growth], logits_BxV: np.ndarray) -> None:
        """Forbid what may not come next in well-formed rows."""
        rows = [index for index, growth in enumerate(growths) if growth.rules]
        if self._rules is None or not rows:
            return
        ruled = [growths[row] for row in rows]
        state = self._rules.state(
            [len(growth.prompt) + len(growth.ids) for growth in ruled],
            [growth.ids[-1] if growth.ids else growth.prompt[-1] for growth in ruled],
        )
        logits_BxV[rows] = self._rules.mask(logits_BxV[rows], state)

    @staticmethod
    def _shares(growth: Growth, logits_V: np.ndarray) -> Callable[[int], Shares] | None:
        """What the model says, before anything is forbidden."""
        count = growth.likeliest
        if count is None:
            return None
        logs_V = log_softmax(logits_V[None])[0]
        likeliest = np.argsort(-logs_V, kind="stable")[:count].tolist() if count else []
        pairs = [(index, float(logs_V[index])) for index in likeliest]
        return lambda chosen: Shares(float(logs_V[chosen]), pairs)
