"""Benchmark: arithmetic, tables, targets, peers that compute what ours computes, tiny sections."""

import importlib.util
import json
import math
import os
import signal
import sys
import tempfile
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import benchmark
from benchmark import SECTIONS, main, run_benchmark
from smallgpt.benchmark import peers as benchmark_peers
from smallgpt.benchmark import report as report_module
from smallgpt.benchmark import starting
from smallgpt.benchmark.bench import (
    COMMANDS,
    LOOP,
    MINIMAL,
    OURS,
    ROOT,
    TARGETS,
    TRAINER,
    Bench,
    saved_model,
)
from smallgpt.benchmark.classification import measure_classification
from smallgpt.benchmark.generation import measure_generation
from smallgpt.benchmark.peers import (
    IGNORED,
    LARGEST_NORM,
    LEARNING_RATE,
    MinimalGPT,
    pad_batch,
    plain_epoch,
)
from smallgpt.benchmark.reading import child, measure_reading
from smallgpt.benchmark.report import (
    Comparison,
    Entry,
    Findings,
    Target,
    save_report,
    targets_table,
)
from smallgpt.benchmark.starting import BARE_PROGRAM, measure_starting
from smallgpt.benchmark.training import measure_training, our_epoch, training_run
from smallgpt.benchmark.work import (
    CPU_SIZES,
    GPU_SIZES,
    Shape,
    Sizes,
    counted_parameters,
    equal,
    ragged,
    training_flops,
    vocabulary_of,
    write_rows,
)
from smallgpt.decoding.decoder import Decoder
from smallgpt.decoding.generate import generate_tokens
from smallgpt.decoding.sampling import Sampling
from smallgpt.errors import SettingsError, UserError
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.model.hardware import Precision
from smallgpt.options.benchmark import BENCHMARK_SECTIONS, BenchmarkSettings
from smallgpt.options.training import TrainSettings
from smallgpt.rows.dataset import TokenLabelDataset

SHAPE = Shape(n_layer=1, n_head=2, n_embd=16, n_positions=64, codes=120)
# The names stay, and with them the keys of the targets.
TOY = Sizes(
    jobs=tuple(replace(job, lengths=(9,) * 4, batch_size=2, shape=SHAPE) for job in CPU_SIZES.jobs),
    ragged=replace(CPU_SIZES.ragged, lengths=(8, 20, 32, 12), batch_size=2, shape=SHAPE),
    shape=SHAPE,
    batches=(1, 64),
    batches_full=(1, 64),
    prompt=3,
    new_tokens=2,
    row_length=9,
    rows_classified=20,
    rows_read=20,
    rows_read_full=30,
    rounds=1,
    rounds_full=1,
    starts=1,
    squares=(8, 16),
    copied=1 << 12,
)
FP32 = Precision("fp32", "exact")


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.fixture
def make_bench(tmp_path):
    def make(full: bool = False) -> Bench:
        settings, cpu = BenchmarkSettings(full=full), torch.device("cpu")
        return Bench(settings, TOY, cpu, Precision("bf16", "for its targets"), tmp_path)

    return make


@pytest.fixture
def bench(make_bench):
    return make_bench()


def small_model(**changes) -> torch.nn.Module:
    settings = TrainSettings(n_layer=2, n_head=2, n_embd=16, n_positions=32, max_length=32)
    return build_model(replace(settings, **changes), vocabulary_of(SHAPE)).eval()


def numbers_of(found: list[Comparison]) -> list[float]:
    return [value for comparison in found for entry in comparison.entries for value in entry.values]


def all_positive(numbers: list[float]) -> bool:
    return bool(numbers) and all(0 < number < math.inf for number in numbers)


# ------------------------------------------------------------------------------- arithmetic


def test_operations_of_a_step_computed_by_hand():
    # 6 x 10 parameters x (4 + 5) tokens, and 6 x 2 layers x 3 wide x (4 x 4 + 5 x 5)
    assert training_flops(10, Shape(n_layer=2, n_embd=3), [4, 5]) == 540 + 1476


