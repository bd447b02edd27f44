"""The text of a continuation, in pieces as it grows: what is certain so far, up to a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from smallgpt.engines.trained import TrainedModel
from smallgpt.inference.prompts import token_text
from smallgpt.serving.growth import Growth, Shares

_HALF = "\ufffd"  # what a tokenizer writes for a part of a character


@dataclass(frozen=True)
class TokenShare:
    """A token, and the logarithm of the probability that the model gave it."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Piece:
    """What one continuation got since its last piece; the last has a `finish_reason`."""

    index: int  # of the continuation, 0 to count - 1
    text: str  # to be appended to the prompt as it stands
    ids: list[int] = field(default_factory=list)
    chosen: list[TokenShare] = field(default_factory=list)  # with `shares`, one a token
    likeliest: list[list[TokenShare]] = field(default_factory=list)  # with `shares`, descending
    finish_reason: str | None = None  # "stop": an end of a row or a text of `stop`; "length"


class Continuation:
    """Follows a growth."""

    def __init__(
        self,
        trained: TrainedModel,
        growth: Growth,
        index: int,
        stop: Sequence[str],
        first: Sequence[int] = (),
    ):
        """`first`: tokens of the prompt that nobody has given, and which are told as well."""
        self._trained, self._growth, self._index, self._stop = trained, growth, index, stop
        self._first = list(first)
        self._before = ""
        if trained.vocabulary.tokenizer is not None and not trained.is_instructed and not first:
            self._before = trained.vocabulary.tokenizer.decode(growth.prompt)
        self._told_ids = self._told_text = 0
        self.is_done = False

    def take(self) -> Piece | None:
        """What is new; None for nothing.

        Raises:
            Exception: that of the growth.
        """
        growth = self._growth
        if self.is_done:
            return None
        if growth.error is not None:
            raise growth.error
        ended = growth.ended  # before the ids, which are complete where it is set
        count = len(growth.ids)
        ids = [*self._first, *growth.ids[:count]]
        if self._told_ids == len(ids) and not ended:
            return None
        text = self._text(ids)
        reason = ended
        end = self._stop_in(text)
        if end is not None:
            text, reason, growth.is_cancelled = text[:end], "stop", True
        elif not ended:
            text = self._certain(text)
        piece = Piece(
            self._index,
            text[self._told_text :],
            ids[self._told_ids :],
            *self._shares(growth.shares[:count]),
            reason,
        )
        self._told_ids, self._told_text = len(ids), max(self._told_text, len(text))
        self.is_done = reason is not None
        return piece

    def _text(self, ids: Sequence[int]) -> str:
        tokenizer = self._trained.vocabulary.tokenizer
        if tokenizer is None:
            text = self._trained.vocabulary.decode(ids)
            return text if self._first else f" {text}"
        if self._trained.is_instructed or self._first:
            return tokenizer.decode(ids)
        # With what is before it: some tokenizers write no space where a text begins.
        whole = tokenizer.decode([*self._growth.prompt, *ids])
        if whole.startswith(self._before):
            return whole[len(self._before) :]
        return tokenizer.decode(ids)

    def _stop_in(self, text: str) -> int | None:
        """Where a stop text begins; None where there is none."""
        places = [text.find(stop) for stop in self._stop]
        return min((place for place in places if place >= 0), default=None)

    def _certain(self, text: str) -> str:
        """The text without what may yet become another character, or a stop text."""
        text = text.rstrip(_HALF)
        for length in range(min(len(text), max(map(len, self._stop), default=0)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return text[:-length]
        return text

    def _shares(self, shares: Sequence[Shares]) -> tuple[list[TokenShare], list[list[TokenShare]]]:
        """What is new of the shares; tokens that nobody has predicted have none."""
        told = max(0, self._told_ids - len(self._first))
        ids = self._growth.ids

        def share(index: int, logprob: float) -> TokenShare:
            return TokenShare(index, token_text(self._trained, index), logprob)

        chosen = [share(ids[place], shares[place].chosen) for place in range(told, len(shares))]
        likeliest = [[share(*pair) for pair in place.likeliest] for place in shares[told:]]
        return chosen, likeliest
