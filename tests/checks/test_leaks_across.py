"""Rows and groups that stand on both sides."""

from checked_rows import VOCABULARY

from smallgpt.checks.leaks import find_leaks
from smallgpt.checks.sides import Sides
from smallgpt.rows.reading import read_dataset
from smallgpt.rows.splitting import split_dataset


def two_files(write_rows, train, validation, group_by=None):
    sides = [
        read_dataset(write_rows(*rows, name=name), VOCABULARY, max_length=64, group_by=group_by)
        for rows, name in ((train, "train.jsonl"), (validation, "validation.jsonl"))
    ]
    return find_leaks(Sides(*sides, "train.jsonl", "validation.jsonl"), group_by)[0]


def test_rows_that_stand_in_both_files_are_duplicate_across(write_rows):
    train = [{"tokens": f"w1 w{i}", "label": "red"} for i in range(5)]
    validation = [
        {"tokens": "w9 w3"},
        {"tokens": "w1 w3 <CLS> <CLS_red> <EOS>"},
        {"tokens": "w8 w8"},
    ]
    (leak,) = two_files(write_rows, train, validation)
    assert (leak["kind"], leak["rows"]) == ("duplicate_across", 1)
    assert leak["examples"] == ["validation.jsonl:2 and train.jsonl:4"]
    assert two_files(write_rows, train, [validation[0], validation[2]]) == []


def test_group_in_both_files_is_group_across_by_value_not_by_number(write_rows):
    def rows(*files):
        return [
            {"tokens": f"w{i} w{len(file)} w{i}", "meta": {"filename": file}}
            for i, file in enumerate(files)
        ]

    train = rows("aa", "bbb", "cccc", "bbb")
    found = two_files(write_rows, train, rows("x" * 20, "bbb"), group_by="meta.filename")
    (leak,) = [leak for leak in found if leak["kind"] == "group_across"]
    assert (leak["rows"], leak["groups"]) == (1, ['"bbb"'])
    assert leak["examples"] == ["validation.jsonl:2 and train.jsonl:2"]
    assert "meta.filename" in leak["message"]
    apart = rows("x" * 20, "y" * 21, "z" * 22)
    assert two_files(write_rows, train, apart, group_by="meta.filename") == []


def test_split_of_one_file_has_nothing_across(write_rows):
    rows = [{"tokens": f"w{i % 7} w1", "meta": {"filename": i % 5}} for i in range(80)]
    data = read_dataset(
        write_rows(
            *rows, *[{"tokens": f"w{i} w50", "meta": {"filename": i}} for i in range(9, 40)]
        ),
        VOCABULARY,
        max_length=64,
        group_by="meta.filename",
    )
    assert find_leaks(Sides(*split_dataset(data, 0.3, 0), "a"), "meta.filename")[0] == []