def test_operations_of_a_step_are_those_that_torch_counts():
    model = small_model()
    model.set_attn_implementation("eager")  # products that torch can count
    rows, length = 3, 11
    ids = torch.randint(6, 100, (rows, length))
    with FlopCounterMode(display=False) as counter:
        model(ids).logits.sum().backward()
    counts = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for name, count in counts.items() if "bmm" in name)
    # torch multiplies the masked half too, and counts products alone: a bias and a norm's weight
    # are no product, but parameters.
    vectors = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    expected = sum(counts.values()) - attention / 2 + 6 * vectors * rows * length
    shape = Shape(n_layer=2, n_embd=16)
    parameters = counted_parameters(model, head=True)
    assert training_flops(parameters, shape, [length] * rows) == expected


def test_a_forward_pass_without_the_head_leaves_the_token_table_out():
    model = small_model()
    difference = counted_parameters(model, head=True) - counted_parameters(model, head=False)
    assert difference == model.transformer.wte.weight.numel()


def test_a_comparison_counts_larger_rates_and_smaller_times_as_faster():
    fast, slow, missing = Entry("ours", [9.0, 12.0, 10.0]), Entry("peer", [4.0]), Entry("absent")
    rates = Comparison("rates", "rows/s", [fast, slow, missing])
    assert (fast.median, rates.best(fast), rates.best(missing)) == (10, 12, None)
    assert rates.advantage(fast, over=slow) == 2.5
    assert rates.advantage(fast, over=missing) is None
    times = Comparison("times", "s", [fast, slow])
    assert times.best(fast) == 9
    assert times.advantage(fast, over=slow) == 0.4


def test_the_lead_is_over_the_fastest_other_with_that_name():
    entries = [Entry("ours a", [6]), Entry("ours b", [8]), Entry("generate 1", [2])]
    found = Comparison("", "tokens/s", [*entries, Entry("generate 2", [3]), Entry("other")])
    assert found.lead("generate") == 2
    assert found.lead("generate 1", of=entries[1]) == 4
    assert found.lead("generate", of=found.entries[3]) == 1.5  # it does not count itself
    assert found.lead() == 0.75
    assert found.lead("other") is None


def test_a_table_says_how_much_faster_ours_is_and_its_share_of_the_peak():
    entries = [Entry("ours", [1500.0], share=0.5), Entry("peer", [600.0]), Entry("gone", note="?")]
    header, rows = Comparison("", "tokens/s", entries).table()
    assert header == ["", "median tokens/s", "best", "ours is", "of the peak", ""]
    assert rows == [
        ["ours", "1,500", "1,500", "", "50%", ""],
        ["peer", "600", "600", "2.50x as fast", "", ""],
        ["gone", "-", "-", "", "", "?"],
    ]


# ------------------------------------------------------------------------------- targets


def test_targets_are_reached_missed_or_not_measured():
    targets = [
        Target("training", "speed", 2.0),
        Target("training", "share", 0.5, "%"),
        Target("reading", "seconds", 2.0, "s", at_most=True),
        Target("reading", "memory", 700.0, "MB", at_most=True),
        Target("training", "absent", 1.0),
        Target("training", "long", 1.0, full=True),
        Target("training", "speed", 3.0, device="cuda"),
        Target("starting", "not asked for", 1.0),
    ]
    findings = Findings()
    for key, value in {"speed": 3.0, "share": 0.4, "seconds": 0.5, "memory": 1400.0}.items():
        findings.reach(key, value)
    findings.reach("absent", None)
    found = targets_table(targets, findings, ["training", "reading"], "cpu", full=False)
    assert [(row["target"], row["goal"], row["measured"], row["ratio"]) for row in found] == [
        ("speed", "2.00x", "3.00x", 1.5),
        ("share", "50%", "40%", 0.8),
        ("seconds", "at most 2 s", "0.5 s", 4.0),
        ("memory", "at most 700 MB", "1,400 MB", 0.5),
        ("absent", "1.00x", "not measured: a peer, or bf16, is missing here", None),
        ("long", "1.00x", "not measured: needs --full", None),
        ("cuda: speed", "3.00x", "not measured: needs --device cuda", None),
    ]
    _, rows = report_module.target_rows(found)
    assert [row[-1] for row in rows] == ["reached", "missed", "reached", "missed", "", "", ""]


