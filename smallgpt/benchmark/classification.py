"""Classification speed: one row, and the rows of a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.benchmark.bench import PEAK, Bench, Measure, as_gpt2
from smallgpt.benchmark.classifying_peers import (
    ctranslate2_classify,
    onnx_classify,
    openvino_classify,
    transformers_classify,
)
from smallgpt.benchmark.comparison import Comparison, Findings
from smallgpt.benchmark.decoding_peers import OwnProcess
from smallgpt.benchmark.workloads import write_rows
from smallgpt.engines.trained import TrainedModel
from smallgpt.inference.classify import classify, classify_file
from smallgpt.inference.evaluate import evaluate_file
from smallgpt.model.flops import counted_parameters, training_flops

THREADS_REST = 0.5  # seconds until the threads of another engine sleep (OpenMP's wait for 0.2)
_CALLS = 20  # of one row, timed together


def measure_classification(bench: Bench, findings: Findings) -> None:
    """Classify one row again and again; then a file, a new one each round, as nothing is cached."""
    ours = bench.engines()
    one = compare_one_row(bench, ours)
    findings.add(one)
    findings.reach(
        "one row, torch against transformers fp32", one.lead_of_ours("torch", "transformers")
    )
    findings.reach("one row, best against ONNX Runtime int8", one.lead_of_ours(peers="int8"))
    trained, sizes = bench.saved_model(), bench.sizes
    lengths = [sizes.row_length] * sizes.rows_classified
    peak = bench.peak(bench.precision.dtype)
    contenders = {name: timed_on_files(bench, classify_file, each) for name, each in ours.items()}
    evaluating = f"ours, evaluation by torch {bench.precision.name}"
    contenders[evaluating] = timed_on_files(bench, evaluate_file, trained)
    entries = bench.take_turns("classification", {**contenders, PEAK: peak}, peers_of_files(bench))
    limit = entries.pop(PEAK)
    predicting = next(iter(entries.values()))
    # A row is read up to its <CLS>, and the head is needed for ten tokens only.
    parameters = counted_parameters(trained.model, head=False)
    shape = sizes.shape
    (step,) = training_flops(parameters, shape.n_layer, shape.n_embd, [sizes.row_length - 2])
    gflops_a_row = 1e-9 * step / 3  # forward alone
    predicting = replace(predicting, share=predicting.median * gflops_a_row / limit.median)
    title = f"Classification of {len(lengths):,} rows of {sizes.row_length} tokens, ours from file "
    title += f"to predictions; {PEAK} {limit.median:,.0f} GFLOP/s in {bench.precision.name}"
    found = Comparison(title, "rows/s", [predicting, *list(entries.values())[1:]])
    findings.add(found)
    findings.reach(f"file to predictions, of the {PEAK}", predicting.share)
    if bench.settings.full and found.is_complete:
        findings.reach("file, best against the best peer", found.lead_of_ours())


def compare_one_row(bench: Bench, ours: dict[str, TrainedModel]) -> Comparison:
    """Rows a second, one at a time, by `classify` and by peers that are given its ids."""
    trained = bench.saved_model()
    tokens = bench.sizes.row_length
    codes = [name for name in trained.vocabulary.tokens if name.startswith("<Z_")]
    body = "<IMG> " + " ".join(codes[: tokens - 5]) + " </IMG>"
    ids = trained.vocabulary.encode(f"{body} <CLS>")
    model = as_gpt2(trained.model)

    def repeated(run: Callable[[], Any]) -> Measure:
        return bench.rate(lambda: [run() for _ in range(_CALLS)], _CALLS)

    def apart(make: Callable[..., Any], *arguments: Any) -> Measure:
        return rested(bench.rate(OwnProcess(many_calls, make, *arguments), _CALLS))

    def onnx(int8: bool) -> Measure:
        return apart(onnx_classify, bench.plain_graph(model, int8), model.config, [ids])

    contenders = {name: repeated(partial(classify, each, body)) for name, each in ours.items()}
    peers = {"transformers fp32": lambda: repeated(transformers_classify(model, [ids]))}
    if bench.settings.full and bench.device.type == "cpu":
        peers["ONNX Runtime fp32"] = partial(onnx, False)
        peers["ONNX Runtime int8"] = partial(onnx, True)
        peers["OpenVINO"] = lambda: apart(
            openvino_classify, bench.plain_graph(model), model.config, [ids]
        )
    entries = bench.take_turns("one row", contenders, peers)
    title = f"Classification of one row of {tokens} tokens at a time"
    return Comparison(title, "rows/s", list(entries.values()))


def many_calls(make: Callable[..., Callable[[], Any]], *arguments: Any) -> Callable[[], None]:
    """A function that calls what `make(*arguments)` makes again and again."""
    run = make(*arguments)

    def calls() -> None:
        for _ in range(_CALLS):
            run()

    return calls


def peers_of_files(bench: Bench) -> dict[str, Callable[[], Measure]]:
    """Other engines, given the ids of such rows; with --full."""
    if not bench.settings.full or bench.device.type != "cpu":
        return {}
    trained, sizes = bench.saved_model(), bench.sizes
    model, tokens = as_gpt2(trained.model), trained.vocabulary.tokens
    random = np.random.default_rng(0)
    shape = (sizes.rows_classified, sizes.row_length - 2)
    rows = random.integers(len(trained.vocabulary.special_ids), len(tokens) - 10, shape).tolist()

    def apart(make: Callable[..., Any], *arguments: Any) -> Measure:
        return rested(bench.rate(OwnProcess(make, *arguments), len(rows)))

    def ctranslate2(kind: str) -> Measure:
        words = [[tokens[index] for index in row] for row in rows]
        return apart(ctranslate2_classify, bench.ctranslate2_folder(), kind, words)

    config = model.config
    return {
        "transformers fp32": lambda: bench.rate(transformers_classify(model, rows), len(rows)),
        "ONNX Runtime fp32": lambda: apart(onnx_classify, bench.plain_graph(model), config, rows),
        "ONNX Runtime int8": lambda: apart(
            onnx_classify, bench.plain_graph(model, int8=True), config, rows
        ),
        "OpenVINO": lambda: apart(openvino_classify, bench.plain_graph(model), config, rows),
        "CTranslate2 fp32": lambda: ctranslate2("float32"),
        "CTranslate2 int8": lambda: ctranslate2("int8"),
    }


def rested(measure: Measure) -> Measure:
    """A measurement, and then a rest until the threads of its engine sleep."""

    def then_rest() -> float:
        rate = measure()
        time.sleep(THREADS_REST)
        return rate

    return then_rest


def timed_on_files(
    bench: Bench, work: Callable[[TrainedModel, Path, Path], Any], trained: TrainedModel
) -> Measure:
    """Rows a second of work on a file, each time a new one."""
    lengths = [bench.sizes.row_length] * bench.sizes.rows_classified
    engine = trained.engines.for_row()
    name = f"{work.__name__}_{engine.name}_{engine.precision}"
    folder = bench.folder / "classification"
    seeds = iter(range(bench.rounds + 1))

    def measure() -> float:
        seed = next(seeds)
        path = folder / f"{name}_{seed}.jsonl"
        write_rows(path, trained.vocabulary, lengths, seed)
        results = folder / path.stem  # a folder of results is not used for other rows
        return bench.rate(lambda: work(trained, path, results), len(lengths))()

    return measure
