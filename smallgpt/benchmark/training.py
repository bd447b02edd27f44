"""Training speed, in turns with other ways to train the same model."""

from __future__ import annotations

import io
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch

from smallgpt.benchmark.bench import PEAK, Bench, Measure, as_gpt2
from smallgpt.benchmark.comparison import Comparison, Findings
from smallgpt.benchmark.targets import TRAINER
from smallgpt.benchmark.training_peers import (
    Batch,
    MinimalGPT,
    plain_epoch,
    trainer_epoch,
    transformers_model,
)
from smallgpt.benchmark.workloads import (
    Job,
    settings_of,
    vocabulary_of,
    write_rows,
)
from smallgpt.files.writing import write_text
from smallgpt.model.flops import counted_parameters, training_flops
from smallgpt.options.training import TrainSettings
from smallgpt.training.data import read_data
from smallgpt.training.journal import Journal
from smallgpt.training.run import Run
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.run_log import RunLog
from smallgpt.training.setup import build_run
from smallgpt.training.update import Updater

DROPOUT = 0.1
OURS, EVEN = "ours", "ours, equal rows of the mean length"
LOOP, MINIMAL = "transformers, plain loop", "minimal GPT-2"


def measure_training(bench: Bench, findings: Findings) -> None:
    """Equal rows, each job as shipped and with the same work for all; then ragged rows."""
    jobs = [job for job in bench.sizes.jobs if bench.settings.full or not job.full]
    for job, shipped in [(job, shipped) for job in jobs for shipped in (False, True)]:
        found = compare_training(bench, job, shipped)
        findings.add(found)
        about = f"{job.name}, {'as shipped' if shipped else 'same work'}"
        findings.reach(f"{about}, of the {PEAK}", found.entries[0].share)
        findings.reach(f"{about}, against the best peer", found.lead())
        findings.reach(f"{about}, against transformers", found.lead("transformers"))
        findings.reach(f"{about}, against {TRAINER}", found.lead(TRAINER))
    job = bench.sizes.ragged
    found = compare_training(bench, job, shipped=False)
    findings.add(found)
    findings.reach(f"{job.name}, against equal rows", found.lead(EVEN))
    findings.reach(f"{job.name}, against {TRAINER}", found.lead(TRAINER))


def compare_training(bench: Bench, job: Job, shipped: bool) -> Comparison:
    """All ways to train one job, in predicted tokens per second; padding does not count."""
    with ExitStack() as stack:
        run = stack.enter_context(training_run(bench, job, shipped))
        contenders = {OURS: bench.rate(our_epoch(run), sum(job.inputs))}
        if job.is_ragged:
            mean = round(statistics.mean(job.lengths))
            even = replace(job, lengths=(mean,) * len(job.lengths))
            even_run = stack.enter_context(training_run(bench, even, shipped))
            contenders[EVEN] = bench.rate(our_epoch(even_run), sum(even.inputs))
        contenders[PEAK] = bench.peak(bench.precision.dtype)
        peers = training_peers(bench, job, run, shipped)
        entries = bench.take_turns(f"training {job.name}", contenders, peers)
        parameters, shape = counted_parameters(run.model, head=True), job.shape
        flops = training_flops(parameters, shape.n_layer, shape.n_embd, job.inputs).sum()
    peak = entries.pop(PEAK).median
    gflops_a_token = 1e-9 * flops / sum(job.inputs)
    for name, entry in entries.items():
        # Equal rows are other work: their attention reaches less far.
        if entry.values and name != EVEN:
            entries[name] = replace(entry, share=entry.median * gflops_a_token / peak)
    kind = "as shipped" if shipped else "same work"
    title = f"Training {job.name}, {kind}, dropout {DROPOUT}, {bench.precision.name}"
    title += f"; {PEAK} {peak:,.0f} GFLOP/s"
    return Comparison(title, "tokens/s", list(entries.values()))


@contextmanager
def training_run(bench: Bench, job: Job, shipped: bool) -> Iterator[Run]:
    """A run of train_gpt.py on the rows of a job, ready for its first update."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        settings = write_job(bench, job, Path(name))
        if not shipped:  # no peer has dropout of tokens
            settings = replace(settings, token_dropout=0.0, attention_dropout=0.0)
        run_folder = RunFolder(settings.output_dir)
        with RunLog(run_folder) as log:
            with redirect_stdout(io.StringIO()):
                rows, validation_rows = read_data(settings, lambda _: None)
                run = build_run(settings, run_folder, log, rows, validation_rows)
            yield run


def write_job(bench: Bench, job: Job, folder: Path) -> TrainSettings:
    """Write the rows of a job; the settings that train on them, as shipped."""
    vocabulary = vocabulary_of(job.shape)
    write_text(folder / "vocab.json", vocabulary.to_json())
    write_rows(folder / "train.jsonl", vocabulary, job.lengths, seed=0)
    write_rows(folder / "validation.jsonl", vocabulary, job.lengths[:1], seed=1)
    return replace(
        settings_of(job.shape),
        data_path=str(folder / "train.jsonl"),
        val_data_path=str(folder / "validation.jsonl"),
        vocab_path=str(folder / "vocab.json"),
        output_dir=str(folder / "run"),
        dropout=DROPOUT,
        batch_size=job.batch_size,
        device=bench.device.type,
    )


def our_epoch(run: Run) -> Callable[[], None]:
    """A function that trains on all rows once, as train_gpt.py does."""
    updater, journal = Updater(run), Journal(run)

    def epoch() -> None:
        for batches in run.updates_of_epoch(0):
            updater.set_learning_rate()
            updater.compute_gradients(batches)
            updater.step_optimizers()
            journal.record_training(updater)

    return epoch


def training_peers(
    bench: Bench, job: Job, run: Run, shipped: bool
) -> dict[str, Callable[[], Measure]]:
    """Other ways to train by name, each a function that makes its contender (tokens per second)."""
    rows = [run.rows.row(index).tolist() for index in range(len(run.rows))]
    tokens = sum(job.inputs)

    def loop() -> Measure:
        model = transformers_model(as_gpt2(run.model), shipped)

        def loss(batch: Batch) -> torch.Tensor:
            return model(**batch).loss

        epoch = plain_epoch(model, loss, rows, job.batch_size, bench.precision)
        return bench.rate(epoch, tokens)

    def minimal(compiled: bool) -> Measure:
        model = MinimalGPT(as_gpt2(run.model), DROPOUT, DROPOUT if shipped else 0.0).to(
            bench.device
        )
        loss = torch.compile(model.loss) if compiled else model.loss
        epoch = plain_epoch(model, loss, rows, job.batch_size, bench.precision)
        return bench.rate(epoch, tokens)

    def trainer() -> Measure:
        tokenizer = bench.folder / "tokenizer"
        tokenizer.mkdir(exist_ok=True)
        run.rows.vocabulary.save_tokenizer(tokenizer)
        model, output = transformers_model(as_gpt2(run.model), shipped), bench.folder / "trainer"
        epoch = trainer_epoch(model, tokenizer, rows, job.batch_size, bench.precision, output)
        return lambda: tokens / epoch()

    peers = {LOOP: loop, TRAINER: trainer, MINIMAL: lambda: minimal(compiled=False)}
    if bench.settings.full and not job.is_ragged:
        peers[f"{MINIMAL}, torch.compile"] = lambda: minimal(compiled=True)
    return peers
