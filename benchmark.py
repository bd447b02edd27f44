"""How fast the toolkit is: against its peers, and against what the machine can do.

    python benchmark.py                          # some minutes on 2 cores
    python benchmark.py --full                   # more rounds, all sizes, all peers
    python benchmark.py --only training reading
    pip install -r requirements-benchmark.txt    # peers that the toolkit itself does not need

Prints tables and writes them to outputs/benchmark: benchmark.json (every round) and benchmark.md.

What is compared takes turns in one process (A B C A B C ...), since the speed of a virtual machine
drifts: a figure is the median of its rounds, the best round stands beside it. Before the first
round everything runs once unmeasured. The limit is the machine's own matrix product, measured in
the same turns. How we let the C library keep memory and threads sleep (blocks.py, console.py) holds
for the whole process, so the peers have it too. ONNX Runtime and CTranslate2 run in processes of
their own.

Same work: the same model, dropout and precision for all, attention dropout 0. As shipped: each
with its own defaults, but dropout of embeddings and residuals 0.1 for all.
"""

from __future__ import annotations

import io
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark_report import (
    Comparison,
    Entry,
    Findings,
    Target,
    describe_machine,
    plain_table,
    save_report,
    target_rows,
    targets_table,
)
from benchmark_work import (
    CPU_SIZES,
    GPU_SIZES,
    Job,
    Shape,
    Sizes,
    counted_parameters,
    training_flops,
    vocabulary_of,
    write_rows,
)
from command_line import read_settings
from console import EXIT_TERMINATED, format_duration, progress_bar, run_command, tell
from run_folder import RunFolder, RunLog, write_atomically
from settings import BenchmarkSettings, TrainSettings

if TYPE_CHECKING:
    import torch

    from generation import Decoder
    from model import Precision
    from model_folder import TrainedModel
    from train_gpt import TrainingRun

ROOT = Path(__file__).parent
OUTPUT = Path("outputs/benchmark")
COMMANDS = ("train_gpt.py", "inference.py", "prepare_data.py", "benchmark.py")
DROPOUT = 0.1
THREADS_REST = 0.5  # seconds until the threads of another engine sleep (OpenMP's wait for 0.2)
OURS, EVEN, PEAK = "ours", "ours, equal rows of the mean length", "matmul peak"
TRAINER, LOOP, MINIMAL = "transformers.Trainer", "transformers, plain loop", "minimal GPT-2"
Measure = Callable[[], float]  # runs once, returns a rate or seconds
NOT_INSTALLED = "not installed (requirements-benchmark.txt)"

TARGETS = (
    Target("training", "64 x 54, as shipped, against the best peer", 1.3),
    Target("training", "64 x 54, as shipped, of the matmul peak", 0.55, "%"),
    Target("training", "8 x 789, as shipped, against transformers", 4.0),
    Target("training", "8 x 789, as shipped, against the best peer", 3.5),
    Target("training", "8 x 789, same work, against the best peer", 1.1),
    Target("training", "rows of 32 to 789, against equal rows", 0.9),
    Target("training", f"rows of 32 to 789, against {TRAINER}", 2.0),
    Target("generation", "batch 64, bf16 against generate fp32", 4.0),
    Target("generation", "batch 64, bf16 against CTranslate2", 1.0, full=True),
    Target("generation", "batch 64, bf16 against ONNX Runtime", 1.0, full=True),
    Target("generation", "batch 1, fp32 against generate fp32", 2.0),
    Target("generation", "batch 1, bf16 against generate fp32", 3.0),
    Target("classification", "file to predictions, of the matmul peak", 0.6, "%"),
    Target("reading", "60,000 rows, first", 2.0, "s", at_most=True),
    Target("reading", "60,000 rows, again", 0.2, "s", at_most=True),
    Target("reading", "1,000,000 rows, first", 40.0, "s", at_most=True, full=True),
    # 4 bytes a token of 54 million, and 500 MB
    Target("reading", "1,000,000 rows, peak memory", 716.0, "MB", at_most=True, full=True),
    *(Target("starting", f"{name} --help", 0.3, "s", at_most=True) for name in COMMANDS),
    Target("starting", "inference.py --prompt, time of a bare process", 1.2, at_most=True),
    Target("training", "1024 x 54, as shipped, of the matmul peak", 0.25, "%", device="cuda"),
    Target("training", f"1024 x 54, as shipped, against {TRAINER}", 3.0, device="cuda"),
    Target(
        "training",
        "16 x 1024, 124M, as shipped, of the matmul peak",
        0.4,
        "%",
        device="cuda",
        full=True,
    ),
    Target("generation", "batch 64, bf16 against the best generate", 5.0, device="cuda"),
)


