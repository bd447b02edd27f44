"""Rows that grow together by a decode.onnx; see `smallgpt.decoding.growing_rows`.

The graph reads a cache of keys and values and gives one that is a column longer. So all rows end
at its last column, and a row that is shorter than another has columns of nothing before it, which
the attention mask hides.

Sizes in names: B rows, T tokens of a prompt, C columns of the cache, H heads, D width of a head, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smallgpt.engines.runtimes import Session, as_array


class GraphRows:
    """As `GrowingRows`."""

    def __init__(self, session: Callable[[], Session]):
        """`session` gives the one to run next, of the same graph."""
        self._session = session
        self._lengths_B = np.zeros(0, np.int64)
        self._cache: dict[str, Any] = {}

    def join(self, ids: Sequence[int]) -> np.ndarray:
        """As `GrowingRows.join`."""
        session, T = self._session(), len(ids)
        places_1xT = np.arange(T)[None]
        logits_1xTxV, cache = self._run(
            session, np.array([ids], np.int64), places_1xT, np.ones((1, T), np.int64), {}
        )
        columns = int(self._lengths_B.max(initial=0))
        if self._cache:
            cache = {
                name: np.concatenate(
                    [_right(as_array(old), max(T, columns)), _right(as_array(new), columns)]
                )
                for (name, old), new in zip(self._cache.items(), cache.values(), strict=True)
            }
        self._cache = cache
        self._lengths_B = np.append(self._lengths_B, T)
        logits_V: np.ndarray = logits_1xTxV[0, -1]
        return logits_V

    def step(self, ids_B: np.ndarray) -> np.ndarray:
        """As `GrowingRows.step`."""
        columns = int(self._lengths_B.max()) + 1
        places_B, self._lengths_B = self._lengths_B, self._lengths_B + 1
        is_read_BxC = np.arange(columns) >= columns - self._lengths_B[:, None]
        logits_Bx1xV, self._cache = self._run(
            self._session(),
            ids_B.astype(np.int64, copy=False)[:, None],
            places_B[:, None],
            is_read_BxC.astype(np.int64),
            self._cache,
        )
        logits_BxV: np.ndarray = logits_Bx1xV[:, 0]
        return logits_BxV

    def keep(self, rows: Sequence[int]) -> None:
        """As `GrowingRows.keep`."""
        self._lengths_B = self._lengths_B[list(rows)]
        if not rows:
            self._cache = {}
            return
        columns = int(self._lengths_B.max())
        self._cache = {
            name: np.ascontiguousarray(as_array(value)[list(rows), :, -columns:])
            for name, value in self._cache.items()
        }

    def _run(
        self,
        session: Session,
        ids_BxT: np.ndarray,
        places_BxT: np.ndarray,
        is_read_BxC: np.ndarray,
        cache: dict[str, Any],
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Logits B x T x V, and the cache as it is then."""
        names = [name for name in session.inputs if name.startswith("past_")]
        outputs = [name for name in session.outputs if name.startswith("present.")]
        feed = {
            "input_ids": ids_BxT,
            "position_ids": places_BxT,
            "attention_mask": is_read_BxC,
            **(cache or empty_cache(session, len(ids_BxT))),
        }
        logits, *present = session.run(feed, ["logits", *outputs])
        # (An array of a session may be its own memory, which the next run overwrites.)
        return as_array(logits).copy(), dict(zip(names, present, strict=True))


def empty_cache(session: Session, rows: int) -> dict[str, np.ndarray]:
    """The cache of rows of which nothing was read."""
    return {
        name: np.zeros((rows, shape[1], 0, shape[3]), np.float32)  # type: ignore[arg-type]
        for name, shape in session.inputs.items()
        if name.startswith("past_")
    }


def _right(cache_BxHxCxD: np.ndarray, columns: int) -> np.ndarray:
    """The cache with columns of nothing before it, where it has fewer."""
    missing = columns - cache_BxHxCxD.shape[2]
    if missing <= 0:
        return cache_BxHxCxD
    return np.pad(cache_BxHxCxD, ((0, 0), (0, 0), (missing, 0), (0, 0)))