@pytest.mark.parametrize(("device", "sizes"), [("cpu", CPU_SIZES), ("cuda", GPU_SIZES)])
def test_every_target_names_something_that_is_measured(device, sizes):
    jobs = [job.name for job in (*sizes.jobs, sizes.ragged)]
    starts = {
        "training": tuple(f"{name}, " for name in jobs),
        "generation": tuple(f"batch {batch}, " for batch in sizes.batches),
        "classification": ("file to predictions, ",),
        "reading": (f"{sizes.rows_read:,} rows, ", f"{sizes.rows_read_full:,} rows, "),
        "starting": COMMANDS,
    }
    keys = [(target.section, target.key) for target in TARGETS if target.device == device]
    assert keys
    assert [key for section, key in keys if not key.startswith(starts[section])] == []


def test_the_report_is_json_with_every_round_and_markdown_tables(tmp_path):
    found = Comparison("Race", "rows/s", [Entry("ours", [1.0, 3.0, 2.0]), Entry("x", note="gone")])
    findings = Findings([found], {"speed": 2.0})
    targets = targets_table([Target("a", "speed", 4.0)], findings, ["a"], "cpu", full=False)
    save_report(tmp_path / "new", {"date": "today"}, [found], targets)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "benchmark.json",
        "benchmark.md",
    ]
    report = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    ours, missing = report["comparisons"][0]["entries"]
    assert (ours["values"], ours["median"], ours["best"]) == ([1, 3, 2], 2, 3)
    assert (missing["median"], missing["note"]) == (None, "gone")
    assert report["targets"][0]["ratio"] == 0.5
    text = (tmp_path / "new" / "benchmark.md").read_text()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len({line.count("|") for line in table}) for table in tables] == [1, 1]
    assert "| speed | 4.00x | 2.00x | 0.50 | missed |" in text
    assert "- date: today" in text


# ------------------------------------------------------------------------------- turns


def test_contenders_take_turns_after_a_round_that_does_not_count(bench):
    calls = []

    def contender(name):
        return lambda: calls.append(name) or float(len(calls))

    peers = {"peer": lambda: contender("peer")}
    entries = bench.take_turns("", {OURS: contender(OURS)}, peers, rounds=2)
    assert calls == [OURS, "peer"] * 3
    assert [(name, entry.values) for name, entry in entries.items()] == [
        (OURS, [3, 5]),
        ("peer", [4, 6]),
    ]


def test_a_peer_that_is_missing_or_fails_is_a_row(bench):
    def absent():
        raise ModuleNotFoundError("No module named 'absent'")

    def fails():
        raise RuntimeError("first line\nsecond line")

    peers = {
        "absent": absent,
        "broken": fails,
        "fails at work": lambda: fails,
        "works": lambda: lambda: 1.0,
    }
    entries = bench.take_turns("", {OURS: lambda: 1.0}, peers)
    assert list(entries) == [OURS, *peers]
    notes = {name: entry.note for name, entry in entries.items() if not entry.values}
    assert notes == {
        "absent": "not installed (requirements-benchmark.txt)",
        "broken": "failed: RuntimeError: first line",
        "fails at work": "failed: RuntimeError: first line",
    }


def test_ctrl_c_in_a_peer_stops_the_benchmark(bench):
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.take_turns("", {OURS: lambda: 1.0}, {"peer": lambda: stopped})


# ------------------------------------------------------------------------------- rows


def test_written_rows_are_read_without_complaint_and_have_their_lengths(tmp_path):
    vocabulary, lengths = vocabulary_of(SHAPE), [6, 30, 11, 8]
    files = [
        write_rows(tmp_path / name, vocabulary, lengths, seed)
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    ]
    rows = TokenLabelDataset.read(files[0], vocabulary, max_length=64)
    assert rows.lengths_N.tolist() == lengths
    assert (rows.classes_N >= 0).all()
    assert rows.counts.lines() == []
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_ragged_lengths_are_spread_evenly_between_their_ends():
    job = ragged(5, 2, 10, 50)
    assert job.lengths == (10, 20, 30, 40, 50)
    assert job.inputs == [9, 19, 29, 39, 49]
    assert job.is_ragged and not equal("even", 2, 10, steps=3).is_ragged


# ------------------------------------------------------------------------------- peers


