"""Validation figures told from rows that did not choose, against brute force and luck."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_rows import dataset_of, unique_rows
from training_runs import change, small_settings, spoiled_settings

from smallgpt.engines.engine import log_softmax
from smallgpt.evaluation.label_probabilities import LabelAnswers, LabelProbabilities
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.evaluation.report import describe_validation
from smallgpt.evaluation.row_results import RowResults, TokenResults
from smallgpt.evaluation.scoring import Scores
from smallgpt.model.folder import replace_validation
from smallgpt.model.weights_file import read_validation
from smallgpt.training.checkpoint import sha256_of
from smallgpt.training.cross_fitting import CrossFit
from train_gpt import train


@pytest.fixture
def rows(vocabulary):
    return dataset_of(vocabulary, *unique_rows({0: 12, 1: 9, "cat": 6, None: 8}))


def results_of(rows, seed: int) -> RowResults:
    """An evaluation by chance."""
    random, count = np.random.default_rng(seed), len(rows)
    top_two_Nx2 = np.argsort(random.random((count, 3)), axis=1)[:, :2]
    confidences = random.uniform(0.4, 1, (2, count))
    raw_N, calibrated_N = (
        np.where(rows.classes_N >= 0, random.gamma(1.0, 1.0, count), np.nan) for _ in range(2)
    )
    return RowResults(
        TokenResults(
            random.gamma(2.0, 5.0, count),
            random.integers(0, 6, count),
            random.gamma(2.0, 4.0, count),
        ),
        raw_N,
        LabelAnswers(top_two_Nx2, *confidences),
        temperature=1.5,
        calibrated_nll_N=calibrated_N,
    )


def costs_of(results, rows, metric: str, chosen) -> tuple[np.ndarray, np.ndarray]:
    """Costs of some rows by the metric, and over how much each is the sum, written down again."""
    labelled = chosen & (rows.classes_N >= 0)
    if metric == "loss":
        return results.tokens.nll_sum_N[chosen], rows.lengths_N[chosen] - 1
    ones = np.ones(labelled.sum())
    if metric == "label_loss":
        return results.calibrated_nll_N[labelled], ones
    return results.answers.top_two_Nx2[labelled, 0] != rows.classes_N[labelled], ones


def chosen_of(costs: list[np.ndarray], weights: np.ndarray) -> int:
    """The last evaluation at most one standard error above the lowest, written down again."""
    lowest = chosen = 0
    for number, cost in enumerate(costs[1:], 1):
        difference = cost.astype(float) - costs[lowest]
        mean = difference.sum() / weights.sum()
        error = np.std((difference - mean * weights) / weights.mean(), ddof=1) / len(cost) ** 0.5
        if mean < 0:
            lowest = chosen = number
        elif mean <= error:
            chosen = number
    return chosen


@pytest.mark.parametrize("metric", ["loss", "label_loss", "label_accuracy"])
def test_each_fold_is_told_by_the_evaluation_that_the_others_choose(rows, metric):
    evaluations = [results_of(rows, seed) for seed in range(8, 17)]
    cross_fit, all_rows = CrossFit(rows, metric), np.ones(len(rows), bool)
    are_chosen = [cross_fit.add(results) for results in evaluations]

    def chosen_by(voters: np.ndarray) -> int:
        costs, weights = zip(*(costs_of(r, rows, metric, voters) for r in evaluations), strict=True)
        return chosen_of(list(costs), weights[0])

    nll, right = np.empty(len(rows)), np.empty(len(rows), bool)
    chosen = []
    for fold in range(5):
        inside = cross_fit.fold_N == fold
        chosen.append(chosen_by(~inside))
        best = evaluations[chosen[-1]]
        nll[inside] = best.tokens.nll_sum_N[inside]
        right[inside] = (best.answers.top_two_Nx2[:, 0] == rows.classes_N)[inside]
    assert len(set(chosen)) > 1  # or the test would say little
    assert np.flatnonzero(are_chosen)[-1] == chosen_by(all_rows)
    figures = cross_fit.figures(temperature=1.5)
    assert figures["chosen_among"] == 9
    assert figures["loss"] == pytest.approx(nll.sum() / (rows.lengths_N - 1).sum())
    assert figures["accuracy"] == pytest.approx(right[rows.classes_N >= 0].mean())


def test_growing_confidence_does_not_hide_that_answers_get_better(vocabulary):
    """As with few rows: the label loss is lowest early, most answers are right at the end."""
    rows = dataset_of(vocabulary, *unique_rows({0: 100, 1: 100, "cat": 100}))
    classes, random = rows.classes_N, np.random.default_rng(0)
    cross_fit, losses, right = CrossFit(rows, "label_loss"), [], []
    for clearness, sharpness in ((0.5, 1.0), (1.0, 1.0), (1.5, 6.0), (2.0, 12.0)):
        logits_NxL = random.normal(0, 1, (len(rows), 3))
        logits_NxL[np.arange(len(rows)), classes] += clearness
        log_probs_NxL = log_softmax((sharpness * logits_NxL).astype(np.float32))
        nll_N = -log_probs_NxL[np.arange(len(rows)), classes]
        scores = Scores(None, nll_N, LabelProbabilities.of(log_probs_NxL))
        assert cross_fit.add(scores.cross_fitted_results(rows, cross_fit.fold_N))
        losses.append(scores.label_nll_N.mean())
        right.append((log_probs_NxL.argmax(1) == classes).mean())
    assert np.argmin(losses) == 1 and np.argmax(right) == 3
    told = cross_fit.figures(1.0)
    assert told["calibrated_label_loss"] < min(losses) and told["accuracy"] > right[1]


def test_one_evaluation_tells_its_own_figures(rows):
    cross_fit, results = CrossFit(rows, "label_loss"), results_of(rows, 1)
    assert cross_fit.figures(1.5) is None
    cross_fit.add(results)
    figures = cross_fit.figures(1.5)
    assert figures.pop("chosen_among") == 1
    assert figures == results.validation_figures(rows)


def test_luck_of_many_evaluations_is_not_told(vocabulary):
    rows = dataset_of(vocabulary, *unique_rows({0: 14, 1: 13}))
    told, best = [], []
    for seed in range(100):
        cross_fit = CrossFit(rows, "label_accuracy")
        random = np.random.default_rng(seed)
        shares = []
        for _ in range(16):  # each guesses between two labels
            top_two = np.argsort(random.random((27, 2)), axis=1)
            answers = LabelAnswers(top_two, *np.full((2, 27), 0.5))
            cross_fit.add(RowResults(None, np.ones(27), answers, 1.0))
            shares.append((top_two[:, 0] == rows.classes_N).mean())
        told.append(cross_fit.figures(1.0)["accuracy"])
        best.append(max(shares))
    # The mean of 100 runs has a standard error of 0.01.
    assert np.mean(best) > 0.65 and abs(np.mean(told) - 0.5) < 0.04


def test_luck_of_the_chosen_is_not_told_where_evaluations_differ(vocabulary):
    """Late evaluations are really worse, so that some are given up and what is kept is a choice."""
    rows = dataset_of(vocabulary, *unique_rows({0: 30, 1: 30}))
    told, true = [], []
    for seed in range(200):
        cross_fit, random = CrossFit(rows, "label_loss"), np.random.default_rng(seed)
        base = random.gamma(1.0, 1.0, 60)
        for mean in np.linspace(0, 0.6, 12):
            nll = base + random.normal(mean, 1.0, 60)
            if cross_fit.add(RowResults(None, nll, results_of(rows, seed).answers, 1.0)):
                chosen = mean
        told.append(cross_fit.figures(1.0)["label_loss"] - base.mean())
        true.append(chosen)
    assert 0 < np.mean(true) < 0.5
    # Each mean has a standard error of 0.01.
    assert -0.01 < np.mean(told) - np.mean(true) < 0.05


def test_state_comes_back_to_the_bit(rows):
    cross_fit, other = CrossFit(rows, "label_loss"), CrossFit(rows, "label_loss")
    for seed in range(3):
        cross_fit.add(results_of(rows, seed))
    other.restore(cross_fit.state(), best_value=1.0)
    for each in (cross_fit, other):
        each.add(results_of(rows, 3))
    assert cross_fit.figures(1.5) == other.figures(1.5)
    state, again = cross_fit.state(), other.state()
    assert state.keys() == again.keys()
    assert all(torch.equal(t.nan_to_num(9), again[n].nan_to_num(9)) for n, t in state.items())
    fewer = CrossFit(rows.subset(slice(0, 20)), "label_loss")
    with pytest.raises(ValueError, match="other rows"):
        fewer.restore(state, best_value=1.0)


def test_results_of_a_version_that_did_not_calibrate_them_are_not_gone_on_with(rows):
    cross_fit, other = CrossFit(rows, "label_loss"), CrossFit(rows, "label_loss")
    cross_fit.add(results_of(rows, 0))
    state = {name: t for name, t in cross_fit.state().items() if name != "calibrated_nll_N"}
    other.restore(state, best_value=0.25)  # its costs were of another kind
    assert other.lowest == 0.25
    other.add(results_of(rows, 1))
    assert other.figures(1.5) is None


@pytest.mark.parametrize("metric", ["loss", "label_loss", "label_accuracy"])
def test_model_that_unknown_evaluations_chose_stays_until_a_better_one_comes(rows, metric):
    results = results_of(rows, 0)
    is_accuracy = metric == "label_accuracy"
    figure = {"label_accuracy": "accuracy", "label_loss": "calibrated_label_loss"}
    value = results.figures(rows)[figure.get(metric, metric)]
    for ahead, is_better in ((0.01, False), (-0.01, True)):
        cross_fit, other = CrossFit(rows, metric), CrossFit(rows, metric)
        cross_fit.restore({}, best_value=value + (ahead if is_accuracy else -ahead))
        assert cross_fit.add(results) == is_better
        other.restore(cross_fit.state(), best_value=None)
        for each in (cross_fit, other):
            assert each.figures(1.5) is None
            assert each.add(results) == is_better  # what it is compared with is known by now


def test_rows_that_cannot_be_parted_say_that_they_chose(vocabulary):
    rows = dataset_of(vocabulary, *unique_rows({0: 2, 1: 1}))
    rows = replace(rows, groups_N=np.zeros(3, np.int64))
    cross_fit = CrossFit(rows, "label_loss")
    cross_fit.add(results_of(rows, 0))
    assert cross_fit.figures(1.0)["chosen_among"] == 1
    cross_fit.add(results_of(rows, 1))
    assert cross_fit.figures(1.0) is None


# ---- in a run --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoiled_run(tmp_path_factory):
    """A run whose chosen evaluation is not the last."""
    settings = spoiled_settings(tmp_path_factory.mktemp("spoiled"))
    return settings, train(settings)


def test_best_model_tells_what_all_evaluations_came_to(spoiled_run):
    _, result = spoiled_run
    rows = [r for r in read_metrics(result.folder.metrics) if r["kind"] == "validation"]
    stored = read_validation(result.folder.best_model)
    assert 0 < result.best_step < rows[-1]["step"] and stored["step"] == result.best_step
    assert stored["chosen_among"] == 24
    (best,) = (row for row in rows if row["step"] == result.best_step)
    assert stored["best_value"] == best["calibrated_label_loss"]
    log = result.folder.log.read_text()
    assert (
        "the best of 24 evaluations; so that luck does not count, each row is judged by the "
        "evaluation that the other rows would have chosen"
    ) in log
    last = read_validation(result.folder.final_model)
    assert last["chosen_among"] == 1 and last["label_loss"] == rows[-1]["label_loss"]


def test_a_single_evaluation_leaves_nothing_to_choose(tmp_path):
    result = train(change(small_settings(tmp_path), num_epochs=1))
    (row,) = [r for r in read_metrics(result.folder.metrics) if r["kind"] == "validation"]
    stored = read_validation(result.folder.best_model)
    assert stored["label_loss"] == row["label_loss"]
    assert stored["calibrated_label_loss"] == row["calibrated_label_loss"] == stored["best_value"]
    assert stored["accuracy"] == row["label_accuracy"] and stored["chosen_among"] == 1
    assert "chosen among" not in result.folder.log.read_text()


def test_figures_are_replaced_beside_weights_that_stay(spoiled_run, tmp_path):
    folder = shutil.copytree(spoiled_run[1].folder.best_model, tmp_path / "model")
    before, stored = (folder / "model.safetensors").read_bytes(), read_validation(folder)
    names = ["<CLS_猫>"] * 40
    replace_validation(folder, {**stored, "not_above_chance": names})
    assert read_validation(folder) == {**stored, "not_above_chance": names}
    replace_validation(folder, stored)
    after = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(before[:8], "little")
    assert json.loads(after[8 : 8 + size]) == json.loads(before[8 : 8 + size])
    assert after[8 + size :] == before[8 + size :]


def test_run_whose_earlier_evaluations_are_unknown_says_that_its_rows_chose(
    spoiled_run, tmp_path, capsys
):
    settings, result = spoiled_run
    folder = shutil.copytree(result.folder.root, tmp_path / "run")
    settings = change(settings, output_dir=str(folder), num_epochs=25, resume=True)
    # As an older version left it: neither results in the checkpoint nor words about the choice.
    forget_results(max((folder / "checkpoints").iterdir()))
    stored = read_validation(folder / "best_model")
    old = {n: v for n, v in stored.items() if n not in ("chosen_among", "best_value")}
    replace_validation(folder / "best_model", old)
    train(settings)
    assert read_validation(folder / "best_model") == old
    assert "the same rows chose this model" in capsys.readouterr().out


def forget_results(checkpoint: Path) -> None:
    path = checkpoint / "training.safetensors"
    tensors = load_file(path)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("evaluated/")}
    assert len(kept) < len(tensors)
    save_file(kept, path)
    state = json.loads((checkpoint / "state.json").read_text())
    state["sha256"]["training.safetensors"] = sha256_of(path)
    (checkpoint / "state.json").write_text(json.dumps(state))


def test_evaluations_of_a_lost_best_model_are_not_told(spoiled_run, tmp_path):
    settings, result = spoiled_run
    folder = shutil.copytree(result.folder.root, tmp_path / "run")
    weights = folder / "best_model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    train(change(settings, output_dir=str(folder), num_epochs=25, resume=True))
    assert read_validation(folder / "best_model")["chosen_among"] == 1


def test_words_on_the_choice():
    figures = {"rows": 9, "perplexity": 2.0, "baselines": {}}
    assert "the same rows chose this model" in describe_validation(figures)
    assert "chose" not in describe_validation({**figures, "chosen_among": 1})
    assert "the best of 1,200 eval" in describe_validation({**figures, "chosen_among": 1200})
