"""The data report in words."""

import numpy as np
from checked_rows import ONE_FILE, report_of

from smallgpt.checks.report_words import describe_baselines, describe_report
from smallgpt.rows.reading import dataset_from_records
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.vocabulary import Vocabulary


def planted(rows=200):
    """Rows in which one token gives one of two labels away."""
    vocabulary = Vocabulary(["<PAD>", "<CLS>", "<EOS>", *"ABCDX", "<CLS_0>", "<CLS_1>"])
    random = np.random.default_rng(0)
    records = [
        {"tokens": [*random.choice(list("ABCD"), 8), *"X" * (i % 2)], "label": i % 2}
        for i in range(rows)
    ]
    return dataset_from_records(records, vocabulary, max_length=64)


def test_leak_is_told_with_its_evidence_and_remedy():
    report = report_of(*split_dataset(planted(), 0.2, 1), ONE_FILE)
    (leak,) = report["leaks"]
    assert (leak["kind"], leak["tokens"], leak["label"]) == ("token_gives_label", ["X"], "1")
    assert report["leaks_search"]["thresholds"]["p_value"] == 0.001
    told = describe_report(report)
    assert "warning: leak: token_gives_label: 100.0% of the 100 rows with the token X" in told
    assert leak["examples"][0] in told and leak["remedy"] in told


def test_sample_that_the_rest_of_a_row_is_asked_of_is_told(monkeypatch):
    vocabulary = Vocabulary(["<PAD>", "<CLS>", "<EOS>", *"AB", "<CLS_0>", "<CLS_1>"])
    random = np.random.default_rng(0)
    records = [
        {"tokens": ["AB"[i % 2], *random.choice(list("AB"), 7)], "label": i % 2} for i in range(200)
    ]
    sides = split_dataset(dataset_from_records(records, vocabulary, max_length=64), 0.2, 1)
    assert "asked of" not in describe_report(report_of(*sides, ONE_FILE))
    monkeypatch.setattr("smallgpt.checks.leaks_by_place._MOST_SCORES", 2 * 150)
    report = report_of(*sides, ONE_FILE)
    assert [leak["kind"] for leak in report["leaks"]] == ["position_gives_label"]
    told = "what the rest of a row tells was asked of 150 of these rows"
    assert told in describe_report(report).splitlines()


def test_summary_names_the_rarest_and_the_most_frequent_label(make):
    report = report_of(make("A B:1", "A C:1", "A D:0", "B B:"), make("C D:1"))
    assert "labels: 2, from 1 training row (0) to 2 (1)" in describe_report(report)
    assert "1 row without a label" in describe_report(report)


def test_baselines_are_told_as_a_table_and_samples_below(make, monkeypatch):
    monkeypatch.setattr("smallgpt.checks.baselines._NEIGHBOUR_ROWS", 3)
    train = make("A B:1", "A C:1", "A D:0", "B B:0", "B C:1", "B D:0")
    report = report_of(train, make("C A:1", "C B:0"))
    assert report["baselines"]["majority_class_accuracy"] == 0.5
    assert report["baselines"].keys() == report["baselines_note"].keys()
    told = describe_baselines(report)
    assert "majority class accuracy" in told and "0.5" in told
    assert "nearest neighbour accuracy: fitted on 3 of 6 rows, measured on 2" in told


def test_body_of_very_many_labels_is_one_short_line():
    labels = [str(number) for number in range(200)]
    vocabulary = Vocabulary(
        ["<PAD>", "<CLS>", "<EOS>", "A", "B", *[f"<CLS_{x}>" for x in labels], f"<CLS_{'y' * 900}>"]
    )
    records = [{"tokens": "A B", "label": x} for x in vocabulary.labels]
    rows = dataset_from_records(records, vocabulary, max_length=8)
    report = report_of(rows.subset(slice(None, None, -1)), rows.subset(slice(0, 1)))
    assert report["conflicting_labels"] == 1
    assert [len(rows) for rows in report["conflicting_labels_shown"]] == [10]
    assert max(map(len, describe_report(report).splitlines())) < 250


def test_data_of_a_clean_split_gives_no_warning(make):
    report = report_of(make("A B:1", "C D:0"), make("B B:1"), ONE_FILE)
    assert (report["conflicting_labels"], report["leaks"]) == (0, [])
    assert report["duplicates"] == {"within": 0, "across": 0}
    assert "warning" not in describe_report(report)
    assert "stood before" not in describe_report(report)


def test_lengths_are_told_where_rows_differ(make):
    rows = make(*["A B C:1", "A B D:0"] * 5, "A B " * 20 + ":1")
    told = describe_report(report_of(rows, make("B C A:1"))).splitlines()
    assert told[0].startswith("data: 11 training and 1 validation rows of 6 to 43 tokens")
    assert told[1] == ("row lengths in tokens: median 6, 90 % up to 6, 99 % up to 43, longest 43")
    same = describe_report(report_of(make("A B:1", "C D:0"), make("B B:1")))
    assert "row lengths" not in same