def test_minimal_gpt_computes_what_transformers_computes():
    model = small_model(n_positions=64)
    with torch.no_grad():  # fresh biases are 0 and would hide a mistake
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    minimal = MinimalGPT(model, dropout=0.1).eval()
    batch = pad_batch([[2, 9, 40, 7], [2, 11, 90, 33, 5, 8, 3], [2, 6]])
    unmasked = model(batch["input_ids"]).logits
    torch.testing.assert_close(minimal(batch["input_ids"]), unmasked, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(minimal.loss(batch), model(**batch).loss, atol=1e-5, rtol=1e-5)


def test_minimal_gpt_drops_out_in_training_only():
    minimal = MinimalGPT(small_model(), dropout=0.5, attention_dropout=0.0)
    ids = torch.tensor([[2, 9, 40, 7]])
    assert not torch.equal(minimal(ids), minimal(ids))
    assert torch.equal(minimal.eval()(ids), minimal(ids))


def test_batches_are_padded_on_the_right_and_padding_is_no_target():
    batch = pad_batch([[5, 6, 7], [8]])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[5, 6, 7], [8, IGNORED, IGNORED]],
    }


def test_a_plain_epoch_steps_as_adamw_is_written_down():
    rows = [[0, 1, 2], [2, 1], [1, 1, 0]]
    torch.manual_seed(0)
    table = torch.nn.Embedding(3, 3)  # logits of the next token
    expected = table.weight.detach().clone().requires_grad_()
    # Gradients of other size and direction each step: without clipping, or with the gradient of the
    # step before left in, the sums of AdamW would be others.
    pushes = [push * torch.randn(3, 3) for push in (2.0, 9.0, 4.0)]

    def loss_of(weights, batch, push):
        logits = functional.embedding(batch["input_ids"], weights)[:, :-1].flatten(0, 1)
        likelihood = functional.cross_entropy(logits, batch["labels"][:, 1:].flatten())
        return likelihood + (weights * push).sum()

    left = iter(pushes)
    epoch = plain_epoch(
        table,
        lambda batch: loss_of(table.weight, batch, next(left)),
        rows,
        batch_size=3,
        precision=FP32,
    )
    mean, square = torch.zeros(3, 3), torch.zeros(3, 3)
    for step, push in enumerate(pushes, start=1):
        epoch()
        (gradient,) = torch.autograd.grad(loss_of(expected, pad_batch(rows), push), expected)
        assert gradient.norm() > LARGEST_NORM
        gradient = gradient * LARGEST_NORM / gradient.norm()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        update = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        decayed = expected.detach() * (1 - LEARNING_RATE * 0.01)
        expected = (decayed - LEARNING_RATE * update).requires_grad_()
    torch.testing.assert_close(table.weight, expected, atol=1e-6, rtol=1e-5)


def test_a_plain_epoch_visits_every_row_once():
    rows, seen = [[number, 1] for number in range(7)], []

    def loss(batch):
        seen.append(batch["input_ids"][:, 0].tolist())
        return table(batch["input_ids"]).sum()

    table = torch.nn.Embedding(9, 2)
    plain_epoch(table, loss, rows, batch_size=3, precision=FP32)()
    assert [len(batch) for batch in seen] == [3, 3, 1]
    assert sorted(number for batch in seen for number in batch) == list(range(7))


def test_transformers_model_has_its_own_defaults_only_as_shipped():
    ours = small_model(dropout=0.3, attention_dropout=0.0)
    same, shipped = (benchmark_peers.transformers_model(ours, s) for s in (False, True))
    for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "pad_token_id"):
        assert getattr(shipped.config, name) == getattr(ours.config, name)
    assert (same.config.activation_function, same.config.attn_pdrop) == ("gelu", 0)
    assert (shipped.config.activation_function, shipped.config.attn_pdrop) == ("gelu_new", 0.1)
    assert same is not ours and same.transformer.wte.weight is not ours.transformer.wte.weight


