"""Rows of event logs and of tables with a column of tokens; which tokens are kept as <UNK>."""

import csv
import json

import pytest
from prepared_files import both, mistake, read_rows

from prepare_data import main
from smallgpt.errors import SettingsError
from smallgpt.tokens.vocabulary import Vocabulary

LOG = ("--group_column", "session", "--event_column", "event", "--time_column", "at")


@pytest.fixture
def table(tmp_path):
    """A function that writes lines of cells, the heading first."""

    def write(*lines, name="log.csv", delimiter=";"):
        path = tmp_path / name
        with open(path, "w", newline="") as handle:
            csv.writer(handle, delimiter=delimiter).writerows(lines)
        return path

    return write


def shop_log(sessions=40):
    """Sessions that run beside one another; half of them buy."""
    heading = ["at", "session", "user", "event", "result"]
    names = ["view hats", "search", "add to cart", "filter"]
    events = []
    for number in range(sessions):
        for place in range(3 + number % 5):
            at = f"2024-05-{1 + place:02d} {number % 24:02d}:00:00"
            name = names[(number * (place + 1)) % (3 + number % 2)]
            result = ("bought", "not bought")[number % 2]
            events.append([at, f"s{number}", f"u{number // 2}", name, result])
    return heading, *sorted(events)


def prepare(folder, *argv):
    assert main(["tokens", *map(str, argv), "--output_dir", str(folder)]) == 0
    return both(folder)


def test_a_log_becomes_one_row_a_session_that_carries_its_value(tmp_path, table, capsys):
    path = table(*shop_log())
    log = ("--input", path, *LOG, "--label_column", "result")
    train, test = prepare(tmp_path / "out", *log, "--group_by", "user")
    rows = {row["session"]: row for row in train + test}
    assert len(rows) == len(train) + len(test) == 40
    assert rows["s1"] == {
        "session": "s1",
        "tokens": "search add_to_cart filter view_hats <CLS> <CLS_not_bought> <EOS>",
        "label": "not bought",
        "user": "u0",
    }
    assert not {row["user"] for row in train} & {row["user"] for row in test}
    said = capsys.readouterr().out
    assert "200 events of 4 kinds in 40 rows, one for each 'session', in the order of 'at'" in said
    assert "whitespace in the names of 2 events" in said
    assert "kept with each row: user" in said


def test_a_column_that_looks_like_the_label_is_named_where_no_row_has_one(tmp_path, table, capsys):
    path = table(*shop_log())
    prepare(tmp_path / "out", "--input", path, *LOG)
    said = capsys.readouterr().out
    assert "no labels: if 'result' is the label, add --label_column result" in said
    prepare(tmp_path / "labelled", "--input", path, *LOG, "--label_column", "result")
    assert "no labels" not in capsys.readouterr().out


def test_sessions_of_one_event_without_a_label_can_be_learned_from(tmp_path, table):
    events = [["s", "e"], *([f"s{n}", f"e{n % 5}"] for n in range(30))]
    argv = ("--group_column", "s", "--event_column", "e")
    train, _ = prepare(tmp_path / "out", "--input", table(*events), *argv)
    assert len(train) == 24
    assert {row["tokens"] for row in train} < {f"e{n} <EOS>" for n in range(5)}


def test_a_log_in_two_files_is_one_log(tmp_path, table):
    heading, *events = shop_log()
    whole = prepare(tmp_path / "one", "--input", table(heading, *events), *LOG)
    paths = [
        table(heading, *events[half::2], name=f"{half}.csv", delimiter=",;"[half])
        for half in (0, 1)
    ]
    parts = prepare(tmp_path / "two", "--input", *paths, *LOG)
    tokens_of = [
        {row["session"]: row["tokens"] for side in sides for row in side}
        for sides in (whole, parts)
    ]
    assert tokens_of[0] == tokens_of[1]


def test_bad_events_are_refused_with_their_line_or_skipped_and_counted(tmp_path, table):
    heading, *events = shop_log()
    path = table(heading, *events, ["yesterday", "s1", "u0", "search", ""])
    argv = ("tokens", "--input", path, *LOG, "--output_dir", tmp_path / "out")
    first, remedy = mistake(*argv).splitlines()
    assert first.startswith(f"{path}:202: the time 'yesterday' is neither a number nor an ISO date")
    assert "--on_bad_row skip" in remedy
    prepare(tmp_path / "out", *argv[1:-2], "--on_bad_row", "skip")
    notes = json.loads((tmp_path / "out" / "prepared.json").read_text())["notes"]
    assert any(note.startswith("1 bad event skipped, the first: ") for note in notes)


