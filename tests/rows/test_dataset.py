"""All rows of a file: reading, arrays, splitting, batching."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_rows import dataset_of, read, texts_of

from smallgpt.errors import UserError
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.batching import batches_by_length, epoch_batches
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.row import parse_row
from smallgpt.rows.splitting import number_keys, split_dataset, split_rows
from smallgpt.tokens.vocabulary import Vocabulary

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
    ("tokens", "body"),
    [
        ("A B", "A B"),
        ("A <CLS> B", "A <CLS> B"),
        ("<CLS> A B", "<CLS> A B"),
        ("<IMG> A B C D A B </IMG>", "<IMG> D A B </IMG>"),
        ("A B C D A B", "B C D A B"),
        ("A B <IMG> C D A B", "<IMG> C D A B"),  # of the 8 that fit without a tail the third
        ("A <IMG> B C D A B", "B C D A B"),
    ],
)
def test_a_row_is_asked_after_its_body_whatever_its_tail_says(vocabulary, tokens, body):
    tails = ["", " <EOS>", " <CLS>", " <CLS> <EOS>", " <CLS> <CLS> <EOS>", " <CLS> <CLS_1> <EOS>"]
    for tail in tails:
        for label in (None, "1"):
            record = {"tokens": tokens + tail, "label": label}
            dataset = dataset_of(vocabulary, record, max_length=8, for_label=True)
            assert vocabulary.decode(dataset.body(0)) == body
            bodies = dataset.without_tails()
            assert vocabulary.decode(bodies.row(0)) == body


def test_an_unlabelled_row_of_language_takes_its_full_length(vocabulary):
    record = {"tokens": "A B C D A B C D A"}
    assert texts_of(dataset_of(vocabulary, record, max_length=8)) == ["B C D A B C D A"]


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
    train, held_out = split_dataset(dataset, fraction=0.2, seed=42)
    assert Counter(held_out.classes_N.tolist()) == {0: 20, 1: 10, 2: 1, -1: 4}
    assert len(train) + len(held_out) == len(dataset)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([("A B", 0)], "there is 1 row"),
        ([("A B", 0), ("A B", 1), ("A B", None)], "all 3 rows belong together"),
        ([("A B", 0), ("A C", 1), ("A D", "cat")], "each of 3 labels has one row alone"),
        ([("A B", 0), ("A B", 0), ("A D", "cat")], "or rows of one body or group"),
    ],
)
def test_rows_that_cannot_be_split_are_told_the_true_reason(vocabulary, rows, why):
    records = [{"tokens": tokens, "label": label} for tokens, label in rows]
    with pytest.raises(UserError, match=f"cannot be split .*{why}.*; give more rows") as caught:
        split_dataset(dataset_of(vocabulary, *records), 0.2, seed=1)
    assert "\n" not in str(caught.value)


def test_split_follows_from_the_seed(vocabulary):
    dataset = dataset_of(vocabulary, *unique_rows({0: 60, 1: 40}))
    lines = [split_dataset(dataset, 0.2, seed)[1].lines_N.tolist() for seed in (1, 1, 2)]
    assert lines[0] == lines[1] != lines[2]


def test_split_is_not_in_file_order(vocabulary):
    dataset = dataset_of(vocabulary, *unique_rows({0: 100}))
    held_out = split_dataset(dataset, 0.2, 42)[1].lines_N
    assert held_out.min() < 50 < held_out.max()
    assert np.diff(held_out).min() > 0


def test_rows_with_the_same_body_stay_on_one_side(vocabulary):
    records = unique_rows({0: 20, 1: 20})
    records += [{"tokens": row["tokens"] + " <CLS> <CLS> <EOS>", "label": 0} for row in records]
    for seed in range(10):
        train, held_out = split_dataset(dataset_of(vocabulary, *records), 0.3, seed)
        assert set(train.body_keys()).isdisjoint(held_out.body_keys())


def test_rows_equal_after_cutting_stay_on_one_side(vocabulary):
    bodies = [row["tokens"] for row in unique_rows({0: 12})]
    records = [{"tokens": first + body, "label": 0} for body in bodies for first in ("A ", "B B ")]
    dataset = dataset_of(vocabulary, *records, max_length=9)
    train, held_out = split_dataset(dataset, 0.3, 0)
    assert len(set(dataset.body_keys())) == 12
    assert set(train.body_keys()).isdisjoint(held_out.body_keys())


def test_rows_of_one_source_stay_on_one_side(vocabulary, write_rows):
    records = unique_rows({0: 40})
    for number, record in enumerate(records):
        record["meta"] = {"source": f"image{number // 4}"}
    path = write_rows(*records, {"tokens": "A A", "meta": None}, {"tokens": "B B", "label": 0})
    dataset = read(path, vocabulary, group_by="meta.source")
    assert dataset.groups_N.tolist() == [*[number // 4 for number in range(40)], -1, -1]
    train, held_out = split_dataset(dataset, 0.25, 42)
    assert set(train.groups_N[train.groups_N >= 0]).isdisjoint(held_out.groups_N)
    assert (read(path, vocabulary).groups_N == -1).all()


def variant_rows(sources: int, variants: int) -> list[dict]:
    """Rows of `sources` images, `variants` of each."""
    return [
        {**row, "meta": {"source": number, VARIANT: variant}}
        for number, row in enumerate(unique_rows({0: sources}))
        for variant in range(variants)
    ]


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


@given(
    st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 3)), max_size=30),
    st.floats(0.1, 0.9),
)
def test_every_class_of_two_groups_is_held_out_and_kept(rows, fraction):
    groups_N, classes_N = np.array(rows, np.int64).reshape(-1, 2).T
    classes_N = np.where(groups_N >= 0, groups_N % 3, classes_N)  # a group is of one class
    kept, held_out = split_rows([groups_N], classes_N, fraction, seed=1)
    assert sorted([*kept, *held_out]) == list(range(len(rows)))
    for name in set(classes_N.tolist()):
        members = np.flatnonzero(classes_N == name)
        alone = int((groups_N[members] < 0).sum())
        groups = len({g for g in groups_N[members].tolist() if g >= 0}) + alone
        on_sides = [np.isin(members, side).any() for side in (kept, held_out)]
        assert on_sides == ([True, True] if groups > 1 else [True, False])


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


def test_epoch_has_one_variant_of_each_source_drawn_anew(vocabulary, write_rows):
    alone = [{"tokens": "A B A B"}, {"tokens": "B A", "meta": {"source": 3}}]
    dataset = read(write_rows(*variant_rows(9, 4), *alone), vocabulary)
    assert dataset.epoch_share == 11 / 38
    assert dataset.visits.tolist() == [1 / 4] * 36 + [1, 1]
    met = Counter()
    for epoch in range(200):
        order = np.concatenate(epoch_batches(dataset, 4, 1, epoch))
        assert sorted(dataset.sources_N[order].tolist()) == [-1, -1, *range(9)]
        met.update(order.tolist())
    assert all(met[row] == 200 for row in (36, 37))
    # Each of 4 variants is drawn 50 times in 200 epochs, give or take 4 standard deviations.
    assert all(25 <= met[row] <= 75 for row in range(36))
    again = [batch.tolist() for batch in epoch_batches(dataset, 4, 1, 7)]
    assert again == [batch.tolist() for batch in epoch_batches(dataset, 4, 1, 7)]


@pytest.mark.parametrize(
    "meta",
    [{VARIANT: 1}, {"source": 1}, {"source": 1, VARIANT: "1"}, {"source": 1, "variant": 1}, 7],
)
def test_rows_without_source_and_variant_are_no_variants(vocabulary, write_rows, meta):
    dataset = read(write_rows(*[{"tokens": "A B", "meta": meta}] * 3), vocabulary)
    assert dataset.sources_N.tolist() == [-1, -1, -1]
    assert dataset.epoch_share == 1
    assert dataset.visits.tolist() == [1, 1, 1]
    assert not dataset.has_variants


def test_group_values_of_any_type_are_told_apart(vocabulary, write_rows):
    values = [1, "1", True, 1.0, {"a": 1, "b": 2}, {"b": 2, "a": 1}, [1], None]
    path = write_rows(*[{"tokens": "A B", "key": value} for value in values])
    groups = read(path, vocabulary, group_by="key").groups_N.tolist()
    assert groups == [0, 1, 2, 3, 4, 4, 5, -1]


def test_class_of_two_rows_is_held_out_once_and_class_of_one_group_never(vocabulary):
    records = [*unique_rows({0: 30, 1: 2}), *[{"tokens": "A A", "label": "cat"}] * 5]
    for seed in range(10):
        train, held_out = split_dataset(dataset_of(vocabulary, *records), 0.2, seed)
        assert Counter(held_out.classes_N.tolist()) == {0: 6, 1: 1}
        assert Counter(train.classes_N.tolist()) == {0: 24, 1: 1, 2: 5}


@pytest.mark.parametrize("records", [[{"tokens": "A B"}] * 9, [{"tokens": "A B", "label": 0}]])
def test_rows_that_all_belong_together_cannot_be_split(vocabulary, records):
    with pytest.raises(UserError, match="cannot be split"):
        split_dataset(dataset_of(vocabulary, *records), 0.2, 42)


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
    batches = epoch_batches(ragged, batch_size, seed=42, epoch=3)
    assert sorted(np.concatenate(batches)) == list(range(len(ragged)))
    assert len(batches) == -(-len(ragged) // batch_size)
    assert max(map(len, batches)) <= batch_size


def test_order_follows_from_seed_and_epoch_alone(ragged):
    def order(seed, epoch):
        return np.concatenate(epoch_batches(ragged, 32, seed=seed, epoch=epoch)).tolist()

    assert order(42, 1) == order(42, 1)
    assert order(42, 1) != order(42, 2)
    assert order(42, 1) != order(43, 1)


def test_batches_are_not_in_order_of_length(ragged):
    batches = epoch_batches(ragged, 32, seed=42, epoch=0)
    means = [ragged.lengths_N[batch].mean() for batch in batches]
    assert min(means[:8]) < 100 < max(means[:8])


def test_rows_meet_other_rows_in_another_epoch(ragged):
    companies = [
        {tuple(sorted(batch)) for batch in epoch_batches(ragged, 8, seed=42, epoch=epoch)}
        for epoch in (0, 1)
    ]
    assert len(companies[0] & companies[1]) < 5


def test_batches_of_ragged_rows_have_next_to_no_padding(ragged):
    for batches in (epoch_batches(ragged, 16, 42, 0), list(batches_by_length(ragged, 16))):
        places = sum(len(batch) * int(ragged.lengths_N[batch].max()) for batch in batches)
        assert 1 - ragged.lengths_N.sum() / places < 0.03


def test_batches_for_scoring_hold_every_row_once_longest_first(ragged):
    order = np.concatenate(list(batches_by_length(ragged, 32)))
    assert sorted(order) == list(range(len(ragged)))
    assert (np.diff(ragged.lengths_N[order]) <= 0).all()


def test_unknown_label_token_is_never_read_as_unk(vocabulary):
    with pytest.raises(RowError, match="label token '<CLS_dog>' is not in the vocabulary"):
        parse_row({"tokens": "A B <CLS> <CLS_dog> <EOS>"}, vocabulary, "unk")
