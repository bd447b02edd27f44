"""Training: the objective, the loop, resume, what a run folder holds, mistakes."""

import fcntl
import gc
import json
import logging
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from command_program import run_here
from trained_models import train_rule_rows
from training_runs import (
    LETTERS,
    ROOT,
    change,
    command,
    same_weights,
    small_settings,
    start_run,
    weights_of,
    write_rule_rows,
)

from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.inference.evaluate import evaluate_file
from smallgpt.inference.generate import generate
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training.data import read_data
from smallgpt.training.run import Run
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.setup import torch_state_restored
from smallgpt.training.update import Updater
from train_gpt import main, train


@pytest.fixture
def settings(tmp_path):
    return small_settings(tmp_path)


@pytest.fixture
def finished(settings, made_once) -> RunFolder:
    """A run with these settings that has ended: a copy of one that tests share."""
    shutil.copytree(made_once("rule rows", train_rule_rows) / "run", settings.output_dir)
    return RunFolder(settings.output_dir)


def test_rows_that_follow_a_rule_are_learned_perfectly(tmp_path, settings):
    vocab = tmp_path / "abc.json"
    vocab.write_text(json.dumps({"<PAD>": 0, "a": 1, "b": 2, "c": 3}))
    data = tmp_path / "abc.jsonl"
    rows = [" ".join("abc"[i % 3] for i in range(length)) for length in range(4, 24)]
    data.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows))
    result = train(
        change(settings, data_path=str(data), vocab_path=str(vocab), num_epochs=40, dropout=0.0,
               learning_rate=1e-2, early_stopping_patience=0)
    )  # fmt: skip
    assert result.validation["next_token_accuracy"] == 1.0
    assert result.validation["perplexity"] < 1.1


def test_label_of_rule_rows_is_learned(settings, tmp_path):
    write_rule_rows(tmp_path, rows=300)
    longer = change(
        settings, num_epochs=25, learning_rate=1e-2, dropout=0.0, early_stopping_patience=0
    )
    assert train(longer).validation["accuracy"] == 1.0


def test_a_model_is_used_up_to_its_longest_row_only(settings):
    folder = train(change(settings, max_length=32)).folder
    trained = load_trained_model(folder.best_model, "cpu", "fp32")
    rows = [json.loads(line) for line in Path(settings.data_path).read_text().splitlines()]
    longest = max(len(row["tokens"].split()) for row in rows) + 3  # and the label tail
    assert trained.max_length == longest < 32
    result = generate(trained, "a b", count=50, max_new_tokens=30, temperature=9.0, top_k=0)
    assert max(len(sequence) for sequence in result.sequences) == longest
    assert f"rows of at most {longest} tokens" in result.note
    again = train(change(settings, init_from=str(folder.best_model), output_dir=f"{folder.root}2"))
    known = load_trained_model(again.folder.best_model, "cpu", "fp32")
    assert known.max_length == longest


# ------------------------------------------------------------------------------- run folder


def test_run_folder_holds_what_is_promised(finished):
    folder = finished.root
    for name in ("settings.yaml", "data_report.json", "metrics.jsonl", "train.log"):
        assert (folder / name).stat().st_size > 0
    assert {path.suffix for path in (folder / "plots").iterdir()} == {".png"}
    model_files = {
        "config.json", "model.safetensors", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "vocab.json", "settings.yaml", "made_by.json",
    }  # fmt: skip
    for model in ("best_model", "final_model"):
        assert {path.name for path in (folder / model).iterdir()} == model_files


def test_metrics_rows_have_their_figures(finished):
    rows = read_metrics(finished.metrics)
    training = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    assert [row["step"] for row in training] == list(range(2, 13, 2))
    assert len(validation) == 2
    for row in training:
        assert {"epoch", "seconds", "loss", "learning_rate", "tokens_per_second"} <= row.keys()
        assert row["tokens_per_second"] > 0
    for row in validation:
        assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
        assert 0 <= row["label_accuracy"] <= 1 and row["label_loss"] > 0


