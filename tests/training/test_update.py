"""Updates: what is not finite changes nothing, figures read late, accumulation."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_runs import change, small_settings, start_run, update

from smallgpt.errors import UserError
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.rows.batching import epoch_batches
from smallgpt.training.checkpoint import Checkpoints
from smallgpt.training.data import read_data
from smallgpt.training.gradients import TokenStep
from smallgpt.training.run import Run
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.update import Updater
from train_gpt import train


@pytest.fixture
def settings(tmp_path, unpainted):
    return small_settings(tmp_path)


def poison_gradient(monkeypatch, after_calls: int) -> None:
    real, calls = TokenStep.add_gradients, []

    def poisoned(step, batches, number):
        nll = real(step, batches, number)
        calls.append(len(batches))
        if len(calls) == after_calls + 1:
            next(step.objective.model.parameters()).grad.fill_(float("nan"))
        return nll

    monkeypatch.setattr(TokenStep, "add_gradients", poisoned)


def state_of(run: Run) -> list[torch.Tensor]:
    """Weights and everything the optimizers remember."""
    remembered = [
        tensor
        for optimizer in run.optimizers
        for state in optimizer.state.values()
        for tensor in state.values()
    ]
    return [tensor.detach().clone() for tensor in (*run.model.parameters(), *remembered)]


def test_gradient_that_is_not_finite_stops_the_run(settings, monkeypatch):
    poison_gradient(monkeypatch, after_calls=3 + 3)  # three calls measure the time of a step
    with pytest.raises(UserError, match=r"no longer finite at step 4 .*nothing was updated") as no:
        train(settings)
    lines = re.search(r"lines ([\d, ]+) of", str(no.value))[1].split(", ")
    rows = read_data(settings, print)[0]
    batch = epoch_batches(rows, settings.batch_size, settings.seed, 0)[3]
    assert sorted(map(int, lines)) == sorted(rows.lines_N[batch])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])  # as on a GPU: figures are read later
def test_step_that_is_not_finite_changes_nothing(settings, monkeypatch, device, optimizer):
    poison_gradient(monkeypatch, after_calls=3)
    run = start_run(
        change(settings, log_steps=1000, on_nonfinite="skip", optimizer=optimizer, ema_decay=0.9)
    )
    run = replace(run, device=torch.device(device))
    steps, updater = run.updates_of_epoch(0), Updater(run)
    for batches in steps[:3]:
        update(updater, batches)
    before = state_of(run)
    update(updater, steps[3])
    assert all(torch.equal(one, other) for one, other in zip(before, state_of(run), strict=True))
    update(updater, steps[4])
    assert not all(map(torch.equal, before, state_of(run)))
    updater.collect_figures()
    learned = np.concatenate([rows for batches in (*steps[:3], steps[4]) for rows in batches])
    assert run.state.epoch_tokens == run.rows.lengths_N[learned].sum() - len(learned)
    assert all(torch.isfinite(tensor).all() for tensor in state_of(run))


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # as on a GPU: figures are read later
def test_overflow_in_fp16_holds_back_every_optimizer_and_the_average(settings, monkeypatch, device):
    """One gradient of a block, Muon's, is infinite; AdamW's are not."""
    run = start_run(change(settings, log_steps=1000, optimizer="muon", ema_decay=0.9))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    run = replace(run, device=torch.device(device), scaler=scaler)
    run.gradients.scaler = scaler
    real = run.gradients.add_gradients

    def overflowing(batches, number):
        nll = real(batches, number)
        run.optimizers[0].param_groups[0]["params"][-1].grad.fill_(float("inf"))
        return nll

    steps, updater = run.updates_of_epoch(0), Updater(run)
    update(updater, steps[0])
    before = state_of(run)
    monkeypatch.setattr(run.gradients, "add_gradients", overflowing)
    update(updater, steps[1])
    assert all(map(torch.equal, before, state_of(run)))
    assert scaler.get_scale() == 512.0  # a lower scale is the remedy, not the end of the run
    monkeypatch.undo()
    update(updater, steps[2])
    assert not any(map(torch.equal, before, state_of(run)))
    assert all(torch.isfinite(tensor).all() for tensor in state_of(run))


def test_skipped_step_is_told_and_the_run_ends_well(settings, monkeypatch, capsys):
    poison_gradient(monkeypatch, after_calls=3 + 3)
    result = train(change(settings, on_nonfinite="skip", log_steps=1))
    assert result.exit_code == 0
    log = result.folder.log.read_text()
    assert log.count("no longer finite at step 4 ") == 1
    rows = [row for row in read_metrics(result.folder.metrics) if row["kind"] == "train"]
    assert [row["step"] for row in rows if row["loss"] is None] == [4]


def test_gradient_that_is_not_finite_is_met_before_anything_is_saved(settings, monkeypatch):
    # As on a GPU, where figures are read some steps later.
    poison_gradient(monkeypatch, after_calls=3)
    run = start_run(change(settings, log_steps=1000))
    run = replace(run, device=torch.device("cuda"))
    updater = Updater(run)
    for batches in run.updates_of_epoch(0)[:4]:
        update(updater, batches)
    with pytest.raises(UserError, match=r"no longer finite at step 4 .*nothing was updated"):
        Checkpoints(run, updater).save()
    assert not RunFolder(settings.output_dir).checkpoints.exists()


@pytest.mark.parametrize("batch_size", [1, 32])  # many steps an epoch, and too few to give up
def test_run_that_never_has_a_finite_step_stops(settings, monkeypatch, capsys, batch_size):
    def poisoned(step, batches, number):
        next(step.objective.model.parameters()).grad = torch.full_like(
            next(step.objective.model.parameters()), float("nan")
        )
        return torch.tensor(float("nan"))

    monkeypatch.setattr(TokenStep, "add_gradients", poisoned)
    with pytest.raises(UserError, match=r"no longer finite at step 21|no step of epoch 1"):
        train(change(settings, on_nonfinite="skip", batch_size=batch_size))
    assert "train loss" not in capsys.readouterr().out


@pytest.mark.parametrize(("batch_size", "parts"), [(2, 4), (3, 3)])
def test_smaller_batches_with_more_accumulation_learn_the_same(settings, batch_size, parts):
    """The rows of an update are the same, so the weights after an epoch are, but for rounding."""
    ended, visited = [], []
    for size, accumulated in ((batch_size * parts, 1), (batch_size, parts)):
        run = start_run(
            change(settings, dropout=0.0, batch_size=size, grad_accumulation_steps=accumulated)
        )
        steps, updater = run.updates_of_epoch(0), Updater(run)
        assert len(steps) == run.steps_per_epoch
        assert max(len(rows) for batches in steps for rows in batches) == size
        visited.append([np.concatenate(batches).tolist() for batches in steps])
        for batches in steps:
            update(updater, batches)
        ended.append(torch.cat([parameter.flatten() for parameter in run.model.parameters()]))
    assert visited[0] == visited[1]
    torch.testing.assert_close(*ended, atol=1e-5, rtol=1e-3)


def test_figures_read_late_are_the_same(settings):
    sums = []
    for device in ("cpu", "cuda"):
        run = start_run(change(settings, log_steps=1000))
        run = replace(run, device=torch.device(device))
        updater = Updater(run)
        for batches in run.updates_of_epoch(0):
            update(updater, batches)
        assert (len(updater.waiting) == 0) == (device == "cpu")
        updater.collect_figures()
        sums.append((run.state.epoch_nll, run.state.epoch_tokens))
    assert sums[0] == sums[1]
    assert sums[0][1] == run.rows.target_count
