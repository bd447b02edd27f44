"""Classification speed: rows of a file per second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from smallgpt.benchmark.bench import PEAK, Bench, Measure
from smallgpt.benchmark.comparison import Comparison, Findings
from smallgpt.benchmark.workloads import write_rows
from smallgpt.inference.classify import classify_file
from smallgpt.inference.evaluate import evaluate_file
from smallgpt.model.flops import counted_parameters, training_flops
from smallgpt.model.folder import TrainedModel


def measure_classification(bench: Bench, findings: Findings) -> None:
    """Classify and evaluate a JSONL file; a new one each round, so that nothing is cached."""
    trained, sizes = bench.saved_model(), bench.sizes
    lengths = [sizes.row_length] * sizes.rows_classified
    folder = bench.folder / "classification"

    def timed(work: Callable[[TrainedModel, Path, Path], Any]) -> Measure:
        seeds = iter(range(bench.rounds + 1))

        def measure() -> float:
            seed = next(seeds)
            path = folder / f"{work.__name__}_{seed}.jsonl"
            write_rows(path, trained.vocabulary, lengths, seed)
            results = folder / path.stem  # a folder of results is not used for other rows
            return bench.rate(lambda: work(trained, path, results), len(lengths))()

        return measure

    contenders = {
        "file to predictions.jsonl": timed(classify_file),
        "file to evaluation folder": timed(evaluate_file),
        PEAK: bench.peak(bench.precision.dtype),
    }
    predicting, evaluating, peak = bench.take_turns("classification", contenders).values()
    # A row is read up to its <CLS>, and the head is needed for ten tokens only.
    parameters = counted_parameters(trained.model, head=False)
    shape = sizes.shape
    (step,) = training_flops(parameters, shape.n_layer, shape.n_embd, [sizes.row_length - 2])
    gflops_a_row = 1e-9 * step / 3  # forward alone
    predicting = replace(predicting, share=predicting.median * gflops_a_row / peak.median)
    title = f"Classification of {len(lengths):,} rows of {sizes.row_length} tokens"
    title += f", {bench.precision.name}; {PEAK} {peak.median:,.0f} GFLOP/s"
    findings.add(Comparison(title, "rows/s", [predicting, evaluating], race=False))
    findings.reach(f"file to predictions, of the {PEAK}", predicting.share)
