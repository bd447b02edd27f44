"""Rows: reading, checking, the label tail, cutting, splitting, batching."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from console import UserError
from dataset import TokenLabelDataset, number_keys, split_rows
from instructions import instruction_prompt
from rows import RowError, cut_row, label_text, parse_row
from text_tokenizer import TextTokenizer
from vocabulary import Vocabulary


def row_of(vocabulary, tokens, label=None, **options):
    """A parsed row of text, and its tokens as text again."""
    record = {"tokens": tokens} if label is None else {"tokens": tokens, "label": label}
    row = parse_row(record, vocabulary, **options)
    return row, vocabulary.decode(row.ids)


def dataset_of(vocabulary, *records, max_length=64):
    return TokenLabelDataset.from_records(records, vocabulary, max_length=max_length)


def read(path, vocabulary, max_length=64, **options):
    return TokenLabelDataset.read(path, vocabulary, max_length=max_length, **options)


def texts_of(dataset):
    return [dataset.vocabulary.decode(dataset.row(index)) for index in range(len(dataset))]


# ---- the label tail ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "label", "expected", "change"),
    [
        ("A B", 1, "A B <CLS> <CLS_1> <EOS>", "completed"),
        ("<IMG> A </IMG>", "cat", "<IMG> A </IMG> <CLS> <CLS_cat> <EOS>", "completed"),
        ("A B <EOS>", 1, "A B <CLS> <CLS_1> <EOS>", "completed"),
        ("A B <CLS>", 1, "A B <CLS> <CLS_1> <EOS>", "completed"),
        ("A B <CLS> <CLS_1>", 1, "A B <CLS> <CLS_1> <EOS>", "completed"),
        ("A B <CLS> <CLS_1>", None, "A B <CLS> <CLS_1> <EOS>", "completed"),
        ("A <CLS> B", 1, "A <CLS> B <CLS> <CLS_1> <EOS>", "completed"),
        ("A B <CLS> <CLS_1> <EOS>", 1, "A B <CLS> <CLS_1> <EOS>", ""),
        ("A B <CLS> <CLS_1> <EOS>", "1", "A B <CLS> <CLS_1> <EOS>", ""),
        ("A B <CLS> <CLS_1> <EOS>", None, "A B <CLS> <CLS_1> <EOS>", ""),
        ("A B <CLS> <CLS>", 1, "A B <CLS> <CLS_1> <EOS>", "repaired"),
        ("A B <CLS> <CLS> <EOS>", 1, "A B <CLS> <CLS_1> <EOS>", "repaired"),
        ("A B <CLS> <EOS>", 1, "A B <CLS> <CLS_1> <EOS>", "repaired"),
        ("A B <CLS> <CLS> <EOS> <PAD>", 1, "A B <CLS> <CLS_1> <EOS>", "repaired"),
        ("A B <CLS> <CLS_1> <EOS> <PAD> <PAD>", 1, "A B <CLS> <CLS_1> <EOS>", ""),
    ],
)
def test_tail_of_a_labelled_row(vocabulary, tokens, label, expected, change):
    row, text = row_of(vocabulary, tokens, label)
    assert text == expected
    assert vocabulary.labels[row.label_class] == expected.split("<CLS_")[1].split(">")[0]
    assert row.change == change
    assert row.body_length == len(row.ids) - 3
    assert row.padding_dropped == tokens.endswith("<PAD>")


@pytest.mark.parametrize(
    ("tokens", "body_length"),
    [
        ("A B", 2),
        ("A B <EOS>", 2),
        ("A B <CLS>", 2),
        ("<IMG> A </IMG> <EOS>", 3),
        ("A <EOS> B <EOS>", 3),
        ("A <CLS> B", 3),
    ],
)
def test_row_with_neither_label_nor_tail_is_taken_as_it_is(vocabulary, tokens, body_length):
    row, text = row_of(vocabulary, tokens)
    assert (text, row.label_class, row.change) == (tokens, -1, "")
    assert row.body_length == body_length


@pytest.mark.parametrize(
    ("tokens", "label", "reason"),
    [
        ("A <CLS> <CLS_0> <EOS>", 1, "the tail says <CLS_0> but label is 1"),
        ("A <CLS> <CLS_0>", "cat", "the tail says <CLS_0> but label is 'cat'"),
        ("A <CLS_1> <CLS> <CLS_1> <EOS>", 1, "gives the label away"),
        ("A <CLS_1> <CLS> <CLS_1> <EOS>", None, "gives the label away"),
        ("A <CLS_0> B", 1, "gives the label away"),
        ("A <CLS> <CLS_0> <CLS> <CLS_1> <EOS>", None, "gives the label away"),
        ("A <CLS> <CLS_0> <CLS_1> <EOS>", 1, "gives the label away"),
        ("A <CLS> <CLS> <EOS>", None, "the tail <CLS> <CLS> <EOS> names no label"),
        ("A <CLS> <EOS>", None, "the tail <CLS> <EOS> names no label"),
        ("A <CLS> <CLS_0> B <CLS>", None, "gives the label away"),
        ("A <CLS> <CLS_0> <CLS_1> <EOS>", None, "gives the label away"),
        ("A <PAD> B", None, "<PAD> stands inside the row"),
        ("<PAD> A B", 1, "<PAD> stands inside the row"),
        ("<PAD> <PAD>", 1, "the row has no tokens"),
        ("", 1, "the row has no tokens"),
        (" \t\n", None, "the row has no tokens"),
        ("<CLS> <CLS_1> <EOS>", 1, "nothing before its label tail"),
        ("<EOS>", 1, "nothing before its label tail"),
        ("A", None, "one token"),
        ("A B", 7, "the vocabulary has no token '<CLS_7>'"),
        ("A B", "Cat", "the vocabulary has no token '<CLS_Cat>'"),
    ],
)
def test_row_that_contradicts_itself_or_leaks_is_refused(vocabulary, tokens, label, reason):
    with pytest.raises(RowError) as caught:
        row_of(vocabulary, tokens, label)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("A", "A"),
        ("A B <CLS>", "A B <CLS>"),
        ("A B <CLS> <CLS> <EOS>", "A B <CLS>"),
        ("A B <CLS> <EOS>", "A B <CLS>"),
    ],
)
def test_row_to_be_classified_may_be_short_or_ask_with_a_broken_tail(vocabulary, tokens, expected):
    row, text = row_of(vocabulary, tokens, for_label=True)
    assert (text, row.label_class) == (expected, -1)


def test_labels_need_cls_and_eos_in_the_vocabulary():
    vocabulary = Vocabulary(["<PAD>", "A", "<CLS_1>"])
    with pytest.raises(RowError, match="needs <CLS> and <EOS>"):
        parse_row({"tokens": "A A", "label": 1}, vocabulary)
    assert parse_row({"tokens": "A A"}, vocabulary).ids == [1, 1]


# ---- label values --------------------------------------------------------------------


@pytest.mark.parametrize("label", [7, "7", "猫", 0, -3, "a.b-c"])
def test_label_is_a_whole_number_or_a_word(label):
    assert label_text(label) == str(label)


@pytest.mark.parametrize("label", [True, False, 1.0, "", " ", "a b", "1 ", "a\u3000b", [1], {}])
def test_other_labels_are_refused(vocabulary, label):
    with pytest.raises(RowError, match="label must be a whole number or a text without spaces"):
        row_of(vocabulary, "A B", label)


def test_null_label_means_no_label(vocabulary):
    row = parse_row({"tokens": "A B", "label": None}, vocabulary)
    assert row.label_class == -1


def test_labels_are_compared_as_texts(vocabulary):
    assert row_of(vocabulary, "A B", "1") == row_of(vocabulary, "A B", 1)
    with pytest.raises(RowError, match="'<CLS_01>'"):
        row_of(vocabulary, "A B", "01")


# ---- tokens and input_ids ------------------------------------------------------------


@pytest.mark.parametrize("space", [" ", "\t", "\n", "\r", "\x0b", "\x0c", "  \r\n\t "])
def test_text_is_split_at_ascii_whitespace(vocabulary, space):
    assert row_of(vocabulary, f"{space}A{space}B{space}")[1] == "A B"


@pytest.mark.parametrize(
    "space", ["\xa0", "\u3000", "\u2003", "\u2028", "\x85", "\x1c", "\x1f", "\u200b", "\ufeff"]
)
def test_unicode_spaces_do_not_split(vocabulary, space):
    with pytest.raises(RowError, match="is not in the vocabulary"):
        row_of(vocabulary, f"A{space}B")
    wide = Vocabulary([*vocabulary.tokens, f"A{space}B"])
    assert row_of(wide, f"A{space}B A")[0].ids == [len(vocabulary), 6]


def test_list_of_tokens_and_ids_say_the_same_as_the_text(vocabulary):
    row, _ = row_of(vocabulary, "A B C", 1)
    assert parse_row({"tokens": ["A", "B", "C"], "label": 1}, vocabulary) == row
    assert parse_row({"input_ids": [6, 7, 8], "label": 1}, vocabulary) == row
    assert parse_row({"input_ids": [6, 7, 8, 4, 11, 5]}, vocabulary).ids == row.ids


def test_list_of_tokens_is_not_split_any_further(vocabulary):
    with pytest.raises(RowError, match="'A B' is not in the vocabulary"):
        parse_row({"tokens": ["A B", "C"]}, vocabulary)


def test_parsing_leaves_the_record_as_it_was(vocabulary):
    record = {"input_ids": [6, 7, 0], "label": 1, "note": {"a": [1]}}
    parse_row(record, vocabulary)
    assert record == {"input_ids": [6, 7, 0], "label": 1, "note": {"a": [1]}}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"tokens": "A B", "input_ids": [6, 7]}, "both `tokens` and `input_ids`"),
        ({"label": 1}, "no `tokens` and no `input_ids`"),
        ({"tokens": None}, "no `tokens` and no `input_ids`"),
        ({"Tokens": "A B"}, "no `tokens` and no `input_ids`"),
        ({"tokens": 7}, "`tokens` must be a string or a list of strings"),
        ({"tokens": ["A", 7]}, "`tokens` must be a string or a list of strings"),
        ({"tokens": {"A": 1}}, "`tokens` must be a string or a list of strings"),
        ({"tokens": []}, "no tokens"),
        ({"tokens": "A \ud800"}, "not valid Unicode"),
        ({"input_ids": []}, "no tokens"),
        ({"input_ids": "6 7"}, "must be a list of ids"),
        ({"input_ids": [6, 13]}, "input id 13 is not a whole number from 0 to 12"),
        ({"input_ids": [6, -1]}, "input id -1 is not"),
        ({"input_ids": [6, True]}, "input id true is not"),
        ({"input_ids": [6, 7.0]}, "input id 7.0 is not"),
        ({"input_ids": [6, "7"]}, "input id '7' is not"),
        ({"input_ids": [6, 10**30]}, "input id 1000"),
        ({"input_ids": np.array([6, 7])}, "must be a list of ids, got a value of type ndarray"),
        (["A", "B"], "expected an object"),
        ("A B", "expected an object"),
        (None, "expected an object"),
    ],
)
def test_record_without_proper_tokens_is_refused(vocabulary, record, reason):
    with pytest.raises(RowError) as caught:
        parse_row(record, vocabulary)
    assert reason in str(caught.value)


def test_unknown_tokens_are_an_error_or_counted(vocabulary, write_rows):
    path = write_rows({"tokens": "A 猫 B 犬"}, {"tokens": "A <UNK>"})
    with pytest.raises(UserError, match=r"rows\.jsonl:1: token '猫' is not in the vocabulary"):
        read(path, vocabulary)
    dataset = read(path, vocabulary, unknown_token="unk")
    assert texts_of(dataset) == ["A <UNK> B <UNK>", "A <UNK>"]
    assert dataset.counts.unknown_tokens == 2


def test_reading_unknown_tokens_as_unk_needs_unk(write_rows):
    with pytest.raises(UserError, match="needs <UNK>"):
        read(write_rows({"tokens": "A A"}), Vocabulary(["<PAD>", "A"]), unknown_token="unk")


WORDS = st.sampled_from(
    ["<PAD>", "<UNK>", "<IMG>", "</IMG>", "<CLS>", "<EOS>", "A", "B", "<CLS_0>", "<CLS_1>", "x"]
)
LABELS = st.none() | st.sampled_from([0, 1, 2, "0", "cat", True, 1.0, "", "\ud800"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
NEAR_ROWS = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.lists(WORDS, max_size=9).map(" ".join) | st.lists(WORDS) | ANYTHING,
        "input_ids": st.lists(st.integers(-1, 13), max_size=9) | ANYTHING,
        "label": LABELS | ANYTHING,
    },
)
TAILED_ROWS = st.fixed_dictionaries(
    {"tokens": st.lists(WORDS, max_size=9).map(" ".join)}, optional={"label": LABELS}
)


@given(ANYTHING | NEAR_ROWS | TAILED_ROWS, st.sampled_from(["error", "unk"]), st.booleans())
def test_any_value_is_a_sound_row_or_refused(vocabulary, record, unknown_token, for_label):
    try:
        row = parse_row(record, vocabulary, unknown_token, for_label)
    except RowError as error:
        assert str(error)
        assert str(error).isprintable()
        return
    assert row.ids
    assert all(0 < index < len(vocabulary) for index in row.ids)
    assert 0 <= row.body_length <= len(row.ids)
    if row.label_class >= 0:
        label_id = vocabulary.label_ids[row.label_class]
        assert row.ids[row.body_length :] == [vocabulary.cls_id, label_id, vocabulary.eos_id]
        assert row.body_length
        assert vocabulary.label_id_set.isdisjoint(row.ids[: row.body_length])
    # A row put in order is in order.
    again = parse_row({"input_ids": row.ids}, vocabulary, for_label=for_label)
    assert (again.ids, again.label_class, again.change) == (row.ids, row.label_class, "")


# ---- cutting -------------------------------------------------------------------------


def test_long_row_loses_its_body_from_the_left(vocabulary):
    dataset = dataset_of(
        vocabulary,
        {"tokens": "<IMG> A B C D </IMG>", "label": 1},
        {"tokens": "A B C D A B C D A", "label": 0},
        {"tokens": "A B C D D C B A <EOS>"},
        {"tokens": "A B", "label": "cat"},
        max_length=8,
    )
    assert texts_of(dataset) == [
        "<IMG> B C D </IMG> <CLS> <CLS_1> <EOS>",
        "A B C D A <CLS> <CLS_0> <EOS>",
        "B C D D C B A <EOS>",
        "A B <CLS> <CLS_cat> <EOS>",
    ]
    assert dataset.body_lengths_N.tolist() == [5, 5, 7, 2]
    assert (dataset.counts.cut, dataset.counts.cut_tokens) == (3, 6)


@given(st.integers(0, 30), st.booleans(), st.booleans(), st.integers(8, 20))
def test_cutting_keeps_the_image_mark_and_the_whole_tail(
    vocabulary, body_length, image, labelled, max_length
):
    body = [6 + place % 4 for place in range(body_length)]
    ids = [vocabulary.img_id] * image + body + [4, 11, 5] * labelled
    cut = cut_row(ids, max_length, {vocabulary.img_id})
    assert len(cut) == min(len(ids), max_length)
    assert cut[: 1 * image] == ids[: 1 * image]
    kept = len(cut) - image
    assert cut[image:] == ids[len(ids) - kept :]


# ---- files ---------------------------------------------------------------------------


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
        "1 label tail completed",
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


def test_first_20_bad_rows_are_shown_and_the_rest_counted(vocabulary, write_rows):
    path = write_rows({"tokens": "A B"}, *[{"tokens": f"A bad{n}"} for n in range(25)])
    with pytest.raises(UserError) as caught:
        read(path, vocabulary)
    told = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in told[:20]] == [f"{path}:{n}" for n in range(2, 22)]
    assert told[20] == "... and 5 more bad rows"
    assert len(told) == 22


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
    dataset = read(path, vocabulary, on_bad_row="keep")
    assert [(bad.line, bad.record) for bad in dataset.bad_rows] == [
        (1, {"tokens": "A x", "id": 5}),
        (2, {}),
    ]
    assert "not in the vocabulary" in dataset.bad_rows[0].reason
    only_bad = read(write_rows(b"oops"), vocabulary, on_bad_row="keep")
    assert (len(only_bad), len(only_bad.bad_rows)) == (0, 1)


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


@given(st.lists(st.binary(max_size=30) | NEAR_ROWS.map(lambda row: json.dumps(row).encode())))
def test_any_file_is_read_or_told(vocabulary, lines):
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as handle:
        handle.write(b"\n".join(lines))
        handle.flush()
        try:
            dataset = read(Path(handle.name), vocabulary, on_bad_row="keep", group_by="label")
        except UserError as error:
            assert str(error) == f"{handle.name}: no rows in this file"
        else:
            read_lines = [*dataset.lines_N.tolist(), *[bad.line for bad in dataset.bad_rows]]
            assert len(set(read_lines)) == len(read_lines) > 0


# ---- arrays --------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "bytes_each"), [(13, 2), (65_536, 2), (65_537, 4)])
def test_tokens_take_two_bytes_each_while_their_ids_fit(size, bytes_each):
    vocabulary = Vocabulary(["<PAD>", *[str(number) for number in range(1, size)]])
    dataset = dataset_of(vocabulary, {"input_ids": [1, size - 1]})
    assert dataset.tokens.itemsize == bytes_each
    assert dataset.row(0).tolist() == [1, size - 1]


@given(st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=9), min_size=1), st.data())
def test_gather_puts_rows_one_after_another(vocabulary, rows, data):
    dataset = dataset_of(vocabulary, *[{"input_ids": row} for row in rows])
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    ids_N, lengths_B = dataset.gather(np.array(indices))
    assert ids_N.tolist() == [token for index in indices for token in rows[index]]
    assert lengths_B.tolist() == [len(rows[index]) for index in indices]
    assert (ids_N.dtype, lengths_B.dtype) == (np.int64, np.int64)


@given(st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=9), min_size=1), st.data())
def test_targets_are_shifted_once_within_each_row(vocabulary, rows, data):
    dataset = dataset_of(vocabulary, *[{"input_ids": row} for row in rows])
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    inputs_M, targets_M, counts_B = dataset.shifted(np.array(indices))
    assert inputs_M.tolist() == [token for index in indices for token in rows[index][:-1]]
    assert targets_M.tolist() == [token for index in indices for token in rows[index][1:]]
    assert counts_B.tolist() == [len(rows[index]) - 1 for index in indices]


def test_subset_holds_the_chosen_rows_in_the_order_asked_for(vocabulary, write_rows):
    rows = [{"tokens": f"{a} {b}", "label": 1, "n": a} for a in "ABC" for b in "AB"]
    dataset = read(write_rows(*rows), vocabulary, keep_records=True)
    chosen = dataset.subset(np.array([4, 1]))
    assert texts_of(chosen) == ["C A <CLS> <CLS_1> <EOS>", "A B <CLS> <CLS_1> <EOS>"]
    assert chosen.lines_N.tolist() == [5, 2]
    assert [record["n"] for record in chosen.records] == ["C", "A"]
    assert chosen.gather(np.array([1]))[0].tolist() == [6, 7, 4, 11, 5]


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"tokens": "A B", "label": 1}, "A B <CLS>"),
        ({"tokens": "A B <CLS>"}, "A B <CLS>"),
        ({"tokens": "A B"}, "A B <CLS>"),
        ({"tokens": "A B <EOS>"}, "A B <CLS>"),
        ({"tokens": "A <CLS> B", "label": 1}, "A <CLS> B <CLS>"),
        ({"tokens": "<IMG> A B C D A B </IMG>"}, "<IMG> C D A B </IMG> <CLS>"),
        ({"tokens": "<IMG> A B C D A B </IMG>", "label": 1}, "<IMG> D A B </IMG> <CLS>"),
    ],
)
def test_classification_prompt_ends_at_the_last_cls(vocabulary, record, prompt):
    max_length = 8 if "label" in record else 7
    dataset = dataset_of(vocabulary, record, max_length=max_length)
    assert vocabulary.decode(dataset.classification_prompt(0)) == prompt


def test_classifying_needs_cls_in_the_vocabulary():
    dataset = dataset_of(Vocabulary(["<PAD>", "A"]), {"tokens": "A A"})
    with pytest.raises(UserError, match="no <CLS>"):
        dataset.classification_prompt(0)


def test_equal_bodies_have_equal_keys_whatever_their_tail(vocabulary):
    keys = dataset_of(
        vocabulary,
        {"tokens": "A B", "label": 1},
        {"tokens": "A B <CLS> <CLS> <EOS>", "label": 0},
        {"tokens": "A B"},
        {"tokens": "A B <EOS>"},
        {"tokens": "B A", "label": 1},
        {"tokens": "A B B", "label": 1},
    ).body_keys()
    assert len(set(keys[:4])) == 1
    assert len(set(keys)) == 3


def test_fingerprint_is_that_of_the_data_alone(vocabulary, write_rows):
    rows = [{"tokens": "A B", "label": 1}, {"tokens": "B A C", "label": 0}]
    fingerprint = read(write_rows(*rows), vocabulary).fingerprint()
    assert read(write_rows(b"", *rows, name="b.jsonl"), vocabulary).fingerprint() == fingerprint
    assert dataset_of(vocabulary, *rows).fingerprint() == fingerprint


@pytest.mark.parametrize(
    "rows",
    [
        ["A B:1", "B A C:0", "A A:1"],
        ["A B:1"],
        ["B A C:0", "A B:1"],
        ["A B:0", "B A C:0"],
        ["A B:", "B A C:0"],
        ["A C:1", "B A C:0"],
        ["A B B:1", "A C:0"],
        ["A B <CLS>:", "B A C:0"],
    ],
)
def test_fingerprint_changes_with_any_change_of_the_data(vocabulary, rows):
    def fingerprint(texts, max_length=64):
        pairs = [text.split(":") for text in texts]
        records = [{"tokens": tokens, "label": label or None} for tokens, label in pairs]
        return dataset_of(vocabulary, *records, max_length=max_length).fingerprint()

    assert fingerprint(rows) != fingerprint(["A B:1", "B A C:0"])
    assert fingerprint(["A A A A A A:1"], 8) != fingerprint(["A A A A A A:1"], 9)


def test_fingerprint_of_a_part_tells_which_part(vocabulary):
    dataset = dataset_of(vocabulary, *[{"tokens": "A B"}] * 4)
    parts = [dataset.subset(np.array(part)) for part in ([0, 1], [0, 2], [1, 0])]
    assert len({part.fingerprint() for part in parts}) == 3
    short = dataset_of(vocabulary, {"tokens": "A B"}, {"tokens": "C D"}).subset(np.array([0]))
    assert short.fingerprint() != dataset_of(vocabulary, {"tokens": "A B C D"}).fingerprint()


# ---- splitting -----------------------------------------------------------------------


def unique_rows(counts: dict):
    """Records with distinct bodies, so many for each label."""
    records = []
    for label, count in counts.items():
        for _ in range(count):
            number = len(records)
            body = " ".join("ABCD"[number // 4**place % 4] for place in range(6))
            records.append({"tokens": body, "label": label})
    return records


def test_each_class_is_held_out_in_the_asked_share(vocabulary):
    dataset = dataset_of(vocabulary, *unique_rows({0: 100, 1: 50, "cat": 7, None: 20}))
    train, held_out = dataset.split(fraction=0.2, seed=42)
    assert Counter(held_out.classes_N.tolist()) == {0: 20, 1: 10, 2: 1, -1: 4}
    assert len(train) + len(held_out) == len(dataset)


def test_split_follows_from_the_seed(vocabulary):
    dataset = dataset_of(vocabulary, *unique_rows({0: 60, 1: 40}))
    lines = [dataset.split(0.2, seed)[1].lines_N.tolist() for seed in (1, 1, 2)]
    assert lines[0] == lines[1] != lines[2]


def test_split_is_not_in_file_order(vocabulary):
    dataset = dataset_of(vocabulary, *unique_rows({0: 100}))
    held_out = dataset.split(0.2, 42)[1].lines_N
    assert held_out.min() < 50 < held_out.max()
    assert np.diff(held_out).min() > 0


def test_rows_with_the_same_body_stay_on_one_side(vocabulary):
    records = unique_rows({0: 20, 1: 20})
    records += [{"tokens": row["tokens"] + " <CLS> <CLS> <EOS>", "label": 0} for row in records]
    for seed in range(10):
        train, held_out = dataset_of(vocabulary, *records).split(0.3, seed)
        assert set(train.body_keys()).isdisjoint(held_out.body_keys())


def test_rows_equal_after_cutting_stay_on_one_side(vocabulary):
    bodies = [row["tokens"] for row in unique_rows({0: 12})]
    records = [{"tokens": first + body, "label": 0} for body in bodies for first in ("A ", "B B ")]
    dataset = dataset_of(vocabulary, *records, max_length=9)
    train, held_out = dataset.split(0.3, 0)
    assert len(set(dataset.body_keys())) == 12
    assert set(train.body_keys()).isdisjoint(held_out.body_keys())


def test_rows_of_one_source_stay_on_one_side(vocabulary, write_rows):
    records = unique_rows({0: 40})
    for number, record in enumerate(records):
        record["meta"] = {"source": f"image{number // 4}"}
    path = write_rows(*records, {"tokens": "A A", "meta": None}, {"tokens": "B B", "label": 0})
    dataset = read(path, vocabulary, group_by="meta.source")
    assert dataset.groups_N.tolist() == [*[number // 4 for number in range(40)], -1, -1]
    train, held_out = dataset.split(0.25, 42)
    assert set(train.groups_N[train.groups_N >= 0]).isdisjoint(held_out.groups_N)
    assert (read(path, vocabulary).groups_N == -1).all()


def variant_rows(sources: int, variants: int) -> list[dict]:
    """Rows of `sources` images, `variants` of each."""
    return [
        {**row, "meta": {"source": number, "variant": variant}}
        for number, row in enumerate(unique_rows({0: sources}))
        for variant in range(variants)
    ]


def test_epoch_has_one_variant_of_each_source_drawn_anew(vocabulary, write_rows):
    alone = [{"tokens": "A B A B"}, {"tokens": "B A", "meta": {"source": 3}}]
    dataset = read(write_rows(*variant_rows(9, 4), *alone), vocabulary)
    assert dataset.epoch_share == 11 / 38
    met = Counter()
    for epoch in range(200):
        order = np.concatenate(dataset.epoch_batches(4, 1, epoch))
        assert sorted(dataset.sources_N[order].tolist()) == [-1, -1, *range(9)]
        met.update(order.tolist())
    assert all(met[row] == 200 for row in (36, 37))
    # Each of 4 variants is drawn 50 times in 200 epochs, give or take 4 standard deviations.
    assert all(25 <= met[row] <= 75 for row in range(36))
    again = [batch.tolist() for batch in dataset.epoch_batches(4, 1, 7)]
    assert again == [batch.tolist() for batch in dataset.epoch_batches(4, 1, 7)]


@pytest.mark.parametrize("meta", [{"variant": 1}, {"source": 1}, {"source": 1, "variant": "1"}, 7])
def test_rows_without_source_and_variant_are_no_variants(vocabulary, write_rows, meta):
    dataset = read(write_rows(*[{"tokens": "A B", "meta": meta}] * 3), vocabulary)
    assert dataset.sources_N.tolist() == [-1, -1, -1]
    assert dataset.epoch_share == 1
    assert not dataset.has_variants


def test_group_values_of_any_type_are_told_apart(vocabulary, write_rows):
    values = [1, "1", True, 1.0, {"a": 1, "b": 2}, {"b": 2, "a": 1}, [1], None]
    path = write_rows(*[{"tokens": "A B", "key": value} for value in values])
    groups = read(path, vocabulary, group_by="key").groups_N.tolist()
    assert groups == [0, 1, 2, 3, 4, 4, 5, -1]


def test_class_of_two_rows_is_held_out_once_and_class_of_one_group_never(vocabulary):
    records = [*unique_rows({0: 30, 1: 2}), *[{"tokens": "A A", "label": "cat"}] * 5]
    for seed in range(10):
        train, held_out = dataset_of(vocabulary, *records).split(0.2, seed)
        assert Counter(held_out.classes_N.tolist()) == {0: 6, 1: 1}
        assert Counter(train.classes_N.tolist()) == {0: 24, 1: 1, 2: 5}


@pytest.mark.parametrize("records", [[{"tokens": "A B"}] * 9, [{"tokens": "A B", "label": 0}]])
def test_rows_that_all_belong_together_cannot_be_split(vocabulary, records):
    with pytest.raises(UserError, match="cannot be split"):
        dataset_of(vocabulary, *records).split(0.2, 42)


KEY_NUMBERS = st.integers(-1, 9)


@given(
    st.lists(st.tuples(KEY_NUMBERS, KEY_NUMBERS, st.integers(-1, 2)), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
)
def test_no_key_is_on_both_sides(rows, fraction, seed):
    first, second, classes = (np.array(column) for column in zip(*rows, strict=True))
    kept, held_out = split_rows([first, second], classes, fraction, seed)
    assert sorted([*kept, *held_out]) == list(range(len(rows)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()
    for keys in (first, second):
        assert set(keys[kept][keys[kept] >= 0]).isdisjoint(keys[held_out])


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(-1, 2)), min_size=1, max_size=30),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
)
def test_each_class_is_held_out_as_near_to_its_share_as_its_groups_allow(groups, fraction, seed):
    keys = np.repeat(np.arange(len(groups)), [size for size, _ in groups])
    classes = np.repeat([name for _, name in groups], [size for size, _ in groups])
    _, held_out = split_rows([keys], classes, fraction, seed)
    for name in set(classes.tolist()):
        sizes = [size for size, other in groups if other == name]
        rows, held = sum(sizes), int((classes[held_out] == name).sum())
        if len(sizes) == 1:
            assert held == 0
            continue
        wanted = min(max(round(fraction * rows), 1), rows - 1)
        assert 1 <= held < rows
        assert held <= max(wanted, min(sizes))
        assert wanted - held < max(sizes)


def test_number_keys_counts_distinct_keys_in_order():
    assert number_keys(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]


# ---- batching ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ragged(vocabulary):
    lengths = np.random.default_rng(0).integers(2, 200, 1003)
    return dataset_of(vocabulary, *[{"input_ids": [6] * n} for n in lengths], max_length=200)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 5000])
def test_every_row_stands_in_an_epoch_once(ragged, batch_size):
    batches = ragged.epoch_batches(batch_size, seed=42, epoch=3)
    assert sorted(np.concatenate(batches)) == list(range(len(ragged)))
    assert len(batches) == -(-len(ragged) // batch_size)
    assert max(map(len, batches)) <= batch_size


def test_order_follows_from_seed_and_epoch_alone(ragged):
    def order(seed, epoch):
        return np.concatenate(ragged.epoch_batches(32, seed=seed, epoch=epoch)).tolist()

    assert order(42, 1) == order(42, 1)
    assert order(42, 1) != order(42, 2)
    assert order(42, 1) != order(43, 1)


def test_batches_are_not_in_order_of_length(ragged):
    batches = ragged.epoch_batches(32, seed=42, epoch=0)
    means = [ragged.lengths_N[batch].mean() for batch in batches]
    assert min(means[:8]) < 100 < max(means[:8])


def test_rows_meet_other_rows_in_another_epoch(ragged):
    companies = [
        {tuple(sorted(batch)) for batch in ragged.epoch_batches(8, seed=42, epoch=epoch)}
        for epoch in (0, 1)
    ]
    assert len(companies[0] & companies[1]) < 5


def test_batches_of_ragged_rows_have_next_to_no_padding(ragged):
    for batches in (ragged.epoch_batches(16, 42, 0), list(ragged.batches_by_length(16))):
        places = sum(len(batch) * int(ragged.lengths_N[batch].max()) for batch in batches)
        assert 1 - ragged.lengths_N.sum() / places < 0.03


def test_batches_for_scoring_hold_every_row_once_longest_first(ragged):
    order = np.concatenate(list(ragged.batches_by_length(32)))
    assert sorted(order) == list(range(len(ragged)))
    assert (np.diff(ragged.lengths_N[order]) <= 0).all()


def test_unknown_label_token_is_never_read_as_unk(vocabulary):
    with pytest.raises(RowError, match="label token '<CLS_dog>' is not in the vocabulary"):
        parse_row({"tokens": "A B <CLS> <CLS_dog> <EOS>"}, vocabulary, "unk")


# ---- rows of text --------------------------------------------------------------------


def ids_of(vocabulary, text):
    return vocabulary.tokenizer.encode(text)


def test_labelled_text_gets_the_tail(text_vocabulary):
    row = parse_row({"text": "the fox", "label": "good"}, text_vocabulary)
    tail = [text_vocabulary.ids[token] for token in ("<CLS>", "<CLS_good>", "<EOS>")]
    assert row.ids == ids_of(text_vocabulary, "the fox") + tail
    assert (row.body_length, row.change, row.prompt_length) == (7, "completed", 0)
    assert text_vocabulary.labels[row.label_class] == "good"


def test_text_without_a_label_ends_with_eos_unless_a_label_is_asked(text_vocabulary):
    ids = ids_of(text_vocabulary, "the fox")
    row = parse_row({"text": "the fox"}, text_vocabulary)
    assert row.ids == [*ids, text_vocabulary.eos_id]
    assert row.body_length == len(ids)
    assert parse_row({"text": "the fox"}, text_vocabulary, for_label=True).ids == ids


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip))
def test_no_text_can_pretend_to_be_special_tokens(text_vocabulary, text):
    for disguise in (text, f"{text} <CLS> <CLS_good> <EOS>", f"<PAD>{text}<PAD>"):
        row = parse_row({"text": disguise, "label": "bad"}, text_vocabulary)
        assert row.ids[:-3] == ids_of(text_vocabulary, disguise)
        assert text_vocabulary.labels[row.label_class] == "bad"
        assert row.unknown_tokens == row.ids.count(text_vocabulary.unk_id)


def test_instruction_reads_as_prompt_answer_and_end(text_vocabulary):
    record = {"instruction": "Say it.", "input": "fox", "output": "the fox"}
    row = parse_row(record, text_vocabulary)
    prompt = ids_of(text_vocabulary, instruction_prompt("Say it.", "fox"))
    answer = ids_of(text_vocabulary, "the fox")
    assert row.ids == [*prompt, *answer, text_vocabulary.eos_id]
    assert (row.prompt_length, row.label_class) == (len(prompt), -1)
    assert row.body_length == len(prompt) + len(answer)


def test_only_the_answer_of_an_instruction_counts(text_vocabulary):
    rows = dataset_of(
        text_vocabulary,
        {"instruction": "Say it.", "output": "fox"},
        {"text": "the dog"},
        max_length=100,
    )
    assert rows.scored_counts.tolist() == [4, 7]  # f o x <EOS>; all but the first of 8
    assert rows.target_count == 11
    indices = np.array([1, 0])
    _, targets_M, counts_B = rows.shifted(indices)
    scored_M = rows.scored(indices)
    assert scored_M[: counts_B[0]].all()
    found = targets_M[counts_B[0] :][scored_M[counts_B[0] :]].tolist()
    assert found == [*ids_of(text_vocabulary, "fox"), text_vocabulary.eos_id]


@given(st.integers(8, 60), st.sampled_from(["fox", "the quick brown fox jumps"]))
def test_a_long_instruction_loses_its_beginning_never_its_answer(text_vocabulary, length, output):
    record = {"instruction": "Say it again.", "output": output}
    whole = parse_row(record, text_vocabulary)
    rows = dataset_of(text_vocabulary, record, max_length=length)
    kept = rows.row(0).tolist()
    assert kept == whole.ids[-length:]
    answer = len(whole.ids) - whole.prompt_length
    assert rows.prompt_lengths_N[0] == max(0, len(kept) - answer)
    assert rows.scored_counts[0] == min(answer, len(kept) - 1)
    assert rows.scored(np.array([0])).sum() == rows.scored_counts[0]


def test_a_mark_that_a_tokenizer_puts_first_stays_in_a_cut_row():
    backend = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "a": 2, "?": 3}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", "<CLS_x>"]
    tokenizer = TextTokenizer(backend).with_special(special)
    vocabulary = Vocabulary(tokenizer.tokens, tokenizer)
    rows = dataset_of(vocabulary, {"text": "a " * 20, "label": "x"}, max_length=8)
    tokens = [vocabulary.tokens[index] for index in rows.row(0)]
    assert tokens == ["[CLS]", "a", "a", "a", "[SEP]", "<CLS>", "<CLS_x>", "<EOS>"]


def test_two_answers_to_one_prompt_stay_together(text_vocabulary):
    records = [
        {"instruction": f"Say {number}.", "output": answer}
        for number in range(8)
        for answer in ("fox", "dog")
    ]
    rows = dataset_of(text_vocabulary, *records, max_length=100)
    keys = rows.body_keys()
    assert len(set(keys)) == 8
    train, held_out = rows.split(0.25, seed=1)
    assert set(train.body_keys()).isdisjoint(held_out.body_keys())
    assert len(held_out) == 4
    assert held_out.has_prompts


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"text": " \n"}, "`text` is empty"),
        ({"text": 3}, "`text` must be a text, got 3"),
        ({"text": None}, "no `text`, no `instruction`"),
        ({}, "no `text`, no `instruction`, no `tokens` and no `input_ids`"),
        ({"text": "a\ud83d"}, "half of a surrogate pair"),
        ({"text": "a", "label": "none"}, "the vocabulary has no token"),
        ({"text": "a", "tokens": "a", "input_ids": [1]}, "both `tokens` and `input_ids`"),
        ({"instruction": "Say."}, "an instruction without its answer `output`"),
        ({"instruction": "Say.", "output": ""}, "`output` is empty"),
        ({"instruction": " ", "output": "a"}, "`instruction` is empty"),
        ({"instruction": 3, "output": "a"}, "`instruction` must be a text"),
        ({"instruction": "Say.", "input": [], "output": "a"}, "`input` must be a text"),
        ({"instruction": "Say.", "output": "a", "label": "bad"}, "takes no `label`"),
    ],
)
def test_a_row_of_text_that_breaks_the_format_is_told(text_vocabulary, record, words):
    with pytest.raises(RowError) as caught:
        parse_row(record, text_vocabulary)
    assert words in str(caught.value)


@pytest.mark.parametrize("record", [{"text": "a"}, {"instruction": "Say.", "output": "a"}])
def test_rows_of_text_need_a_tokenizer_beside_the_vocabulary(vocabulary, record):
    with pytest.raises(RowError, match=r"need the tokenizer.json of `prepare_data.py text`"):
        parse_row(record, vocabulary)


def test_keys_of_a_row_of_tokens_may_be_called_text_and_instruction(text_vocabulary):
    row = parse_row({"tokens": "f o x", "text": 3, "instruction": "Say."}, text_vocabulary)
    assert row.ids == ids_of(text_vocabulary, "fox")
    assert row.prompt_length == 0


def test_unknown_characters_are_counted_in_prompt_and_answer(text_vocabulary, write_rows):
    path = write_rows(
        {"instruction": "Say \N{GREEK CAPITAL LETTER OMEGA}.", "output": "\u03a9\u03a9 fox"},
        {"text": "fox \u03a9"},
    )
    rows = read(path, text_vocabulary, max_length=100)
    assert rows.counts.unknown_tokens == 4
    assert "4 unknown tokens read as <UNK>" in rows.counts.lines()