@pytest.mark.parametrize("peer", ["generate", "ONNX Runtime", "CTranslate2"])
def test_a_decoder_without_choice_continues_as_ours(peer, make_bench, monkeypatch):
    needed = {"ONNX Runtime": ["onnxscript", "onnxruntime"], "CTranslate2": ["ctranslate2"]}
    for name in needed.get(peer, []):
        pytest.importorskip(name)
    monkeypatch.setattr(benchmark_peers, "TOP_K", 1)
    bench, prompts = make_bench(full=True), [[2, 17, 40], [2, 9, 77]]
    trained, new_tokens = saved_model(bench), 12
    with torch.no_grad():  # apart, or rounding would choose
        trained.model.transformer.wte.weight.mul_(20)
    if peer == "generate":
        run = benchmark_peers.transformers_generate(
            trained.model, prompts, new_tokens, torch.float32
        )
    elif peer == "ONNX Runtime":
        path = bench.folder / "model.onnx"
        benchmark_peers.export_onnx(trained.model, path)
        run = benchmark_peers.onnx_generate(path, trained.model.config, prompts, new_tokens)
    else:
        folder = bench.folder / "strong"
        save_model_folder(
            trained.model, folder, trained.vocabulary, trained.settings, codebook=None
        )
        path = bench.folder / "ctranslate2"
        benchmark_peers.convert_to_ctranslate2(folder, path)
        words = [[trained.vocabulary.tokens[index] for index in prompt] for prompt in prompts]
        run = benchmark_peers.ctranslate2_generate(path, "float32", words, new_tokens)
    ours = generate_tokens(
        Decoder(trained.model),
        prompts,
        max_new_tokens=new_tokens,
        stop_ids=[],
        sampling=Sampling(greedy=True),
    )
    assert run() == ours


def test_trainer_trains_and_tells_the_seconds_of_each_epoch(tmp_path):
    pytest.importorskip("accelerate")
    model, vocabulary = small_model(), vocabulary_of(SHAPE)
    vocabulary.save_tokenizer(tmp_path)
    epoch = benchmark_peers.trainer_epoch(
        model, tmp_path, [[2, 9, 40], [2, 7], [2, 5, 6]], 2, FP32, tmp_path / "out"
    )
    weights = []
    for _ in range(2):
        assert 0 < epoch() < math.inf
        weights.append(model.transformer.wte.weight.detach().clone())
    assert not torch.equal(*weights)


# ------------------------------------------------------------------------------- sections


@pytest.mark.parametrize("shipped", [False, True])
def test_our_epoch_is_that_of_train_gpt_on_all_rows(bench, shipped, capsys):
    job = TOY.ragged
    with training_run(bench, job, shipped) as run:
        before = run.model.transformer.wte.weight.detach().clone()
        our_epoch(run)()
        assert (run.state.step, run.state.window_tokens) == (2, sum(job.inputs))
        assert not torch.equal(run.model.transformer.wte.weight, before)
        assert sorted(run.rows.lengths_N) == sorted(job.lengths)
        assert run.settings.dropout == 0.1
        assert run.settings.token_dropout == (None if shipped else 0)
        if shipped:
            assert run.settings.attention_dropout == TrainSettings.attention_dropout
    assert capsys.readouterr().out == ""


def reached(found: Findings, section: str) -> set[str]:
    """Keys of the targets of a section that have a value."""
    rows = targets_table(TARGETS, found, [section], "cpu", full=True)
    return {row["target"] for row in rows if row["value"] is not None}


def test_training_section(bench):
    found = measure_training(bench)
    assert all_positive(numbers_of(found.comparisons))
    assert all_positive(list(found.reached.values()))
    assert len(found.comparisons) == 2 * len(TOY.jobs) + 1
    for comparison in found.comparisons:
        names = [entry.name for entry in comparison.entries]
        assert names[0] == OURS and {LOOP, MINIMAL, TRAINER} <= set(names)
        (trainer,) = [entry for entry in comparison.entries if entry.name == TRAINER]
        assert bool(trainer.values) == installed("accelerate"), trainer.note
    keys = {t.key for t in TARGETS if t.section == "training" and t.device == "cpu"}
    missing = set() if installed("accelerate") else {key for key in keys if TRAINER in key}
    assert reached(found, "training") == keys - missing


def test_generation_section(make_bench):
    found = measure_generation(make_bench(full=True))
    assert all_positive(numbers_of(found.comparisons))
    keys = {t.key for t in TARGETS if t.section == "generation" and t.device == "cpu"}
    packages = {"ONNX Runtime": "onnxruntime", "CTranslate2": "ctranslate2"}
    for peer, package in packages.items():
        if not installed(package):
            keys = {key for key in keys if peer not in key}
    assert reached(found, "generation") == keys


