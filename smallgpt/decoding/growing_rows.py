"""Rows that grow together, a token at a time; others join and leave between two steps.

    rows = GrowingGpt2(decoder)
    logits_V = rows.join([2, 17, 40])                  # the prompt becomes the last row
    logits_BxV = rows.step(np.array([9, 30]))          # the next token of each
    rows.keep([1])                                     # row 1 becomes row 0

A prompt is read alone and a row attends to its own keys alone, so that a row is what it would be
without the others, but for the last bits of sums. Ids and logits are NumPy's.

Sizes in names: B rows, T tokens of a prompt, S rows for which there is memory, C columns of it, H
heads, D width of a head, E width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from smallgpt.decoding.decoder import Decoder
    from smallgpt.decoding.token_decoder import TokenDecoder

_ROOM_BLOCK = 64  # columns that memory grows by


class GrowingRows(Protocol):
    """See the module."""

    def join(self, ids: Sequence[int]) -> np.ndarray:
        """Read a prompt, which becomes the last row; the logits after it, V in fp32."""

    def step(self, ids_B: np.ndarray) -> np.ndarray:
        """Read the next token of each row; the logits after them, B x V in fp32."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every row but `rows`; row `rows[i]` becomes row i."""


class GrowingGpt2:
    """`GrowingRows` of a GPT-2 by torch: each row has a line of memory, filled from the left."""

    def __init__(self, decoder: Decoder):
        """`decoder` gives the weights; what it decodes itself is untouched."""
        self._decoder = decoder
        self._lengths: list[int] = []
        self._caches: list[Tensor] = []  # of a layer: 2 x S x H x C x D

    def join(self, ids: Sequence[int]) -> np.ndarray:
        """As `GrowingRows.join`."""
        import torch

        with torch.inference_mode():
            row, T = len(self._lengths), len(ids)
            self._make_room(row + 1, T)
            heads, device = self._decoder.n_head, self._decoder.device

            def attend(qkv_Tx3E: Tensor, cache_2xSxHxCxD: Tensor) -> Tensor:
                q, k, v = qkv_Tx3E.view(T, 3, heads, -1).permute(1, 2, 0, 3)  # each H x T x D
                cache_2xSxHxCxD[0, row, :, :T], cache_2xSxHxCxD[1, row, :, :T] = k, v
                attended_1xHxTxD = torch.nn.functional.scaled_dot_product_attention(
                    q[None], k[None], v[None], is_causal=True, scale=1.0
                )
                return attended_1xHxTxD[0].transpose(0, 1).flatten(1)

            ids_T = torch.tensor(ids, device=device)
            places_T = torch.arange(T, device=device)
            x_TxE = self._decoder.embed(ids_T, places_T)
            x_TxE = self._decoder.through_blocks(x_TxE, self._caches, attend)
            self._lengths.append(T)
            logits_V: np.ndarray = self._decoder.logits(x_TxE[-1:])[0].cpu().numpy()
            return logits_V

    def step(self, ids_B: np.ndarray) -> np.ndarray:
        """As `GrowingRows.step`."""
        import torch

        with torch.inference_mode():
            B, C = len(ids_B), max(self._lengths) + 1
            self._make_room(B, C)
            heads, device = self._decoder.n_head, self._decoder.device
            rows_B = torch.arange(B, device=device)
            places_B = torch.tensor(self._lengths, device=device)
            unread_BxC = torch.arange(C, device=device) > places_B[:, None]
            is_ragged = min(self._lengths) + 1 < C

            def attend(qkv_Bx3E: Tensor, cache_2xSxHxCxD: Tensor) -> Tensor:
                qkv_3xBxHxD = qkv_Bx3E.view(B, 3, heads, -1).transpose(0, 1)
                cache_2xSxHxCxD[:, rows_B, :, places_B] = (
                    qkv_3xBxHxD[1:].transpose(0, 1).to(cache_2xSxHxCxD.dtype)
                )
                k_BxHxCxD, v_BxHxCxD = cache_2xSxHxCxD[:, :B, :, :C]
                q_BxHxDx1 = qkv_3xBxHxD[0, ..., None].to(k_BxHxCxD.dtype)
                scores_BxHxC = (k_BxHxCxD @ q_BxHxDx1)[..., 0].float()
                if is_ragged:
                    scores_BxHxC.masked_fill_(unread_BxC[:, None], -torch.inf)
                weights_BxHx1xC = scores_BxHxC.softmax(dim=-1)[:, :, None].to(v_BxHxCxD.dtype)
                return (weights_BxHx1xC @ v_BxHxCxD).reshape(B, -1).to(qkv_Bx3E.dtype)

            x_BxE = self._decoder.embed(torch.from_numpy(ids_B).to(device), places_B)
            x_BxE = self._decoder.through_blocks(x_BxE, self._caches, attend)
            self._lengths = [length + 1 for length in self._lengths]
            logits_BxV: np.ndarray = self._decoder.logits(x_BxE).cpu().numpy()
            return logits_BxV

    def keep(self, rows: Sequence[int]) -> None:
        """As `GrowingRows.keep`."""
        import torch

        self._lengths = [self._lengths[row] for row in rows]
        if not rows:
            self._caches = []  # the memory of the longest row is not kept for ever
            return
        used = max(self._lengths)
        moves = [(new, old) for new, old in enumerate(rows) if new != old]
        if moves:
            new_B, old_B = map(list, zip(*moves, strict=True))
            for cache in self._caches:
                with torch.inference_mode():
                    cache[:, new_B, :, :used] = cache[:, old_B, :, :used]

    def _make_room(self, rows: int, columns: int) -> None:
        """Have memory for so many rows of so many tokens."""
        shape = self._caches[0].shape if self._caches else (2, 0, 0, 0, 0)
        if rows <= shape[1] and columns <= shape[3]:
            return
        S = shape[1] if rows <= shape[1] else max(rows, 2 * shape[1])
        C = shape[3] if columns <= shape[3] else columns + max(_ROOM_BLOCK, columns // 2)
        old, self._caches = self._caches, []
        for index in range(self._decoder.n_layer):
            new = self._decoder.new_cache(S, min(C, self._decoder.n_positions))
            if old:
                new[:, : shape[1], :, : shape[3]] = old[index]
            self._caches.append(new)


class SeparateRows:
    """`GrowingRows` of any model: each row has a decoder of its own, and they take turns."""

    def __init__(self, make_decoder: Callable[[], TokenDecoder]):
        """`make_decoder` makes one of a model that is in memory."""
        self._make_decoder = make_decoder
        self._rows: list[TokenDecoder] = []

    def join(self, ids: Sequence[int]) -> np.ndarray:
        """As `GrowingRows.join`."""
        import torch

        decoder = self._make_decoder()
        logits_1xV = decoder.prefill(
            torch.tensor([list(ids)]), torch.tensor([len(ids)]), decoder.n_positions
        )
        self._rows.append(decoder)
        logits_V: np.ndarray = logits_1xV[0].float().cpu().numpy()
        return logits_V

    def step(self, ids_B: np.ndarray) -> np.ndarray:
        """As `GrowingRows.step`."""
        import torch

        return np.stack(
            [
                decoder.step(torch.tensor([index], device=decoder.device))[0].float().cpu().numpy()
                for decoder, index in zip(self._rows, ids_B.tolist(), strict=True)
            ]
        )

    def keep(self, rows: Sequence[int]) -> None:
        """As `GrowingRows.keep`."""
        self._rows = [self._rows[row] for row in rows]


def close_gaps(rows: list[int]) -> list[int]:
    """Order `rows` so that each below their number stays in its place: [0, 2, 5] -> [0, 5, 2]."""
    staying = {row for row in rows if row < len(rows)}
    moving = iter(row for row in rows if row >= len(rows))
    return [row if row in staying else next(moving) for row in range(len(rows))]
