"""Accuracy against coverage, against every threshold tried one by one."""

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from smallgpt.evaluation.abstention import CoverageCurve, abstain, abstention_figures
from smallgpt.evaluation.pictures import draw_coverage

# Few different confidences, so that many rows have the same one; and any.
CONFIDENCES = st.one_of(st.sampled_from([0.25, 0.5, 0.75, 1.0]), st.floats(1e-6, 1))
ROWS = st.lists(st.tuples(CONFIDENCES, st.booleans()), min_size=1, max_size=60)


def curve_from(rows) -> tuple[CoverageCurve, np.ndarray, np.ndarray]:
    confidence, right = (np.array(column) for column in zip(*rows, strict=True))
    return CoverageCurve.of(confidence, right), confidence, right


@given(ROWS, st.floats(1e-6, 1))
def test_rows_answered_at_a_threshold_are_those_of_a_loop_over_all_rows(rows, other):
    curve, confidence, _ = curve_from(rows)
    for threshold in [*confidence.tolist(), other]:
        answered = [right for confidence, right in rows if confidence >= threshold]
        found = curve.answered_at(threshold)
        assert (found["threshold"], found["answered"]) == (threshold, len(answered))
        assert found["coverage"] == len(answered) / len(rows)
        if not answered:
            assert found["accuracy"] is None and found["accuracy_interval"] is None
            continue
        assert found["accuracy"] == sum(answered) / len(answered)
        interval = stats.binomtest(sum(answered), len(answered)).proportion_ci(method="wilson")
        assert found["accuracy_interval"] == pytest.approx([interval.low, interval.high])


@given(ROWS)
def test_the_curve_answers_more_rows_step_by_step_and_ends_at_all_of_them(rows):
    curve, confidence, right = curve_from(rows)
    assert (np.diff(curve.answered_K) > 0).all() and (np.diff(curve.right_K) >= 0).all()
    assert (np.diff(curve.confidence_K) < 0).all()
    assert curve.answered_K[-1] == curve.rows == len(rows)
    everything = curve.answered_at(confidence.min())
    assert (everything["coverage"], everything["accuracy"]) == (1, right.mean())


@given(ROWS)
def test_a_point_leaves_the_fewest_rows_that_are_enough_by_a_number_one_can_type(rows):
    curve, confidence, _ = curve_from(rows)
    possible = [int((confidence >= threshold).sum()) for threshold in confidence]
    least = {
        min(
            rows_answered
            for rows_answered in possible
            if 100 * rows_answered >= percent * len(rows)
        )
        for percent in (95, 90, 80, 50)
    }
    points = curve.points()
    found = [point["answered"] for point in points]
    assert found == sorted(least - {len(rows)}, reverse=True)
    for point in points:
        assert point == curve.answered_at(point["threshold"])
        assert 0 < float(f"{point['threshold']}") <= 1


@pytest.mark.parametrize(
    ("confidences", "threshold"),
    [
        ([0.9876, 0.4321], 0.5),  # only one of two: any number between them
        ([0.91, 0.9], 0.91),
        ([0.99995, 0.99994], 0.99995),
        ([0.3, 0.29999999999999993], 0.3),
        ([1.0, 0.999999], 1.0),
    ],
)
def test_a_threshold_has_no_more_decimals_than_it_needs(confidences, threshold):
    curve = CoverageCurve.of(np.array(confidences), np.array([True, False]))
    (point,) = curve.points()
    assert point["answered"] == 1
    assert len(f"{point['threshold']}") <= len(f"{threshold}")


@given(ROWS)
def test_the_area_is_the_mean_share_wrong_at_the_confidence_of_each_row(rows):
    curve, *_ = curve_from(rows)
    wrong_at = []
    for threshold, _ in rows:
        answered = [right for confidence, right in rows if confidence >= threshold]
        wrong_at.append(1 - sum(answered) / len(answered))
    assert curve.area() == pytest.approx(np.mean(wrong_at))


def test_the_area_tells_a_confidence_that_knows_its_mistakes_from_one_that_does_not():
    right = np.arange(100) < 80
    knows, is_blind, is_contrary = (
        CoverageCurve.of(confidence, right).area()
        for confidence in (np.linspace(1, 0.1, 100), np.full(100, 0.7), np.linspace(0.1, 1, 100))
    )
    assert is_blind == pytest.approx(0.2)
    assert knows < 0.03 and is_contrary > 0.4


# ------------------------------------------------------------------------------- withholding

PREDICTIONS = [
    {"line": 1, "label": "a", "prediction": "a", "confidence": 0.9, "probabilities": {"a": 0.9}},
    {"line": 2, "label": "b", "prediction": "a", "confidence": 0.6, "probabilities": {"a": 0.6}},
    {"line": 3, "label": None, "prediction": "b", "confidence": 0.2, "probabilities": {"b": 0.2}},
    {"line": 4, "label": None, "prediction": None, "reason": "no `tokens`"},
    {"line": 5, "label": None, "prediction": None, "confidence": None, "probabilities": {}},
]


def test_a_row_below_the_threshold_loses_its_prediction_and_nothing_else():
    told = abstain(PREDICTIONS, 0.6)
    assert told[2] == {**PREDICTIONS[2], "prediction": None, "reason": "confidence below 0.6"}
    assert [told[0], told[1], told[3], told[4]] == [PREDICTIONS[i] for i in (0, 1, 3, 4)]
    assert PREDICTIONS[2]["prediction"] == "b"


def test_without_a_threshold_all_rows_are_answered():
    assert abstain(PREDICTIONS, None) == PREDICTIONS
    assert abstention_figures(PREDICTIONS, None) == {}


def test_figures_of_a_threshold_count_all_rows_and_judge_the_labelled():
    figures = abstention_figures(PREDICTIONS, 0.7)
    assert (figures["abstain_below"], figures["abstained"]) == (0.7, 2)
    answered = figures["answered"]
    assert (answered["answered"], answered["coverage"], answered["accuracy"]) == (1, 0.5, 1.0)
    assert "answered" not in abstention_figures(PREDICTIONS[2:], 0.7)


# ------------------------------------------------------------------------------- picture


@hypothesis.settings(max_examples=8)
@given(ROWS, st.floats(0.01, 1))
def test_any_curve_is_drawn(tmp_path_factory, rows, threshold):
    curve, *_ = curve_from(rows)
    path = tmp_path_factory.mktemp("curve") / "coverage.png"
    draw_coverage(path, curve, curve.answered_at(threshold))
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width > 400 and image.height > 400
