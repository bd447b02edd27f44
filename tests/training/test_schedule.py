"""The learning rate of each update, and the time that a run is said to take."""

import json

import numpy as np
import pytest
from plain_settings import plain_settings
from training_runs import change, small_settings, start_run

from smallgpt.training.schedule import learning_rate_at, measured_seconds, say_plan


@pytest.fixture
def settings(tmp_path):
    return small_settings(tmp_path)


def test_learning_rate_rises_then_falls_to_its_share():
    settings = plain_settings(learning_rate=1.0, warmup_fraction=0.1, final_lr_fraction=0.05)
    rates = [learning_rate_at(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.05)


def test_the_plan_is_measured_on_a_step_of_average_size(settings, tmp_path):
    with open(settings.data_path, "a") as handle:  # a few rows as long as all others together
        for _ in range(4):
            handle.write(json.dumps({"tokens": "a b c d e f " * 80, "label": "up"}) + "\n")
    run = start_run(change(settings, max_length=512, n_positions=512, batch_size=2))
    sizes = [int(run.rows.lengths_N[np.concatenate(b)].sum()) for b in run.updates_of_epoch(0)]
    seen, real = [], run.gradients.add_gradients

    def add_gradients(batches, step):
        seen.append(int(run.rows.lengths_N[np.concatenate(batches)].sum()))
        return real(batches, step)

    run.gradients.add_gradients = add_gradients
    measured_seconds(run)
    nearest = min(abs(size - np.mean(sizes)) for size in sizes)
    assert {abs(size - np.mean(sizes)) for size in seen} == {nearest}


def test_a_plan_that_one_endless_row_makes_slow_names_the_length_that_does_not(settings, capsys):
    say_plan(start_run(settings), (0.1, 0.1))
    plan = capsys.readouterr().out
    assert "plan: 2 epochs of 6 steps (8 rows each), 12 steps to go, " in plan
    assert "warning" not in plan
    with open(settings.data_path, "a") as handle:
        handle.write(json.dumps({"tokens": "a b c d e f " * 500, "label": "up"}) + "\n")
    run = start_run(change(settings, max_length=3003, n_positions=3003))
    say_plan(run, (0.1, 0.1))
    (line,) = (x for x in capsys.readouterr().out.splitlines() if "warning" in x)
    in_training = 3003 in run.rows.lengths_N
    assert in_training and "times slower: --max_length 14 cuts 1 of 49 rows" in line
    assert "leaves out 2,989 tokens" in line
    # With that length the plan has nothing to warn of.
    say_plan(start_run(change(settings, max_length=14)), (0.1, 0.1))
    assert "warning" not in capsys.readouterr().out


def test_a_run_of_one_is_told_in_the_singular(settings, capsys):
    say_plan(
        start_run(change(settings, num_epochs=1, batch_size=1, validation_fraction=0.98)),
        (0.1, 0.1),
    )
    assert "plan: 1 epoch of " in capsys.readouterr().out
