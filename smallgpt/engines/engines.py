"""The engines of a model, and which of them does a piece of work.

    engines.for_rows(tokens=1_000_000).label_logits(ids_M, lengths_B)
    engines.decoder(rows=1, tokens=500)

With --engine auto it is the fastest one that computes in floating point. Which that is depends on
the machine, the model and the kind of work, so each kind is measured once, where the work is long
enough to be worth it, and the result kept beside the model's graphs.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from smallgpt.console import printable_lines
from smallgpt.decoding.token_decoder import TokenDecoder
from smallgpt.engines.engine import Engine, describe
from smallgpt.engines.graph_engine import GraphEngine
from smallgpt.engines.kept_graphs import ExportedGraphs, Graphs, machine_key
from smallgpt.engines.runtimes import RUNTIMES, is_installed
from smallgpt.errors import UserError
from smallgpt.model.processor import bf16_feature, processor_name
from smallgpt.model.threads import cpu_threads
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from smallgpt.engines.torch_engine import TorchEngine

TORCH, AUTO = "torch", "auto"
_ROW, _ROWS, _DECODE, _DECODE_MANY = "one row", "many rows", "one sequence", "many sequences"
_MANY = 4  # sequences from which they are many
# Multiply-adds (tokens x parameters) of some 10 seconds: work from which a measurement, of two
# seconds with the making of the graphs, is worth its time. Sequences that are few wait for memory,
# so that a token takes the time of many.
_WORTH_MEASURING = 2.5e11
_TOKENS_EACH = {_DECODE: 16, _DECODE_MANY: 2}
_PROBE_LENGTH, _PROBE_ROWS, _PROBE_STEPS = 64, 16, 12


class Engines:
    """Makes the engines of one model, each when it is first needed."""

    def __init__(
        self,
        asked: str,
        precision: str,
        vocabulary: Vocabulary,
        settings: TrainSettings,
        load: Callable[[], TorchEngine] | None,
        graphs: Graphs | ExportedGraphs | None = None,
    ):
        """Hold what makes them.

        Args:
            asked: an engine by name, or auto.
            precision: as asked for, auto included.
            load: loads the model for torch; None for an export, which has graphs alone.
            graphs: None for a model whose work is torch's alone.
        """
        self.asked, self.precision = asked, precision
        self._vocabulary, self._settings = vocabulary, settings
        self._load, self._graphs = load, graphs
        self.answers_by_graphs = False  # of the model as it was loaded, without torch
        # False where several processes share the work of one: they must take the same engine, so a
        # choice that was measured before, or torch.
        self.may_measure = True
        self._opened: dict[str, GraphEngine] = {}
        self._chosen: dict[str, Engine] = {}

    @classmethod
    def of(cls, engine: TorchEngine, vocabulary: Vocabulary, settings: TrainSettings) -> Engines:
        """The engine of a model that is in memory."""
        return cls(TORCH, engine.precision, vocabulary, settings, lambda: engine)

    @cached_property
    def torch(self) -> TorchEngine:
        """The model for torch, loaded where it was not.

        Raises:
            UserError: an export, or the folder holds another model by now.
        """
        if self._load is None:
            raise UserError("this needs the model itself, not an export of it")
        engine = self._load()
        graphs = self._graphs if self.answers_by_graphs else None
        if isinstance(graphs, Graphs) and not graphs.are_of_the_folder:
            raise UserError("the model folder was replaced since it was loaded: load it again")
        return engine

    @property
    def has_torch(self) -> bool:
        """Whether the model is loaded for torch."""
        return "torch" in vars(self)

    def for_row(self) -> Engine:
        """The engine for single rows."""
        return self._best(_ROW, 0)

    def for_rows(self, tokens: int) -> Engine:
        """The engine for rows with so many tokens together."""
        return self._best(_ROWS, tokens)

    def decoder(self, rows: int, tokens: int) -> TokenDecoder:
        """A decoder for so many sequences at once, `tokens` new ones together."""
        return self._best(_DECODE_MANY if rows >= _MANY else _DECODE, tokens).decoder(rows)

    def for_server(self) -> Engine:
        """The engine of a server: graphs where there can be any, else torch.

        Graphs compute every row by itself, and start without torch.
        """
        if self.asked in RUNTIMES:
            return self._graph(self.asked)
        candidates = self._candidates()
        if candidates and isinstance(self._graphs, Graphs):
            self.make_graphs()
            return self._graph(candidates[0])
        return self.torch

    def settings(self) -> dict[str, str]:
        """What results depend on: the engine is named where it was asked for by name."""
        if self.asked in RUNTIMES:
            precision = graph_precision(self.asked, self.precision)
            return {"device": "cpu", "precision": precision, "engine": self.asked}
        if self.has_torch:
            return {"device": self.torch.device, "precision": self.torch.precision}
        own = "bf16" if bf16_feature() else "fp32"
        return {"device": "cpu", "precision": own if self.precision == AUTO else self.precision}

    def make_graphs(self) -> None:
        """Make the graphs with which the next process answers without importing torch.

        With auto, where a library is there that runs them.
        """
        candidates = self._candidates()
        if isinstance(self._graphs, Graphs) and candidates:
            self._graphs.folder("fp32")
            if self._key not in (kept := self._graphs.choices()):
                self._graphs.keep_choices({**kept, self._key: {}})

    @property
    def has_graphs(self) -> bool:
        """Whether it can answer without torch: graphs are at hand, with auto of this machine."""
        if self._graphs is None:
            return False
        if self.asked in RUNTIMES:
            return self._graphs.are_at_hand(_kind(graph_precision(self.asked, self.precision)))
        return self._key in self._graphs.choices()

    # ------------------------------------------------------------------- choosing

    def _best(self, work: str, tokens: int) -> Engine:
        if self.asked in RUNTIMES:
            return self._graph(self.asked)
        return self._chosen.get(work) or self._choose(work, tokens)

    def _choose(self, work: str, tokens: int) -> Engine:
        """The engine that was, or is now, measured to be the fastest; else torch."""
        candidates = self._candidates()
        if not candidates or not isinstance(self._graphs, Graphs):
            return self.torch
        kept = self._graphs.choices().get(self._key)
        name = kept.get(work) if isinstance(kept, dict) else None
        if name in candidates:
            self._chosen[work] = self._graph(name)
            if work != _ROW:
                told = (
                    f"{describe(self._chosen[work])} for {work}, the fastest when it was measured"
                )
                print(printable_lines(f"engine: {told}"), file=sys.stderr)
        elif name == TORCH:
            self._chosen[work] = self.torch
        elif not self.has_torch and work == _ROW:
            # Importing torch would take longer than the answer.
            self._chosen[work] = self._graph(candidates[0])
        elif self.may_measure and self._is_worth_measuring(work, tokens, self._graphs):
            self._chosen[work] = self._measured(work, candidates, self._graphs)
        else:
            return self.torch
        return self._chosen[work]

    def _is_worth_measuring(self, work: str, tokens: int, graphs: Graphs) -> bool:
        """Whether so much work takes long enough to choose its engine by a measurement."""
        return tokens * _TOKENS_EACH.get(work, 1) * graphs.parameters >= _WORTH_MEASURING

    def _candidates(self) -> list[str]:
        """Names of the graph engines that auto may take: installed, and in the precision asked."""
        able = {AUTO: list(RUNTIMES), "fp32": list(RUNTIMES), "bf16": ["openvino"]}
        if (
            self.asked != AUTO
            or not can_make_graphs()
            or (self.has_torch and self.torch.device != "cpu")
        ):
            return []
        return [name for name in able.get(self.precision, []) if is_installed(name)]

    def _measured(self, work: str, candidates: list[str], graphs: Graphs) -> Engine:
        """Let all engines do a little of such work; keep and tell which was the fastest."""
        engines: list[Engine] = [self.torch, *map(self._graph, candidates)]
        seconds = [self._probe(engine, work) for engine in engines]
        best = int(np.argmin(seconds))
        choices = graphs.choices()
        of_machine = choices.get(self._key)
        of_machine = of_machine if isinstance(of_machine, dict) else {}
        graphs.keep_choices({**choices, self._key: {**of_machine, work: engines[best].name}})
        others = ", ".join(
            f"{seconds[i] / seconds[best]:.1f}x as fast as {describe(engine)}"
            for i, engine in enumerate(engines)
            if i != best
        )
        line = f"engine: {describe(engines[best])} for {work}, {others} on this machine"
        print(printable_lines(line), file=sys.stderr)
        return engines[best]

    def _probe(self, engine: Engine, work: str) -> float:
        """Seconds of a little work, the better of two turns after one that prepares memory."""
        length = min(_PROBE_LENGTH, self._settings.max_length)
        rows = 1 if work in (_ROW, _DECODE) else _PROBE_ROWS
        lengths_B = np.full(rows, length)
        ids_M = np.zeros(rows * length, np.int64)
        best = float("inf")
        for turn in range(3):
            began = time.perf_counter()
            if work in (_DECODE, _DECODE_MANY):
                _decode(engine.decoder(rows), rows, min(_PROBE_STEPS, length - 1))
            elif self._vocabulary.labels:
                engine.label_logits(ids_M, lengths_B)
            else:
                engine.next_logits(ids_M, lengths_B)
            if turn:
                best = min(best, time.perf_counter() - began)
        return best

    def _graph(self, name: str) -> GraphEngine:
        assert self._graphs is not None  # else it is torch's
        if name not in self._opened:
            precision = graph_precision(name, self.precision)
            folder = self._graphs.folder(_kind(precision))
            self._opened[name] = GraphEngine(name, folder, precision, self._vocabulary)
        return self._opened[name]

    @cached_property
    def _key(self) -> str:
        versions = {name: version(RUNTIMES[name]) for name in RUNTIMES if is_installed(name)}
        return machine_key(processor_name(), cpu_threads(), versions | {"asked": self.precision})


def graph_precision(engine: str, asked: str) -> str:
    """The precision in which a graph engine computes where `asked` was asked for."""
    if asked != AUTO:
        return asked
    return "bf16" if engine == "openvino" and bf16_feature() else "fp32"


def can_make_graphs() -> bool:
    """Whether the library that graphs are written with is there."""
    return importlib.util.find_spec("onnx") is not None


def _kind(precision: str) -> str:
    """The kind of graphs that compute in a precision: bf16 is made of fp32 as it runs."""
    return "int8" if precision == "int8" else "fp32"


def _decode(decoder: TokenDecoder, rows: int, steps: int) -> None:
    """Decode some tokens of so many sequences."""
    import torch

    ones = torch.ones(rows, dtype=torch.int64)
    decoder.prefill(ones[:, None], ones, steps + 1)
    for _ in range(steps):
        decoder.step(ones)
