"""All rows of a file, or of Python objects: read, told, skipped, kept."""

import numpy as np
import pytest
from small_rows import dataset_of, read, texts_of

from smallgpt.errors import UserError
from smallgpt.rows import lines as lines_module
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.batching import epoch_batches
from smallgpt.rows.lines import read_json_lines
from smallgpt.rows.reading import read_found
from smallgpt.rows.row import parse_row
from smallgpt.tokens.vocabulary import Vocabulary


def test_rows_are_read_with_their_lines_labels_and_counts(vocabulary, write_rows):
    path = write_rows(
        {"tokens": "A B", "label": 1},
        b"",
        b"  \t",
        {"tokens": "A C <CLS> <CLS> <EOS>", "label": "cat", "note": "mine"},
        {"tokens": "A D <PAD>"},
    )
    dataset = read(path, vocabulary, keep_records=True)
    assert texts_of(dataset) == ["A B <CLS> <CLS_1> <EOS>", "A C <CLS> <CLS_cat> <EOS>", "A D"]
    assert dataset.lines_N.tolist() == [1, 4, 5]
    assert dataset.classes_N.tolist() == [1, 2, -1]
    assert dataset.records[1]["note"] == "mine"
    assert dataset.has_labels
    assert dataset.target_count == 4 + 4 + 1
    counts = dataset.counts
    assert (counts.rows, counts.labelled, counts.completed, counts.repaired) == (3, 2, 1, 1)
    assert counts.padding_dropped == 1
    assert counts.lines() == [
        "the `label` of 1 row put at its end as tokens: <CLS> <CLS_...> <EOS>",
        "1 broken label tail repaired",
        "<PAD> at the end of 1 row dropped",
    ]


def test_byte_order_mark_and_windows_line_ends_are_passed_over(vocabulary, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"tokens": "A B"}\r\n\r\n{"tokens": "B\xe7\x8c\xab C"}')
    wide = Vocabulary([*vocabulary.tokens, "B猫"])
    assert texts_of(read(path, wide)) == ["A B", "B猫 C"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"tokens": "A B\xff"}', "not UTF-8 text (byte 16 of the line)"),
        ('{"tokens": "A B"}'.encode("utf-16"), "not UTF-8 text"),
        (b'{"tokens": "A\x00B"}', "not valid JSON"),
        (b"\x00\x00\x00", "not valid JSON"),
        (b'{"tokens": "A B", "x": NaN}', "NaN is not JSON"),
        (b'{"tokens": "A B", "x": -Infinity}', "-Infinity is not JSON"),
        (b'{"tokens": "A B", "x": 1e999}', "'1e999' is too large a number"),
        (b'{"tokens": "A B", "tokens": "C D"}', "stands twice in one object"),
        (b'{"tokens": "A B", "x": {"y": 1, "y": 1}}', "stands twice in one object"),
        (b'{"tokens": "A B", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"tokens": "A B", "label": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b'{"tokens": "A B", "label": 1' + b"0" * 3000 + b"}", "longer than 1,000 letters"),
        (b'{"tokens": "A B"', "not valid JSON"),
        (b'{"tokens": "A B"} {"tokens": "A B"}', "not valid JSON"),
        (b"A B", "not valid JSON"),
        (b"[6, 7]", "expected an object"),
    ],
    ids=range(16),
)
def test_bad_line_is_told_with_file_line_and_reason(vocabulary, write_rows, line, reason):
    path = write_rows({"tokens": "A B"}, line, {"tokens": "C D"})
    with pytest.raises(UserError) as caught:
        read(path, vocabulary)
    told = str(caught.value).splitlines()
    assert told[0].startswith(f"{path}:2: ")
    assert reason in told[0]
    assert len(told[0]) < 400
    assert told[-1] == "correct them, or leave them out with --on_bad_row skip"
    kept = read(path, vocabulary, on_bad_row="keep")
    assert texts_of(kept) == ["A B", "C D"]
    assert [bad.line for bad in kept.bad_rows] == [2]


