"""Engines that run ONNX graphs, which `smallgpt/export` writes; they need no torch.

    engine = GraphEngine("onnx", folder, "fp32")       # folder: classify.onnx, decode.onnx, or one
    logits_BxL = engine.label_logits(ids_M, lengths_B)

Rows are computed one by one, in as many threads as there are cores: a row of some dozens of tokens
keeps a core busy, nothing is padded, and no row can change another's answer.

Sizes in names: as in `engine`; T tokens of a row, C columns of the cache, H heads, D width of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smallgpt.decoding.growing_rows import GrowingRows
from smallgpt.decoding.token_decoder import TokenDecoder
from smallgpt.engines.engine import TokenScores, log_softmax, threads_beside_others
from smallgpt.engines.graph_rows import GraphRows, empty_cache
from smallgpt.engines.runtimes import Session, as_array, open_session
from smallgpt.errors import UserError
from smallgpt.files.reading import parse_json, read_text
from smallgpt.graphs.graph_files import CLASSIFY, DECODE, FACTS
from smallgpt.model.threads import cpu_threads
from smallgpt.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from smallgpt.engines.decode_threads import ThreadChoice

_MOST_BYTES = 2**28  # of model.json, as of metrics.json


def read_facts(folder: Path) -> dict[str, Any]:
    """What stands beside graphs: `positions` and `precision`; of an export more.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        facts = parse_json(read_text(folder / FACTS, _MOST_BYTES))
        if facts["precision"] in ("fp32", "int8") and type(facts["positions"]) is int:
            found: dict[str, Any] = facts
            return found
    except (ValueError, TypeError, LookupError):
        pass
    raise UserError(f"{folder / FACTS}: damaged; make the export again")


