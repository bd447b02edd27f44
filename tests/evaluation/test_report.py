"""The report for a person, and the pictures."""

import re
from itertools import pairwise

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smallgpt.console import text_width
from smallgpt.evaluation.abstention import CoverageCurve
from smallgpt.evaluation.folder import PICTURES
from smallgpt.evaluation.label_probabilities import LabelProbabilities
from smallgpt.evaluation.metrics import confusion_cells, label_figures, language_figures
from smallgpt.evaluation.pictures import _confusion_figure, _most_confused, draw_evaluation
from smallgpt.evaluation.report import _validation_table, describe_figures, describe_validation
from smallgpt.evaluation.statistics import exact_interval
from smallgpt.tokens.pictures import draw_image_sheet

VALIDATION = {
    "rows": 80,
    "perplexity": 4.0,
    "accuracy": 0.6,
    "accuracy_interval": [0.49, 0.7],
    "chance_accuracy": 0.5,
    "above_chance": True,
    "not_above_chance": [],
    "too_few_rows": [],
    "calibration": {"temperature": 1.5, "rows": 80, "raw_ece": 0.2, "ece": 0.1},
    "baselines": {"majority_class_accuracy": 0.3, "unigram_perplexity": 9.0},
}


def figures_of(true, told, names, validation=VALIDATION, **more) -> dict:
    """Figures of rows told so with confidence 0.8, ten tokens each."""
    shares = np.full((len(told), len(names)), 0.2 / (len(names) - 1))
    shares[np.arange(len(told)), told] = 0.8
    count, temperature = len(true), 1.5 if validation else 1.0
    answers = LabelProbabilities.of(np.log(shares), temperature).answers(temperature)
    return {
        "data": "rows.jsonl",
        "device": "cpu",
        "engine": "onnx",
        "precision": "int8",
        "records": count,
        "unscored": 0,
        "rows_cut": 0,
        "tokens_left_out": 0,
        "unknown_tokens": 0,
        "unknown_names": {},
        "learned_unknown": True,
        "learned_rows": 0,
        "learned_from": "train.jsonl",
        "unlabelled": 0,
        "tokens": 10 * count,
        **language_figures(np.full(count, 5.0), np.full(count, 10), np.full(count, 8)),
        "body_perplexity": 1.2,
        "label_perplexity": 2.5,
        **label_figures(np.array(true), answers, names, temperature),
        "validation": validation,
        **more,
    }


def predictions_like(true, told, names) -> list[dict]:
    """The same rows, as far as pictures look at them."""
    return [
        {"label": names[label], "prediction": names[answer], "confidence": 0.8}
        for label, answer in zip(true, told, strict=True)
    ]


HALF_RIGHT = ([0] * 20 + [1] * 20, [0] * 15 + [1] * 5 + [1] * 20)


def test_report_names_what_a_person_asks_for():
    text = describe_figures(figures_of(*HALF_RIGHT, ["cat", "dog"]), blocks=True)
    assert "40 rows (40 labelled), 400 predicted tokens\n" in text
    assert text.splitlines()[1] == "device: cpu; engine: onnx; precision: int8"
    assert "accuracy           87.5 %  95 % interval" in text
    assert "chance             50.0 %" in text
    assert "cat    ███████████████░░░░░   0.750" in text
    assert "cat read as dog: 5 rows" in text
    assert "of the body              1.200" in text and "of the label             2.500" in text
    assert "not on this file" in text and "majority class  30.0 %" in text
    assert "!!!" not in text and "guesses" not in text


def figures_by_confidence(right, answered_at=None) -> dict:
    """Figures of rows of two labels whose confidence falls from 0.99 to 0.51."""
    confidence = np.linspace(0.99, 0.51, len(right))
    true, told = np.zeros(len(right), int), np.where(right, 0, 1)
    of_cat = np.where(right, confidence, 1 - confidence)
    answers = LabelProbabilities.of(np.log(np.stack([of_cat, 1 - of_cat], axis=1))).answers(1.0)
    figures = {
        **figures_of(true, told, ["cat", "dog"], None),
        **label_figures(true, answers, ["cat", "dog"]),
    }
    if answered_at is not None:
        curve = CoverageCurve.of(answers.confidence_N, np.array(right))
        figures |= {"abstain_below": answered_at, "abstained": 3}
        figures["answered"] = curve.answered_at(answered_at)
    return figures