@pytest.mark.parametrize("key", ["tokens", "label", "meta"])
def test_nesting_near_the_limit_of_the_parser_is_no_crash(vocabulary, write_rows, key):
    # The parser gives up at a depth where writing the value into a message may fail already.
    lines = []
    for depth in range(900, 1010, 1):
        nested = "[" * depth + "]" * depth
        parts = {"tokens": '"A B"', key: nested}
        lines.append(",".join(f'"{name}":{value}' for name, value in parts.items()))
    path = write_rows(b'{"tokens": "A B"}', *[b"{%s}" % line.encode() for line in lines])
    dataset = read(path, vocabulary, on_bad_row="keep", group_by="meta")
    assert len(dataset) + len(dataset.bad_rows) == 1 + len(lines)


def test_last_line_cut_off_by_a_crash_is_told(vocabulary, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"tokens": "A B"}\n{"tokens": "A')
    with pytest.raises(UserError, match=r"rows\.jsonl:2: not valid JSON"):
        read(path, vocabulary)


def test_the_remedy_comes_first_then_some_bad_rows_of_each_kind(vocabulary, write_rows):
    bad = [{"tokens": f"A bad{n}"} for n in range(9)] + [{"tokens": ""}, {"tokens": "B bad"}]
    path = write_rows({"tokens": "A B"}, *bad)
    with pytest.raises(UserError) as caught:
        read(path, vocabulary)
    told = str(caught.value).splitlines()
    assert told[0].startswith("11 bad rows: correct them, or leave them out with --on_bad_row skip")
    shown = [f"{path}:{n}" for n in (2, 3, 4, 5, 6, 11)]
    assert [line.split(": ")[0] for line in told[1:-1]] == shown
    assert told[-1] == "... and 5 more"


def test_bad_rows_are_skipped_and_counted(vocabulary, write_rows):
    bad = [{"tokens": f"A bad{n}"} for n in range(7)]
    dataset = read(write_rows(*bad, {"tokens": "A B"}), vocabulary, on_bad_row="skip")
    assert texts_of(dataset) == ["A B"]
    assert (dataset.counts.skipped, dataset.counts.rows) == (7, 1)
    assert len(dataset.counts.first_skipped) == 5
    assert dataset.counts.lines()[0] == "7 bad rows skipped, the first:"
    assert "rows.jsonl:1: token 'bad0'" in dataset.counts.lines()[1]


def test_bad_rows_are_kept_with_line_reason_and_record(vocabulary, write_rows):
    path = write_rows({"tokens": "A x", "id": 5}, b"oops", {"tokens": "A B"})
    dataset = read(path, vocabulary, on_bad_row="keep", keep_records=True)
    assert [(bad.line, bad.record) for bad in dataset.bad_rows] == [
        (1, {"tokens": "A x", "id": 5}),
        (2, {}),
    ]
    assert "not in the vocabulary" in dataset.bad_rows[0].reason
    # A report of the data needs no more than line and reason; a million records fill the memory.
    dataset = read(path, vocabulary, on_bad_row="keep")
    assert [(bad.line, bad.record) for bad in dataset.bad_rows] == [(1, {}), (2, {})]
    only_bad = read(write_rows(b"oops"), vocabulary, on_bad_row="keep")
    assert (len(only_bad), len(only_bad.bad_rows)) == (0, 1)


def test_rows_can_be_visited_and_none_of_them_kept(vocabulary, write_rows):
    rows = [{"tokens": "A B C", "label": 1, "id": 5}, {"tokens": "A x"}, {"tokens": "D"}]
    path, visited = write_rows(rows[0], b"oops", *rows[1:], {"tokens": "A <UNK>"}), []
    how = {"max_length": 9, "on_bad_row": "keep", "keep_records": True, "unknown_token": "unk"}
    seen = read_found(
        read_json_lines(path), path, vocabulary, **how, visit=lambda *row: visited.append(row)
    )
    kept = read_found(read_json_lines(path), path, vocabulary, **how)
    assert visited == list(zip(kept.lines_N.tolist(), kept.records, strict=True))
    assert len(seen.tokens) == 0 and seen.records is None
    assert (seen.counts, seen.bad_rows) == (kept.counts, kept.bad_rows)
    for name in ("lengths_N", "body_lengths_N", "classes_N", "lines_N"):
        assert getattr(seen, name).tolist() == getattr(kept, name).tolist()


def test_lines_that_are_not_asked_for_are_not_parsed(write_rows, monkeypatch):
    path, parsed = write_rows({"n": 1}, b"", b"oops", {"n": 4}, {"n": 5}), []
    parse = lines_module.parse_json
    monkeypatch.setattr(lines_module, "parse_json", lambda text: parsed.append(text) or parse(text))
    everything = list(read_json_lines(path))
    parsed.clear()
    some = list(read_json_lines(path, only={2, 3, 5}))
    assert some == [found for found in everything if found[0] in (3, 5)]
    assert parsed == ["oops\n", '{"n": 5}\n']


def test_reason_of_a_bad_row_can_be_written_as_utf8(vocabulary, write_rows):
    path = write_rows(
        b'{"tokens": ["\\ud800", 7]}',
        b'{"tokens": "A B", "label": "\\udfff"}',
        b'{"tokens": "A B"}',
    )
    reasons = [bad.reason for bad in read(path, vocabulary, on_bad_row="keep").bad_rows]
    assert len(reasons) == 2
    assert all(reason.encode() for reason in reasons)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_file_without_rows_is_told(vocabulary, tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    for on_bad_row in ("error", "skip", "keep"):
        with pytest.raises(UserError, match=r"rows\.jsonl: no rows in this file"):
            read(path, vocabulary, on_bad_row=on_bad_row)


def test_file_whose_every_row_is_skipped_is_told_with_the_first_reason(vocabulary, write_rows):
    path = write_rows(b"oops", {"tokens": "A x"})
    with pytest.raises(UserError, match=r"every row is bad; the first: .*rows\.jsonl:1: not valid"):
        read(path, vocabulary, on_bad_row="skip")


def test_absent_file_and_folder_are_told(vocabulary, tmp_path):
    with pytest.raises(UserError, match="absent: no such file"):
        read(tmp_path / "absent", vocabulary)
    with pytest.raises(UserError, match="is a folder, not a file"):
        read(tmp_path, vocabulary)


def test_bad_python_record_is_told_with_its_number(vocabulary):
    with pytest.raises(UserError, match="row 2: label 9: the vocabulary has no"):
        dataset_of(vocabulary, {"tokens": "A B"}, {"tokens": "A B", "label": 9})


def test_rows_whose_labels_share_a_token_are_told(write_rows):
    vocabulary = Vocabulary(["<PAD>", "<CLS>", "<EOS>", "A", "B", "<CLS_a_b>", "<CLS_1>"])
    labels = ["a b", " a  b", "a_b", 1, "1", "a_b", "a\u3000b", None]
    path = write_rows(*({"tokens": "A B", "label": label} for label in labels))
    dataset = read(path, vocabulary)
    assert dataset.classes_N.tolist() == [0, 0, 0, 1, 1, 0, 0, -1]
    assert dataset.counts.lines()[-1] == (
        f"2 rows whose label takes the token of another, the first: {path}:3 has 'a_b', "
        f"{path}:1 'a b'"
    )


def test_a_variant_of_the_user_s_own_drops_no_row_and_is_told(vocabulary, write_rows):
    rows = [
        {"tokens": f"{'A' * (number % 9 + 1)} B", "meta": {"source": number % 7, "variant": number}}
        for number in range(32)
    ]
    path = write_rows(*({**row, "tokens": " ".join(row["tokens"])} for row in rows))
    dataset = read(path, vocabulary)
    assert sorted(np.concatenate(epoch_batches(dataset, 4, seed=1, epoch=0))) == list(range(32))
    (told,) = dataset.counts.lines()
    assert told.startswith("32 rows with a `meta.variant` of your own")


def test_unknown_label_token_is_never_read_as_unk(vocabulary):
    with pytest.raises(RowError, match="label token '<CLS_dog>' is not in the vocabulary"):
        parse_row({"tokens": "A B <CLS> <CLS_dog> <EOS>"}, vocabulary, "unk")
