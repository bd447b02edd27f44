"""Going on with a run: where it ends, what it says, what it refuses, and full disks.

What happens when a process dies is tested in test_crashes.py.
"""

import errno
import gc
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from command_program import run_here
from plain_settings import plain_settings
from safetensors import SafetensorError
from safetensors.torch import load_file
from training_runs import ROOT, change, command, same_weights, weights_of, write_rule_rows

from smallgpt.checks.report import stored_baselines
from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.model.weights_file import read_validation
from smallgpt.options.option import AUTO
from smallgpt.options.training import TrainSettings
from smallgpt.training import checkpoint as checkpoint_module
from smallgpt.training import run_folder, schedule
from smallgpt.training.journal import Journal
from smallgpt.training.resume import find_run_to_resume
from smallgpt.training.run import Run
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.update import Updater
from train_gpt import main, train

CLOCK = {"seconds", "tokens_per_second"}


def short_run(folder: Path) -> TrainSettings:
    """Settings of three epochs of six updates, a checkpoint at the end of each."""
    data, vocab = write_rule_rows(folder)
    return plain_settings(
        data_path=str(data),
        vocab_path=str(vocab),
        output_dir=str(folder / "run"),
        n_layer=1,
        n_head=2,
        n_embd=16,
        n_positions=32,
        max_length=32,
        num_epochs=3,
        batch_size=4,
        grad_accumulation_steps=2,
        learning_rate=3e-3,
        log_steps=2,
        checkpoint_steps=6,  # the last step of an epoch
        precision="fp32",
        device="cpu",
    )


@pytest.fixture
def settings(tmp_path, unpainted) -> TrainSettings:
    return short_run(tmp_path)


def train_short_run(folder: Path) -> None:
    train(short_run(folder))


@pytest.fixture
def finished(settings, made_once) -> RunFolder:
    """A run with these settings that has ended."""
    shutil.copytree(made_once("short run", train_short_run) / "run", settings.output_dir)
    return RunFolder(settings.output_dir)


def rows_of(folder: RunFolder) -> list[dict]:
    rows = read_metrics(folder.metrics)
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def newest(folder: RunFolder) -> Path:
    return max(folder.checkpoints.glob("step_*"))


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def ends_alike(tmp_path_factory):
    """A function: whether a run ended as one with these settings does that was never stopped."""
    folders: dict[TrainSettings, RunFolder] = {}

    def compare(settings: TrainSettings, folder: RunFolder) -> bool:
        key = change(settings, data_path="", vocab_path="", output_dir="")
        if key not in folders:
            place = tmp_path_factory.mktemp("whole")
            folders[key] = train(change(settings, output_dir=str(place))).folder
        whole = folders[key]
        assert rows_of(whole) == rows_of(folder)
        assert read_validation(whole.best_model) == read_validation(folder.best_model)
        return same_weights(whole.final_model, folder.final_model) and same_weights(
            whole.best_model, folder.best_model
        )

    return compare


# ---- stopped anywhere ------------------------------------------------------------------


def call_before(monkeypatch, owner, name: str, at: int, act) -> None:
    """Let `act` be called before the `at`-th call of a function, from 1."""
    real, calls = getattr(owner, name), []

    def called(*args, **kwargs):
        calls.append(name)
        if len(calls) == at:
            act()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


PLACES = {
    "first step": (Updater, "compute_gradients", 1),
    "step": (Updater, "compute_gradients", 8),
    "last step": (Updater, "compute_gradients", 18),
    "validation": (Run, "validate", 2),
    "last validation": (Run, "validate", 3),
    "after validation": (Journal, "record_evaluation", 2),
    "first checkpoint": (checkpoint_module, "write_tensors", 2),
    "checkpoint of the last step of an epoch": (checkpoint_module, "write_tensors", 3),
    "best model": (Run, "save_model", 2),
}