def test_report_says_how_good_the_answers_are_above_a_confidence():
    # Of 40 rows the 35th and the last are wrong.
    right = [place not in (34, 39) for place in range(40)]
    lines = describe_figures(figures_by_confidence(right), blocks=False).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("rows answered"))
    assert lines[start].split("  ")[-1] == "--abstain_below"
    # 38 and 36 of 40; the 32 of 80 % are all right, so 50 % say nothing more.
    confidence = np.linspace(0.99, 0.51, 40)
    for line, answered in zip(lines[start + 1 : start + 4], (38, 36, 32), strict=True):
        cells = line.replace(" %", "").replace("..", "").split()
        wrong = int(answered > 34)
        low, high = exact_interval(answered - wrong, answered)
        assert [float(cell) for cell in cells[:-1]] == pytest.approx(
            [100 * answered / 40, 100 * (1 - wrong / answered), 100 * low, 100 * high], abs=0.051
        )
        assert (confidence >= float(cells[-1])).sum() == answered
    assert lines[start + 4] == ""


def test_report_of_rows_all_told_right_has_nothing_to_answer_less_for():
    text = describe_figures(figures_by_confidence([True] * 40), blocks=False)
    assert "rows answered" not in text and "not one mistake" in text


def test_report_tells_the_accuracy_of_answered_rows_beside_that_of_all():
    right = [place not in (34, 39) for place in range(40)]
    text = describe_figures(figures_by_confidence(right, answered_at=0.6), blocks=False)
    assert "\nno answer to 3 of 40 rows: confidence below 0.6\n" in text
    assert re.search(r"\naccuracy +95.0 %  95 % interval", text)
    assert re.search(
        r"\n  of answered rows +100.0 %  .+, 32 of 40 rows answered \(80.0 %\)\n", text
    )


def test_report_can_do_without_block_characters():
    text = describe_figures(figures_of(*HALF_RIGHT, ["cat", "dog"]), blocks=False)
    assert text.isascii() and "###############....." in text


def test_labels_at_chance_come_before_all_figures():
    figures = figures_of([0, 1] * 20, [0] * 20 + [1] * 20, ["cat", "dog"])
    text = describe_figures(figures, blocks=True)
    assert text.index("!!! THE LABELS ARE NOT CLEARLY BETTER THAN GUESSES") < text.index(
        "accuracy  "
    )
    assert (
        "guessing gets 50.0 %" in text
        and "labels not clearly better than guesses: cat, dog" in text
    )


def test_the_kind_of_an_interval_is_named_once():
    text = describe_figures(figures_of(*HALF_RIGHT, ["cat", "dog"]), blocks=True)
    low, high = exact_interval(35, 40)
    interval = f"{100 * low:.1f} .. {100 * high:.1f} %"
    assert f"95 % interval {interval} (exact, Clopper-Pearson)\n" in text
    assert text.count("Clopper-Pearson") == 1
    told = describe_validation({**VALIDATION, "labelled_records": 80})
    assert told.splitlines()[0].endswith("; 95 % interval: exact, Clopper-Pearson")


def test_interval_beside_the_verdict_is_the_one_that_decides():
    # Wilson's interval of 27 in 40 begins at 52.0 %, above the 51 % of guessing.
    validation = {
        **VALIDATION,
        "labelled_records": 40,
        "accuracy": 27 / 40,
        "accuracy_interval": [0.520, 0.799],
        "chance_accuracy": 0.51,
        "above_chance": False,
    }
    told = describe_validation(validation)
    assert "GUESSES: accuracy 67.5 % (50.9 .. 81.4 %), guessing gets 51.0 %" in told
    assert "52.0" not in told


@hypothesis.settings(max_examples=40)
@given(st.lists(st.integers(0, 40), min_size=4, max_size=4), st.sampled_from([1, 25]))
def test_verdict_and_shown_interval_never_contradict(counts, times):
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    true, told = np.repeat(pairs, np.array(counts) * times, axis=0).reshape(-1, 2).T
    hypothesis.assume(len(set(true.tolist())) == 2)
    text = describe_figures(figures_of(true, told, ["cat", "dog"]), blocks=False)
    shown = re.search(r"\naccuracy +\S+ %  95 % interval (\S+) \.\. (\S+) %", text)
    low, high = map(float, shown.groups())
    chance = float(re.search(r"\nchance +(\S+) %", text)[1])
    verdict = re.search(r"!!! THE LABELS ARE (.+) GUESSES: .+ \((\S+) \.\. (\S+) %\)", text)
    if verdict is None:
        assert low >= chance
        return
    assert (float(verdict[2]), float(verdict[3])) == (low, high)
    assert low <= chance <= high if verdict[1] == "NOT CLEARLY BETTER THAN" else high <= chance


