"""Decoder for architectures other than GPT-2, by transformers' own modules and cache."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, autocast
from transformers import PreTrainedModel

from smallgpt.errors import UserError


class PlainDecoder:
    """`Decoder` for other architectures; uses the model's own weights, which are not copied."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype = torch.float32):
        """`model` is in evaluation mode; `dtype` of its matrix products (autocast)."""
        self.model, self.dtype, self.device = model, dtype, model.device
        positions = getattr(model.config, "max_position_embeddings", None)
        self.n_positions: int = positions or sys.maxsize
        self.vocab_size: int = model.config.vocab_size
        self._takes = inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def prefill(self, ids_BxT: Tensor, lengths_B: Tensor, capacity: int) -> Tensor:
        """As `Decoder.prefill`."""
        T = ids_BxT.shape[1]
        # Padding on the left, so that the next token of every row has the same column.
        place_BxT = torch.arange(T) - (T - lengths_B[:, None])
        ids_BxT = ids_BxT.cpu().gather(1, place_BxT.clamp(min=0))
        self._mask_BxC = (place_BxT >= 0).long().to(self.device)
        self._cache: Any = None  # of the architecture's own kind
        self._capacity = capacity
        return self._forward(ids_BxT.to(self.device))

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """As `Decoder.step`."""
        if self._mask_BxC.shape[1] == self._capacity:
            raise ValueError(f"the cache is full: it was made for {self._capacity} columns")
        one_Bx1 = self._mask_BxC.new_ones(len(ids_B), 1)
        self._mask_BxC = torch.cat([self._mask_BxC, one_Bx1], dim=1)
        return self._forward(ids_B[:, None])

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """As `Decoder.keep`."""
        rows_B = torch.tensor(rows, device=self.device)
        self._mask_BxC = self._mask_BxC[rows_B]
        self._cache.batch_select_indices(rows_B)

    def _forward(self, ids_BxT: Tensor) -> Tensor:
        position_BxT = (self._mask_BxC.cumsum(1) - 1).clamp(min=0)[:, -ids_BxT.shape[1] :]
        offered = {"position_ids": position_BxT, "logits_to_keep": 1}
        with autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self.model(
                ids_BxT,
                attention_mask=self._mask_BxC,
                past_key_values=self._cache,
                use_cache=True,
                **{name: value for name, value in offered.items() if name in self._takes},
            )
        self._cache = getattr(output, "past_key_values", None)
        if not hasattr(self._cache, "batch_select_indices"):
            kind = self.model.config.model_type
            raise UserError(
                f"a {kind} model cannot generate rows here: its cache is of another kind"
            )
        return output.logits[:, -1].float()
