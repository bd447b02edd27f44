"""Rows of tokens: the vocabulary, the split, label tails, and how bad rows are told."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepared_files import bodies, both, contents, mistake

from prepare_data import main
from smallgpt.errors import UserError
from smallgpt.options.preparation import TokensSettings
from smallgpt.preparation.token_rows import prepare_tokens
from smallgpt.rows.reading import dataset_from_records, read_dataset
from smallgpt.tokens.vocabulary import Vocabulary


def tokens(folder: Path, *argv: object) -> tuple[list[dict], list[dict]]:
    assert main(["tokens", *map(str, argv), "--output_dir", str(folder)]) == 0
    return both(folder)


def vocabulary_of(folder: Path) -> list[str]:
    return Vocabulary.load(folder / "vocab.json").tokens


def test_tokens_vocabulary_is_ordered_by_frequency_then_spelling(tmp_path, write_rows):
    rows = [{"tokens": f"z z z y y n{number}", "label": number % 2} for number in range(20)]
    train, _ = tokens(tmp_path / "out", "--input", write_rows(*rows))
    rare = sorted(row["tokens"].split()[5] for row in train)
    assert vocabulary_of(tmp_path / "out") == [
        "<PAD>", "<UNK>", "<CLS>", "<EOS>", "z", "y", *rare, "<CLS_0>", "<CLS_1>",
    ]  # fmt: skip


def test_tokens_special_ones_stand_only_where_rows_use_them(tmp_path, write_rows):
    plain = [{"tokens": f"a b{number % 4} c{number // 4}"} for number in range(16)]
    tokens(tmp_path / "plain", "--input", write_rows(*plain))
    assert vocabulary_of(tmp_path / "plain")[:3] == ["<PAD>", "<UNK>", "<EOS>"]
    framed = [{"tokens": f"<IMG> {row['tokens']} </IMG>", "label": "x"} for row in plain]
    tokens(tmp_path / "framed", "--input", write_rows(*framed))
    special = ["<PAD>", "<UNK>", "<IMG>", "</IMG>", "<CLS>", "<EOS>"]
    assert vocabulary_of(tmp_path / "framed")[:6] == special


def test_tokens_rare_ones_become_unk_and_are_told(tmp_path, write_rows, capsys):
    rows = [{"tokens": f"a{number % 5} b{number // 5} once{number}"} for number in range(50)]
    train, test = tokens(tmp_path / "out", "--input", write_rows(*rows), "--min_count", 2)
    words = Counter(word for row in train for word in row["tokens"].split())
    assert {row["tokens"].split()[2] for row in train + test} == {"<UNK>"}
    assert all(count >= 2 for count in words.values())
    assert "50 tokens seen less than 2 times in training written as <UNK> in 50 places" in (
        capsys.readouterr().out
    )
    summary = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert summary["test"]["unknown_tokens"] == len(test) == 10


def test_tokens_of_test_rows_alone_become_unk(tmp_path, write_rows):
    rows = [{"tokens": f"a only{number}"} for number in range(30)]
    train, test = tokens(tmp_path / "out", "--input", write_rows(*rows))
    # Of the test rows <UNK> makes equal bodies, which no training row has.
    assert {row["tokens"] for row in test} == {"a <UNK>"}
    assert all("<UNK>" not in row["tokens"] for row in train)


def test_tokens_rows_made_equal_by_unk_stay_on_one_side(tmp_path, write_rows, capsys):
    rows = [{"tokens": f"a{number % 10} b{number // 10}"} for number in range(100)]
    rows += [{"tokens": f"a0 b0 once{number}"} for number in range(20)]
    train, test = tokens(tmp_path / "out", "--input", write_rows(*rows), "--min_count", 2)
    assert "moved to training" in capsys.readouterr().out
    assert test
    assert not bodies(train) & bodies(test)


def test_tokens_tails_are_put_in_order_and_other_keys_stay(tmp_path, write_rows, capsys):
    rows = [
        {"id": 5, "tokens": f"{tokens}", "label": "cat", "meta": {"x": [1.5, None, "ü"]}, "z": {}}
        for tokens in ("a b", "a c <CLS>", "b c <CLS> <CLS> <EOS>", "b <CLS> <CLS_cat> <EOS>")
    ]
    rows += [{"tokens": ["d", "e"], "label": 3}, {"tokens": "\ta\u00a0b  d <PAD>"}]
    rows += [{"tokens": f"more {number}", "lone": "\ud800"} for number in range(10)]
    train, test = tokens(tmp_path / "out", "--input", write_rows(*rows), "--min_count", 1)
    written = {json.dumps(row.get("tokens")): row for row in train + test}
    for body in ("a b", "a c", "b c", "b"):
        row = written[json.dumps(f"{body} <CLS> <CLS_cat> <EOS>")]
        assert list(row) == ["id", "tokens", "label", "meta", "z"]
        assert row["meta"] == {"x": [1.5, None, "ü"]}
    assert written[json.dumps(["d", "e", "<CLS>", "<CLS_3>", "<EOS>"])]["label"] == 3
    assert json.dumps("a\u00a0b d") in written
    assert sum(row.get("lone") == "\ud800" for row in train + test) == 10
    said = capsys.readouterr().out
    for words in (
        "the `label` of 3 rows put at their end as tokens: <CLS> <CLS_...> <EOS>",
        "1 broken label tail repaired",
        "<PAD> at the end",
    ):
        assert words in said


def test_tokens_own_test_rows_stay_and_their_like_is_left_out_of_training(
    tmp_path, write_rows, capsys
):
    rows = [{"tokens": f"a{n % 5} b{n // 5}", "label": n % 2} for n in range(20)]
    rows.append({"tokens": "c d", "meta": {"source": "user"}})
    own = [
        {"tokens": "a3 b1", "label": 1},
        {"tokens": "a3 b1", "label": 1},
        {"tokens": "other b1", "label": 2, "id": 7},
        {"tokens": "e f", "meta": {"source": "user"}},
    ]
    test_path = write_rows(*own, name="own.jsonl")
    flags = ("--input", write_rows(*rows), "--test_input", test_path, "--min_count", 1)
    train, test = tokens(tmp_path / "out", *flags)
    assert [row["tokens"] for row in test] == [
        "a3 b1 <CLS> <CLS_1> <EOS>", "a3 b1 <CLS> <CLS_1> <EOS>", "<UNK> b1 <CLS> <CLS_2> <EOS>",
        "<UNK> <UNK>",
    ]  # fmt: skip
    assert test[2]["id"] == 7
    assert bodies(train) == {f"a{n % 5} b{n // 5}" for n in range(20)} - {"a3 b1"}
    said = capsys.readouterr().out
    assert "2 training rows with the tokens or the group of a test row left out" in said
    assert "labels in test rows only, which cannot be learned: 2" in said
    summary = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert [summary[side]["rows"] for side in ("train", "test")] == [len(train), len(test)]
    assert summary["train"]["tokens"] == sum(len(row["tokens"].split()) for row in train)
    rows_again = read_dataset(
        tmp_path / "out" / "train.jsonl", Vocabulary.load(tmp_path / "out" / "vocab.json"),
        max_length=99,
    )  # fmt: skip
    assert len(rows_again) == len(train)


def test_tokens_rows_made_equal_to_an_own_test_row_by_unk_are_left_out(tmp_path, write_rows):
    rows = [{"tokens": f"a{number % 10} b{number // 10}"} for number in range(100)]
    rows.append({"tokens": "a0 once"})
    path = write_rows({"tokens": "a0 new"}, name="own.jsonl")
    flags = ("--input", write_rows(*rows), "--test_input", path, "--min_count", 2)
    train, test = tokens(tmp_path / "out", *flags)
    assert [row["tokens"] for row in test] == ["a0 <UNK>"]
    assert len(train) == 100 and not bodies(train) & bodies(test)


def test_tokens_an_own_test_log_is_read_as_the_other(tmp_path, capsys):
    log = "session,event,result\n" + "".join(
        f"{number},{event},{number % 2}\n" for number in range(12) for event in ("in", f"e{number}")
    )
    (tmp_path / "log.csv").write_text(log)
    # A session of the same number is another one.
    (tmp_path / "own.csv").write_text("session,event,result\n1,in,0\n1,e2,0\n1,e3,0\n")
    train, test = tokens(
        tmp_path / "out", "--input", tmp_path / "log.csv", "--test_input", tmp_path / "own.csv",
        "--group_column", "session", "--event_column", "event", "--label_column", "result",
        "--min_count", 1,
    )  # fmt: skip
    assert len(train) == 12
    assert [row["tokens"] for row in test] == ["in e2 e3 <CLS> <CLS_0> <EOS>"]
    assert "--test_input: 3 events of 3 kinds in 1 row" in capsys.readouterr().out


def test_tokens_own_test_rows_leave_something_to_learn_from(tmp_path, write_rows):
    path = write_rows({"tokens": "a b"}, {"tokens": "b a"})
    flags = ("tokens", "--output_dir", tmp_path / "out", "--input", path)
    assert "no training rows are left" in mistake(*flags, "--test_input", path)
    bad = write_rows({"tokens": 3}, name="bad.jsonl")
    own = ("--test_input", bad)
    assert "bad.jsonl:1: " in mistake(*flags, *own)
    assert "no test rows are left" in mistake(*flags, *own, "--on_bad_row", "skip")
    own = ("--test_input", tmp_path / "out" / "test.jsonl")
    assert "would be overwritten" in mistake(*flags, *own)


def test_tokens_groups_stay_on_one_side_across_files(tmp_path, write_rows):
    paths = [
        write_rows(
            *({"tokens": f"{name} {number}", "meta": {"source": number}} for number in range(20)),
            name=name,
        )
        for name in ("one", "two")
    ]
    train, test = tokens(tmp_path / "out", "--input", *paths)
    sources = [{row["meta"]["source"] for row in rows} for rows in (train, test)]
    assert not sources[0] & sources[1]
    assert len(train) == 32
    train, test = tokens(tmp_path / "out", "--input", *paths, "--group_by", "none", "--overwrite")
    sources = [{row["meta"]["source"] for row in rows} for rows in (train, test)]
    assert sources[0] & sources[1]


def test_tokens_split_is_stratified_and_keeps_the_order(tmp_path, write_rows):
    rows = [
        {"tokens": f"a {number}", "label": "rare" if number % 10 == 0 else "often", "n": number}
        for number in range(200)
    ]
    train, test = tokens(tmp_path / "out", "--input", write_rows(*rows))
    assert Counter(row["label"] for row in test) == {"often": 36, "rare": 4}
    for rows in (train, test):
        assert [row["n"] for row in rows] == sorted(row["n"] for row in rows)


def test_tokens_give_the_same_files_again(tmp_path, write_rows):
    rows = [
        {"tokens": f"a b{number % 9} {number}", "label": f"l{number % 3}"} for number in range(60)
    ]
    settings = TokensSettings(input=(str(write_rows(*rows)),), output_dir=str(tmp_path / "out"))
    summary = prepare_tokens(settings)
    before = contents(tmp_path / "out")
    assert prepare_tokens(settings) == summary
    assert contents(tmp_path / "out") == before
    vocabulary = Vocabulary.load(tmp_path / "out" / "vocab.json")
    for name in ("train.jsonl", "test.jsonl"):
        path = tmp_path / "out" / name
        read = read_dataset(path, vocabulary, max_length=99, unknown_token="error")
        assert read.counts.lines() == []


def test_tokens_bad_rows_are_listed_with_file_and_line(tmp_path, write_rows):
    good = [{"tokens": f"a b{number}"} for number in range(10)]
    bad = [
        (b"{", "not valid JSON"),
        ({"text": "a b"}, "no `tokens`"),
        ({"tokens": 5}, "must be a string"),
        ({"tokens": ["a b", "c"]}, "'a b' is empty or has whitespace"),
        ({"tokens": ["a", ""]}, "'' is empty or has whitespace"),
        ({"tokens": ""}, "no tokens"),
        ({"tokens": "a b", "label": 1.5}, "label must be"),
        ({"tokens": "a b", "label": " "}, "label must be"),
        ({"tokens": "a b", "label": "\ud800"}, "label"),
        ({"tokens": "a <CLS> <CLS_x> <EOS>", "label": "y"}, "the tail says"),
        ({"tokens": "a <CLS_x> b", "label": "y"}, "gives the label away"),
        ({"tokens": "a <CLS> <CLS> <EOS>"}, "names no label"),
        (b"[1]", "expected an object"),
    ]
    path = write_rows(*good, *(row for row, _ in bad))
    argv = ("tokens", "--input", path, "--output_dir", tmp_path / "out")
    lines = mistake(*argv).splitlines()
    assert "--on_bad_row skip" in lines[0]
    for line, (number, (_, words)) in zip(lines[1:], enumerate(bad, 11), strict=True):
        assert line.startswith(f"{path}:{number}: ")
        assert words in line
    train, test = tokens(tmp_path / "out", "--input", path, "--on_bad_row", "skip")
    assert len(train) + len(test) == 10
    notes = json.loads((tmp_path / "out" / "prepared.json").read_text())["notes"]
    assert "13 bad rows skipped" in notes[0]


def test_tokens_lists_five_bad_rows_of_a_kind_at_most(tmp_path, write_rows):
    path = write_rows(*({"tokens": ""} for _ in range(30)))
    lines = mistake("tokens", "--input", path, "--output_dir", tmp_path / "out").splitlines()
    assert len(lines) == 7
    assert "25 more" in lines[6]


def test_tokens_mistakes_are_told_in_plain_words(tmp_path, write_rows):
    out = ("--output_dir", tmp_path / "out")
    ids = write_rows({"tokens": "a b"}, {"input_ids": [1, 2]}, name="ids.jsonl")
    text = mistake("tokens", "--input", ids, *out)
    assert text.startswith(f"{ids}:2: ")
    assert "vocab.json" in text
    assert "--input FILE" in mistake("tokens", *out)
    assert "no such file" in mistake("tokens", "--input", tmp_path / "nowhere", *out)
    assert "no rows" in mistake("tokens", "--input", write_rows(name="empty"), *out)
    bad = write_rows(b"x", name="bad")
    assert "every row is bad" in mistake("tokens", "--input", bad, "--on_bad_row", "skip", *out)
    one = write_rows({"tokens": "a b"}, {"tokens": "a b"}, name="one")
    assert "no test rows are left" in mistake("tokens", "--input", one, *out)
    tokens(tmp_path / "out", "--input", write_rows(*({"tokens": f"a {n}"} for n in range(9))))
    own = tmp_path / "out" / "train.jsonl"
    assert "would be overwritten" in mistake("tokens", "--input", own, *out)


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"tokens": st.lists(st.text(max_size=3), max_size=4) | st.text(max_size=8)},
            optional={"label": st.integers(0, 3) | st.text(max_size=2), "x": st.text(max_size=2)},
        ),
        max_size=12,
    )
)
def test_any_rows_are_prepared_or_refused_in_words(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-rows"
    folder.mkdir(exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["tokens", "--input", str(path), "--output_dir", str(folder / "out")]
    try:
        main([*argv, "--on_bad_row", "skip"])
    except UserError:
        return
    train, test = both(folder / "out")
    vocabulary = Vocabulary.load(folder / "out" / "vocab.json")
    for record in train + test:
        assert dataset_from_records([record], vocabulary, max_length=99)
    assert len({row.get("x") for row in train + test} - {row.get("x") for row in rows}) == 0


def test_two_labels_that_would_become_one_token_are_refused(tmp_path, write_rows):
    rows = [{"tokens": f"a {n}", "label": "new york"} for n in range(10)]
    one = write_rows(*rows, name="one.jsonl")
    other = write_rows(*rows, {"tokens": "b", "label": "new_york"}, name="other.jsonl")
    text = mistake("tokens", "--input", one, other, "--output_dir", tmp_path / "out")
    assert text == (
        f"{other}:11: the label 'new_york' would become one with 'new york' of {one}:1, "
        f"'<CLS_new_york>': rename one of them"
    )
    rows[3]["label"] = " new\u3000york "
    write_rows(*rows, name=other.name)
    assert main(["tokens", "--input", str(other), "--output_dir", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert summary["labels"] == ["new_york"]
    told = f"'new york' of {other}:1, ' new\\u3000york ' of {other}:4"
    assert told in summary["notes"][1]
    # What was prepared is prepared again as it is.
    again = ["tokens", "--input", str(tmp_path / "out" / "train.jsonl")]
    assert main([*again, "--output_dir", str(tmp_path / "again")]) == 0


def test_more_labels_than_a_vocabulary_has_room_for_are_told_in_one_line(tmp_path, write_rows):
    rows = ({"tokens": "a b", "label": f"l{n}"} for n in range(10_001))
    path = write_rows(*rows, name="many.jsonl")
    text = mistake("tokens", "--input", path, "--output_dir", tmp_path / "out")
    assert text.startswith(f"{path}: 10,001 labels, and there may be 10,000 of them")
    assert "\n" not in text


def test_group_key_that_no_row_has_is_refused(tmp_path, write_rows):
    rows = write_rows(*({"tokens": f"a {i}"} for i in range(10)), name="rows.jsonl")
    argv = ["tokens", "--input", str(rows), "--group_by", "meta.nope"]
    with pytest.raises(UserError, match=r"no row has the key --group_by meta\.nope"):
        main([*argv, "--output_dir", str(tmp_path / "out")])


def test_rows_of_ids_are_bad_rows_that_can_be_skipped(tmp_path, write_rows):
    rows = [{"tokens": f"a {i}"} for i in range(10)]
    path = write_rows(*rows, {"input_ids": [1, 2]}, name="rows.jsonl")
    argv = ["tokens", "--input", str(path), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"rows\.jsonl:11: a row of `input_ids`"):
        main(argv)
    assert main([*argv, "--on_bad_row", "skip"]) == 0


def test_more_different_tokens_than_a_vocabulary_takes_are_told_in_one_line(
    tmp_path, write_rows, monkeypatch
):
    monkeypatch.setattr("smallgpt.tokens.vocabulary.MOST_TOKENS", 100)
    rows = write_rows(*({"tokens": f"w{number} w{number + 1}"} for number in range(120)))
    with pytest.raises(UserError, match="127 tokens, at most 100; write rare tokens") as caught:
        prepare_tokens(TokensSettings(input=(str(rows),), output_dir=str(tmp_path / "out")))
    assert str(rows) in str(caught.value) and "\n" not in str(caught.value)


def test_one_endless_row_does_not_set_the_length_of_the_suggested_command(
    tmp_path, write_rows, capsys
):
    rows = [{"tokens": " ".join(f"a{(n * k) % 7}" for k in range(9 + n % 7))} for n in range(150)]
    path = write_rows(*rows, {"tokens": "a1 " * 12_003})
    tokens(tmp_path / "out", "--input", path)
    said = capsys.readouterr().out.splitlines()
    assert said[-1].endswith("--output_dir outputs/runs/out --max_length 15")
    assert "row lengths in tokens: median 12, 90 % up to 15, 99 % up to 15, longest 12,003" in said
    assert (
        "the longest row has 12,003 tokens; training with max_length 15 cuts 1 of 151 rows and "
        "leaves out 11,988 tokens (86.9% of all)"
    ) in said
    rows += [{"tokens": f"a{n} " * 1500} for n in range(7)]  # long rows that are no exception
    tokens(tmp_path / "out", "--input", write_rows(*rows), "--overwrite")
    said = capsys.readouterr().out
    assert said.endswith("--max_length 1500 --n_positions 1500\n")
    assert "cuts" not in said
