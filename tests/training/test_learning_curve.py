"""--learning_curve: nested parts of the rows, the same validation rows, and what they tell."""

import json
import os
import re
import signal

import numpy as np
import pytest
from training_runs import change, same_weights, small_settings, write_rule_rows

from smallgpt.errors import SettingsError, UserError
from smallgpt.model.weights_file import read_validation
from smallgpt.rows.splitting import half_of
from smallgpt.training.data import read_data
from smallgpt.training.learning_curve import LearningCurve, describe_curve, verdict
from smallgpt.training.pictures import draw_learning_curve
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.update import Updater
from train_gpt import main, train


@pytest.fixture
def settings(tmp_path):
    made = small_settings(tmp_path)
    write_rule_rows(tmp_path, 400)  # 1/4 of the training rows has 80, 1/8 too few
    return change(made, num_epochs=1, batch_size=32)


def curve_of(settings):
    rows, validation_rows = read_data(settings, print)
    folder, asked = RunFolder(settings.output_dir), change(settings, task="classify")
    return LearningCurve(folder, asked, rows, validation_rows, print), rows, validation_rows


def files_of(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def interrupt_at(monkeypatch, update: int) -> None:
    """Send Ctrl-C in that update of the call."""
    computing, done = Updater.compute_gradients, []

    def compute(updater, batches):
        done.append(1)
        if len(done) == update:
            os.kill(os.getpid(), signal.SIGINT)
        computing(updater, batches)

    monkeypatch.setattr(Updater, "compute_gradients", compute)


def test_parts_are_nested_and_keep_the_share_of_labels(settings):
    curve, rows, _ = curve_of(settings)
    quarter, half = curve.parts
    assert [part.divisor for part in curve.parts] == [4, 2]
    assert set(quarter.rows.lines_N) < set(half.rows.lines_N) < set(rows.lines_N)
    for part in curve.parts:
        assert abs(len(part.rows) - len(rows) / part.divisor) < 10
        shares = np.bincount(part.rows.classes_N) / len(part.rows)
        assert shares == pytest.approx([0.5, 0.5], abs=0.05)
        outside = {*rows.lines_N} - {*part.rows.lines_N}
        bodies = {key for key, line in zip(rows.body_keys(), rows.lines_N, strict=True)
                  if line in outside}  # fmt: skip
        assert not bodies & set(part.rows.body_keys())  # equal rows stay together


def test_half_of_rows_that_belong_together_is_all_of_them(settings):
    _, rows, _ = curve_of(settings)
    same = rows.subset(np.zeros(5, int))
    assert len(half_of(same, 1)) == 5


def test_curve_beside_the_run_as_it_is_without(settings, tmp_path, capsys):
    plain = change(settings, output_dir=str(tmp_path / "plain"))
    train(plain)
    assert train(change(settings, learning_curve=True)).exit_code == 0
    folder, other = RunFolder(settings.output_dir), RunFolder(plain.output_dir)
    assert same_weights(folder.best_model, other.best_model)
    assert same_weights(folder.final_model, other.final_model)
    added = {
        "learning_curve.json", "plots/learning_curve.png",
        "learning_curve/part_2.json", "learning_curve/part_4.json",
    }  # fmt: skip
    assert files_of(folder.root) == files_of(other.root) | added
    assert "learning_curve" not in folder.settings.read_text()

    found = json.loads(folder.learning_curve.read_text())
    points, stored = found["points"], read_validation(folder.best_model)
    assert [point["part"] for point in points] == ["1/4", "1/2", "all"]
    assert [point["updates"] for point in points] == [5, 7, 10]
    assert points[-1]["accuracy"] == pytest.approx(stored["accuracy"])
    assert points[-1]["interval"] == pytest.approx(stored["accuracy_interval"])
    assert [later["rows"] for later in found["continued"]] == [640, 1280]
    printed = capsys.readouterr().out
    before, after = printed.split("learning curve: then trains on 1/4 (", 1)
    assert "in all\n" in after.splitlines()[0] + "\n" and "label acc" in after
    assert "1/8 of the training rows would be" in before
    assert printed.rstrip().endswith("learning_curve.png") and found["words"] in printed


def test_rows_without_labels_are_told_by_perplexity(settings, tmp_path):
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    texts = [json.dumps({"tokens": json.loads(line)["tokens"]}) for line in lines]
    (tmp_path / "rows.jsonl").write_text("\n".join(texts) + "\n")
    assert train(change(settings, learning_curve=True)).exit_code == 0
    folder = RunFolder(settings.output_dir)
    found, stored = (
        json.loads(folder.learning_curve.read_text()), read_validation(folder.best_model)
    )  # fmt: skip
    assert found["figure"] == "perplexity"
    assert found["points"][-1]["perplexity"] == pytest.approx(stored["perplexity"])
    assert found["points"][-1]["interval"] == pytest.approx(stored["perplexity_interval"])


@pytest.mark.parametrize("update", [4, 12, 18], ids=["all", "first part", "second part"])
def test_stopped_curve_goes_on_where_it_was(settings, tmp_path, monkeypatch, update, capsys):
    whole = change(settings, output_dir=str(tmp_path / "whole"), learning_curve=True)
    train(whole)
    flags = ["--learning_curve", "--output_dir", settings.output_dir]
    with monkeypatch.context() as patch:
        interrupt_at(patch, update)
        assert train(change(settings, learning_curve=True)).exit_code == 130
    hint = f"--resume --learning_curve --output_dir {settings.output_dir}"
    assert hint in capsys.readouterr().out
    folder, other = RunFolder(settings.output_dir), RunFolder(whole.output_dir)
    assert not folder.learning_curve.exists()
    done = 0
    step = Updater.compute_gradients

    def compute(updater, batches):
        nonlocal done
        done += 1
        step(updater, batches)

    monkeypatch.setattr(Updater, "compute_gradients", compute)
    assert main(["--resume", *flags]) == 0
    assert done == 22 - update  # no update twice
    assert folder.learning_curve.read_text() == other.learning_curve.read_text()
    ends = [{p for p in files_of(root) if "checkpoints" not in p}
            for root in (folder.root, other.root)]  # fmt: skip
    assert ends[0] == ends[1]
    assert main(["--resume", *flags]) == 0
    assert done == 22 - update  # nothing is trained again


def test_curve_of_a_finished_run_trains_its_parts_alone(settings):
    train(settings)
    folder = RunFolder(settings.output_dir)
    before = (folder.best_model / "model.safetensors").stat().st_mtime_ns
    assert train(change(settings, learning_curve=True, resume=True)).exit_code == 0
    assert (folder.best_model / "model.safetensors").stat().st_mtime_ns == before
    assert folder.learning_curve.exists()


def test_results_of_another_plan_count_no_more(settings):
    train(change(settings, learning_curve=True))
    curve, *_ = curve_of(settings)
    total = curve.total_steps()
    assert curve.missing(total) == []
    assert [part.divisor for part in curve.missing(2 * total)] == [4, 2]
    RunFolder(settings.output_dir).part_results(2).write_text("{")
    assert [part.divisor for part in curve.missing(total)] == [2]


def test_overwrite_deletes_the_curve_and_a_part_under_way(settings, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 18)
        train(change(settings, learning_curve=True))
    folder = RunFolder(settings.output_dir)
    assert folder.part_results(4).exists() and folder.part(2).checkpoints.is_dir()
    mine = folder.part(2).root / "notes.txt"
    mine.write_text("mine")
    train(change(settings, overwrite=True))
    assert files_of(folder.root / "learning_curve") == {"part_2/notes.txt"}


def test_too_few_rows_are_told_before_anything_is_trained(settings, tmp_path):
    write_rule_rows(tmp_path, 100)
    with pytest.raises(UserError, match=r"1/2 of the training rows would be \d+ rows, and a part"):
        train(change(settings, learning_curve=True))
    assert not RunFolder(settings.output_dir).checkpoints.exists()


def test_max_minutes_is_the_time_of_all(settings):
    curve, *_ = curve_of(settings)
    total = 1000
    parts = sum(part.updates(total) for part in curve.parts)
    assert curve.share_of_whole == pytest.approx(total / (total + parts), abs=1e-3)


def test_checking_data_makes_no_curve(settings):
    with pytest.raises(SettingsError, match="--check_data trains nothing"):
        train(change(settings, learning_curve=True, check_data=True))


def found_with(gain, interval, figure="accuracy", now=0.953):
    point = {"part": "all", "rows": 1150, "updates": 576, figure: now, "interval": [0.9, 0.97]}
    later = {figure: now + 0.01, "interval": [0.93, 0.99], "gain": gain, "gain_interval": interval}
    continued = [{"factor": f, "rows": f * 1150, **later} for f in (2, 4)]
    return {"figure": figure, "validation_rows": 90, "points": [point], "continued": continued}


@pytest.mark.parametrize(
    ("gain", "interval", "kind", "words"),
    [
        (0.013, [0.005, 0.02], "helps", r"95.3 % to about 96.3 %, \+1.3 points \(\+0.5 .. \+2.0\)"),
        (0.001, [-0.002, 0.004], "flat", "the curve is flat: twice as many"),
        (0.013, [-0.01, 0.03], "uncertain", "too uncertain to say with 90 validation rows: twice"),
    ],
)
def test_verdict_in_plain_words(gain, interval, kind, words):
    told, text = verdict(found_with(gain, interval))
    assert told == kind
    assert re.search(words, text), text


def test_rows_that_are_all_right_cannot_show_a_gain():
    assert "all 90 validation rows are right" in verdict(found_with(0, [0, 0], now=1))[1]


def test_table_and_picture(tmp_path):
    found = found_with(0.02, [0.01, 0.03], "perplexity", 12.3)
    found["words"] = verdict(found)[1]
    assert "-2.0 % (-3.0 .. -1.0)" in found["words"]
    assert "1,150" in describe_curve(found)
    assert "perplexity  95 % interval (Student's t)" in describe_curve(found)
    of_labels = {**found_with(0.02, [0.01, 0.03]), "words": ""}
    assert "accuracy  95 % interval (Wilson)" in describe_curve(of_labels)
    draw_learning_curve(tmp_path / "curve.png", found)
    assert (tmp_path / "curve.png").stat().st_size > 10_000
