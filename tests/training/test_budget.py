"""--max_minutes: the run ends in time, with its learning rate at the end, and can be repeated."""

import os
import signal
from types import SimpleNamespace

import pytest
from training_runs import change, same_weights, small_settings

from smallgpt.errors import SettingsError
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.options.option import AUTO
from smallgpt.options.plan import plan_text, read_plan
from smallgpt.options.reader import load_settings
from smallgpt.options.training import SHAPE, TrainSettings
from smallgpt.training import loop_state, recipe, schedule
from smallgpt.training.run import Run
from smallgpt.training.schedule import place_in_schedule
from smallgpt.training.update import Updater
from train_gpt import main, train

GUESSED = 1.0, 3.0  # seconds of an update and of an evaluation, before the first one


class Clock:
    """A clock that moves only while something is computed: a machine of a known speed."""

    def __init__(self, monkeypatch, update=1.0, evaluation=3.0, slower_from=None):
        self.now, self.updates, self.update = 0.0, 0, update
        self.slower_from, self.stop_at = slower_from, None
        computing, validating = Updater.compute_gradients, Run.validate

        def compute(updater, batches):
            self.updates += 1
            if self.updates == self.stop_at:
                os.kill(os.getpid(), signal.SIGINT)
            slow = self.slower_from is not None and self.updates >= self.slower_from
            self.now += self.update * (3 if slow else 1)
            computing(updater, batches)

        def validate(run, stop):
            self.now += evaluation
            return validating(run, stop)

        monkeypatch.setattr(Updater, "compute_gradients", compute)
        monkeypatch.setattr(Run, "validate", validate)
        monkeypatch.setattr(schedule, "measured_seconds", lambda run: GUESSED)
        monkeypatch.setattr(loop_state, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def settings(tmp_path, unpainted):
    return change(small_settings(tmp_path), max_minutes=5.0, log_steps=1, early_stopping_patience=0)


def rates_of(result) -> list[float]:
    rows = read_metrics(result.folder.metrics)
    return [row["learning_rate"] for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize(
    "machine",
    [
        {},
        {"update": 0.4},
        {"update": 2.5},
        {"evaluation": 15.0},
        {"slower_from": 150},
        {"update": 30.0},
        {"update": 3.0, "slower_from": 80},
    ],
    ids=str,
)
def test_a_run_ends_in_time_on_a_machine_of_any_speed(settings, monkeypatch, machine):
    clock = Clock(monkeypatch, **machine)
    result = train(settings)
    largest_step = clock.update * (3 if clock.slower_from else 1)
    assert 0.9 * 300 - largest_step <= clock.now <= 300
    rates = rates_of(result)
    # It rises once and falls once, to its end.
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] <= 0.1 * max(rates)
    # The last evaluation is that of the last update.
    assert read_metrics(result.folder.metrics)[-1]["step"] == len(rates)


def test_larger_model_that_there_is_time_for_is_told_and_repeated(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "_SHAPES", ((0, (1, 1, 8)), (1, (1, 2, 16)), (10**9, (1, 2, 32))))
    monkeypatch.setattr(recipe, "_LARGER_FROM", 1)
    monkeypatch.setattr(recipe, "_LARGER", (2, 2, 24))
    Clock(monkeypatch, update=10.0)
    first = train(change(settings, **dict.fromkeys(SHAPE[:3], AUTO)))
    assert "a larger model, since the time is enough for" in first.folder.log.read_text()
    stored = load_settings(TrainSettings, first.folder.settings)
    assert [getattr(stored, name) for name in SHAPE[:3]] == [2, 2, 24]
    repeated = train(change(stored, output_dir=str(tmp_path / "again")))
    assert same_weights(first.folder.final_model, repeated.folder.final_model)


def test_time_that_is_too_short_for_an_update_still_gives_a_model(settings, monkeypatch):
    Clock(monkeypatch, update=400.0)
    result = train(settings)
    assert result.best_step == 1 and (result.folder.best_model / "model.safetensors").exists()


def test_settings_of_the_run_repeat_it_to_the_bit_on_any_machine(settings, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Clock(patch, update=1.7, slower_from=60)
        first = train(settings)
    stored = load_settings(TrainSettings, first.folder.settings)
    assert stored.max_minutes == 5 and len(read_plan(stored.steps)) > 1
    with monkeypatch.context() as patch:
        Clock(patch, update=0.1)
        again = train(change(stored, output_dir=str(tmp_path / "again")))
    assert rates_of(again) == rates_of(first)
    assert same_weights(again.folder.final_model, first.folder.final_model)
    assert same_weights(again.folder.best_model, first.folder.best_model)
    model = load_settings(TrainSettings, again.folder.final_model / "settings.yaml")
    assert model.steps == stored.steps


@pytest.mark.parametrize("stop_at", [2, 70, 130])
def test_a_stopped_run_ends_as_one_that_was_not(settings, tmp_path, monkeypatch, stop_at):
    with monkeypatch.context() as patch:
        Clock(patch, update=1.7)
        whole = train(change(settings, output_dir=str(tmp_path / "whole")))
    clock = Clock(monkeypatch, update=1.7)
    clock.stop_at = stop_at
    stopped = train(settings)
    assert stopped.exit_code == 130
    clock.now += 10_000  # the night between does not count
    assert main(["--resume", "--output_dir", settings.output_dir]) == 0
    assert same_weights(stopped.folder.final_model, whole.folder.final_model)
    plans = [load_settings(TrainSettings, each.folder.settings).steps for each in (whole, stopped)]
    assert plans[0] == plans[1] and len(read_plan(plans[0])) > 1


def test_a_finished_run_goes_on_with_more_minutes_only(settings, monkeypatch, capsys):
    clock = Clock(monkeypatch)
    result = train(settings)
    updates = clock.updates
    assert train(change(settings, resume=True)).exit_code == 0
    assert clock.updates == updates and "is finished" in capsys.readouterr().out
    assert main(["--resume", "--output_dir", settings.output_dir, "--max_minutes", "8"]) == 0
    assert 0.9 * 480 <= clock.now <= 480
    assert len(rates_of(result)) == clock.updates > updates


def test_one_length_of_a_run_is_enough(tmp_path):
    both = ["--max_minutes", "5", "--num_epochs", "3", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SettingsError, match="--max_minutes and --num_epochs: each says how long"):
        main(both)
    with pytest.raises(SettingsError, match="steps 'many' is no number of updates, such as 1200"):
        main(["--steps", "many"])


def test_a_flag_beats_the_length_that_a_file_says(settings, monkeypatch):
    clock = Clock(monkeypatch)
    stored = train(settings).folder.settings  # which has max_minutes and the plan
    config = stored.with_name("kept.yaml")
    config.write_text(stored.read_text())
    new = ["--config", str(config), "--overwrite"]
    clock.now = clock.updates = 0
    assert main([*new, "--num_epochs", "2"]) == 0 and clock.updates == 12
    clock.now = clock.updates = 0
    assert main([*new, "--max_minutes", "1"]) == 0 and 50 <= clock.now <= 60


def test_steps_alone_are_so_many_updates(settings):
    result = train(change(settings, max_minutes=None, steps="17"))
    assert len(rates_of(result)) == 17 == read_metrics(result.folder.metrics)[-1]["step"]


def test_plans_are_read_as_they_are_written():
    for text in ("1", "1200", "1200 1100@300 400@400"):
        assert plan_text(read_plan(text)) == text
    for text in ("", "0", "12@3", "1200 1100", "1200 1100@300 1000@200", "1200 200@300", "-1", "a"):
        with pytest.raises(ValueError):
            read_plan(text)


def test_a_plan_made_anew_goes_on_from_where_the_schedule_stands():
    assert [place_in_schedule(step, [[0, 9]]) for step in range(9)] == list(range(9))
    plan = [[0, 101], [40, 61], [50, 53]]
    places = [place_in_schedule(step, plan) for step in range(53)]
    assert places[:41] == list(range(41))
    assert places[41] == 43  # 60 places in 20 updates
    assert places[50] == 70 and places[52] == 100