def test_classification_section(bench):
    found = measure_classification(bench)
    assert all_positive(numbers_of(found.comparisons))
    (key,) = [target.key for target in TARGETS if target.section == "classification"]
    assert found.reached.keys() == {key}
    assert found.reached[key] == found.comparisons[0].entries[0].share
    lines = (bench.folder / "classification" / "out" / "predictions.jsonl").read_text()
    assert len(lines.splitlines()) == TOY.rows_classified


def test_reading_section(make_bench):
    found = measure_reading(make_bench(full=True))
    assert all_positive(numbers_of(found.comparisons))
    assert found.reached.keys() == {
        "20 rows, first",
        "20 rows, again",
        "30 rows, first",
        "30 rows, peak memory",
    }
    assert 10 < found.reached["30 rows, peak memory"] < 2000  # MB


def test_starting_section(bench, monkeypatch):
    started = []
    monkeypatch.setattr(starting, "child", lambda arguments: started.append(arguments))
    found = measure_starting(bench)
    assert reached(found, "starting") == {t.key for t in TARGETS if t.section == "starting"}
    assert {arguments[0] for arguments in started} == {*COMMANDS, "-c"}
    assert [a for a in started if a[0] in COMMANDS and "--help" not in a] == [
        ["inference.py", "--model_path", str(bench.folder / "model"), "--device", "cpu",
         "--prompt", "<IMG> <Z_001>"]
    ] * 2  # fmt: skip


def test_the_bare_process_computes_what_the_model_computes(bench, monkeypatch, capsys):
    trained = saved_model(bench)
    monkeypatch.setattr(sys, "argv", ["-c", str(trained.folder), "cpu"])
    exec(compile(BARE_PROGRAM, "bare", "exec"), {})
    with torch.inference_mode():
        expected = trained.model(torch.tensor([[2, 7]])).logits[0, -1].argmax().item()
    assert capsys.readouterr().out == f"{expected}\n"


def test_a_child_that_fails_says_why():
    with pytest.raises(RuntimeError, match="No module named 'absent'"):
        child(["-c", "import absent"])


# ------------------------------------------------------------------------------- the command


def test_the_command_tells_and_writes_what_was_asked_for(tmp_path, capsys):
    run_benchmark(BenchmarkSettings(only=("reading",)), TOY, tmp_path / "out")
    told = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    text = (tmp_path / "out" / "benchmark.md").read_text()
    titles = [comparison["title"] for comparison in report["comparisons"]]
    assert titles[-1] == "Reading 20 rows of 9 tokens"
    for title in titles:
        assert f"\n{title}\n" in told and f"\n## {title}\n" in text
    assert {row["target"].split(" rows")[0] for row in report["targets"]} == {"60,000", "1,000,000"}
    assert report["machine"]["torch"] == torch.__version__
    assert str(tmp_path / "out" / "benchmark.json") in told


def test_sections_are_those_of_the_options():
    assert tuple(SECTIONS) == BENCHMARK_SECTIONS


def test_every_command_is_started():
    scripts = [path for path in ROOT.glob("*.py") if "run_command(main)\n" in path.read_text()]
    assert {path.name for path in scripts if path.name != "console.py"} == set(COMMANDS)


def test_a_wrong_section_is_told_with_the_right_ones():
    with pytest.raises(SettingsError) as error:  # before anything is measured
        main(["--only", "reading", "reeding"])
    assert error.value.mistakes == [f"--only reeding: there is {', '.join(BENCHMARK_SECTIONS)}"]


def test_sigterm_deletes_the_temporary_folder(tmp_path, monkeypatch):
    def killed(bench):
        (bench.folder / "rows").write_text("many")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(benchmark, "CPU_SIZES", TOY)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(SECTIONS, "reading", killed)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as leaving:
            main(["--only", "reading"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert leaving.value.code == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(benchmark.signal, "signal", lambda *_: None)
    with pytest.raises(UserError, match="no such device here"):
        main(["--device", "cuda"])


def test_function_in_a_process_of_its_own_answers_again_and_again_and_fails_here():
    call = benchmark_peers.OwnProcess(partial, os.getpid)
    assert call() == call() != os.getpid()
    with pytest.raises(ZeroDivisionError):
        benchmark_peers.OwnProcess(divmod, 1, 0)
    fails_later = benchmark_peers.OwnProcess(partial, divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        fails_later()