def test_logged_training_loss_is_the_unweighted_mean(settings):
    # At learning rate ~0 and dropout 0 the weights stay, so the loss can be computed apart.
    calm = change(settings, learning_rate=1e-12, dropout=0.0, num_epochs=1, weight_decay=0.0)
    run = start_run(calm)
    total, tokens = 0.0, 0
    for number in range(len(run.rows)):
        ids = torch.tensor(run.rows.row(number).astype(np.int64))[None]
        with torch.no_grad():
            total += run.model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    train(calm)
    rows = read_metrics(RunFolder(calm.output_dir).metrics)
    row = next(row for row in rows if row["kind"] == "validation")
    assert row["train_loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_own_validation_file_is_used(settings, tmp_path):
    data = tmp_path / "own.jsonl"
    data.write_text('{"tokens": "a b c d", "label": "up"}\n' * 3)
    train_rows, validation_rows = read_data(change(settings, val_data_path=str(data)), print)
    assert (len(train_rows), len(validation_rows)) == (60, 3)


def write_codebook(settings: TrainSettings, levels: int) -> Codebook:
    """A codebook of grey levels, one pixel a patch, beside the vocabulary."""
    centers = np.linspace(0, 1, levels, dtype=np.float32)[:, None]
    codebook = Codebook(centers, 1, 2, 2, 1, 0.0, 1.0, 1.0)
    codebook.save(Path(settings.vocab_path).with_name("codebook.npz"))
    return codebook


def test_codebook_beside_the_vocabulary_goes_along(settings):
    write_codebook(settings, 4)
    result = train(change(settings, num_epochs=1))
    codebook = Path(settings.vocab_path).with_name("codebook.npz")
    assert (result.folder.best_model / "codebook.npz").read_bytes() == codebook.read_bytes()


def test_codes_of_like_patches_start_with_like_embeddings(settings, tmp_path):
    codebook = write_codebook(settings, 64)
    vocabulary = Vocabulary.for_images(64, ["up", "down"])
    tokens = [*vocabulary.tokens, *LETTERS]
    vocab = Path(settings.vocab_path)
    vocab.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    run = start_run(settings)
    weights = run.model.transformer.wte.weight.detach()
    codes = weights[[tokens.index(token) for token in codebook.code_tokens]]
    similarity = torch.nn.functional.cosine_similarity(codes[0], codes[[1, 8, 40]], dim=-1)
    assert similarity[0] > 0.8 and similarity[0] > similarity[1] > similarity[2]
    others = weights[[tokens.index(letter) for letter in LETTERS]]
    assert codes.std().item() == pytest.approx(0.02, rel=0.01)
    assert others.std().item() == pytest.approx(0.02, rel=0.25)
    assert torch.equal(run.model.lm_head.weight, run.model.transformer.wte.weight)


# ------------------------------------------------------------------------------- repeating


def test_same_seed_gives_the_same_weights_and_another_does_not(settings, tmp_path):
    folders = []
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        run = change(settings, output_dir=str(tmp_path / name), seed=seed)
        folders.append(train(run).folder.final_model)
    assert same_weights(folders[0], folders[1])
    assert not same_weights(folders[0], folders[2])


class StopAfter:
    """Delivers a real SIGINT to this process after some updates."""

    def __init__(self, monkeypatch, steps: int):
        real = Updater.step_optimizers

        def step(updater):
            real(updater)
            if updater.run.state.step == steps:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Updater, "step_optimizers", step)


def test_resumed_run_without_accumulation_ends_where_the_uninterrupted_one_ends(
    settings, tmp_path, monkeypatch
):
    settings = change(settings, optimizer="muon")
    whole = train(change(settings, output_dir=str(tmp_path / "whole"), num_epochs=3))
    broken = change(settings, output_dir=str(tmp_path / "broken"), num_epochs=3)
    with monkeypatch.context() as patch:
        StopAfter(patch, 9)
        stopped = train(broken)
    assert stopped.exit_code == 130
    resumed = train(change(broken, resume=True))
    assert resumed.exit_code == 0
    assert same_weights(whole.folder.final_model, resumed.folder.final_model)
    assert same_weights(whole.folder.best_model, resumed.folder.best_model)

    def without_times(path):
        clock = ("seconds", "tokens_per_second")
        return [{k: v for k, v in row.items() if k not in clock} for row in read_metrics(path)]

    assert without_times(whole.folder.metrics) == without_times(resumed.folder.metrics)


