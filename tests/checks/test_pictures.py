"""The picture of the data report."""

from itertools import pairwise

import pytest
from checked_rows import report_of
from matplotlib.figure import Figure
from PIL import Image

from smallgpt.charts import new_figure
from smallgpt.checks.pictures import (
    _draw_label_counts,
    _draw_lengths,
    _draw_token_ranks,
    draw_data_report,
)
from smallgpt.rows.reading import dataset_from_records
from smallgpt.tokens.vocabulary import Vocabulary


def test_picture_has_a_panel_for_labels_and_one_for_baselines_where_there_are_labels(
    make, tmp_path
):
    heights = {}
    for name, texts in (("with", ["A B:1", "A C:0"]), ("without", ["A B:", "A C:"])):
        report = report_of(make(*texts), make(texts[0]))
        draw_data_report(tmp_path / f"{name}.png", report)
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.convert("L").getextrema()[0] < 100  # something is drawn
            heights[name] = picture.height
    assert heights["with"] > 1.5 * heights["without"]


@pytest.mark.parametrize("count", [2, 10, 200])
@pytest.mark.parametrize("name", ["{}", "the_name_{}", "a_rather_long_name_of_a_label_{}"])
def test_names_of_labels_do_not_overlap(count, name):
    labels = {name.format(1000 + number): 2 for number in range(count)}
    sides = {side: {"labels": dict.fromkeys(labels, 1)} for side in ("train", "validation")}
    figure = new_figure(5.6, 3.7)
    axes = figure.add_subplot()
    _draw_label_counts(axes, {"labels": labels, "splits": sides})
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.get_xticklabels()]
    assert len(boxes) == min(count, 24)
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))


@pytest.mark.parametrize("count", [1, 40, 300])
def test_picture_of_many_long_and_odd_label_names_is_drawn(tmp_path, count):
    labels = [f"a_name_$longer$_than_most_{number}_很长" for number in range(count)]
    vocabulary = Vocabulary(["<PAD>", "<CLS>", "<EOS>", *"AB", *[f"<CLS_{x}>" for x in labels]])
    records = [{"tokens": "A B", "label": label} for label in labels]
    rows = dataset_from_records(records, vocabulary, max_length=8)
    draw_data_report(tmp_path / "many.png", report_of(rows, rows.subset(slice(0, 1))))
    with Image.open(tmp_path / "many.png") as picture:
        assert picture.width < 2500 and picture.height < 2500


def test_tokens_of_a_small_vocabulary_have_a_bar_with_their_name(make):
    axes = Figure().add_subplot()
    _draw_token_ranks(axes, report_of(make("A A B:", "A C:"), make("A B:")))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["A", "B", "C"]
    assert [bar.get_height() for bar in axes.patches] == [4, 2, 1]


def test_lengths_far_beyond_the_others_are_drawn_on_a_scale_that_shows_the_others(vocabulary):
    lengths = [*[3, 4, 5, 6] * 50, 12_000]
    rows = dataset_from_records(
        [{"input_ids": [6] * length} for length in lengths], vocabulary, max_length=20_000
    )
    report = report_of(rows, rows.subset(slice(0, 1)))
    axes = Figure().add_subplot()
    _draw_lengths(axes, report)
    assert axes.get_xscale() == "log"
    drawn = [bar.get_height() for bar in axes.patches if bar.get_height()]
    assert drawn == [51, 50, 50, 50, 1]
    assert "99 % ≤ 6" in [text.get_text() for text in axes.get_legend().get_texts()]
