"""Figures against scikit-learn and against cases done by hand."""

import json
import math
import tracemalloc

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from smallgpt.evaluation import label_probabilities, metrics
from smallgpt.evaluation.calibration import (
    apply_temperature,
    expected_calibration_error,
    reliability,
)
from smallgpt.evaluation.label_probabilities import LARGEST_KEPT, LabelProbabilities
from smallgpt.evaluation.metrics import (
    chance_figures,
    confusion_cells,
    label_figures,
    language_figures,
    perplexity,
)
from smallgpt.evaluation.statistics import (
    difference_interval,
    exact_interval,
    label_p_values,
    ratio_interval,
    wilson_interval,
)

# ---- language ------------------------------------------------------------------------


def test_every_token_counts_once_however_long_its_row():
    figures = language_figures(np.array([8.0, 1.0]), np.array([8, 1]), np.array([2, 1]))
    assert figures["loss"] == pytest.approx(1.0)
    assert figures["perplexity"] == pytest.approx(math.e)
    assert figures["next_token_accuracy"] == pytest.approx(3 / 9)


def test_guessing_among_n_tokens_has_perplexity_n():
    tokens = np.array([3, 5])
    figures = language_figures(tokens * math.log(516), tokens, np.array([0, 0]))
    assert figures["perplexity"] == pytest.approx(516)


def test_perplexity_of_a_diverged_model_is_finite():
    assert perplexity(0.0) == 1.0
    for loss in (710.0, 1e9, math.inf):
        assert math.isfinite(perplexity(loss))
        assert perplexity(loss) > 1e300


# ---- labels --------------------------------------------------------------------------


def figures_from(true, log_probs, names, temperature=1.0):
    """`label_figures` of an array with a column for each label."""
    answers = LabelProbabilities.of(log_probs, temperature).answers(temperature)
    return label_figures(true, answers, names, temperature)


def shares_of(predicted, classes, confidence=0.6):
    """Probabilities whose largest share is at `predicted`."""
    rest = (1 - confidence) / (classes - 1)
    shares = np.full((len(predicted), classes), rest)
    shares[np.arange(len(predicted)), predicted] = confidence
    return shares