def test_resume_of_a_finished_run_does_nothing(settings, finished, capsys):
    before = weights_of(finished.final_model)
    again = train(change(settings, resume=True))
    assert again.exit_code == 0
    assert "finished" in capsys.readouterr().out
    after = weights_of(finished.final_model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_resume_without_a_run_starts_one(settings, capsys):
    assert train(change(settings, resume=True)).exit_code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"no run in {settings.output_dir}: a new one begins\n")


def test_resuming_where_no_run_is_names_one_that_is_called_nearly_the_same(
    settings, finished, capsys
):
    near = Path(settings.output_dir).with_name("runs")
    train(change(settings, resume=True, output_dir=str(near)))
    assert f"a new one begins (did you mean {settings.output_dir}?)" in capsys.readouterr().out


def test_resume_uses_the_stored_settings(finished):
    argv = ["--resume", "--output_dir", str(finished.root), "--num_epochs", "3"]
    assert main(argv) == 0
    rows = read_metrics(finished.metrics)
    assert rows[-1]["epoch"] == 3


def test_resume_with_another_shape_is_refused(settings, finished):
    with pytest.raises(SettingsError, match="n_layer is 3 but the run has 2"):
        train(change(settings, resume=True, n_layer=3, num_epochs=3))


def test_existing_run_is_never_overwritten_unasked(settings, finished):
    with pytest.raises(UserError, match="a run is here already"):
        train(settings)
    assert train(change(settings, overwrite=True)).exit_code == 0


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_overwrite_deletes_all_of_a_run_and_leaves_foreign_files(settings, finished):
    model = load_trained_model(finished.best_model, "cpu", "fp32")
    evaluate_file(model, settings.data_path, finished.root / "evaluation_rows")
    (finished.plots / "mine.png").write_text("mine")
    kept = finished.clear()
    assert kept == [finished.plots / "mine.png"]
    assert files_of(finished.root).keys() == {"plots/mine.png", ".lock"}


def test_overwrite_tells_what_stays(settings, finished, capsys):
    for name in ("notes.txt", "plots/mine.png", "checkpoints/mine.pt"):
        (finished.root / name).write_text("mine")
    (finished.root / "evaluation_x").mkdir()
    (finished.root / "evaluation_x" / "made_from.json").write_text('{\n  "mode": "evaluate"\n}')
    train(change(settings, overwrite=True))
    out = capsys.readouterr().out
    gone = finished.root / "evaluation_x"
    assert f"{gone} is of the run that --overwrite replaces" in out and not gone.exists()
    for name in ("notes.txt", "plots/mine.png", "checkpoints/mine.pt"):
        assert (finished.root / name).read_text() == "mine"
    line = f"{finished.plots / 'mine.png'} is not the run's own and stays"
    assert line in out and line in finished.log.read_text()


def test_run_and_its_repetition_leave_the_same_models_to_the_byte(settings):
    folder = train(settings).folder
    models = [files_of(folder.best_model), files_of(folder.final_model)]
    train(change(settings, overwrite=True))
    assert [files_of(folder.best_model), files_of(folder.final_model)] == models


@pytest.mark.parametrize("what", ["init_from", "vocab_path", "data_path", "val_data_path"])
def test_overwrite_that_deletes_what_it_reads_is_refused(settings, finished, what, monkeypatch):
    values = {what: str(finished.best_model / "vocab.json")}
    if what == "init_from":
        monkeypatch.chdir(finished.root)
        values = {"init_from": "best_model", "output_dir": "."}
    before = files_of(finished.root)
    with pytest.raises(SettingsError, match=rf"--{what} .*--overwrite deletes .*best_model"):
        train(change(settings, overwrite=True, **values))
    assert files_of(finished.root) == before