def test_labels_told_worse_than_by_guessing_are_called_so():
    figures = figures_of([0] * 20 + [1] * 20, [1] * 19 + [0] * 20 + [1], ["cat", "dog"])
    text = describe_figures(figures, blocks=False)
    assert "!!! THE LABELS ARE WORSE THAN GUESSES" in text


def test_rows_of_one_label_are_not_called_chance():
    text = describe_figures(figures_of([0] * 9, [0] * 9, ["cat", "dog"]), blocks=True)
    assert (
        "all labelled rows have one label" in text
        and "!!!" not in text
        and "not one mistake" in text
    )


def test_label_without_rows_or_never_told_has_no_share():
    figures = figures_of([0] * 9 + [1], [0] * 9 + [2], ["cat", "dog", "owl"])
    lines = describe_figures(figures, blocks=False).splitlines()
    assert any(line.split() == ["dog", "." * 20, "0.000", "-", "0.000", "1"] for line in lines)
    assert any(line.split() == ["owl", "-", "0.000", "0.000", "0"] for line in lines)


def test_kinds_of_rows_are_counted_apart():
    figures = figures_of(*HALF_RIGHT, ["cat", "dog"], records=47, unscored=2, unlabelled=5)
    text = describe_figures(figures, blocks=True)
    assert "47 rows (40 labelled, 5 without a label, 2 could not be scored)" in text


def test_of_many_labels_the_worst_are_shown():
    names = [f"label{number}" for number in range(40)]
    true = np.repeat(np.arange(40), 5)
    told = np.where(true < 3, 39, true)
    text = describe_figures(figures_of(true, told, names), blocks=True)
    table = text[text.index("label  ") : text.index("the 15 labels of lowest recall")]
    assert [line.split()[0] for line in table.splitlines()[1:4]] == names[:3]
    assert len(table.splitlines()) == 16 and "all 40 stand under per_class" in text
    assert "labels not clearly better than guesses: label0, label1, label2" in text


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        (None, "not calibrated: the model folder holds no validation figures"),
        ({"rows": 9, "perplexity": 2.0, "baselines": {}}, "no validation row had a label"),
        (
            {**VALIDATION, "calibration": {"temperature": 1.0, "rows": 9}},
            "not calibrated: only 9 labelled validation rows, fewer than 20",
        ),
    ],
)
def test_report_says_why_confidence_is_not_calibrated(validation, words):
    text = describe_figures(figures_of(*HALF_RIGHT, ["cat", "dog"], validation), blocks=True)
    assert words in text


def test_baseline_as_good_as_the_model_is_told():
    validation = {
        **VALIDATION,
        "labelled_records": 80,
        "baselines": {"nearest_row_accuracy": 0.5, "unigram_perplexity": 3.9},
    }
    text = describe_validation(validation)
    low, high = exact_interval(48, 80)
    assert f"accuracy 60.0 % ({100 * low:.1f} .. {100 * high:.1f} %), chance 50.0 %" in text
    assert "best baseline 50.0 % (nearest row)" in text
    assert "labels: not clearly better than the baseline nearest row" in text
    assert "perplexity: WORSE than the baseline unigram" in text
    enough = {**validation, "calibration": {**VALIDATION["calibration"], "rows": 100}}
    assert "0.200 before and 0.100 after temperature 1.50, no clear" in describe_validation(enough)
    many = {**enough, "accuracy_interval": [0.59, 0.61]}
    assert "0.200 before and 0.100 after temperature 1.50, measured" in describe_validation(many)


