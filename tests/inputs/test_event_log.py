"""A log of events as rows: groups, order, names, labels, other columns, and what is refused."""

import csv
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallgpt.errors import UserError
from smallgpt.inputs.event_log import EventColumns, EventLog
from smallgpt.inputs.event_times import EventTimes
from smallgpt.rows.bad_rows import BadRows, RowError

HEADING = ["s", "e", "at"]


@pytest.fixture
def log_of(tmp_path):
    """A function that reads a CSV file of these lines, and returns its rows, bad events, notes."""

    def read(*lines, heading=HEADING, delimiter=";", **columns):
        path = tmp_path / "log.csv"
        with open(path, "w", newline="") as handle:
            csv.writer(handle, delimiter=delimiter).writerows([heading, *lines])
        return read_file(path, **columns)

    return read


def read_file(path: Path, **columns):
    log, bad = EventLog(EventColumns("s", "e", **{"time": "at", **columns})), BadRows("event")
    log.read(path, bad)
    rows = [row for _, row in log.rows()]
    return rows, [line.removeprefix(f"{path.parent}/") for line in bad.first], log.notes()


def test_interleaved_and_unsorted_groups_are_put_in_order(log_of):
    rows, bad, notes = log_of(
        ("b", "buy", "2024-05-02"),
        ("a", "out", "2024-05-01 10:00:03"),
        ("b", "in", "2024-05-01T23:59:59.5"),
        ("a", "in", "2024-05-01 10:00:00"),
        ("a", "look", "2024-05-01 10:00:03"),  # of one time: as in the file
    )
    assert rows == [{"s": "b", "tokens": "in buy <EOS>"}, {"s": "a", "tokens": "in out look <EOS>"}]
    assert bad == []
    assert notes == ["5 events of 4 kinds in 2 rows, one for each 's', in the order of 'at'"]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(-5, 5)), min_size=1, max_size=30
    ),
    st.sampled_from(["number", "fraction", "date", "zone"]),
)
def test_rows_are_those_of_a_plain_sort(tmp_path_factory, events, kind):
    write = {
        "number": str,
        "fraction": lambda time: str(time + 0.5),
        "date": lambda time: str(datetime(2024, 2, 28) + timedelta(hours=10 * time)),
        # The offset differs from event to event: what counts is the moment.
        "zone": lambda time: (
            (datetime(2024, 2, 28, tzinfo=UTC) + timedelta(hours=10 * time))
            .astimezone(timezone(timedelta(hours=time)))
            .isoformat()
        ),
    }[kind]
    path = tmp_path_factory.getbasetemp() / "sorted.csv"
    lines = [f"s{group},e{name},{write(time)}" for group, name, time in events]
    path.write_text("\n".join([",".join(HEADING), *lines]) + "\n")
    rows, bad, _ = read_file(path)
    expected = {}
    for group, name, _ in sorted(events, key=lambda event: event[2]):  # stable
        expected.setdefault(f"s{group}", []).append(f"e{name}")
    assert bad == []
    assert {row["s"]: row["tokens"].split()[:-1] for row in rows} == expected
    assert [row["s"] for row in rows] == list(dict.fromkeys(f"s{event[0]}" for event in events))


def test_without_a_time_the_order_of_the_file_counts(log_of):
    rows, _, notes = log_of(("a", "x", 3), ("b", "x", 2), ("a", "y", 1), time=None)
    assert [row["tokens"] for row in rows] == ["x y <EOS>", "x <EOS>"]
    assert "in the order of the file" in notes[0]
    assert "left out, since they differ within one 's': at" in notes[1]


def test_objects_of_a_jsonl_file_are_events_as_well(tmp_path):
    path = tmp_path / "log.jsonl"
    events = [
        {"s": 7, "e": "in", "at": 1.5, "n": {"x": [1]}},
        {"s": 8, "e": 404, "at": 0, "label": "odd"},
        {"s": 7, "e": "out", "at": 2, "n": {"x": [1]}},
    ]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    rows, bad, _ = read_file(path)
    assert bad == []
    assert rows == [
        {"s": 7, "tokens": "in out <EOS>", "n": {"x": [1]}},
        {"s": 8, "tokens": "404", "label": "odd"},
    ]