def test_start_that_fails_does_not_cost_the_old_run(settings, finished, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(finished.best_model, base)
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-8])
    before = files_of(finished.root)
    with pytest.raises(UserError, match="base"):
        train(change(settings, overwrite=True, init_from=str(base)))
    assert files_of(finished.root) == before


def test_run_writes_over_nothing_that_no_run_left(settings):
    root = Path(settings.output_dir)
    (root / "plots").mkdir(parents=True)
    (root / "plots" / "loss.png").write_text("mine")
    for how in ({}, {"resume": True}, {"overwrite": True}, {"check_data": True}):
        with pytest.raises(UserError, match=r"loss\.png was left by no training run"):
            train(change(settings, **how))
    assert files_of(root) == {"plots/loss.png": b"mine"}


@pytest.mark.parametrize("left", ["checkpoints", "checkpoints/.step_00000000.7.tmp"])
def test_start_that_was_killed_does_not_stand_in_the_way(settings, left):
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_gpt.train_epochs", interrupted)
        train(settings)
    folder = RunFolder(settings.output_dir)
    assert folder.settings.exists()
    (folder.root / left).mkdir(parents=True)
    assert train(change(settings, num_epochs=1)).exit_code == 0
    assert not list(folder.root.glob("**/.*.tmp"))


def test_paths_may_be_paths(settings):
    paths = ("data_path", "vocab_path", "output_dir")
    given = change(settings, **{name: Path(getattr(settings, name)) for name in paths})
    assert given == settings
    assert train(change(given, num_epochs=1)).exit_code == 0
    with pytest.raises(SettingsError, match=r"vocab_path: expected text.*\nseed: expected"):
        train(change(settings, seed=Path("x"), vocab_path=7))


def state_of_the_process() -> dict:
    gc.collect()
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "random": random.getstate(),
        "handlers": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "environment": dict(os.environ),
        "threads": (torch.get_num_threads(), [thread.name for thread in threading.enumerate()]),
        "warnings": list(warnings.filters),
        "logging": {name: logging.getLogger(name).level for name in ("", "transformers", "peft")},
        "files": sorted(os.readlink(f"/proc/self/fd/{n}") for n in open_files()),
        "folder": os.getcwd(),
        "streams": (sys.stdout, sys.stderr, sys.stdin),
    }


def open_files() -> list[str]:
    with os.scandir("/proc/self/fd") as found:  # itself among them
        return [e.name for e in found if os.path.exists(e.path) and os.path.isfile(e.path)]


def test_training_leaves_the_process_as_it_found_it(settings):
    train(settings)  # libraries are loaded now
    torch.manual_seed(5)
    before = state_of_the_process()
    train(change(settings, overwrite=True))
    assert state_of_the_process() == before
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "validate", interrupted)
        train(change(settings, overwrite=True))
    assert state_of_the_process() == before
    assert train(change(settings, resume=True)).exit_code == 0
    assert state_of_the_process() == before