@pytest.mark.parametrize(
    ("right", "rows", "baseline", "words"),
    [
        (60, 80, 0.4, "labels: clearly better than the best baseline, naive bayes"),
        (60, 80, 0.7, "labels: not clearly better than the baseline naive bayes"),
        (60, 80, 0.7, "naive bayes, which needs no GPT: 75.0 % against 70.0 %, which may be luck"),
        (22, 27, 24 / 27, "which needs no GPT: 81.5 % against 88.9 %, which may be luck"),
        (60, 80, 0.75, "naive bayes, which needs no GPT: both 75.0 %"),
        (60, 80, 0.99, "labels: WORSE than the baseline naive bayes"),
        (14, 27, 24 / 27, "labels: WORSE than the baseline naive bayes"),
        (22, 27, 24 / 27, "labels: not clearly better than the baseline naive bayes"),
        # Baselines are measured on a sample of many rows, and known less well for that.
        (9_000, 10_000, 0.913, "labels: not clearly better than the baseline naive bayes"),
    ],
)
def test_labels_are_better_worse_or_neither(right, rows, baseline, words):
    validation = {
        **VALIDATION, "rows": rows, "labelled_records": rows, "accuracy": right / rows,
        "baselines": {"naive_bayes_accuracy": baseline, "majority_class_accuracy": 0.3},
    }  # fmt: skip
    assert words in describe_validation(validation)
    assert words in _validation_table(validation)


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ([3.6, 4.4], "perplexity: clearly better than the best baseline, bigram"),
        ([3.2, 5.1], "perplexity: not clearly better than the baseline bigram"),
        (None, "perplexity: clearly better"),
    ],
)
def test_perplexity_is_compared_by_its_interval(interval, words):
    validation = {
        "rows": 9, "perplexity": 4.0, "perplexity_interval": interval,
        "baselines": {"unigram_perplexity": 9.0, "bigram_perplexity": 5.0},
    }  # fmt: skip
    assert words in describe_validation(validation)


def test_two_right_of_two_are_too_few_to_tell():
    text = describe_figures(figures_of([0, 1], [0, 1], ["cat", "dog"]), blocks=False)
    assert (
        "too few labelled rows to tell the labels from guesses: 2 of 2 right, and even with all "
        "right guessing would do as well 1 time in 4"
    ) in text
    assert "!!!" not in text and "not clearly" not in text


def test_calibration_error_of_few_rows_is_not_told():
    few = {
        **VALIDATION,
        "calibration": {"temperature": 0.9, "rows": 27, "raw_ece": 0, "ece": 0.002},
    }
    told = describe_validation(few)
    assert "temperature 0.90, fitted on 27 validation rows; too few rows to tell its error" in told
    assert "0.002" not in told
    few_rows = describe_figures(figures_of(*HALF_RIGHT, ["cat", "dog"]), blocks=False)
    assert "calibration error          too few rows to tell its error (100 are needed)" in few_rows
    true, answers = (column * 3 for column in HALF_RIGHT)
    many = describe_figures(figures_of(true, answers, ["cat", "dog"]), blocks=False)
    assert "before, temperature 1.50" in many


def test_run_without_labels_is_compared_by_perplexity():
    validation = {
        "rows": 9, "perplexity": 2.0, "baselines": {"unigram_perplexity": 9.0}, "chosen_among": 1,
    }  # fmt: skip
    assert describe_validation(validation) == (
        "best model on 9 validation rows: perplexity 2.00, best baseline 9.00 (unigram)\n"
        "perplexity: clearly better than the best baseline, unigram"
    )
    assert _validation_table(validation).splitlines()[1:] == [
        "            perplexity",
        "this model        2.00",
        "unigram           9.00",
        "perplexity: clearly better than the best baseline, unigram",
    ]


@pytest.mark.parametrize("names", [["a", "b"], [f"$a_long_name_{n}" * 5 for n in range(45)]])
def test_pictures_of_few_and_of_many_labels(tmp_path, names):
    random = np.random.default_rng(0)
    true, told = random.integers(0, len(names), (2, 200))
    rows = predictions_like(true, told, names)
    draw_evaluation(tmp_path, figures_of(true, told, names), rows, None)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == set(PICTURES) - {"mistakes.png"}
    for name in drawn:
        with Image.open(tmp_path / name) as image:
            assert image.width > 400 and image.height > 400


