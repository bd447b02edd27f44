"""Whether an export answers as its model does: both read the same rows, one after another.

    found = compare_labels(trained, reader, dataset)
    found.agreement, found.figures()

The model is computed by transformers in fp32, independently of the toolkit's own forward pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from smallgpt.console import progress_bar
from smallgpt.decoding.token_decoder import TokenDecoder
from smallgpt.engines.trained import TrainedModel
from smallgpt.evaluation.calibration import apply_temperature
from smallgpt.evaluation.metrics import perplexity
from smallgpt.evaluation.statistics import wilson_interval
from smallgpt.export.formats import Reader
from smallgpt.graphs.graph_files import row_rules
from smallgpt.rows.dataset import TokenLabelDataset

_NEW_TOKENS = 64  # of the timed continuation


@dataclass
class Times:
    """Seconds that the model and its export took for the same work, one row or token at a time."""

    model: list[float] = field(default_factory=list)
    export: list[float] = field(default_factory=list)

    def milliseconds(self) -> dict[str, float]:
        """Medians; the first of each, which prepares memory, does not count."""
        return {
            name: 1000 * float(np.median(seconds[1:] or seconds))
            for name, seconds in (("model", self.model), ("export", self.export))
        }


@dataclass(frozen=True)
class LabelAgreement:
    """Label probabilities of N rows by model and export, N x L, and the true classes (-1: none)."""

    model_NxL: np.ndarray
    export_NxL: np.ndarray
    true_N: np.ndarray
    times: Times

    @property
    def agreement(self) -> float:
        """Share of rows with the same likeliest label."""
        return float((self.model_NxL.argmax(1) == self.export_NxL.argmax(1)).mean())

    def figures(self) -> dict[str, Any]:
        """The part `labels` of export_report.json."""
        rows = np.arange(len(self.true_N))
        winner_N = self.model_NxL.argmax(1)
        change_N = np.abs(self.export_NxL[rows, winner_N] - self.model_NxL[rows, winner_N])
        figures: dict[str, Any] = {
            "rows": len(rows),
            "agreement": self.agreement,
            "change_of_winning_share": {
                "mean": float(change_N.mean()),
                "largest": float(change_N.max()),
            },
            "milliseconds_a_row": self.times.milliseconds(),
        }
        known_M = np.flatnonzero(self.true_N >= 0)
        if len(known_M):
            figures |= {"labelled_rows": len(known_M), "accuracy": {}, "accuracy_interval": {}}
            for name, shares in (("model", self.model_NxL), ("export", self.export_NxL)):
                right = int((shares.argmax(1) == self.true_N)[known_M].sum())
                figures["accuracy"][name] = right / len(known_M)
                interval = wilson_interval(right, len(known_M))
                figures["accuracy_interval"][name] = [*map(float, interval)]
        return figures


@dataclass(frozen=True)
class TokenAgreement:
    """What model and export say of the same tokens."""

    tokens: int
    common_share: float  # mean over tokens of the probability that both give to the same tokens
    same_likeliest: float  # share of tokens with the same likeliest one
    model_perplexity: float
    export_perplexity: float
    times: Times

    @property
    def agreement(self) -> float:
        """How much probability both give to the same tokens: 1 - total variation distance."""
        return self.common_share

    def figures(self) -> dict[str, Any]:
        """The part `tokens` of export_report.json."""
        return {
            "tokens": self.tokens,
            "agreement": self.agreement,
            "same_likeliest": self.same_likeliest,
            "perplexity": {"model": self.model_perplexity, "export": self.export_perplexity},
            "milliseconds_a_token": self.times.milliseconds(),
        }


def compare_labels(
    trained: TrainedModel, reader: Reader, dataset: TokenLabelDataset
) -> LabelAgreement:
    """Classify rows by both, each row after its body."""
    bodies, times = dataset.without_tails(), Times()
    appended = row_rules(trained.vocabulary, trained.max_length, trained.is_classifier)["append"]
    label_ids = trained.vocabulary.label_ids
    model: Any = trained.model
    shares: dict[str, list[np.ndarray]] = {"model": [], "export": []}
    with torch.inference_mode(), progress_bar("checking labels", len(bodies), "row") as bar:
        for index in range(len(bodies)):
            ids_T = np.append(bodies.gather(np.array([index]))[0], appended).astype(np.int64)
            with _timed(times.model):
                logits = model(torch.from_numpy(ids_T[None])).logits
            with _timed(times.export):
                (shares_L,) = reader.probabilities(ids_T, np.array([len(ids_T)]))
            logits_L = logits[0] if trained.is_classifier else logits[0, -1, label_ids]
            shares["model"].append(logits_L.double().log_softmax(-1).numpy())
            shares["export"].append(shares_L)
            bar.update()
    model_NxL = apply_temperature(np.array(shares["model"]), trained.temperature)
    return LabelAgreement(model_NxL, np.array(shares["export"]), dataset.classes_N, times)


def compare_tokens(
    trained: TrainedModel, reader: Reader, dataset: TokenLabelDataset
) -> TokenAgreement:
    """Predict the tokens of rows by both; then continue the first row's start by both, timed."""
    model: Any = trained.model
    sums = np.zeros(4)
    count = 0
    with torch.inference_mode(), progress_bar("checking tokens", len(dataset), "row") as bar:
        for index in range(len(dataset)):
            bar.update()
            ids_T, targets_T, _ = dataset.shifted(np.array([index]))
            if not len(ids_T):
                continue
            export_TxV = torch.from_numpy(reader.token_logits(ids_T)).double().log_softmax(-1)
            ids_1xT = torch.from_numpy(ids_T.astype(np.int64))[None]
            model_TxV = model(ids_1xT).logits[0].double().log_softmax(-1)
            if dataset.has_prompts:
                scored = torch.from_numpy(dataset.scored(np.array([index])).astype(bool))
                export_TxV, model_TxV, targets_T = (
                    export_TxV[scored], model_TxV[scored], targets_T[scored.numpy()],
                )  # fmt: skip
            targets_Tx1 = torch.from_numpy(targets_T.astype(np.int64))[:, None]
            common_T = torch.minimum(export_TxV.exp(), model_TxV.exp()).sum(-1)
            same_T = export_TxV.argmax(-1) == model_TxV.argmax(-1)
            nats = [-table.gather(1, targets_Tx1).sum().item() for table in (model_TxV, export_TxV)]
            sums += [common_T.sum().item(), same_T.sum().item(), *nats]
            count += len(targets_T)
        times = _time_tokens(trained, reader, dataset)
    common, same, model_nats, export_nats = (sums / max(1, count)).tolist()
    return TokenAgreement(
        count, common, same, perplexity(model_nats), perplexity(export_nats), times
    )


