"""What computes a model: torch, or ONNX graphs run by ONNX Runtime or OpenVINO.

Rows come and answers go as numpy arrays, so that a caller needs no torch: importing it takes longer
than most answers.

Sizes in names: B rows, M tokens of all rows, R places that predict labels, L labels, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from smallgpt.decoding.growing_rows import GrowingRows
from smallgpt.decoding.token_decoder import TokenDecoder
from smallgpt.model.threads import cpu_threads


class TokenScores(NamedTuple):
    """What a model says of tokens that are known."""

    nll_M: np.ndarray  # negative log likelihood, float64
    correct_M: np.ndarray  # 1 where the token is the likeliest one, else 0
    label_logits_RxL: np.ndarray  # of the label tokens, at the places asked for


class Engine(Protocol):
    """Computes one model; rows are concatenated, of at least one token each."""

    @property
    def name(self) -> str:
        """torch, onnx or openvino."""

    @property
    def device(self) -> str:
        """The kind of device."""

    @property
    def precision(self) -> str:
        """fp32, bf16, fp16 or int8."""

    @property
    def by_head(self) -> bool:
        """Whether a label head names labels, and no tokens are predicted."""

    def label_logits(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Logits of the labels after each row, B x L.

        A row ends where its label is asked for: with <CLS>, or for a label head with its body.
        """

    def next_logits(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Logits of the token that follows each row, B x V."""

    def score_tokens(
        self,
        ids_M: np.ndarray,
        lengths_B: np.ndarray,
        targets_M: np.ndarray,
        label_places_R: np.ndarray,
    ) -> TokenScores:
        """How likely the tokens are that follow each of M."""

    def decoder(self, rows: int) -> TokenDecoder:
        """A decoder for so many sequences at once, made anew."""

    def growing_rows(self) -> GrowingRows:
        """Rows that grow together while others join and leave; none at first."""

    def share_cores(self, tokens: int) -> None:
        """Compute the next so many tokens beside other work, from the thread that calls this."""


# Multiply-adds, some 10 ms of one core, from which work is divided among all cores though others
# are busy. Below, threads that wait for one another lose more than they win: beside a server's own
# work a step of 16 rows of a small model took 20 ms with two threads and 1 ms with one.
_WORTH_DIVIDING = 1e9
# Fewer tokens take the time of so many: the weights have to come from memory.
_LEAST_TOKENS = 16


def threads_beside_others(tokens: int, parameters: float) -> int:
    """With how many threads so many tokens are computed beside other work."""
    work = max(tokens, _LEAST_TOKENS) * parameters
    return cpu_threads() if work >= _WORTH_DIVIDING else 1


def describe(engine: Engine) -> str:
    """An engine in a word or two."""
    return f"{engine.name} {engine.precision}"


def log_softmax(logits_NxV: np.ndarray) -> np.ndarray:
    """Log softmax over the last axis, in float64."""
    logits_NxV = logits_NxV.astype(np.float64)
    logits_NxV -= logits_NxV.max(axis=-1, keepdims=True)
    logits_NxV -= np.log(np.exp(logits_NxV).sum(axis=-1, keepdims=True))
    return logits_NxV