def test_a_log_whose_every_event_is_bad_is_told_in_one_line(tmp_path, table):
    path = table(*shop_log())
    wrong = ("--group_column", "session", "--event_column", "event", "--time_column", "user")
    text = mistake("tokens", "--input", path, *wrong, "--output_dir", tmp_path / "out")
    assert text.startswith("not one of 200 events can be used, the first: ")
    empty = table(shop_log()[0])
    text = mistake("tokens", "--input", empty, *LOG, "--output_dir", tmp_path / "out")
    assert text == f"{empty}: no events in it"
    text = mistake("tokens", "--input", path, *LOG[:3], "evnt", "--output_dir", tmp_path / "out")
    assert "no column 'evnt'; there is at, session, user, event, result" in text


def test_a_column_of_tokens_is_one_row_a_line(tmp_path, table):
    lines = [[f"id{n}", f"a{n % 4} b{n // 4}", ("yes", "not yet", "")[n % 3]] for n in range(30)]
    path = table(["id", "words", "label"], *lines, name="rows.tsv", delimiter="\t")
    train, test = prepare(tmp_path / "out", "--input", path, "--tokens_column", "words")
    rows = {row["id"]: row for row in train + test}
    assert rows["id1"] == {
        "tokens": "a1 b0 <CLS> <CLS_not_yet> <EOS>",
        "label": "not yet",
        "id": "id1",
    }
    assert rows["id2"] == {"tokens": "a2 b0", "id": "id2"}
    # Objects with the same keys are the same rows.
    keys = ("id", "words", "label")
    objects = tmp_path / "rows.jsonl"
    objects.write_text(
        "".join(json.dumps(dict(zip(keys, line, strict=True))) + "\n" for line in lines)
    )
    again = prepare(tmp_path / "again", "--input", objects, "--tokens_column", "words")
    assert again == (train, test)


def test_a_table_without_a_named_column_is_told_which_flags_there_are(tmp_path, table):
    path = table(*shop_log())
    text = mistake("tokens", "--input", path, "--output_dir", tmp_path / "out")
    assert text.startswith(f"{path}: a table: --tokens_column names the column of its tokens")
    assert "--group_column and --event_column" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--group_column", "s"], "needs both --group_column and --event_column"),
        (["--event_column", "e"], "needs both --group_column and --event_column"),
        ([*LOG, "--tokens_column", "t"], "give one"),
        (["--time_column", "t"], "--time_column needs"),
        (["--label_column", "t"], "--label_column needs"),
    ],
)
def test_columns_that_do_not_go_together_are_refused(flags, words):
    with pytest.raises(SettingsError, match=words):
        main(["tokens", "--input", "x.csv", *flags])


# ---- tokens kept as <UNK> ----------------------------------------------------------------


def rows_with_rare_tokens(rare: int, rows=200):
    """Rows over a few tokens, `rare` of them with one more that no other row has."""
    bodies = [" ".join(f"a{(n * k) % 7}" for k in range(1, 5 + n % 4)) for n in range(rows)]
    return [
        {"tokens": f"{body} b{n} r{n}" if n < rare else f"{body} b{n % 9} b{n % 11}"}
        for n, body in enumerate(bodies)
    ]


def test_tokens_seen_once_become_unk_where_new_ones_are_to_be_expected(
    tmp_path, write_rows, capsys
):
    path = write_rows(*rows_with_rare_tokens(40))
    train, _ = prepare(tmp_path / "out", "--input", path)
    assert sum("<UNK>" in row["tokens"] for row in train) > 20
    tokens = Vocabulary.load(tmp_path / "out" / "vocab.json").tokens
    assert not any(token.startswith("r") for token in tokens)
    (line,) = (x for x in capsys.readouterr().out.splitlines() if "Good-Turing" in x)
    assert "seen less than 2 times in training written as <UNK> in " in line
    once = sum(row["tokens"].count("<UNK>") for row in train)
    assert f"100 new rows will have about {round(100 * once / len(train))} new tokens" in line
    # What was prepared so is prepared again as it is.
    again = tmp_path / "out" / "train.jsonl"
    rows = prepare(tmp_path / "again", "--input", again)
    assert sorted(row["tokens"] for part in rows for row in part) == sorted(
        row["tokens"] for row in read_rows(again)
    )


def test_tokens_seen_once_stay_where_that_is_asked_for_or_next_to_none_are(
    tmp_path, write_rows, capsys
):
    path = write_rows(*rows_with_rare_tokens(40))
    train, _ = prepare(tmp_path / "asked", "--input", path, "--min_count", 1)
    assert not any("<UNK>" in row["tokens"] for row in train)
    path = write_rows(*rows_with_rare_tokens(0), {"tokens": "a1 a2 a3 once"})
    train, _ = prepare(tmp_path / "closed", "--input", path)
    assert not any("<UNK>" in row["tokens"] for row in train)
    assert "Good-Turing" not in capsys.readouterr().out


def test_rows_that_only_tokens_of_their_own_tell_apart_keep_them(tmp_path, write_rows):
    path = write_rows(*({"tokens": f"a b n{number}"} for number in range(30)))
    train, test = prepare(tmp_path / "out", "--input", path)
    assert (len(train), len(test)) == (24, 6)
    assert not any("<UNK>" in row["tokens"] for row in train)