@pytest.mark.parametrize("place", PLACES)
def test_stopped_run_ends_where_the_uninterrupted_one_ends(
    settings, monkeypatch, place, ends_alike
):
    with monkeypatch.context() as patch:
        call_before(patch, *PLACES[place], interrupt)
        stopped = train(settings)
    assert stopped.exit_code == 130
    assert train(change(settings, resume=True)).exit_code == 0
    assert ends_alike(settings, stopped.folder)


@pytest.mark.parametrize("parts", [1, 2])
def test_run_of_an_older_version_that_accumulated_otherwise_says_so(settings, monkeypatch, parts):
    settings = change(settings, grad_accumulation_steps=parts, num_epochs=1)

    real = Run.way_of_computing

    def older(run):
        return {name: value for name, value in real(run).items() if name != "an update"}

    with monkeypatch.context() as patch:
        patch.setattr(Run, "way_of_computing", older)
        call_before(patch, Updater, "compute_gradients", 3, interrupt)
        folder = train(settings).folder
    assert train(change(settings, resume=True)).exit_code == 0
    assert ("no longer ends bit for bit" in folder.log.read_text()) == (parts > 1)


def test_run_stopped_twice_by_early_stopping_and_muon(settings, monkeypatch, ends_alike):
    settings = change(settings, num_epochs=30, learning_rate=0.1, optimizer="muon",
                      early_stopping_patience=2)  # fmt: skip
    for place, resume in (("step", False), ("validation", True)):
        with monkeypatch.context() as patch:
            call_before(patch, *PLACES[place], interrupt)
            assert train(change(settings, resume=resume)).exit_code == 130
    result = train(change(settings, resume=True))
    assert json.loads((newest(result.folder) / "state.json").read_text())["loop"]["finished"] == (
        "early stopping"
    )
    assert ends_alike(settings, result.folder)


@pytest.mark.parametrize("place", ["step", "validation", "best model"])
def test_the_mean_of_the_weights_and_the_draw_of_rows_go_on_as_well(
    settings, monkeypatch, place, ends_alike
):
    settings = change(settings, ema_decay=0.9, optimizer="muon", batch_size=8,
                      label_first_share=0.5, early_label_weight=10)  # fmt: skip
    with monkeypatch.context() as patch:
        call_before(patch, *PLACES[place], interrupt)
        assert train(settings).exit_code == 130
    result = train(change(settings, resume=True))
    assert ends_alike(settings, result.folder)
    weights = load_file(newest(result.folder) / "model.safetensors")
    saved = load_file(result.folder.final_model / "model.safetensors")
    assert not torch.equal(weights["transformer.wte.weight"], saved["transformer.wte.weight"])


def test_signal_at_the_very_end_changes_nothing(settings, monkeypatch):
    call_before(monkeypatch, Journal, "draw_curves", 1, interrupt)
    assert train(settings).exit_code == 0


def test_second_ctrl_c_leaves_at_once_and_loses_only_the_steps_since(
    settings, monkeypatch, ends_alike
):
    with monkeypatch.context() as patch:
        # The third checkpoint is that of step 12; its first file is being written.
        call_before(
            patch, checkpoint_module, "write_tensors", 5, lambda: (interrupt(), interrupt())
        )
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    folder = RunFolder(settings.output_dir)
    assert newest(folder).name == "step_00000006"
    assert not list(folder.checkpoints.glob(".*"))
    train(change(settings, resume=True))
    assert ends_alike(settings, folder)