def test_the_current_gpu_of_the_caller_is_put_back(monkeypatch):
    current = [1]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)  # whose generators are not here
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: current.__setitem__(0, number))
    with pytest.raises(UserError), torch_state_restored():
        torch.cuda.set_device(0)
        raise UserError
    assert current == [1]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def wait_for_figures(settings: TrainSettings) -> None:
    metrics = RunFolder(settings.output_dir).metrics
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_signal_saves_and_leaves_with_its_code(settings, number, code):
    long_run = change(settings, num_epochs=100_000, early_stopping_patience=0)
    process = subprocess.Popen(
        command(long_run), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_figures(settings)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "--resume" in out and "Traceback" not in err
    assert list(RunFolder(settings.output_dir).checkpoints.glob("step_*/state.json"))


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--n_embd", "30", "--n_head", "4"], 2, "divisible"),
        (["--bach_size", "3"], 2, "--batch_size"),
        (["--data_path", "nothing.jsonl"], 1, "nothing.jsonl: no such file"),
        (["--vocab_path", "nothing.json"], 1, "nothing.json: no such file"),
        (["--val_data_path", "nothing.jsonl"], 1, "nothing.jsonl: no such file"),
        (["--group_by", "meta.user"], 1, "no row has the key"),
    ],
)
def test_mistake_is_told_in_plain_words(settings, flags, code, words):
    done = run_here(main, *command(settings, *flags)[2:])
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_a_missing_vocabulary_names_the_command_that_makes_it_or_the_nearest(settings, tmp_path):
    rows = tmp_path / "mine" / "rows.jsonl"
    rows.parent.mkdir()
    rows.write_bytes(Path(settings.data_path).read_bytes())
    asked = change(settings, data_path=str(rows), vocab_path=str(rows.with_name("vocab.json")))
    make = rf"no vocab\.json beside {rows}: make one with `python prepare_data.py tokens --input "
    with pytest.raises(UserError, match=rf"{make}{rows}`, or name it with --vocab_path$"):
        train(asked)
    (tmp_path / "mine" / "words.json").write_text("{}")
    with pytest.raises(UserError, match=r"did you mean .*/mine/words\.json\?$"):
        train(change(asked, vocab_path=str(tmp_path / "mine" / "word.json")))


def test_a_device_that_is_not_here_is_told_before_the_data_and_leaves_no_folder(settings, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="--device cuda: no such device here"):
        train(change(settings, device="cuda"))
    assert capsys.readouterr().out == ""
    assert not Path(settings.output_dir).exists()


def test_first_call_before_any_data_names_the_command_that_makes_it(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "train_gpt.py")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "prepare_data.py digits" in done.stderr


def test_second_run_on_a_locked_folder_is_refused(settings):
    with (
        RunFolder(settings.output_dir).locked(),
        pytest.raises(UserError, match="another training run"),
    ):
        train(settings)


def test_check_data_writes_the_report_and_trains_nothing(settings):
    assert train(change(settings, check_data=True)).exit_code == 0
    folder = Path(settings.output_dir)
    assert json.loads((folder / "data_report.json").read_text())["rows"] == 60
    assert (folder / "data_report.png").stat().st_size > 10_000
    assert not (folder / "best_model").exists()


def test_check_data_collects_bad_rows_and_leaves_with_1(settings, tmp_path, capsys):
    good = Path(settings.data_path).read_text()
    bad = ['{"tokens": "a b zzz"}', '{"tokens": "a <CLS_up> b", "label": "up"}', "no json"]
    rows = tmp_path / "bad.jsonl"
    rows.write_text(good + "\n".join(bad) + "\n")
    asked = change(settings, data_path=str(rows), check_data=True)
    assert train(asked).exit_code == 1
    report = json.loads(RunFolder(settings.output_dir).data_report.read_text())
    assert report["rows"] == 60
    assert report["errors"]["count"] == 3
    assert [row["line"] for row in report["errors"]["shown"]] == [61, 62, 63]
    assert report["leaks"][0]["kind"] == "label_in_body"
    assert report["leaks"][0]["examples"] == [f"{rows}:62"]
    told = capsys.readouterr()
    assert f"error: {rows}:61: token 'zzz' is not in the vocabulary" in told.err
    assert "--on_bad_row skip" in told.err
    assert "warning: leak: label_in_body" in told.out
    assert train(change(asked, on_bad_row="skip")).exit_code == 0
    report = json.loads(RunFolder(settings.output_dir).data_report.read_text())
    assert (report["skipped"], report["errors"]["count"]) == (3, 0)
    with pytest.raises(UserError, match=":61: token 'zzz'"):
        train(change(asked, check_data=False))


