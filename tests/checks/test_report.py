"""The data report on rows small enough to count by hand."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from checked_rows import ONE_FILE, TWO_FILES, report_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from plain_settings import plain_settings

from smallgpt.checks.pictures import draw_data_report
from smallgpt.checks.report import _token_counts, report_data
from smallgpt.checks.report_words import describe_baselines, describe_errors, describe_report
from smallgpt.errors import UserError
from smallgpt.rows.reading import dataset_from_records, read_dataset
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.vocabulary import Vocabulary


def test_rows_tokens_labels_and_lengths_are_counted(make):
    report = report_of(make("A B:1", "A C D:1", "B A:0", "D D:"), make("C C:cat", "A B C D:"))
    assert (report["rows"], report["unlabelled"]) == (6, 2)
    assert report["labels"] == {"0": 1, "1": 2, "cat": 1}
    # Tokens that have something before them, the completed tails included.
    assert report["splits"] == {
        "train": {
            "rows": 4,
            "tokens": 4 + 5 + 4 + 1,
            "labels": {"0": 1, "1": 2, "cat": 0},
            "unlabelled": 1,
        },
        "validation": {
            "rows": 2,
            "tokens": 4 + 3,
            "labels": {"0": 0, "1": 0, "cat": 1},
            "unlabelled": 1,
        },
    }
    lengths = report["lengths"]
    assert (lengths["shortest"], lengths["median"], lengths["longest"]) == (2, 5.0, 6)
    assert lengths["mean"] == pytest.approx((5 + 6 + 5 + 2 + 5 + 4) / 6)
    assert lengths["histogram"] == {"edges": [2, 3, 4, 5, 6, 7], "counts": [1, 0, 1, 3, 1]}
    assert (lengths["p90"], lengths["p99"]) == (6, 6)


@hypothesis_settings(max_examples=40)
@given(st.lists(st.integers(2, 30) | st.integers(2, 300), min_size=1, max_size=40))
def test_histogram_holds_every_row_once(vocabulary, lengths):
    rows = dataset_from_records(
        [{"input_ids": [6] * length} for length in lengths], vocabulary, max_length=512
    )
    histogram = report_of(rows, rows.subset(slice(0, 0)))["lengths"]["histogram"]
    edges, counts = histogram["edges"], histogram["counts"]
    assert len(edges) == len(counts) + 1 <= 42
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        assert count == sum(low <= length < high for length in lengths)
    assert sum(counts) == len(lengths)


def test_use_of_the_vocabulary_is_counted(make):
    words = report_of(make("A A A B:", "C A:"), make("B A:"))["vocabulary"]
    # A 5 times, B twice, C once; the other ten of thirteen never.
    assert (words["size"], words["never_used"], words["used_once"]) == (13, 10, 1)
    assert (words["most_frequent"], words["most_frequent_share"]) == ("A", 5 / 8)
    assert (words["ranks"], words["counts_of_ranks"]) == ([1, 2, 3], [5, 2, 1])


def test_padding_is_no_use_of_pad(make):
    report = report_of(make("A B:", "A B C D A B C D:"), make("A B:"))
    assert report["vocabulary"]["never_used"] == 9


# ------------------------------------------------------------------------------- reading


def test_what_reading_changed_is_summed_over_two_files_and_counted_once_for_one(make):
    whole = make("A B:1", "A C D A:1", "A D <CLS> <CLS> <EOS>:0", "B B <PAD>:", max_length=6)
    halves = whole.subset(np.array([0, 1])), whole.subset(np.array([2, 3]))
    report = report_of(*halves, ONE_FILE)
    counted = {
        "cut": 1, "cut_tokens": 1, "repaired": 1, "completed": 2,
        "unknown_tokens": 0, "padding_dropped": 1, "skipped": 0,
    }  # fmt: skip
    assert {name: report[name] for name in counted} == counted
    report = report_of(whole, make("A B C D:1", "C D:1", max_length=6))
    assert (report["rows"], report["completed"], report["cut"]) == (6, 4, 2)


def test_bad_rows_of_both_files_are_listed(vocabulary, write_rows, tmp_path, monkeypatch):
    good = {"tokens": "A B", "label": "1"}
    paths = [
        write_rows(good, {"tokens": "A x"}, name="a.jsonl"),
        write_rows(good, good, *[{"tokens": "x"}] * 120, name="b.jsonl"),
    ]
    sides = [read_dataset(path, vocabulary, max_length=8, on_bad_row="keep") for path in paths]
    settings = plain_settings(data_path=str(paths[0]), val_data_path=str(paths[1]))
    report = report_data(*sides, settings, None)
    assert report["errors"]["count"] == 121
    assert (len(report["errors"]["shown"]), report["errors"]["left_out"]) == (121, 0)
    reason = "token 'x' is not in the vocabulary"
    assert report["errors"]["shown"][:2] == [
        {"file": str(paths[0]), "line": 2, "reason": reason},
        {"file": str(paths[1]), "line": 3, "reason": reason},
    ]
    told = describe_errors(report, 2, tmp_path / "report.json").splitlines()
    assert told[0].startswith("121 bad rows: ")
    assert "--on_bad_row skip" in told[0] and "--unknown_token unk" in told[0]
    assert told[1] == f"{paths[0]}:2: {reason}"
    assert told[3] == f"... and 119 more; all are listed in {tmp_path / 'report.json'}"
    assert "with an --output_dir without a run all are" in describe_errors(report, 2, None)
    monkeypatch.setattr("smallgpt.checks.report.MOST_ERRORS_LISTED", 100)
    report = report_data(*sides, settings, None)
    assert (len(report["errors"]["shown"]), report["errors"]["left_out"]) == (100, 21)
    assert "the first 100 are listed in" in describe_errors(report, 2, tmp_path / "report.json")


# ------------------------------------------------------------------------------- duplicates


def test_duplicates_are_counted_within_and_across_two_files(make):
    train = make("A B:1", "A B:1", "A B <CLS> <CLS> <EOS>:1", "C D:0", "C C:0", "C C:0")
    validation = make("C D:0", "C D:", "D D:1", "D D <EOS>:")
    report = report_of(train, validation)
    assert report["duplicates"] == {"within": 3 + 2 + 1, "across": 2}
    assert [leak["kind"] for leak in report["leaks"]] == ["duplicate_across"]
    assert "warning: leak: duplicate_across: 2 of 4 validation rows" in describe_report(report)


def test_first_lines_of_what_stands_on_both_sides_are_told(make):
    bodies = [" ".join("ABCD"[(i >> k) % 4] for k in (0, 2, 4)) + ":1" for i in range(30)]
    (leak,) = report_of(make(*bodies, *bodies), make(*bodies[::-1]))["leaks"]
    lines = zip(range(1, 6), range(30, 25, -1), strict=True)
    assert leak["examples"] == [f"held_out.jsonl:{a} and rows.jsonl:{b}" for a, b in lines]


def test_across_in_one_file_is_what_a_plain_split_would_let_pass(make):
    different = [" ".join("ABCD"[(i >> k) % 4] for k in (0, 2, 4)) + ":1" for i in range(60)]
    rows = make(*different, *["A A A A:0"] * 40)
    report = report_of(
        *split_dataset(rows, 0.25, 7), plain_settings(validation_fraction=0.25, seed=7)
    )
    # The forty are one group and a class of its own, so that they can only be learned.
    assert report["splits"]["validation"]["labels"]["0"] == 0
    assert report["duplicates"] == {"within": 39, "across": 10}
    assert report["leaks"] == []
    assert "or 10 validation rows would stand among" in describe_report(report)


def test_rows_that_differ_in_what_was_cut_away_are_duplicates(make):
    train = make("A A A B C D:1", "B B A B C D:1", max_length=8)
    assert report_of(train, make("D D:1"))["duplicates"]["within"] == 0
    train = make("A B C D A B:1", "D B C D A B:1", max_length=8)
    assert report_of(train, make("D D:1"))["duplicates"]["within"] == 1


def test_bodies_with_more_than_one_label_are_conflicts(make):
    train = make("A B:1", "A B:0", "A B:cat", "C D:1", "C D:1", "D D:0", "D D:")
    report = report_of(train, make("B B:1", "C D:0"))
    assert report["conflicting_labels"] == 2
    assert report["conflicting_labels_shown"] == [
        [
            {"row": "rows.jsonl:1", "label": "1"},
            {"row": "rows.jsonl:2", "label": "0"},
            {"row": "rows.jsonl:3", "label": "cat"},
        ],
        [{"row": "rows.jsonl:4", "label": "1"}, {"row": "held_out.jsonl:2", "label": "0"}],
    ]
    told = describe_report(report)
    assert "2 bodies with more than one label, the first: rows.jsonl:1 has 1" in told


# ------------------------------------------------------------------------------- any rows


@pytest.mark.parametrize("texts", [["A B:1", "C D:0"], ["A B:", "C D:"], ["A B:", "C D:1"]])
def test_report_can_be_written_as_json(make, texts):
    report = report_of(make(*texts), make(texts[-1]))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert describe_report(report).startswith("data: 2 training and 1 validation rows")


def test_report_of_no_rows_at_all_can_be_made_told_and_drawn(make, tmp_path):
    none = make("A B:1").subset(slice(0, 0))
    report = report_of(none, none, ONE_FILE)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["rows"], report["leaks"], report["baselines"]) == (0, [], {})
    assert describe_report(report).startswith("data: 0 training and 0 validation rows")
    assert describe_baselines(report) == ""
    draw_data_report(tmp_path / "none.png", report)
    assert (tmp_path / "none.png").exists()


def shuffled(rows, seed):
    return rows.subset(np.random.default_rng(seed).permutation(len(rows)))


@pytest.mark.parametrize("one_length", [False, True])
def test_figures_are_the_same_in_whatever_order_the_rows_stand(monkeypatch, one_length):
    for module, most in (
        ("smallgpt.checks.baselines._MOST_ROWS", 150),
        ("smallgpt.checks.baselines._NEIGHBOUR_ROWS", 100),
        ("smallgpt.checks.baselines._ASKED_ROWS", 30),
        ("smallgpt.checks.leak_state.MOST_ROWS", 380),
    ):
        monkeypatch.setattr(module, most)
    vocabulary = Vocabulary(
        ["<PAD>", "<CLS>", "<EOS>", *"ABCDEFX", *[f"<CLS_{number}>" for number in range(3)]]
    )
    random = np.random.default_rng(1)

    def side(rows):
        records = []
        for number in range(rows):
            label = number % 4  # every fourth has none
            body = random.choice(list("ABCDEF")[label : label + 3], 6 + one_length * 2).tolist()
            if not one_length:
                body += ["A"] * random.integers(4)
            if label == 1 and random.random() < 0.7:
                body[2] = "X"
            records.append({"tokens": body, "label": label if label < 3 else None})
        return dataset_from_records(records, vocabulary, max_length=32)

    def figures(train, validation):
        report = report_of(train, validation)
        del report["conflicting_labels_shown"]
        for leak in report["leaks"]:
            del leak["examples"]
        return report

    sides = side(500), side(160)
    expected = figures(*sides)
    assert expected["leaks"]
    assert "of 375 rows" in expected["baselines_note"]["naive_bayes_accuracy"]
    for seed in range(3):
        assert figures(shuffled(sides[0], seed), shuffled(sides[1], seed + 9)) == expected


@hypothesis_settings(max_examples=12)
@given(data=st.data())
def test_report_of_any_rows_can_be_made_and_told(vocabulary, data):
    body = st.lists(
        st.sampled_from(["A", "B", "C", "D", "<UNK>", "<IMG>", "</IMG>"]), min_size=1, max_size=5
    )
    label = st.sampled_from([None, "0", "1", "cat"])
    records = st.lists(st.tuples(body, label), max_size=12)
    sides = []
    for _ in range(2):
        drawn = [
            {"tokens": tokens if label else [*tokens, "<EOS>"], "label": label}
            for tokens, label in data.draw(records)
        ]
        rows = dataset_from_records(
            drawn or [{"tokens": "A B"}], vocabulary, max_length=data.draw(st.integers(5, 8))
        )
        sides.append(rows if drawn else rows.subset(slice(0, 0)))
    settings = data.draw(st.sampled_from([ONE_FILE, TWO_FILES]))
    report = report_of(*sides, settings)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert describe_report(report).startswith("data: ")
    assert set(report["baselines"]) <= set(report["baselines_note"])
    describe_baselines(report)


def test_too_little_memory_is_told_without_advice_for_training(make, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr("smallgpt.checks.report.find_leaks", no_memory)
    with pytest.raises(UserError, match="the data report of 2 rows needs more") as told:
        report_of(make("A B:1"), make("C D:0"))
    assert "batch_size" not in str(told.value)


def test_tokens_of_very_long_rows_are_counted_a_few_rows_at_once(vocabulary):
    row = dataset_from_records([{"input_ids": [6] * 16_000}], vocabulary, max_length=16_000)
    rows = row.subset(np.zeros(2_000, int))
    tracemalloc.start()
    counts_V = _token_counts(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counts_V[6] == 32_000_000
    assert peak < 200e6  # all at once: 700 MB


def test_rows_beyond_one_counting_round_are_counted(make, vocabulary, monkeypatch):
    monkeypatch.setattr("smallgpt.checks.report._TOKENS_AT_ONCE", 20_000)
    records = [{"input_ids": [6, 7]}] * 10_050
    many = dataset_from_records(records, vocabulary, max_length=8)
    report = report_of(many, make("A B:"))
    assert report["vocabulary"]["most_frequent_share"] == 0.5
    assert report["duplicates"] == {"within": 10_050, "across": 1}


# ------------------------------------------------------------------------------- scale


def seconds_of_forward(vocabulary: Vocabulary, rows: int, length: int) -> float:
    """CPU seconds that the default model, its head aside, would take to read so many rows."""
    import torch

    from smallgpt.model.build import build_model
    from smallgpt.model.forward import Forward
    from smallgpt.model.hardware import choose_device, choose_precision

    settings = plain_settings(data_path="rows.jsonl")
    device = choose_device("cpu")
    model = build_model(settings, vocabulary).eval()
    precision = choose_precision("auto", device)
    lengths = torch.full((32,), length)
    ids = torch.randint(len(vocabulary), (32 * length,))
    with torch.inference_mode():
        forward = Forward(model, precision)
        forward(ids, lengths)
        began = time.process_time()
        for _ in range(5):
            forward(ids, lengths)
    return (time.process_time() - began) / 5 / 32 * rows


@pytest.mark.long
@pytest.mark.parametrize("learnable", [False, True])
def test_ten_thousand_labels_and_a_hundred_thousand_rows_take_4_gb_and_less_than_a_forward_pass(
    tmp_path, learnable
):
    """--check_data on rows of 50 tokens out of 2,000, with and without signs of the label."""
    labels, rows, length, words = 10_000, 100_000, 50, 2_000
    vocabulary = Vocabulary(
        ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *[f"w{number}" for number in range(words)]]
        + [f"<CLS_label_{number}>" for number in range(labels)]
    )
    random = np.random.default_rng(0)
    classes_N = random.integers(labels, size=rows)
    ids_NxT = random.integers(words, size=(rows, length))
    if learnable:
        ids_NxT[:, ::10] = random.integers(words, size=(labels, 5))[classes_N]
    path = tmp_path / "rows.jsonl"
    names = np.array([f"w{number}" for number in range(words)])
    with path.open("w") as handle:
        for of_class, row in zip(classes_N, names[ids_NxT].tolist(), strict=True):
            handle.write(f'{{"tokens": "{" ".join(row)}", "label": "label_{of_class}"}}\n')
    (tmp_path / "vocab.json").write_text(vocabulary.to_json())
    program = Path(__file__).parents[2] / "train_gpt.py"
    files = "--data_path", path, "--vocab_path", tmp_path / "vocab.json"
    process = subprocess.Popen(
        [sys.executable, program, "--check_data", *files, "--output_dir", tmp_path / "run"],
        stdout=subprocess.PIPE,
        text=True,
    )
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, told
    assert usage.ru_maxrss * 1024 < 4e9
    assert max(map(len, told.splitlines())) < 250
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert (report["rows"], len(report["labels"]), report["leaks"]) == (rows, labels, [])
    assert report["baselines_note"]["linear_ngram_accuracy"].startswith("left out")
    assert (report["baselines"]["naive_bayes_accuracy"] > 0.03) == learnable
    # Reading, splitting and drawing included.
    assert usage.ru_utime + usage.ru_stime < seconds_of_forward(vocabulary, rows, length + 3) / 4