@hypothesis.settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_label_figures_are_those_of_scikit_learn(pairs):
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    names = ["a", "b", "c", "d"]
    figures = figures_from(true, np.log(shares_of(predicted, 4)), names)
    present = sorted(set(true) | set(predicted))
    assert figures["labels"] == [names[index] for index in present]
    assert figures["labelled_records"] == len(pairs)
    assert figures["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(true, predicted))
    averages = {"average": "macro", "zero_division": 0}
    for name, function in (
        ("macro_f1", sklearn_metrics.f1_score),
        ("macro_precision", sklearn_metrics.precision_score),
        ("macro_recall", sklearn_metrics.recall_score),
    ):
        assert figures[name] == pytest.approx(function(true, predicted, **averages))
    confusion = sklearn_metrics.confusion_matrix(true, predicted, labels=range(4))
    assert figures["confusion_matrix"] == confusion[np.ix_(present, present)].tolist()
    report = sklearn_metrics.classification_report(
        true, predicted, labels=present, output_dict=True, zero_division=0
    )
    for index in present:
        of_class = figures["per_class"][names[index]]
        assert of_class["support"] == report[str(index)]["support"]
        assert of_class["precision"] == pytest.approx(report[str(index)]["precision"])
        assert of_class["recall"] == pytest.approx(report[str(index)]["recall"])
        assert of_class["f1"] == pytest.approx(report[str(index)]["f1-score"])


def test_label_figures_by_hand():
    # True 0 0 0 1, told 0 0 1 1; label 2 occurs nowhere.
    log_probs = np.log(shares_of([0, 0, 1, 1], 3))
    figures = figures_from(np.array([0, 0, 0, 1]), log_probs, ["x", "y", "z"])
    assert figures["labels"] == ["x", "y"]
    assert figures["accuracy"] == 0.75
    assert figures["confusion_matrix"] == [[2, 1], [0, 1]]
    assert figures["macro_precision"] == pytest.approx((1 + 1 / 2) / 2)
    assert figures["macro_recall"] == pytest.approx((2 / 3 + 1) / 2)
    assert figures["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert figures["per_class"]["x"]["support"] == 3
    assert figures["ece"] == pytest.approx(0.15)


@pytest.mark.filterwarnings("error")
def test_rows_of_one_label_all_told_right_give_no_warning():
    figures = figures_from(np.array([1, 1]), np.log(shares_of([1, 1], 2)), ["x", "y"])
    assert figures["labels"] == ["y"]
    assert (figures["accuracy"], figures["confusion_matrix"]) == (1.0, [[2]])


def test_label_figures_can_be_written_as_json():
    log_probs = np.log(shares_of([0, 1], 2)).astype(np.float32)
    figures = figures_from(np.array([0, 0]), log_probs, ["a", "b"])
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_top_two_counts_the_second_guess():
    shares = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    assert figures_from(np.array([0, 1, 2]), np.log(shares), list("abc"))[
        "top2_accuracy"
    ] == pytest.approx(2 / 3)


def test_temperature_moves_the_confidence_and_nothing_else():
    log_probs = np.log(shares_of([0, 1, 1, 0], 2, confidence=0.9))
    raw, cooler = (
        figures_from(np.array([0, 1, 0, 1]), log_probs, ["a", "b"], temperature)
        for temperature in (1.0, 3.0)
    )
    changed = {name for name in raw if raw[name] != cooler[name]}
    assert changed == {"temperature", "ece", "reliability"}
    assert raw["ece"] == raw["raw_ece"] == pytest.approx(0.4)
    assert cooler["ece"] == pytest.approx(9 ** (1 / 3) / (1 + 9 ** (1 / 3)) - 0.5)


# ---- many labels ---------------------------------------------------------------------


def many_label_rows(rows=900, labels=300, seed=0):
    """Shares over many labels, a third of the rows told right, and the rows' labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, labels)) * 2
    true = random.integers(0, labels // 2, rows)
    logits[np.arange(rows), true] += 5 * (random.random(rows) < 0.5)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return true, logits, [f"label {number}" for number in range(labels)]


def assert_close(found, expected):
    """Names and counts equal, floats but for the last digits."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)
    else:
        assert found == expected


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_figures_of_many_labels_are_those_of_every_share(monkeypatch, temperature):
    true, log_probs, names = many_label_rows()
    found = figures_from(true, log_probs, names, temperature)
    monkeypatch.setattr(label_probabilities, "MOST_LABELS_WHOLE", 1000)
    monkeypatch.setattr(metrics, "MOST_LABELS_WHOLE", 1000)
    expected = figures_from(true, log_probs, names, temperature)
    cells, counts = found.pop("confusion_matrix"), expected.pop("confusion_matrix")
    assert cells["labels"] == len(found["labels"]) > 200
    assert [tuple(entry) for entry in cells["entries"]] == confusion_cells(counts)
    assert confusion_cells(cells) == confusion_cells(counts)
    assert sum(count for _, _, count in cells["entries"]) == len(true)
    assert_close(found, expected)


def test_largest_shares_are_kept_with_their_labels_in_order():
    _, log_probs, _ = many_label_rows(rows=40)
    log_probs[3] = np.repeat([-9.0, -5.0, -9.0], [20, 100, 180])
    log_probs[4, 7] = np.nan
    log_probs[5:15] = np.round(log_probs[5:15])
    shares = LabelProbabilities.of(log_probs, 2.0)
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, :LARGEST_KEPT]
    whole = np.delete(np.arange(40), 4)
    assert (shares.classes_NxK[whole] == order[whole]).all()
    assert shares.classes_NxK[3].tolist() == list(range(20, 70))
    assert (shares.predicted[whole] == log_probs.argmax(axis=1)[whole]).all()
    calibrated = apply_temperature(log_probs, 2.0)
    expected = np.take_along_axis(calibrated, order, axis=1)
    assert shares.at(2.0)[whole] == pytest.approx(expected[whole], rel=1e-12)
    assert shares.answered.tolist() == [index != 4 for index in range(40)]
    with pytest.raises(ValueError, match=r"known at 1 and 2\.0"):
        shares.at(3.0)


def test_sampled_rows_keep_every_share_in_whatever_batches_they_come():
    _, log_probs, _ = many_label_rows(rows=60)
    shares = LabelProbabilities.empty(60, 300, sampled=[41, 2, 17])
    for batch in np.array_split(np.random.default_rng(0).permutation(60), 7):
        shares.put(batch, log_probs[batch])
    assert shares.sampled_log_probs_SxL == pytest.approx(log_probs[[41, 2, 17]], rel=1e-6)
    assert len(LabelProbabilities.empty(60, 20, sampled=[1]).sampled_S) == 0


def test_figures_need_no_table_of_labels_by_labels():
    labels, rows = 4000, 2000
    random = np.random.default_rng(0)
    shares = LabelProbabilities.empty(rows, labels)
    shares.log_probs_NxK[:] = np.linspace(-1, -5, LARGEST_KEPT)
    true, shares.classes_NxK[:] = random.integers(0, labels, rows), 0
    shares.classes_NxK[:, :2] = random.integers(0, labels, (rows, 2))
    tracemalloc.start()
    figures = label_figures(true, shares.answers(1.0), [str(number) for number in range(labels)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < labels * labels  # a byte for each pair; 12.6 MB where this was written down
    assert len(json.dumps(figures)) < 2_000_000


# ---- chance --------------------------------------------------------------------------


def test_always_the_same_answer_is_chance_however_often_it_is_right():
    figures = chance_figures(np.array([[90, 0], [10, 0]]))
    assert figures["chance_accuracy"] == pytest.approx(0.9)
    assert figures["above_chance"] is False
    assert (label_p_values(np.array([[90, 0], [10, 0]])) == 1).all()


def test_chance_by_hand():
    # True 30 / 70, told 40 / 60: 0.3 * 0.4 + 0.7 * 0.6
    figures = chance_figures(np.array([[25, 5], [15, 55]]))
    assert figures["chance_accuracy"] == pytest.approx(0.54)
    assert figures["above_chance"] is True


def test_rows_so_few_that_all_right_may_be_luck_have_no_verdict():
    two, four = (chance_figures(np.diag([count, count])) for count in (1, 2))
    assert two["chance_lowest_p_value"] == two["chance_p_value"] == pytest.approx(1 / 4)
    assert four["chance_lowest_p_value"] == pytest.approx(1 / 16)
    assert two["above_chance"] is four["above_chance"] is None
    assert chance_figures(np.array([[2, 1], [2, 1]]))["above_chance"] is False
    assert chance_figures(np.diag([4, 4]))["above_chance"] is True


def test_rows_of_one_label_cannot_be_told_from_chance():
    assert chance_figures(np.array([[7, 0], [0, 0]]))["above_chance"] is None


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_what_shuffled_predictions_reach(seed):
    random = np.random.default_rng(seed)
    true, told = random.choice(3, 60, p=[0.6, 0.3, 0.1]), random.choice(3, 60, p=[0.2, 0.2, 0.6])
    confusion = sklearn_metrics.confusion_matrix(true, told, labels=range(3))
    shuffled = [(true == random.permutation(told)).mean() for _ in range(3000)]
    assert chance_figures(confusion)["chance_accuracy"] == pytest.approx(
        np.mean(shuffled), abs=0.006
    )


def test_guesses_are_called_above_chance_rarely():
    random = np.random.default_rng(0)
    above = labels = 0
    for _ in range(400):
        true, told = random.integers(0, 4, (2, 80))
        figures = figures_from(true, np.log(shares_of(told, 4)), list("abcd"))
        above += figures["above_chance"]
        labels += len(figures["not_above_chance"]) < 4
    assert above <= 0.05 * 400 and labels <= 0.08 * 400


def test_label_that_is_told_badly_is_named_and_a_rare_one_with_its_reason():
    # A third of all rows is told as b, and so is a third of the rows of b.
    true = np.repeat([0, 1, 2, 3], [60, 60, 60, 1])
    told = np.repeat([0, 1, 0, 1, 2, 1, 2, 3], [40, 20, 20, 20, 20, 20, 40, 1])
    figures = figures_from(true, np.log(shares_of(told, 5)), ["a", "b", "c", "rare", "never"])
    assert figures["not_above_chance"] == ["b"] and figures["too_few_rows"] == []
    # The third smallest p-value of four: that its one row is the one told so, times 2.
    assert figures["per_class"]["rare"]["p_value"] == pytest.approx(2 / 181)
    once = figures_from(np.repeat([0, 1], [10, 1]), np.log(shares_of([0] * 11, 2)), ["a", "b"])
    assert once["not_above_chance"] == once["too_few_rows"] == ["a", "b"]


@given(st.lists(st.integers(0, 60), min_size=4, max_size=4), st.booleans())
def test_verdict_on_chance_and_exact_interval_agree(counts, scaled):
    confusion = np.array(counts).reshape(2, 2) * (50 if scaled else 1)
    hypothesis.assume((confusion.sum(axis=1) > 0).all())
    figures = chance_figures(confusion)
    low, _ = exact_interval(int(confusion.trace()), int(confusion.sum()))
    if figures["above_chance"]:
        assert low >= figures["chance_accuracy"] - 1e-9
    else:
        assert low <= figures["chance_accuracy"] + 1e-9


@given(st.integers(1, 5000), st.data())
def test_exact_interval_is_that_of_scipy(trials, data):
    right = data.draw(st.integers(0, trials))
    expected = stats.binomtest(right, trials).proportion_ci(0.95, "exact")
    assert exact_interval(right, trials) == pytest.approx([expected.low, expected.high], abs=1e-9)


# ---- Wilson's interval ---------------------------------------------------------------


def test_wilson_interval_of_8_in_10_by_hand():
    # p = 0.8, n = 10, z = 1.96: (0.8 + 0.19207 -+ 1.96 * sqrt(0.016 + 0.0096)) / 1.38415
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx(0.4902, abs=5e-5)
    assert high == pytest.approx(0.9433, abs=5e-5)


@pytest.mark.parametrize(("right", "expected"), [(0, [0, 0.2775]), (10, [0.7225, 1])])
def test_wilson_interval_at_the_ends(right, expected):
    low, high = wilson_interval(right, 10)
    assert 0 <= low < high <= 1
    assert [low, high] == pytest.approx(expected, abs=5e-5)


@given(st.integers(1, 10_000), st.data())
def test_wilson_interval_holds_the_share_and_mirrors(trials, data):
    right = data.draw(st.integers(0, trials))
    low, high = wilson_interval(right, trials)
    assert 0 <= low <= right / trials + 1e-12
    assert right / trials - 1e-12 <= high <= 1
    assert wilson_interval(trials - right, trials) == pytest.approx([1 - high, 1 - low])
    assert wilson_interval(10 * right, 10 * trials)[1] <= high + 1e-12


# ---- calibration ---------------------------------------------------------------------


def test_calibration_error_by_hand():
    # Bins of width 1/15: (0.6, 0.667] holds the first two, (0.933, 1] the last two.
    confidence = np.array([0.62, 0.66, 0.95, 1.0])
    right = np.array([True, False, True, True])
    expected = (2 * abs(0.64 - 0.5) + 2 * abs(0.975 - 1.0)) / 4
    assert expected_calibration_error(confidence, right) == pytest.approx(expected)


def test_calibration_error_of_certain_answers():
    certain = np.ones(10)
    assert expected_calibration_error(certain, np.ones(10, bool)) == 0
    assert expected_calibration_error(certain, np.zeros(10, bool)) == 1


def test_gaps_of_opposite_sign_cancel_within_a_bin_only():
    right = np.array([True, False])
    assert expected_calibration_error(np.array([0.5, 0.5]), right) == pytest.approx(0)
    assert expected_calibration_error(np.array([0.9, 0.3]), right) == pytest.approx(0.2)


def test_bins_are_open_below_and_closed_above():
    rows = reliability(np.array([0.0, 0.2, 0.2001, 1.0]), np.array([1, 1, 0, 1]), bins=5)
    assert [(row["from"], row["to"], row["count"]) for row in rows] == [
        (0.0, 0.2, 2),
        (0.2, 0.4, 1),
        (0.8, 1.0, 1),
    ]
    assert rows[0]["accuracy"] == 1.0
    assert rows[1]["confidence"] == pytest.approx(0.2001)


# ---- intervals -----------------------------------------------------------------------


def test_interval_of_a_difference_is_that_of_the_paper():
    # Newcombe (1998), table II: 56 of 70 against 48 of 80, method 10.
    assert difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    low, high = difference_interval(0, 9, 9, 9)
    assert -1 <= low < high < -0.5


def test_interval_of_a_loss_covers_the_true_one_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        counts = random.integers(1, 40, 25)
        # Tokens of one row are alike: the mean of a row varies, around 2.
        low, high = ratio_interval(counts * random.normal(2.0, 0.5, 25), counts)
        covered += low <= 2 <= high
    assert 920 <= covered <= 975
    assert ratio_interval(np.array([3.0]), np.array([2])) is None