class GraphEngine:
    """The graphs of a model in a folder, run by a library on the CPU."""

    device = "cpu"

    def __init__(
        self,
        name: str,
        folder: Path,
        precision: str,
        vocabulary: Vocabulary,
    ):
        """`name`: onnx or openvino."""
        self.name, self.folder, self.precision = name, folder, precision
        self._vocabulary = vocabulary
        self._sessions: dict[tuple[str, int], Session] = {}
        self._decoders: ThreadChoice | None = None
        self._threads = cpu_threads()  # that compute one row

    @cached_property
    def by_head(self) -> bool:
        """As `Engine.by_head`."""
        return not (self.folder / DECODE).exists()

    def label_logits(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """As `Engine.label_logits`."""
        return self._label_answers(ids_M, lengths_B, "logits")

    def probabilities(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of the labels, B x L."""
        return self._label_answers(ids_M, lengths_B, "probabilities")

    def next_logits(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """As `Engine.next_logits`."""
        return np.stack(self._of_rows(DECODE, ids_M, lengths_B, lambda s, row: _read(s, row)[-1]))

    def token_logits(self, ids_T: np.ndarray) -> np.ndarray:
        """Logits of the token that follows each token of one row, T x V."""
        return _read(self._session(DECODE, self._threads), ids_T)

    def score_tokens(
        self,
        ids_M: np.ndarray,
        lengths_B: np.ndarray,
        targets_M: np.ndarray,
        label_places_R: np.ndarray,
    ) -> TokenScores:
        """As `Engine.score_tokens`."""
        starts_B = np.cumsum(lengths_B) - lengths_B
        is_place_M = np.zeros(len(ids_M), bool)
        is_place_M[label_places_R] = True

        def score(session: Session, row: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            logits_TxV, targets_T = _read(session, ids_M[row]), targets_M[row]
            places_T = np.arange(len(targets_T))
            of_labels = logits_TxV[is_place_M[row]][:, self._vocabulary.label_ids]
            return (
                -log_softmax(logits_TxV)[places_T, targets_T],
                (logits_TxV.argmax(-1) == targets_T).astype(np.int64),
                of_labels,
            )

        rows = [
            slice(start, start + length) for start, length in zip(starts_B, lengths_B, strict=True)
        ]
        nll, correct, of_labels = zip(*self._each(DECODE, score, rows), strict=True)
        return TokenScores(np.concatenate(nll), np.concatenate(correct), np.concatenate(of_labels))

    def decoder(self, rows: int) -> TokenDecoder:
        """As `Engine.decoder`; with one thread or all, whichever is faster."""
        if self._decoders is None:
            from smallgpt.engines.decode_threads import ThreadChoice  # and with it torch

            self._decoders = ThreadChoice(cpu_threads(), self._decoder_with)
        return self._decoders.decoder(rows)

    def growing_rows(self) -> GrowingRows:
        """As `Engine.growing_rows`."""
        return GraphRows(lambda: self._session(DECODE, self._threads))

    def share_cores(self, tokens: int) -> None:
        """As `Engine.share_cores`."""
        self._threads = threads_beside_others(tokens, self._parameters)

    @cached_property
    def _parameters(self) -> float:
        """Parameters of the model, about."""
        size = max(path.stat().st_size for path in self.folder.glob("*.onnx"))
        return size if self.precision == "int8" else size / 4

    def _decoder_with(self, threads: int) -> TokenDecoder:
        session = self._session(DECODE, threads)
        return GraphDecoder(session, read_facts(self.folder)["positions"], len(self._vocabulary))

    def _label_answers(self, ids_M: np.ndarray, lengths_B: np.ndarray, output: str) -> np.ndarray:
        def answer(session: Session, ids_T: np.ndarray) -> np.ndarray:
            feed = {"input_ids": ids_T[None], "lengths": np.array([len(ids_T)])}
            answer: np.ndarray = as_array(session.run(feed, [output])[0])[0]
            return answer.copy()

        return np.stack(self._of_rows(CLASSIFY, ids_M, lengths_B, answer))

    def _of_rows(
        self,
        graph: str,
        ids_M: np.ndarray,
        lengths_B: np.ndarray,
        answer: Callable[[Session, np.ndarray], np.ndarray],
    ) -> list[np.ndarray]:
        """The answer to each row."""
        rows = np.split(ids_M.astype(np.int64, copy=False), np.cumsum(lengths_B)[:-1])
        return self._each(graph, answer, rows)

    def _each(self, graph: str, answer: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
        """Answers in order; one item takes all threads, several take one each."""
        if len(items) == 1 or cpu_threads() == 1:
            session = self._session(graph, self._threads)
            return [answer(session, item) for item in items]
        session = self._session(graph, 1)
        return list(self._pool.map(lambda item: answer(session, item), items))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(cpu_threads())

    def _session(self, graph: str, threads: int) -> Session:
        if (graph, threads) not in self._sessions:
            path = self.folder / graph
            if not path.exists():
                what = "predicts no tokens" if graph == DECODE else "names no labels"
                raise UserError(f"{self.folder}: no {graph}; this model {what}")
            session = open_session(self.name, path, self.precision, threads)
            self._sessions[graph, threads] = session
        return self._sessions[graph, threads]


def _read(session: Session, ids_T: np.ndarray) -> np.ndarray:
    """Logits after each token of a row, T x V."""
    places_1xT = np.arange(len(ids_T))[None]
    feed = {
        "input_ids": ids_T[None].astype(np.int64, copy=False),
        "position_ids": places_1xT,
        "attention_mask": np.ones_like(places_1xT),
        **empty_cache(session, 1),
    }
    logits: np.ndarray = as_array(session.run(feed, ["logits"])[0])[0]
    return logits


class GraphDecoder:
    """`smallgpt.decoding.decoder.Decoder` by a decode.onnx; its cache stays with the library."""

    def __init__(self, session: Session, n_positions: int, vocab_size: int):
        import torch

        self._session = session
        self._caches = [name for name in session.inputs if name.startswith("past_")]
        self._outputs = [name for name in session.outputs if name.startswith("present.")]
        self.n_positions, self.vocab_size = n_positions, vocab_size
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def prefill(self, ids_BxT: Tensor, lengths_B: Tensor, capacity: int) -> Tensor:
        """As `Decoder.prefill`."""
        B, T = ids_BxT.shape
        if not 0 < T <= min(capacity, self.n_positions):
            raise ValueError(
                f"prompts of {T} tokens do not fit a cache of {capacity} columns and a model of "
                f"{self.n_positions} positions"
            )
        self._used, self._positions_B = T, lengths_B.numpy().astype(np.int64)
        self._mask_BxC = np.ones((B, capacity), np.int64)
        self._mask_BxC[:, :T] = np.arange(T) < self._positions_B[:, None]
        self._cache = empty_cache(self._session, B)
        places_BxT = np.broadcast_to(np.arange(T), (B, T))
        return self._run(ids_BxT.numpy(), np.ascontiguousarray(places_BxT), self._positions_B - 1)

    def step(self, ids_B: Tensor) -> Tensor:
        """As `Decoder.step`."""
        if self._used == self._mask_BxC.shape[1]:
            raise ValueError(f"the cache is full: it was made for {self._used} columns")
        self._used += 1
        places_B = self._positions_B
        self._positions_B = places_B + 1
        return self._run(ids_B[:, None].numpy(), places_B[:, None], np.zeros_like(places_B))

    def keep(self, rows: Sequence[int]) -> None:
        """As `Decoder.keep`."""
        self._positions_B, self._mask_BxC = self._positions_B[rows], self._mask_BxC[rows]
        self._cache = {
            name: np.ascontiguousarray(as_array(value)[rows]) for name, value in self._cache.items()
        }

    def _run(self, ids_BxT: np.ndarray, places_BxT: np.ndarray, asked_B: np.ndarray) -> Tensor:
        """Read tokens into the cache; the logits after one of them in each row, B x V."""
        import torch

        feed = {
            "input_ids": ids_BxT,
            "position_ids": places_BxT,
            "attention_mask": np.ascontiguousarray(self._mask_BxC[:, : self._used]),
            **self._cache,
        }
        logits, *present = self._session.run(feed, ["logits", *self._outputs])
        self._cache = dict(zip(self._caches, present, strict=True))
        logits_BxTxV = as_array(logits)
        return torch.from_numpy(logits_BxTxV[np.arange(len(asked_B)), asked_B])
