"""The data report on rows small enough to count by hand."""

import json

import numpy as np
import pytest

from data_report import describe_baselines, describe_report, report_data
from dataset import TokenLabelDataset


@pytest.fixture
def make(vocabulary):
    """A dataset of `tokens:label` texts."""

    def make(*texts, max_length=64):
        pairs = [text.split(":") for text in texts]
        records = [{"tokens": tokens, "label": label or None} for tokens, label in pairs]
        return TokenLabelDataset.from_records(records, vocabulary, max_length=max_length)

    return make


def test_rows_tokens_labels_and_lengths_are_counted(make):
    report = report_data(make("A B:1", "A C D:1", "B A:0", "D D:"), make("C C:cat", "A B C D:"))
    assert report["rows"] == {"train": 4, "validation": 2}
    # Tokens that have something before them, the completed tails included.
    assert report["tokens"] == {"train": 4 + 5 + 4 + 1, "validation": 4 + 3}
    assert report["labels"] == {
        "0": {"train": 1, "validation": 0},
        "1": {"train": 2, "validation": 0},
        "cat": {"train": 0, "validation": 1},
    }
    assert report["unlabelled"] == 2
    assert report["lengths"] == {"shortest": 2, "median": 5.0, "longest": 6}


def test_use_of_the_vocabulary_is_counted(make):
    report = report_data(make("A A A B:", "C A:"), make("B A:"))
    # A 5 times, B twice, C once; the other ten of thirteen never.
    assert report["vocabulary"] == {
        "size": 13,
        "never_used": 10,
        "used_once": 1,
        "most_frequent": "A",
        "most_frequent_share": 5 / 8,
    }


def test_padding_is_no_use_of_pad(make):
    report = report_data(make("A B:", "A B C D A B C D:"), make("A B:"))
    assert report["vocabulary"]["never_used"] == 9


def test_duplicates_are_counted_within_and_across(make):
    train = make("A B:1", "A B:1", "A B <CLS> <CLS> <EOS>:1", "C D:0", "C C:0", "C C:0")
    validation = make("C D:0", "C D:", "D D:1", "D D <EOS>:")
    report = report_data(train, validation)
    assert report["duplicates"] == {"within_train": 3, "within_validation": 2, "across": 2}
    assert "2 validation rows stand among the training rows" in describe_report(report)


def test_rows_that_differ_in_what_was_cut_away_are_duplicates(make):
    train = make("A A A B C D:1", "B B A B C D:1", max_length=8)
    assert report_data(train, make("D D:1"))["duplicates"]["within_train"] == 0
    train = make("A B C D A B:1", "D B C D A B:1", max_length=8)
    assert report_data(train, make("D D:1"))["duplicates"]["within_train"] == 1


def test_bodies_with_more_than_one_label_are_conflicts(make):
    train = make("A B:1", "A B:0", "A B:cat", "C D:1", "C D:1", "D D:0", "D D:")
    report = report_data(train, make("C D:0", "B B:1"))
    assert report["conflicting_labels"] == 2
    assert "2 bodies with more than one label" in describe_report(report)


def test_data_of_a_clean_split_gives_no_warning(make):
    report = report_data(make("A B:1", "C D:0"), make("B B:1"))
    assert report["conflicting_labels"] == 0
    assert report["duplicates"] == {"within_train": 0, "within_validation": 0, "across": 0}
    assert "warning" not in describe_report(report)
    assert "duplicate" not in describe_report(report)


def test_baselines_by_hand(make, vocabulary):
    train, validation = make("A A B:"), make("A C:")
    # Add-one smoothing over 13 entries: C 1/16. The row's first token is not predicted.
    report = report_data(train, validation)
    assert report["baselines"] == {"unigram_perplexity": pytest.approx(16)}

    train = make("A B:1", "A C:1", "A D:0", "B B:", "B C:", "B D:")
    report = report_data(train, make("C A:1", "C B:0", "C C:0", "C D:1", "D A:1", "D B:"))
    assert report["baselines"]["majority_class_accuracy"] == 3 / 5
    assert "majority class accuracy" in describe_baselines(report)
    assert "0.6" in describe_baselines(report)


def test_reading_is_reported_once_where_both_sides_come_from_one_file(make):
    whole = make("A B:1", "A C:1", "A D <CLS> <CLS> <EOS>:0", "B B:")
    report = report_data(whole.subset(np.array([0, 1])), whole.subset(np.array([2, 3])))
    assert list(report["reading"]) == ["train"]
    reading = report["reading"]["train"]
    assert (reading["rows"], reading["labelled"]) == (4, 3)
    assert (reading["completed"], reading["repaired"]) == (2, 1)
    apart = report_data(make("A B:1"), make("C D:1"))
    assert apart["reading"]["validation"]["rows"] == 1


@pytest.mark.parametrize("texts", [["A B:1", "C D:0"], ["A B:", "C D:"], ["A B:", "C D:1"]])
def test_report_can_be_written_as_json(make, texts):
    report = report_data(make(*texts), make(texts[-1]))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert describe_report(report).startswith("data: 2 training and 1 validation rows")


def test_summary_names_the_rarest_and_the_most_frequent_label(make):
    report = report_data(make("A B:1", "A C:1", "A D:0", "B B:"), make("C D:1"))
    assert "labels: 2, from 1 training rows (0) to 2 (1)" in describe_report(report)
    assert "1 row without a label" in describe_report(report)


def test_rows_beyond_one_counting_round_are_counted(make, vocabulary):
    records = [{"input_ids": [6, 7]}] * 10_050
    many = TokenLabelDataset.from_records(records, vocabulary, max_length=8)
    report = report_data(many, make("A B:"))
    assert report["vocabulary"]["most_frequent_share"] == 0.5
    assert report["duplicates"]["within_train"] == 10_049
