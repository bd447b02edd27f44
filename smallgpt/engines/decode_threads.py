"""How many threads decode: one or all, by a short measurement.

A step of few sequences is many small products. Whether a second thread helps or its waking takes
longer than they do differs by machine: 1.5 times to a fifth of the speed of one thread were seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from smallgpt.decoding.token_decoder import TokenDecoder

_MANY_ROWS = 16  # more sequences at once are computed with as many threads as these
_STEPS_TRIED = 6


class ThreadChoice:
    """Remembers, for each number of sequences, with how many threads they are decoded."""

    def __init__(self, threads: int, decoder_with: Callable[[int], TokenDecoder]):
        """`decoder_with(n)` makes a decoder that computes with n threads; `threads` are all."""
        self._able, self._decoder_with = sorted({1, threads}), decoder_with
        self._chosen: dict[int, int] = {}

    def decoder(self, rows: int) -> TokenDecoder:
        """A decoder for so many sequences with the threads that take fewer seconds a step."""
        rows = min(rows, _MANY_ROWS)
        if rows not in self._chosen:
            chosen = self._able[0]
            if len(self._able) > 1:
                chosen = min(self._able, key=lambda threads: self._seconds(threads, rows))
            self._chosen[rows] = chosen
        return self._decoder_with(self._chosen[rows])

    def _seconds(self, threads: int, rows: int) -> float:
        """Seconds of a step, the best of some."""
        decoder, ones = self._decoder_with(threads), torch.ones(rows, dtype=torch.int64)
        ones = ones.to(decoder.device)
        decoder.prefill(ones[:, None], ones, _STEPS_TRIED + 1)
        best = float("inf")
        for _ in range(_STEPS_TRIED):
            began = time.perf_counter()
            decoder.step(ones)
            best = min(best, time.perf_counter() - began)
        return best
