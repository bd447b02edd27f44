"""The engine that always works: torch, with the toolkit's own forward passes.

    engine = TorchEngine(model, precision, label_ids)
    logits_BxL = engine.label_logits(ids_M, lengths_B)

Sizes in names: as in `engine`; E width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smallgpt.decoding.decoder import Decoder
from smallgpt.decoding.generate import make_decoder
from smallgpt.decoding.growing_rows import GrowingGpt2, GrowingRows, SeparateRows
from smallgpt.decoding.token_decoder import TokenDecoder
from smallgpt.engines.decode_threads import ThreadChoice
from smallgpt.engines.engine import TokenScores, threads_beside_others
from smallgpt.model.forward import Forward, TokenHead
from smallgpt.model.hardware import Precision
from smallgpt.model.head import is_classifier
from smallgpt.model.pretrained import has_linear_head
from smallgpt.rows.to_device import to_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Most logits (positions x vocabulary) computed at once.
_MOST_LOGITS = 32_000_000


class TorchEngine:
    """A model in evaluation mode, with the weights that it has when the engine is first used."""

    name = "torch"

    def __init__(self, model: PreTrainedModel, precision: Precision, label_ids: Sequence[int]):
        """`precision` is that of the blocks, heads compute in fp32; `label_ids` of label tokens."""
        self.model, self.of_blocks = model, precision
        self._label_ids = label_ids

    @property
    def device(self) -> str:
        return self.model.device.type

    @property
    def precision(self) -> str:
        return self.of_blocks.name

    @property
    def by_head(self) -> bool:
        """As `Engine.by_head`."""
        return is_classifier(self.model)

    @cached_property
    def forward(self) -> Forward:
        """The forward pass of the blocks."""
        return Forward(self.model, self.of_blocks, fixed=True)

    @cached_property
    def _head(self) -> TokenHead:
        return TokenHead.of(self.model)

    @cached_property
    def _label_head(self) -> TokenHead:
        return TokenHead.of(self.model, self._label_ids)

    @torch.inference_mode()
    def label_logits(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """As `Engine.label_logits`."""
        if self.by_head:
            logits_BxL = self.forward(self._ids(ids_M), lengths_B, "labels")
        else:
            logits_BxL = self._label_head(self.forward(self._ids(ids_M), lengths_B, "last"))
        return logits_BxL.cpu().numpy()

    @torch.inference_mode()
    def next_logits(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """As `Engine.next_logits`."""
        # Not the model's own forward pass, which computes the logits of every place.
        return self._head(self.forward(self._ids(ids_M), lengths_B, "last")).cpu().numpy()

    @torch.inference_mode()
    def score_tokens(
        self,
        ids_M: np.ndarray,
        lengths_B: np.ndarray,
        targets_M: np.ndarray,
        label_places_R: np.ndarray,
    ) -> TokenScores:
        """As `Engine.score_tokens`."""
        hidden_MxE = self.forward(self._ids(ids_M), lengths_B)
        nll, correct = [], []
        chunk = max(1, _MOST_LOGITS // len(self._head.weight_VxE))
        of_chunks = zip(hidden_MxE.split(chunk), self._ids(targets_M).split(chunk), strict=True)
        for hidden, targets in of_chunks:
            logits = self._head(hidden)
            nll.append(functional.cross_entropy(logits, targets, reduction="none").cpu().double())
            correct.append((logits.argmax(-1) == targets).long().cpu())
        at_cls_RxE = hidden_MxE[self._ids(label_places_R)]
        return TokenScores(
            torch.cat(nll).numpy(),
            torch.cat(correct).numpy(),
            self._label_head(at_cls_RxE).cpu().numpy(),
        )

    def decoder(self, rows: int) -> TokenDecoder:
        """As `Engine.decoder`; on a CPU with one thread or all, whichever is faster."""
        if self.device != "cpu":
            return make_decoder(self.model, self.of_blocks.dtype)
        return self._decoders.decoder(rows)

    def growing_rows(self) -> GrowingRows:
        """As `Engine.growing_rows`."""
        decoder = make_decoder(self.model, self.of_blocks.dtype)
        if isinstance(decoder, Decoder):
            return GrowingGpt2(decoder)
        return SeparateRows(lambda: make_decoder(self.model, self.of_blocks.dtype))

    def share_cores(self, tokens: int) -> None:
        """As `Engine.share_cores`."""
        if self.device == "cpu":
            torch.set_num_threads(threads_beside_others(tokens, self._parameters))

    @cached_property
    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def _decoders(self) -> ThreadChoice:
        decoder = make_decoder(self.model, self.of_blocks.dtype)
        return ThreadChoice(torch.get_num_threads(), partial(_WithThreads, decoder))

    def _ids(self, ids: np.ndarray) -> Tensor:
        return to_device(ids, self.model.device)


class WholeTorchEngine(TorchEngine):
    """A causal model that does more than a linear map to get its logits: computed row by row.

    Such as Gemma 2, which bounds them.
    """

    @torch.inference_mode()
    def next_logits(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """As `Engine.next_logits`."""
        rows = self._ids(ids_M).split(lengths_B.tolist())
        return torch.stack([self._logits(ids_T)[-1] for ids_T in rows]).cpu().numpy()

    @torch.inference_mode()
    def score_tokens(
        self,
        ids_M: np.ndarray,
        lengths_B: np.ndarray,
        targets_M: np.ndarray,
        label_places_R: np.ndarray,
    ) -> TokenScores:
        """As `Engine.score_tokens`; such a model has no labels."""
        nll, correct = [], []
        lengths = lengths_B.tolist()
        of_rows = zip(
            self._ids(ids_M).split(lengths), self._ids(targets_M).split(lengths), strict=True
        )
        for ids_T, targets_T in of_rows:
            logits_TxV = self._logits(ids_T)
            of_row = functional.cross_entropy(logits_TxV, targets_T, reduction="none")
            nll.append(of_row.cpu().double())
            correct.append((logits_TxV.argmax(-1) == targets_T).long().cpu())
        return TokenScores(torch.cat(nll).numpy(), torch.cat(correct).numpy(), np.empty((0, 0)))

    def _logits(self, ids_T: Tensor) -> Tensor:
        with self.of_blocks.autocast(self.model.device):
            return self.model(ids_T[None], use_cache=False).logits[0].float()


def torch_engine_of(
    model: PreTrainedModel, precision: Precision, label_ids: Sequence[int]
) -> TorchEngine:
    """The engine of any causal model or classifier."""
    whole = not is_classifier(model) and not has_linear_head(model)
    return (WholeTorchEngine if whole else TorchEngine)(model, precision, label_ids)


class _WithThreads:
    """A decoder on the CPU that computes with a number of threads of its own."""

    def __init__(self, decoder: TokenDecoder, threads: int):
        self._decoder, self._threads = decoder, threads
        self.device, self.dtype = decoder.device, decoder.dtype
        self.n_positions, self.vocab_size = decoder.n_positions, decoder.vocab_size

    def prefill(self, ids_BxT: Tensor, lengths_B: Tensor, capacity: int) -> Tensor:
        return self._decoder.prefill(ids_BxT, lengths_B, capacity)  # long: by all threads

    def step(self, ids_B: Tensor) -> Tensor:
        before = torch.get_num_threads()
        if before == self._threads:
            return self._decoder.step(ids_B)
        torch.set_num_threads(self._threads)
        try:
            return self._decoder.step(ids_B)
        finally:
            torch.set_num_threads(before)

    def keep(self, rows: Sequence[int]) -> None:
        self._decoder.keep(rows)
