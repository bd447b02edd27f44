"""Continuations for the endpoints that generate: asked for, collected, or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from smallgpt.serving.served import Piece, ServedModel, TokenShare, Wish
from smallgpt.serving.service import Service

_AT_ONCE = 16  # prompts of one request that stand in the queue together
# Seconds between two events of a continuation; what comes meanwhile is told together. An eye sees
# no difference, and many streams at once cost the event loop a fraction.
_BETWEEN = 0.02


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
        UserError, QueueFull, EngineFailure
    """
    grown = [Grown() for wish in wishes for _ in range(wish.count)]
    async with aclosing(pieces_of(service, wishes)) as pieces:
        async for piece in pieces:
            grown[piece.index].add(piece)
    return grown


async def pieces_of(service: Service, wishes: Sequence[Wish]) -> AsyncGenerator[Piece]:
    """The pieces of all wishes as they come; `index` counts over the continuations of all.

    Raises:
        UserError, QueueFull, EngineFailure
    """
    if len(wishes) == 1:
        pieces = service.served.go_on(wishes[0])
        async with aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                service.metrics.tokens.inc(len(piece.ids))
                yield piece
        return
    firsts = [0]
    for wish in wishes:
        firsts.append(firsts[-1] + wish.count)
    # One place, so that nothing piles up here: pieces that are not taken grow together.
    arrived: asyncio.Queue[Piece | Exception | None] = asyncio.Queue(1)
    places = asyncio.Semaphore(_AT_ONCE)
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
            pieces = served.go_on(wish)
            async with aclosing(pieces):  # type: ignore[type-var]
                async for piece in pieces:
                    await arrived.put(replace(piece, index=first + piece.index))
        except Exception as error:
            await arrived.put(error)
            return
    await arrived.put(None)


async def streamed(pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    """Pieces for events: the first of each continuation at once, then not too many.

    Returns when the first piece is there, so that what fails before can still be answered.
    """
    first = await anext(pieces, None)

    async def go_on() -> AsyncGenerator[Piece]:
        clock, told = asyncio.get_running_loop().time, dict[int, float]()
        async with aclosing(pieces):
            if first is not None:
                told[first.index] = clock()
                yield first
            async for piece in pieces:
                early = told.get(piece.index, 0) + _BETWEEN - clock()
                if early > 0:
                    await asyncio.sleep(early)
                told[piece.index] = clock()
                yield piece

    return go_on()