def test_pictures_and_report_of_very_many_labels_are_legible_and_short(tmp_path):
    random = np.random.default_rng(0)
    names = [f"a rather long name of a label {number:06,}" for number in range(600)]
    true, told = random.integers(0, 600, (2, 3000))
    told[:2000] = true[:2000]
    told[2000:2100], true[2000:2100] = 7, 11
    figures = figures_of(true, told, names)
    draw_evaluation(tmp_path, figures, predictions_like(true, told, names), None)
    for name in set(PICTURES) - {"mistakes.png"}:
        with Image.open(tmp_path / name) as image:
            assert 400 < image.width < 2400 and 400 < image.height < 2400
    cells = confusion_cells(figures["confusion_matrix"])
    counts_LxL, shown = _most_confused(cells, figures["labels"])
    assert counts_LxL.sum() == 3000 and len(shown) == len(counts_LxL) == 25
    assert counts_LxL[shown.index(names[11]), shown.index(names[7])] >= 100
    text = describe_figures(figures, blocks=True)
    assert len(text.splitlines()) < 60 and max(map(len, text.splitlines())) < 700
    assert f"{names[11]} read as {names[7]}: " in text


@pytest.mark.parametrize("count", [2, 10, 60])
@pytest.mark.parametrize("name", ["{}", "a long name of the label {}", "标签的名字 {}"])
def test_names_beside_a_confusion_matrix_do_not_overlap_and_are_not_cut_off(count, name):
    rows = np.full((count, count), 8_888)
    rows[0, :2] = 88_888
    figure = _confusion_figure(rows.tolist(), [name.format(number) for number in range(count)])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    across, down, counts = (
        [text.get_window_extent() for text in texts]
        for texts in (axes.get_xticklabels(), axes.get_yticklabels(), axes.texts)
    )
    for boxes in (across, down, counts):
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    page = figure.bbox
    assert all(page.x0 < box.x0 and page.y0 < box.y0 for box in across + down)
    assert figure.get_figwidth() < 16 and figure.get_figheight() < 16


ODD_NAMES = [
    "\x1b[31mred\x1b[0m", "\u202eright", "\x9b2J", "zero\u200bwidth", "$x_{$", "好评" * 40, "\x00",
    "line\nend", "\ud800", "e\u0301" * 30, "<b>", "\t", "",
]  # fmt: skip


def test_names_of_labels_never_reach_the_terminal_raw():
    count = len(ODD_NAMES)
    true = np.repeat(np.arange(count), 3)
    figures = figures_of(true, np.roll(true, 1), ODD_NAMES, data="\x1b]0;title\x07.jsonl")
    text = describe_figures(figures, blocks=True)
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"\x1b[31mred\x1b[0m read as" in text and r"\u202eright" in text
    assert text.startswith(r"\x1b]0;title\x07.jsonl: ")
    table = text[text.index("\nlabel  ") + 1 :].splitlines()
    assert len({text_width(line) for line in table[: count + 1]}) == 1


@hypothesis.settings(max_examples=5)
@given(st.data())
def test_odd_rows_and_odd_names_are_told_and_drawn(tmp_path_factory, data):
    names = data.draw(st.lists(st.sampled_from(ODD_NAMES), min_size=1, unique=True))
    rows = data.draw(st.integers(1, 4))
    one_of = st.integers(0, len(names) - 1)
    true, told = (
        np.array(data.draw(st.lists(one_of, min_size=rows, max_size=rows))) for _ in range(2)
    )
    log_probs = np.full((rows, len(names)), data.draw(st.sampled_from([-1.0, -800.0, -np.inf])))
    log_probs[np.arange(rows), told] = 0.0
    figures = {
        **figures_of([0], [0], ["a", "b"]),
        **label_figures(true, LabelProbabilities.of(log_probs).answers(1.0), names),
    }
    assert describe_figures(figures, blocks=False)
    rows = predictions_like(true, told, names)
    draw_evaluation(tmp_path_factory.mktemp("odd"), figures, rows, None)


def test_wide_captions_take_fewer_columns_and_a_short_one_leaves_them(tmp_path):
    images = np.zeros((8, 4, 4, 1))
    widths = {}
    for caption in ("7", "seven read as one, 98 %", "a_name_without_any_end_" * 5 + " read as 1"):
        draw_image_sheet(tmp_path / "sheet.png", images, [caption] * 8, (0, 1), 8, "eight")
        with Image.open(tmp_path / "sheet.png") as image:
            widths[caption] = image.size
    sizes = list(widths.values())
    assert sizes[0][0] < sizes[1][0] and sizes[0][1] < sizes[1][1] < sizes[2][1]
    assert max(width for width, _ in sizes) < 150 * 12.5