@pytest.mark.parametrize("good", [0, 1, 5])  # five of one body cannot be split either
def test_check_data_reports_a_file_with_hardly_a_good_row(settings, tmp_path, good):
    rows = tmp_path / "bad.jsonl"
    rows.write_text('{"tokens": "a b", "label": "up"}\n' * good + '{"tokens": "zzz b"}\n' * 3)
    assert train(change(settings, data_path=str(rows), check_data=True)).exit_code == 1
    report = json.loads(RunFolder(settings.output_dir).data_report.read_text())
    assert (report["rows"], report["errors"]["count"], report["leaks"]) == (good, 3, [])
    assert RunFolder(settings.output_dir).data_picture.exists()


def test_check_data_says_where_the_bad_rows_beyond_the_first_are_listed(settings, tmp_path, capsys):
    rows = tmp_path / "bad.jsonl"
    rows.write_text(Path(settings.data_path).read_text() + '{"tokens": "zzz b"}\n' * 130)
    assert train(change(settings, data_path=str(rows), check_data=True)).exit_code == 1
    folder = RunFolder(settings.output_dir)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: 130 bad rows: correct them, or ")
    assert sum("zzz" in line for line in told) == 5  # they are all alike
    assert told[6] == f"error: ... and 125 more; all are listed in {folder.data_report}"
    listed = json.loads(folder.data_report.read_text())["errors"]["shown"]
    assert [row["line"] for row in listed] == list(range(61, 191))


def test_check_data_loads_no_model_library(settings):
    program = (
        "import sys; from train_gpt import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    flags = command(settings, "--check_data")[2:]
    done = subprocess.run(
        [sys.executable, "-c", program, *flags],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_run_shorter_than_log_steps_ends_well(settings):
    result = train(change(settings, log_steps=1000))
    assert {path.name for path in result.folder.plots.iterdir()} == {
        "loss.png", "perplexity.png", "accuracy.png"
    }  # fmt: skip


def test_training_goes_on_when_nobody_reads_its_output(settings):
    process = subprocess.Popen(
        command(settings), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    process.stderr.close()
    assert (RunFolder(settings.output_dir).final_model / "model.safetensors").exists()
    assert "done in" in RunFolder(settings.output_dir).log.read_text()


@pytest.mark.parametrize(
    "ignored", [False, pytest.param(True, marks=pytest.mark.long)], ids=["plainly", "nohup"]
)
def test_training_survives_its_terminal(settings, ignored):
    """Its terminal is closed: SIGHUP for the run, and an error for all that it writes there."""
    epochs = 30 if ignored else 100_000
    long_run = change(settings, num_epochs=epochs, early_stopping_patience=0)
    ours, theirs = pty.openpty()

    def in_terminal():
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        command(long_run), cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=in_terminal,
    )  # fmt: skip
    os.close(theirs)
    wait_for_figures(settings)
    os.close(ours)
    assert process.wait(timeout=120) == (0 if ignored else 129)
    folder = RunFolder(settings.output_dir)
    log = folder.log.read_text()
    assert ("done in" if ignored else "and saved; go on with") in log
    assert "warning: standard output: Input/output error" in log
    (newest, *_) = sorted(folder.checkpoints.iterdir(), reverse=True)
    assert newest.name.endswith("_finished") is ignored


def test_training_works_with_its_output_closed(settings):
    line = " ".join(command(settings)) + " >&- 2>&- <&-"
    assert subprocess.run(["bash", "-c", line], cwd=ROOT, check=False).returncode == 0
    assert (RunFolder(settings.output_dir).final_model / "model.safetensors").exists()


def test_check_data_leaves_the_report_of_a_run(settings, finished, capsys):
    report = finished.data_report
    before = report.read_text()
    train(change(settings, check_data=True, max_length=8))
    assert report.read_text() == before
    assert "left as it is" in capsys.readouterr().out


def test_rows_of_another_vocabulary_are_told_as_such(settings, tmp_path):
    vocab = tmp_path / "other.json"
    vocab.write_text('{"<PAD>": 0, "x": 1}')
    with pytest.raises(UserError, match="not one row can be read: is this the vocabulary"):
        train(change(settings, vocab_path=str(vocab)))


def test_settings_made_in_python_are_checked_too(settings):
    with pytest.raises(SettingsError, match="batch_size"):
        train(change(settings, batch_size=0))