# ------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Bench:
    """What every section needs: where, how much, and a folder that is deleted afterwards."""

    settings: BenchmarkSettings
    sizes: Sizes
    device: torch.device
    precision: Precision
    folder: Path

    @property
    def rounds(self) -> int:
        """Measured rounds of a comparison."""
        return self.sizes.rounds_full if self.settings.full else self.sizes.rounds

    def rate(self, run: Callable[[], Any], amount: float) -> Callable[[], float]:
        """A function that runs `run` once and returns `amount` divided by its seconds."""
        from benchmark_peers import synchronize

        def measure() -> float:
            synchronize(self.device)
            began = time.perf_counter()
            run()
            synchronize(self.device)
            return amount / (time.perf_counter() - began)

        return measure

    def peak(self, dtype: torch.dtype) -> Callable[[], float]:
        """A function that measures the best rate of matrix products (GFLOP/s)."""
        import torch

        sides = [torch.randn(n, n, device=self.device).to(dtype) for n in self.sizes.squares]
        outs = [torch.empty_like(side) for side in sides]
        rates = [
            self.rate(lambda a=a, out=out: torch.mm(a, a, out=out), 2e-9 * len(a) ** 3)
            for a, out in zip(sides, outs, strict=True)
        ]
        return lambda: max(rate() for rate in rates)

    def take_turns(
        self,
        title: str,
        contenders: dict[str, Measure],
        peers: dict[str, Callable[[], Measure]] | None = None,
        rounds: int | None = None,
    ) -> dict[str, Entry]:
        """Let all measure themselves in turn, round by round, after a first round unmeasured.

        A peer that is missing or fails in that first round costs nothing but its own figures.

        Args:
            title: words on the progress bar.
            contenders: name -> a function that measures itself once.
            peers: name -> a function that makes a contender.
            rounds: measured ones; None = `self.rounds`.

        Returns:
            name -> entry, contenders first; of a missing peer one without figures.
        """
        rounds, peers = rounds or self.rounds, peers or {}
        measures, entries = dict(contenders), {name: Entry(name) for name in (*contenders, *peers)}
        with progress_bar(title, (1 + rounds) * len(entries), "run") as bar:
            for measure in contenders.values():
                measure()
                bar.update()
            for name, make in peers.items():
                try:
                    measures[name] = make()
                    measures[name]()
                    bar.update()
                except Exception as error:  # whatever it is, it is the peer's
                    measures.pop(name, None)
                    entries[name] = missing_peer(name, error)
                    bar.update(1 + rounds)
            for _ in range(rounds):
                for name, measure in measures.items():
                    entries[name].values.append(measure())
                    bar.update()
        return entries


def missing_peer(name: str, error: Exception) -> Entry:
    """What stands in the table for a peer that could not be made or run."""
    if isinstance(error, ImportError):
        return Entry(name, note=NOT_INSTALLED)
    reason = (str(error).splitlines() or [""])[0][:120]
    return Entry(name, note=f"failed: {type(error).__name__}: {reason}")


def settings_of(shape: Shape) -> TrainSettings:
    """Our defaults, but for the shape."""
    return TrainSettings(
        max_length=shape.n_positions,
        n_positions=shape.n_positions,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
    )


