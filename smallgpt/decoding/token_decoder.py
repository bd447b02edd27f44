"""What decodes with a key/value cache; `smallgpt.decoding.decoder.Decoder` says what each does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TokenDecoder(Protocol):
    """A model prepared for decoding, with the cache of the current batch."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def n_positions(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...

    def prefill(self, ids_BxT: Tensor, lengths_B: Tensor, capacity: int) -> Tensor: ...
    def step(self, ids_B: Tensor) -> Tensor: ...
    def keep(self, rows: Sequence[int]) -> None: ...