def _time_tokens(trained: TrainedModel, reader: Reader, dataset: TokenLabelDataset) -> Times:
    """Continue the first token of the first row by both, greedily, with their caches."""
    model: Any = trained.model
    times = Times()
    first = int(dataset.gather(np.array([0]))[0][0])
    steps = min(_NEW_TOKENS, trained.max_length - 1)
    times.export = reader.token_seconds(first, steps)
    cache = None
    ids_1x1 = torch.tensor([[first]])
    for _ in range(steps):
        with _timed(times.model):
            output = model(ids_1x1, past_key_values=cache, use_cache=True)
        cache, ids_1x1 = output.past_key_values, output.logits[:, -1:].argmax(-1)
    return times


def seconds_of_tokens(decoder: TokenDecoder, first_id: int, tokens: int) -> list[float]:
    """As `Reader.token_seconds`, by a decoder."""
    seconds: list[float] = []
    ids_1 = torch.tensor([first_id])
    for number in range(tokens):
        with _timed(seconds):
            if number == 0:
                logits_1xV = decoder.prefill(ids_1[None], torch.tensor([1]), tokens + 1)
            else:
                logits_1xV = decoder.step(ids_1)
        ids_1 = logits_1xV.argmax(-1)
    return seconds


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    """Note how many seconds the block takes."""
    began = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - began)
