"""Which weights are kept as the best, and with which figures."""

import json

import pytest
import torch
from training_runs import change, small_settings, spoiled_settings, start_run

from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import UserError
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.evaluation.report import describe_validation
from smallgpt.training.data import read_data
from smallgpt.training.stopping import StopSignal
from smallgpt.training.stored_figures import stored_figures
from train_gpt import train


@pytest.fixture
def settings(tmp_path, unpainted):
    return small_settings(tmp_path)


def test_best_model_is_the_one_of_the_chosen_evaluation(tmp_path, unpainted):
    settings = spoiled_settings(tmp_path)
    result = train(settings)
    rows = [r for r in read_metrics(result.folder.metrics) if r["kind"] == "validation"]
    lowest = min(rows, key=lambda row: row["label_loss"])
    (best,) = (row for row in rows if row["step"] == result.best_step)
    assert lowest["step"] <= best["step"] < rows[-1]["step"]
    from smallgpt.evaluation.scoring import score_rows
    from smallgpt.rows.dataset import TokenLabelDataset

    trained = load_trained_model(result.folder.best_model, "cpu", "fp32")
    _, validation = read_data(settings, print)
    assert isinstance(validation, TokenLabelDataset)
    figures = score_rows(trained.engines.torch, validation).figures(validation)
    assert figures["label_loss"] == pytest.approx(best["label_loss"], rel=1e-5)


def test_early_stopping_waits_for_its_patience(settings):
    result = train(change(settings, num_epochs=30, learning_rate=0.3, early_stopping_patience=2))
    rows = [r for r in read_metrics(result.folder.metrics) if r["kind"] == "validation"]
    losses = [row["calibrated_label_loss"] for row in rows]
    assert len(losses) < 30
    # In the first half of the plan the learning rate is high, and none is counted.
    assert len(losses) == max(losses.index(min(losses)) + 1, 14) + 2


def test_weights_that_are_not_finite_are_never_kept_as_the_best_model(settings):
    run = start_run(change(settings, best_metric="label_accuracy"))
    with torch.no_grad():
        run.model.lm_head.weight[run.rows.vocabulary.label_ids[0]] = float("nan")
    with StopSignal() as stop, pytest.raises(UserError, match="accuracy is no longer finite"):
        run.validate(stop)


def test_of_very_many_labels_the_first_names_are_stored(tmp_path):
    names = [f"label {number}" for number in range(3000)]
    few = names[1000:]
    figures = {"accuracy": 0.5, "not_above_chance": names, "too_few_rows": few}
    stored = stored_figures(figures)
    assert len(json.dumps(stored)) < 20_000
    assert stored["too_few_rows"] == names[1000:1200]
    assert stored["not_above_chance"] == names[:200] + names[1000:1200]
    assert stored["names_left_out"] == {"not_told": 800, "too_few_rows": 1800}
    told = describe_validation(
        {
            **stored, "rows": 9000, "labelled_records": 9000, "accuracy_interval": [0.4, 0.6],
            "chance_accuracy": 0.1, "above_chance": True, "baselines": {},
        }
    )  # fmt: skip
    assert "labels not clearly better than guesses: label 0, label 1" in told
    assert "label 9 and 990 more\n" in told and "label 1009 and 1,990 more\n" in told
    figures = {"accuracy": 0.5, "not_above_chance": names[:200], "too_few_rows": names[50:60]}
    assert stored_figures(figures) == figures