def test_names_with_spaces_are_one_token_and_told_once(log_of):
    rows, _, notes = log_of(
        ("a", "add to cart", 1), ("a", " add  to cart", 2), ("a", "add to cart", 3)
    )
    assert rows[0]["tokens"] == "add_to_cart add_to_cart add_to_cart <EOS>"
    assert "names of 1 event left out or written as _, the first: 'add to cart'" in notes[1]
    assert "1 event spelled with different whitespace read as one" in notes[2]
    with pytest.raises(UserError, match=r"log\.csv:3: the event 'a_b' would become one with 'a b'"):
        log_of(("a", "a b", 1), ("a", "a_b", 2))


def test_a_label_holds_for_its_group_and_may_stand_in_one_of_its_lines(log_of):
    rows, bad, _ = log_of(
        ("a", "x", 1, ""), ("b", "x", 1, "not good"), ("a", "y", 2, "good"), ("c", "z", 1, " "),
        heading=["s", "e", "at", "grade"], label="grade",
    )  # fmt: skip
    assert [row.get("label") for row in rows] == ["good", "not good", None]
    assert [row["tokens"] for row in rows] == ["x y", "x", "z <EOS>"]
    rows, bad, _ = log_of(
        ("a", "x", 1, "good"), ("a", "y", 2, ""), ("a", "z", 2, "bad"),
        heading=["s", "e", "at", "label"],
    )  # fmt: skip
    assert bad[0].startswith("log.csv:4: 's' 'a' has the label 'bad' here and 'good' in ")
    assert bad[0].endswith("log.csv:2")


def test_other_columns_stay_where_they_are_constant_in_each_group(log_of):
    rows, _, notes = log_of(
        ("a", "x", 1, "de", "5"), ("b", "x", 1, "fr", "5"), ("a", "y", 2, "de", "6"),
        heading=["s", "e", "at", "land", "price"],
    )  # fmt: skip
    assert [(row["s"], row["land"]) for row in rows] == [("a", "de"), ("b", "fr")]
    assert all("price" not in row for row in rows)
    assert notes[1] == "kept with each row: land"
    assert notes[2].startswith("left out, since they differ within one 's': price (the first: ")


def test_events_that_cannot_be_used_are_told_with_their_line(log_of):
    rows, bad, _ = log_of(
        ("a", "x", "2024-05-01"), ("", "x", "2024-05-01"), ("a", " ", "2024-05-01"),
        ("a", "x", "17"), ("a", "x", "31.05.2024"), ("a", "<EOS>", "2024-05-01"),
        ("a", "<CLS_x>", "2024-05-01"), ("a", "x", "2024-05-01 10:00:00+02:00"), ("a", "x", ""),
        ("a", "y" * 1001, "2024-05-01"),
    )  # fmt: skip
    assert [row["tokens"] for row in rows] == ["x <EOS>"]
    words = [
        "log.csv:3: no value in 's'",
        "log.csv:4: no event in 'e'",
        "log.csv:5: the time '17' is a number, '2024-05-01' of ",
        "log.csv:6: the time '31.05.2024' is neither a number nor an ISO date",
        "log.csv:7: the event '<EOS>' has the name of a special token",
        "log.csv:8: the event '<CLS_x>' has the name of a special token",
        "log.csv:9: the time '2024-05-01 10:00:00+02:00' is a date with a time zone, ",
        "log.csv:10: the time '' is neither",
        "log.csv:11: event token 'yyy",
    ]
    for line, start in zip(bad, words, strict=True):
        assert line.startswith(start)


def test_a_column_that_rows_need_for_themselves_is_refused(log_of):
    with pytest.raises(UserError, match="the column 'tokens' has a name that rows need"):
        log_of(("a", "x", 1, "5"), heading=["s", "e", "at", "tokens"])


@pytest.mark.parametrize(
    "value", ["nan", "-inf", "1_000", True, None, [1], "10:00:00", "1,5", "9" * 400, 10**400]
)
def test_what_is_no_time_is_refused(value):
    with pytest.raises(RowError, match="neither a number nor an ISO date"):
        EventTimes().check(value, "log:1")


def test_whole_numbers_keep_their_order_to_the_last_digit_and_fractions_may_follow():
    times, nanoseconds = EventTimes(), [1_764_000_000_000_000_001, 1_764_000_000_000_000_000]
    for value in nanoseconds:
        times.add(times.check(str(value), "log:1"))
    assert np.argsort(times.array()).tolist() == [1, 0]
    times = EventTimes()
    for value in (2**70, 3, "2.5"):
        times.add(times.check(value, "log:1"))
    assert np.argsort(times.array()).tolist() == [2, 1, 0]