def machine_limits(bench: Bench) -> list[Comparison]:
    """Matrix products and memory copies of this machine."""
    import torch

    source = torch.zeros(bench.sizes.copied // 4, device=bench.device)
    target = torch.empty_like(source)
    contenders = {
        "bf16": bench.peak(torch.bfloat16),
        "fp32": bench.peak(torch.float32),
        # a copy reads and writes
        "read and written": bench.rate(lambda: target.copy_(source), 2e-9 * bench.sizes.copied),
    }
    bf16, fp32, copy = bench.take_turns("limits", contenders).values()
    return [
        Comparison("Limit: matrix products", "GFLOP/s", [bf16, fp32], race=False),
        Comparison("Limit: copying memory", "GB/s", [copy], race=False),
    ]


# ------------------------------------------------------------------------------- training


@contextmanager
def training_run(bench: Bench, job: Job, shipped: bool) -> Iterator[TrainingRun]:
    """A run of train_gpt.py on the rows of a job, ready for its first update.

    Args:
        bench: where.
        job: the rows and the model.
        shipped: with the defaults of train_gpt.py; else without the dropout of tokens, which
            no peer has.
    """
    from train_gpt import TrainingRun, read_data

    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        folder, vocabulary = Path(name), vocabulary_of(job.shape)
        write_atomically(folder / "vocab.json", vocabulary.to_json())
        write_rows(folder / "train.jsonl", vocabulary, job.lengths, seed=0)
        write_rows(folder / "validation.jsonl", vocabulary, job.lengths[:1], seed=1)
        settings = replace(
            settings_of(job.shape),
            data_path=str(folder / "train.jsonl"),
            val_data_path=str(folder / "validation.jsonl"),
            vocab_path=str(folder / "vocab.json"),
            output_dir=str(folder / "run"),
            dropout=DROPOUT,
            batch_size=job.batch_size,
            device=bench.device.type,
        )
        if not shipped:
            settings = replace(settings, token_dropout=0.0, attention_dropout=0.0)
        run_folder = RunFolder(settings.output_dir)
        with RunLog(run_folder) as log:
            with redirect_stdout(io.StringIO()):
                rows, validation_rows = read_data(settings, lambda _: None)
                run = TrainingRun(settings, run_folder, log, rows, validation_rows)
            run.model.train()
            run.clock_zero = time.monotonic()
            yield run


def our_epoch(run: TrainingRun) -> Callable[[], None]:
    """A function that trains on all rows once, as train_gpt.py does."""

    def epoch() -> None:
        for batches in run.epoch_steps(0):
            run.update(batches)

    return epoch


def training_peers(
    bench: Bench, job: Job, run: TrainingRun, shipped: bool
) -> dict[str, Callable[[], Measure]]:
    """Other ways to train the model of `run` on its rows, measured in tokens a second.

    Returns:
        name -> a function that makes a contender.
    """
    import torch

    from benchmark_peers import MinimalGPT, plain_epoch, trainer_epoch, transformers_model

    rows = [run.rows.row(index).tolist() for index in range(len(run.rows))]
    tokens = sum(job.inputs)

    def loop() -> Measure:
        model = transformers_model(run.model, shipped)

        def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return model(**batch).loss

        epoch = plain_epoch(model, loss, rows, job.batch_size, bench.precision)
        return bench.rate(epoch, tokens)

    def minimal(compiled: bool) -> Measure:
        model = MinimalGPT(run.model, DROPOUT, DROPOUT if shipped else 0.0).to(bench.device)
        loss = torch.compile(model.loss) if compiled else model.loss
        epoch = plain_epoch(model, loss, rows, job.batch_size, bench.precision)
        return bench.rate(epoch, tokens)

    def trainer() -> Measure:
        tokenizer = bench.folder / "tokenizer"
        tokenizer.mkdir(exist_ok=True)
        run.vocabulary.save_tokenizer(tokenizer)
        model, output = transformers_model(run.model, shipped), bench.folder / "trainer"
        epoch = trainer_epoch(model, tokenizer, rows, job.batch_size, bench.precision, output)
        return lambda: tokens / epoch()

    peers = {LOOP: loop, TRAINER: trainer, MINIMAL: lambda: minimal(compiled=False)}
    if bench.settings.full and not job.is_ragged:
        peers[f"{MINIMAL}, torch.compile"] = lambda: minimal(compiled=True)
    return peers


def compare_training(bench: Bench, job: Job, shipped: bool) -> Comparison:
    """All ways to train one job, in tokens predicted a second; padding does not count.

    Beside ragged rows stands our own run on as many rows of their mean length.
    """
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
        flops = training_flops(counted_parameters(run.model, head=True), job.shape, job.inputs)
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


def measure_training(bench: Bench) -> Findings:
    """Equal rows, each job as shipped and with the same work for all; then ragged rows."""
    findings = Findings()
    jobs = [job for job in bench.sizes.jobs if bench.settings.full or not job.full]
    for job, shipped in [(job, shipped) for job in jobs for shipped in (False, True)]:
        found = compare_training(bench, job, shipped)
        findings.add(found)
        about = f"{job.name}, {'as shipped' if shipped else 'same work'}"
        ours = found.entries[0]
        findings.reach(f"{about}, of the {PEAK}", ours.share)
        findings.reach(f"{about}, against the best peer", found.lead())
        findings.reach(f"{about}, against transformers", found.lead("transformers"))
        findings.reach(f"{about}, against {TRAINER}", found.lead(TRAINER))
    job = bench.sizes.ragged
    found = compare_training(bench, job, shipped=False)
    findings.add(found)
    findings.reach(f"{job.name}, against equal rows", found.lead(EVEN))
    findings.reach(f"{job.name}, against {TRAINER}", found.lead(TRAINER))
    return findings


# ------------------------------------------------------------------------------- generation


def saved_model(bench: Bench) -> TrainedModel:
    """A model folder with fresh weights as training writes it, loaded as inference.py does."""
    from inference import load_trained_model
    from model import build_model
    from model_folder import save_model_folder

    shape, folder = bench.sizes.shape, bench.folder / "model"
    if not folder.exists():
        vocabulary, settings = vocabulary_of(shape), settings_of(shape)
        model = build_model(settings, vocabulary)
        save_model_folder(model, folder, vocabulary, settings, codebook=None)
    return load_trained_model(folder, bench.device.type)


def generation_peers(
    bench: Bench, trained: TrainedModel, prompts: list[list[int]]
) -> dict[str, Callable[[], Measure]]:
    """Other decoders of the same model, measured in new tokens a second.

    Returns:
        name -> a function that makes a contender.
    """
    import torch

    import benchmark_peers as peers

    new_tokens, folder = bench.sizes.new_tokens, bench.folder
    amount = len(prompts) * new_tokens

    def transformers(dtype: torch.dtype) -> Measure:
        run = peers.transformers_generate(trained.model, prompts, new_tokens, dtype)
        return bench.rate(run, amount)

    def apart(make: Callable[..., Any], *arguments: Any) -> Measure:
        measure = bench.rate(peers.OwnProcess(make, *arguments), amount)

        def then_rest() -> float:
            rate = measure()
            time.sleep(THREADS_REST)
            return rate

        return then_rest

    def onnx() -> Measure:
        path = folder / "model.onnx"
        if not path.exists():
            peers.export_onnx(trained.model, path)
        return apart(peers.onnx_generate, path, trained.model.config, prompts, new_tokens)

    def ctranslate2(compute_type: str) -> Measure:
        path = folder / "ctranslate2"
        if not path.exists():
            peers.convert_to_ctranslate2(trained.folder, path)
        words = [[trained.vocabulary.tokens[index] for index in prompt] for prompt in prompts]
        return apart(peers.ctranslate2_generate, path, compute_type, words, new_tokens)

    found = {"generate fp32": lambda: transformers(torch.float32)}
    if bench.precision.name == "bf16":
        found["generate bf16"] = lambda: transformers(torch.bfloat16)
    if bench.settings.full and bench.device.type == "cpu":
        found["ONNX Runtime fp32"] = onnx
        found["CTranslate2 fp32"] = lambda: ctranslate2("float32")
        found["CTranslate2 int8"] = lambda: ctranslate2("int8")
    return found


def compare_generation(
    bench: Bench, trained: TrainedModel, decoders: dict[str, Decoder], batch: int
) -> Comparison:
    """New tokens a second of all decoders, all rows of a batch to the full length.

    Args:
        bench: where.
        trained: the model.
        decoders: ours, by name.
        batch: rows.
    """
    import torch

    from benchmark_peers import TOP_K
    from generation import Sampling, generate_tokens

    prompt, new_tokens = bench.sizes.prompt, bench.sizes.new_tokens
    generator = torch.Generator().manual_seed(batch)
    low, high = len(trained.vocabulary.special_ids), len(trained.vocabulary) - 10
    prompts = torch.randint(low, high, (batch, prompt), generator=generator).tolist()

    def ours(decoder: Decoder) -> Measure:
        run = partial(
            generate_tokens,
            decoder,
            prompts,
            max_new_tokens=new_tokens,
            stop_ids=[],
            sampling=Sampling(top_k=TOP_K),
            generator=generator,
            forbidden_ids=[trained.vocabulary.pad_id],
            batch_size=batch,
        )
        return bench.rate(run, batch * new_tokens)

    contenders = {name: ours(decoder) for name, decoder in decoders.items()}
    peers = generation_peers(bench, trained, prompts)
    entries = bench.take_turns(f"generation, batch {batch}", contenders, peers)
    title = f"Generation, batch {batch}, {new_tokens} new tokens after {prompt}, top-k {TOP_K}"
    return Comparison(title, "tokens/s", list(entries.values()))


def measure_generation(bench: Bench) -> Findings:
    """Each batch size; ours in the precision of the device and in fp32."""
    import torch

    from generation import Decoder

    trained, sizes, findings = saved_model(bench), bench.sizes, Findings()
    dtypes = {bench.precision.name: bench.precision.dtype, "fp32": torch.float32}
    decoders = {f"ours {name}": Decoder(trained.model, dtype) for name, dtype in dtypes.items()}
    for batch in sizes.batches_full if bench.settings.full else sizes.batches:
        found = compare_generation(bench, trained, decoders, batch)
        findings.add(found)
        for mine in found.entries[: len(decoders)]:
            about = f"batch {batch}, {mine.name.removeprefix('ours ')} against"
            for other in ("generate fp32", "CTranslate2", "ONNX Runtime"):
                findings.reach(f"{about} {other}", found.lead(other, of=mine))
            findings.reach(f"{about} the best generate", found.lead("generate", of=mine))
    return findings


# ------------------------------------------------------------------------------- classification


def measure_classification(bench: Bench) -> Findings:
    """Rows of a JSONL file to predictions.jsonl, and to a whole evaluation folder.

    Every round reads a file of its own, so that nothing can be kept from the round before.
    """
    from inference import classify_file, evaluate_file

    trained, sizes, findings = saved_model(bench), bench.sizes, Findings()
    lengths = [sizes.row_length] * sizes.rows_classified
    folder = bench.folder / "classification"

    def timed(work: Callable[[TrainedModel, Path, Path], Any]) -> Callable[[], float]:
        seeds = iter(range(bench.rounds + 1))

        def measure() -> float:
            seed = next(seeds)
            path = folder / f"{work.__name__}_{seed}.jsonl"
            write_rows(path, trained.vocabulary, lengths, seed)
            return bench.rate(lambda: work(trained, path, folder / "out"), len(lengths))()

        return measure

    contenders = {
        "file to predictions.jsonl": timed(classify_file),
        "file to evaluation folder": timed(evaluate_file),
        PEAK: bench.peak(bench.precision.dtype),
    }
    predicting, evaluating, peak = bench.take_turns("classification", contenders).values()
    # A row is read up to its <CLS>, and the head is needed for ten tokens only.
    parameters = counted_parameters(trained.model, head=False)
    step = training_flops(parameters, sizes.shape, [sizes.row_length - 2])
    gflops_a_row = 1e-9 * step / 3  # forward alone
    predicting = replace(predicting, share=predicting.median * gflops_a_row / peak.median)
    title = f"Classification of {len(lengths):,} rows of {sizes.row_length} tokens"
    title += f", {bench.precision.name}; {PEAK} {peak.median:,.0f} GFLOP/s"
    findings.add(Comparison(title, "rows/s", [predicting, evaluating], race=False))
    findings.reach(f"file to predictions, of the {PEAK}", predicting.share)
    return findings


# ------------------------------------------------------------------------------- reading

# The memory of a process of its own: VmHWM counts from its start, where ru_maxrss of a child also
# counts what its parent held.
READ_PROGRAM = r"""
import json, re, sys, time
from pathlib import Path
from dataset import TokenLabelDataset
from vocabulary import Vocabulary
path, vocabulary = sys.argv[1], Vocabulary.load(sys.argv[2])
began = time.perf_counter()
rows = TokenLabelDataset.read(path, vocabulary, max_length=1024)
seconds = time.perf_counter() - began
peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({"rows": len(rows), "seconds": seconds, "bytes": 1024 * int(peak[1])}))
"""


def measure_reading(bench: Bench) -> Findings:
    """Seconds to read a JSONL file the first time and again; with --full a large one."""
    from dataset import TokenLabelDataset

    sizes, findings = bench.sizes, Findings()
    vocabulary, folder = vocabulary_of(sizes.shape), bench.folder / "reading"
    times: dict[str, list[float]] = {"first": [], "again": []}
    with progress_bar("reading", bench.rounds, "round") as bar:
        for number in range(bench.rounds):
            path = folder / f"rows_{number}.jsonl"  # a new file: nothing is known of it
            write_rows(path, vocabulary, [sizes.row_length] * sizes.rows_read, seed=number)
            for seconds in times.values():
                began = time.perf_counter()
                TokenLabelDataset.read(path, vocabulary, max_length=1024)
                seconds.append(time.perf_counter() - began)
            bar.update()
    entries = [Entry(name, seconds) for name, seconds in times.items()]
    title = f"Reading {sizes.rows_read:,} rows of {sizes.row_length} tokens"
    findings.add(Comparison(title, "s", entries, race=False))
    for entry in entries:
        findings.reach(f"{sizes.rows_read:,} rows, {entry.name}", entry.median)
    if bench.settings.full:
        rows = sizes.rows_read_full
        path, vocabulary_path = folder / "many.jsonl", folder / "vocab.json"
        write_atomically(vocabulary_path, vocabulary.to_json())
        write_rows(path, vocabulary, [sizes.row_length] * rows, seed=0)
        results = []
        with progress_bar(f"reading {rows:,} rows", 2, "time") as bar:
            for _ in range(2):
                output = child(["-c", READ_PROGRAM, str(path), str(vocabulary_path)])
                results.append(json.loads(output))
                bar.update()
        title = f"Reading {rows:,} rows of {sizes.row_length} tokens in a process of its own"
        entries = [
            Entry(name, [result["seconds"]], f"peak memory {result['bytes'] / 1e6:,.0f} MB")
            for name, result in zip(times, results, strict=True)
        ]
        findings.add(Comparison(title, "s", entries, race=False))
        findings.reach(f"{rows:,} rows, first", results[0]["seconds"])
        findings.reach(f"{rows:,} rows, peak memory", results[0]["bytes"] / 1e6)
    return findings


def child(arguments: list[str]) -> str:
    """Run Python in a process of its own beside the scripts; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"python {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


# ------------------------------------------------------------------------------- starting

# What no command can do without: torch, transformers' GPT-2, the weights, one forward pass.
BARE_PROGRAM = """
import sys
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel
with torch.device("meta"):
    model = GPT2LMHeadModel(GPT2Config.from_json_file(sys.argv[1] + "/config.json"))
weights = load_file(sys.argv[1] + "/model.safetensors")
weights["lm_head.weight"] = weights["transformer.wte.weight"]
model.load_state_dict(weights, assign=True)
model.to(sys.argv[2]).eval()
with torch.inference_mode():
    print(model(torch.tensor([[2, 7]], device=sys.argv[2])).logits[0, -1].argmax().item())
"""


def measure_starting(bench: Bench) -> Findings:
    """Seconds from a cold start: to the help text, and to the first answer."""
    findings, folder = Findings(), saved_model(bench).folder.resolve()

    def seconds(*arguments: str) -> Callable[[], float]:
        def measure() -> float:
            began = time.perf_counter()
            child(list(arguments))
            return time.perf_counter() - began

        return measure

    def compare(title: str, contenders: dict[str, Measure], race: bool) -> list[Entry]:
        entries = bench.take_turns(title.lower(), contenders, rounds=bench.sizes.starts)
        findings.add(Comparison(title, "s", list(entries.values()), race))
        return list(entries.values())

    helps = {f"{name} --help": seconds(name, "--help") for name in COMMANDS}
    for entry in compare("Start to the help text", helps, race=False):
        findings.reach(entry.name, entry.median)
    device = bench.device.type
    answer = ["--model_path", str(folder), "--device", device, "--prompt", "<IMG> <Z_001>"]
    starts = {
        "inference.py --prompt": seconds("inference.py", *answer),
        "bare process": seconds("-c", BARE_PROGRAM, str(folder), device),
    }
    prompt, bare = compare("Start to the answer of a prompt", starts, race=True)
    findings.reach("inference.py --prompt, time of a bare process", prompt.median / bare.median)
    return findings


# ------------------------------------------------------------------------------- the report

SECTIONS: dict[str, Callable[[Bench], Findings]] = {
    "training": measure_training,
    "generation": measure_generation,
    "classification": measure_classification,
    "reading": measure_reading,
    "starting": measure_starting,
}


def run_benchmark(settings: BenchmarkSettings, sizes: Sizes, output: Path) -> Findings:
    """Measure the sections asked for; tell and write the tables after each.

    Raises:
        UserError: the device is not there.
    """
    from transformers.utils import logging

    from model import choose_device, choose_precision

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = choose_device(settings.device)
    sections = [name for name in SECTIONS if name in (settings.only or SECTIONS)]
    machine = describe_machine(device)
    tell("\n".join(f"{name}: {text}" for name, text in machine.items()))
    began = time.monotonic()
    findings = Findings()
    with tempfile.TemporaryDirectory() as folder:
        precision = choose_precision("auto", device)
        bench = Bench(settings, sizes, device, precision, Path(folder))
        for limit in machine_limits(bench):
            findings.add(limit)
        for name in sections:
            found = SECTIONS[name](bench)
            findings.comparisons += found.comparisons
            findings.reached |= found.reached
            targets = targets_table(TARGETS, findings, sections, device.type, settings.full)
            save_report(output, machine, findings.comparisons, targets)
    tell(f"\nTargets; a ratio of 1 or more reaches them\n{plain_table(*target_rows(targets))}")
    seconds = format_duration(time.monotonic() - began)
    tell(f"\nmeasured in {seconds}; written: {output / 'benchmark.json'}, benchmark.md")
    return findings


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    settings = read_settings(
        BenchmarkSettings,
        argv,
        prog="benchmark.py",
        description="Measure the speed of the toolkit against its peers and the machine's limit.",
        epilog="Peers that the toolkit does not need: pip install -r requirements-benchmark.txt",
    )
    # Unwinding deletes the temporary folder, half a GB of it with --full.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    sizes = GPU_SIZES if settings.device == "cuda" else CPU_SIZES
    run_benchmark(settings, sizes, OUTPUT)
    return 0


if __name__ == "__main__":
    run_command(main)