def test_ctrl_c_before_the_first_step_leaves_nothing_in_the_way(settings, monkeypatch):
    with monkeypatch.context() as patch:
        call_before(patch, schedule, "say_plan", 1, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    assert not RunFolder(settings.output_dir).holds_run()
    assert train(settings).exit_code == 0


def test_evaluation_written_after_the_checkpoint_of_its_step_is_not_repeated(
    settings, monkeypatch, ends_alike
):
    def die() -> None:
        raise RuntimeError("died")

    with monkeypatch.context() as patch:
        call_before(patch, Journal, "print_row", 2, die)
        with pytest.raises(RuntimeError, match="died"):
            train(settings)
    folder = RunFolder(settings.output_dir)
    assert newest(folder).name == "step_00000012"
    assert rows_of(folder)[-1]["kind"] == "validation" and rows_of(folder)[-1]["step"] == 12
    train(change(settings, resume=True))
    assert ends_alike(settings, folder)


def test_resumed_run_visits_only_the_rows_that_are_left(settings, monkeypatch):
    with monkeypatch.context() as patch:
        call_before(patch, *PLACES["step"], interrupt)
        train(settings)
    # It computes the gradients of a step, as the updates do.
    monkeypatch.setattr(schedule, "measured_seconds", lambda run: (1.0, 1.0))
    seen, real = [], Updater.compute_gradients

    def compute(updater, batches):
        seen.append(updater.run.state.step + 1)
        real(updater, batches)

    monkeypatch.setattr(Updater, "compute_gradients", compute)
    train(change(settings, resume=True))
    assert seen == list(range(9, 19))


# ---- what may change -------------------------------------------------------------------


def test_other_number_of_epochs_is_told_and_nothing_exact_is_claimed(settings, finished, capsys):
    result = train(change(settings, resume=True, num_epochs=4))
    line = "num_epochs was 3, is 4. The schedule goes on from step 18 of 24"
    assert line in capsys.readouterr().out and line in result.folder.log.read_text()
    assert [row["epoch"] for row in rows_of(result.folder) if row["kind"] == "validation"] == [
        1, 2, 3, 4
    ]  # fmt: skip


def test_fewer_epochs_end_the_run_where_it_stands(settings, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        call_before(patch, Updater, "compute_gradients", 14, interrupt)
        train(settings)
    result = train(change(settings, resume=True, num_epochs=2))
    assert result.exit_code == 0
    assert "-" not in capsys.readouterr().out.split("steps to go")[0].rsplit("plan:", 1)[-1]
    assert result.folder.final_model.exists()


def test_other_threads_are_told(settings, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        call_before(patch, *PLACES["step"], interrupt)
        train(settings)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    train(change(settings, resume=True))
    out = capsys.readouterr().out
    assert "threads was 1, is 7. The run no longer ends bit for bit" in out


def test_unchanged_run_makes_no_reservation(settings, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        call_before(patch, *PLACES["step"], interrupt)
        train(settings)
    train(change(settings, resume=True))
    out = capsys.readouterr().out
    assert "going on from step 8" in out
    assert not {"changed at", "bit for bit", "warning"} & {
        words for words in ("changed at", "bit for bit", "warning") if words in out
    }


def run_that_lost_its_newest_checkpoint(settings: TrainSettings) -> RunFolder:
    """A run whose best_model comes from after its only checkpoint; its loss falls steadily."""
    folder = train(change(settings, keep_checkpoints=9, best_metric="loss")).folder
    for path in sorted(folder.checkpoints.iterdir())[2:]:
        shutil.rmtree(path)
    assert read_validation(folder.best_model)["step"] == 18
    assert newest(folder).name == "step_00000006"
    return folder


def test_best_model_of_a_run_that_goes_another_way_is_not_lost(settings):
    folder = run_that_lost_its_newest_checkpoint(settings)
    before = read_validation(folder.best_model)
    # Nothing is learned any more, so that none of the new evaluations can be better.
    result = train(change(settings, resume=True, num_epochs=2, best_metric="loss"))
    assert read_validation(folder.best_model) == before
    assert result.best_step == 18
    assert "best_model was saved after the checkpoint, at step 18" in folder.log.read_text()


def test_best_model_of_a_run_that_repeats_itself_is_made_again(settings, ends_alike):
    settings = change(settings, best_metric="loss")
    folder = run_that_lost_its_newest_checkpoint(settings)
    train(change(settings, resume=True))
    assert "was saved after the checkpoint" not in folder.log.read_text()
    assert ends_alike(settings, folder)


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_lost_best_model_does_not_stop_the_run(settings, monkeypatch, how, capsys):
    with monkeypatch.context() as patch:
        call_before(patch, Updater, "compute_gradients", 14, interrupt)
        folder = train(settings).folder
    if how == "gone":
        shutil.rmtree(folder.best_model)
    else:
        (folder.best_model / "model.safetensors").write_bytes(b"damaged")
    assert train(change(settings, resume=True)).exit_code == 0
    assert "counts as the best so far" in capsys.readouterr().out
    assert load_trained_model(folder.best_model, "cpu").validation["step"] == 18


def test_settings_of_best_model_are_those_of_its_weights(settings):
    settings = change(settings, best_metric="loss")
    train(settings)
    result = train(change(settings, resume=True, num_epochs=9, learning_rate=3e-3))
    assert result.best_step > 18
    assert "num_epochs: 9" in (result.folder.best_model / "settings.yaml").read_text()


@pytest.mark.parametrize("how", ["absolute", "relative", "moved"])
def test_run_goes_on_from_another_directory(settings, monkeypatch, tmp_path, how, ends_alike):
    monkeypatch.chdir(tmp_path)
    names = {"data_path": "rows.jsonl", "vocab_path": "vocab.json"}
    began = change(settings, **names, output_dir="run")
    with monkeypatch.context() as patch:
        call_before(patch, *PLACES["step"], interrupt)
        train(began)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    if how == "moved":
        (tmp_path / "data").mkdir()
        for name in names.values():
            (tmp_path / name).rename(tmp_path / "data" / name)
    place = {"absolute": tmp_path, "relative": Path(".."), "moved": Path("../data")}[how]
    argv = ["--resume", "--output_dir", "../run"]
    remedy = "no rows.jsonl and no vocab.json here.*--data_path FILE --vocab_path FILE$"
    with pytest.raises(UserError, match=remedy):
        main(argv)
    for name, file in names.items():
        argv += [f"--{name}", str(place / file)]
    assert main(argv) == 0
    folder = RunFolder(settings.output_dir)
    assert ends_alike(settings, folder)
    line = f"data_path was rows.jsonl, is {place / 'rows.jsonl'}; vocab_path was"
    assert line in folder.log.read_text() and "depend on it" in folder.log.read_text()
    assert f"data_path: {place / 'rows.jsonl'}\n" in folder.settings.read_text()


def test_other_rows_of_another_place_are_refused(settings, finished, tmp_path):
    text = Path(settings.data_path).read_text()
    (tmp_path / "other.jsonl").write_text(text + text.splitlines()[0] + "\n")
    other = {"data_path": str(tmp_path / "other.jsonl"), "num_epochs": 4, "resume": True}
    with pytest.raises(UserError, match="the training data was 48 rows"):
        train(change(settings, **other))
    with pytest.raises(SettingsError, match=r"val_data_path is .* but the run has None"):
        train(change(settings, resume=True, val_data_path=other["data_path"]))


def test_base_of_a_run_that_needs_it_no_more_is_left_out(settings, monkeypatch, tmp_path):
    base = train(change(settings, num_epochs=1, output_dir=str(tmp_path / "base"))).folder
    fine = change(settings, init_from=str(base.best_model))
    with monkeypatch.context() as patch:
        call_before(patch, *PLACES["step"], interrupt)
        train(fine)
    shutil.rmtree(base.root)
    with pytest.raises(SettingsError, match=r"init_from is elsewhere but .*; leave it out"):
        train(change(fine, resume=True, init_from="elsewhere"))
    assert main(["--resume", "--output_dir", settings.output_dir]) == 0


# ---- what is refused -------------------------------------------------------------------


def test_run_without_its_checkpoints_is_not_deleted(settings, finished):
    before = weights_of(finished.final_model)
    shutil.rmtree(finished.checkpoints)
    with pytest.raises(UserError, match=r"none of its checkpoints.*--overwrite"):
        train(change(settings, resume=True))
    assert all(torch.equal(t, before[n]) for n, t in weights_of(finished.final_model).items())
    assert rows_of(finished)


def test_run_whose_checkpoints_are_all_damaged_is_not_deleted(settings, finished):
    for path in finished.checkpoints.iterdir():
        (path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"damaged .*--overwrite"):
        train(change(settings, resume=True))
    assert finished.final_model.exists() and rows_of(finished)


def test_damaged_checkpoint_is_told_in_the_log_too(settings, monkeypatch, ends_alike):
    with monkeypatch.context() as patch:
        call_before(patch, Updater, "compute_gradients", 14, interrupt)
        folder = train(settings).folder
    (newest(folder) / "model.safetensors").write_bytes(b"damaged")
    train(change(settings, resume=True))
    log = folder.log.read_text()
    assert "step_00000014 is damaged" in log and "going on from step 12" in log
    assert ends_alike(settings, folder)


@pytest.mark.parametrize("name", ["data", "vocabulary", "codebook"])
def test_other_data_is_refused_and_the_difference_named(settings, finished, name):
    before = rows_of(finished)
    if name == "data":
        with open(settings.data_path, "a") as handle:
            handle.write('{"tokens": "a a a a", "label": "up"}\n' * 5)
        words = r"the training data was 48 rows \(\w+\), is 5\d rows"
    elif name == "vocabulary":
        tokens = json.loads(Path(settings.vocab_path).read_text())
        Path(settings.vocab_path).write_text(json.dumps(tokens | {"z": len(tokens)}))
        words = r"the vocabulary was 12 tokens \(\w+\), is 13 tokens"
    else:
        shutil.copy(ROOT / "README.md", Path(settings.vocab_path).with_name("codebook.npz"))
        words = "codebook"
    with pytest.raises(UserError, match=words):
        train(change(settings, resume=True, num_epochs=5))
    assert rows_of(finished) == before


@pytest.mark.parametrize("text", ["[", "n_layer: x\n", "- 1\n", "n_layer: 1\nn_layer: 2\n", "\0"])
def test_damaged_settings_are_told(finished, text):
    finished.settings.write_text(text)
    with pytest.raises(SettingsError, match=r"settings\.yaml"):
        main(["--resume", "--output_dir", str(finished.root)])


def test_rows_that_cannot_be_read_do_not_cost_the_old_run(settings, finished, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        train(change(settings, overwrite=True, data_path=str(tmp_path / "typo.jsonl")))
    assert finished.final_model.exists() and rows_of(finished)


# ---- full disks ------------------------------------------------------------------------


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space_for_tensors() -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")


FULL = {
    "weights": ("smallgpt.files.tensors.save_file", 3, no_space_for_tensors),
    "optimizer": ("smallgpt.files.tensors.save_file", 4, no_space_for_tensors),
    "best model": ("smallgpt.files.tensors.save_file", 5, no_space_for_tensors),
    "better model": ("smallgpt.files.tensors.save_file", 8, no_space_for_tensors),
    "state": ("pathlib.Path.write_text", 2, no_space),
    "sync": ("os.fsync", 40, no_space),
    "rename": ("os.rename", 3, no_space),
    "metrics": ("smallgpt.training.run_log.RunLog.record", 5, no_space),
    "log": ("smallgpt.training.run_log._AppendedFile.write", 35, no_space),
    "pictures": ("matplotlib.figure.Figure.savefig", 2, no_space),
}


@contextmanager
def full_disk(monkeypatch, where: str):
    import importlib

    path, at, act = FULL[where]
    owner, name = path.rsplit(".", 1)
    try:
        owner = importlib.import_module(owner)
    except ModuleNotFoundError:
        module, kind = owner.rsplit(".", 1)
        owner = getattr(importlib.import_module(module), kind)
    with monkeypatch.context() as patch:
        call_before(patch, owner, name, at, act)
        yield


@pytest.mark.parametrize("where", FULL)
def test_full_disk_stops_the_run_and_costs_nothing(settings, monkeypatch, where, ends_alike):
    with full_disk(monkeypatch, where), pytest.raises(UserError) as full:
        train(settings)
    text, folder = str(full.value), RunFolder(settings.output_dir)
    assert "no space left on the disk of " in text and len(text.splitlines()) == 1
    step = checkpoint_module.find_checkpoint(folder.checkpoints).loop.step
    assert f"checkpoint of step {step}, which is whole: python train_gpt.py --resume" in text
    assert not list(folder.root.glob("**/.*.tmp"))
    assert train(change(settings, resume=True)).exit_code == 0
    assert ends_alike(settings, folder)


def test_other_trouble_with_the_disk_is_told_too(settings, monkeypatch):
    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    call_before(monkeypatch, run_folder.os, "fsync", 40, fail)
    with pytest.raises(UserError, match=r"Input/output error; .* --resume"):
        train(settings)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield place
    gc.collect()  # files stay open as long as tensors lie in them
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("spare", [60_000, 160_000, 260_000, 360_000, 460_000, 500_000])
def test_really_full_disk_stops_the_run_and_costs_nothing(tmp_path, small_disk, spare, ends_alike):
    settings = short_run(tmp_path)  # with charts that take their room
    small = change(settings, output_dir=str(small_disk / "run"))
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (2**20 - spare))
    for _ in range(2):
        with pytest.raises((UserError, OSError)) as full:
            train(change(small, resume=True))
        assert re.search("no space left|No space left", str(full.value))
    ballast.unlink()
    assert train(change(small, resume=True)).exit_code == 0
    assert ends_alike(settings, RunFolder(small.output_dir))


def test_really_full_disk_is_told_by_the_command(tmp_path, small_disk):
    _, _, *flags = [flag for flag in command(short_run(tmp_path)) if "output_dir" not in flag]
    (small_disk / "ballast").write_bytes(b"x" * (2**20 - 300_000))
    done = run_here(main, *flags, f"--output_dir={small_disk / 'run'}")
    assert done.returncode == 1
    assert "no space left on the disk of " in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", [".lock", "train.log", "metrics.jsonl", "settings.yaml"])
def test_pipe_in_the_place_of_a_file_is_refused(finished, name):
    place = finished.root / name
    place.unlink()
    os.mkfifo(place)
    argv = ["--resume", "--num_epochs", "9", "--output_dir", str(finished.root)]
    with pytest.raises((UserError, SettingsError), match="a pipe"):
        main(argv)


def test_damaged_data_report_costs_the_baselines_alone(finished):
    report = finished.data_report
    for content in ("[" * 100_000, "[]", '{"baselines": '):
        report.write_text(content)
        assert stored_baselines(report) == {}


def rewrite_settings(checkpoint: Path, gone: Sequence[str] = (), **added: Any) -> None:
    """Change the stored settings of a checkpoint, as another version would have written them."""
    path = checkpoint / "state.json"
    state = json.loads(path.read_text())
    settings = {n: v for n, v in state["settings"].items() if n not in gone} | added
    state = {**state, "settings": settings}
    sums = state.pop("sha256")
    state["sha256"] = {**sums, "state.json": checkpoint_module._sha256_of_json(state)}
    path.write_text(json.dumps(state))


def test_run_of_a_version_without_an_option_keeps_what_it_did_then(settings, finished):
    names = ("early_label_weight", "labelled_visits", "ema_decay")
    rewrite_settings(newest(finished), gone=names)
    asked = change(settings, resume=True, **dict.fromkeys(names, AUTO))
    found, checkpoint = find_run_to_resume(asked, finished)
    assert checkpoint is not None and checkpoint.path == newest(finished)
    assert [getattr(found, name) for name in names] == [0.0, 1, 0.0]


def test_run_that_learned_the_language_first_is_read_but_not_resumed(settings, finished):
    """language_share was an option for some days; models of that time have it in their settings."""
    stored = finished.best_model / "settings.yaml"
    stored.write_text(stored.read_text() + "language_share: 0.6666666666666666\n")
    assert load_trained_model(finished.best_model).settings.num_epochs == settings.num_epochs
    resumed = change(settings, resume=True)
    rewrite_settings(newest(finished), language_share=0.5)
    with pytest.raises(SettingsError, match="older version with language_share"):
        find_run_to_resume(resumed, finished)
    rewrite_settings(newest(finished), language_share=0.0)
    _, checkpoint = find_run_to_resume(resumed, finished)
    assert checkpoint is not None and checkpoint.path == newest(finished)
