"""Continuations for the endpoints that generate: asked for, collected, or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from smallgpt.serving.continuation import Piece, TokenShare
from smallgpt.serving.served import ServedModel, Wish
from smallgpt.serving.service import Service
from smallgpt.serving.turns import QueueFullError

_AT_ONCE = 16  # prompts of one request that stand in the queue together,
_SHARE = 4  # with a quarter of its places at most
_WAIT_SECONDS = 0.05  # until a prompt of a request that was taken tries the queue again


@dataclass
class Grown:
    """A continuation, as far as it has grown."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    chosen: list[TokenShare] = field(default_factory=list)
    likeliest: list[list[TokenShare]] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        """Append what came."""
        self.text += piece.text
        self.ids += piece.ids
        self.chosen += piece.chosen
        self.likeliest += piece.likeliest
        self.finish_reason = piece.finish_reason or self.finish_reason


async def grow(service: Service, wishes: Sequence[Wish]) -> list[Grown]:
    """All continuations of all wishes, whole; those of a wish stand together.

    Raises:
        UserError, QueueFullError, EngineFailedError
    """
    grown = [Grown() for wish in wishes for _ in range(wish.count)]
    async with aclosing(pieces_of(service, wishes)) as pieces:
        async for piece in pieces:
            grown[piece.index].add(piece)
    return grown


async def pieces_of(service: Service, wishes: Sequence[Wish]) -> AsyncGenerator[Piece]:
    """The pieces of all wishes as they come; `index` counts over the continuations of all.

    Raises:
        UserError, QueueFullError, EngineFailedError
    """
    if len(wishes) == 1:
        async with aclosing(service.served.go_on(wishes[0])) as pieces:
            async for piece in pieces:
                service.metrics.tokens.inc(len(piece.ids))
                yield piece
        return
    firsts = [0]
    for wish in wishes:
        firsts.append(firsts[-1] + wish.count)
    # One place, so that nothing piles up here: pieces that are not taken grow together.
    arrived: asyncio.Queue[Piece | Exception | None] = asyncio.Queue(1)
    share = service.settings.max_queue // _SHARE // wishes[0].count
    places = asyncio.Semaphore(max(1, min(_AT_ONCE, share)))
    tasks = [
        asyncio.create_task(_feed(service.served, wish, first, places, arrived))
        for wish, first in zip(wishes, firsts[:-1], strict=True)
    ]
    try:
        left = len(tasks)
        while left:
            item = await arrived.get()
            if item is None:
                left -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                service.metrics.tokens.inc(len(item.ids))
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _feed(
    served: ServedModel,
    wish: Wish,
    first: int,
    places: asyncio.Semaphore,
    arrived: asyncio.Queue[Piece | Exception | None],
) -> None:
    """Put the pieces of a wish, then None, or what failed, into the queue."""
    async with places:
        try:
            async with aclosing(_in_turn(served, wish, is_first=first == 0)) as pieces:
                async for piece in pieces:
                    await arrived.put(replace(piece, index=first + piece.index))
        except Exception as error:
            await arrived.put(error)
            return
    await arrived.put(None)


async def _in_turn(served: ServedModel, wish: Wish, is_first: bool) -> AsyncGenerator[Piece]:
    """The pieces of a wish. Where the queue is full, only the first of a request is refused."""
    while True:
        try:
            async with aclosing(served.go_on(wish)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        except QueueFullError:
            if is_first:
                raise
        await asyncio.sleep(_WAIT_SECONDS)


async def begun(pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    """The same pieces, once the first is there: what fails before can still be answered."""
    first = await anext(pieces)

    async def go_on() -> AsyncGenerator[Piece]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    return go_on()
