"""Texts and instructions to rows: splits without repeats, windows, tokenizers, mistakes."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from prepare_data import main
from smallgpt.checks.baselines import measure_baselines
from smallgpt.errors import SettingsError, UserError
from smallgpt.options.option import AUTO
from smallgpt.options.preparation import InstructionsSettings, TextSettings
from smallgpt.preparation.examples import Text
from smallgpt.preparation.folder import FILES
from smallgpt.preparation.instructions import prepare_instructions
from smallgpt.preparation.text_rows import document_rows
from smallgpt.preparation.texts import prepare_text
from smallgpt.rows.batching import epoch_batches
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.reading import read_dataset
from smallgpt.tokens.instruction_template import instruction_prompt
from smallgpt.tokens.text_tokenizer import WHITESPACE_MARKS, TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary

SIDES = ("train.jsonl", "val.jsonl", "test.jsonl")


def lines_of(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def write_jsonl(path: Path, records: list[dict]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def rows_of(folder: Path, name: str, max_length: int = 1024) -> TokenLabelDataset:
    vocabulary = Vocabulary.load(folder / "vocab.json")
    return read_dataset(folder / name, vocabulary, max_length=max_length)


@pytest.fixture
def reviews(tmp_path) -> TextSettings:
    """60 texts of two labels; ten texts stand twice."""
    records = [
        {"text": f"room {number} was {'fine' if number % 2 else 'bad'}", "label": number % 2}
        for number in [*range(50), *range(10)]
    ]
    for number, record in enumerate(records):
        record["room"] = number % 4
    path = write_jsonl(tmp_path / "reviews.jsonl", records)
    return TextSettings(
        input=(path,), label_column="label", tokenizer="chars", output_dir=str(tmp_path / "out")
    )


@pytest.fixture
def orders(tmp_path) -> InstructionsSettings:
    """40 instructions; five stand twice, with another answer each time."""
    records = [
        {"instruction": f"Count to {number}.", "input": "", "output": f"{number}{'!' * (i > 39)}"}
        for i, number in enumerate([*range(40), *range(5)])
    ]
    path = write_jsonl(tmp_path / "orders.jsonl", records)
    return InstructionsSettings(
        input=(path,), tokenizer="chars", output_dir=str(tmp_path / "out"), validation_fraction=0.1
    )


# ---- windows of long texts -----------------------------------------------------------


CHARACTERS = TextTokenizer.learn_characters(["abc"], ("<PAD>", "<UNK>", "<CLS>", "<EOS>"))
LETTERS = Vocabulary(CHARACTERS.tokens, CHARACTERS)


@given(st.lists(st.text("abc", min_size=1), min_size=1, max_size=5), st.integers(8, 12))
def test_every_token_but_the_first_of_a_text_is_predicted_once(texts, length):
    documents = [Text(text, None, f"{i}", f"{i}") for i, text in enumerate(texts)]
    rows = list(document_rows(documents, LETTERS, length, None))
    predicted = {f"{i}": [] for i in range(len(texts))}
    for row in rows:
        assert 2 <= len(row["input_ids"]) <= length
        predicted[row["meta"]["source"]] += row["input_ids"][1:]
    for number, text in enumerate(texts):
        whole = [*CHARACTERS.encode(text), LETTERS.eos_id]
        assert predicted[f"{number}"] == whole[1:]
        first = next(row for row in rows if row["meta"]["source"] == f"{number}")
        assert first["input_ids"][0] == whole[0]


@given(st.text("abc", min_size=1, max_size=60), st.integers(8, 12), st.integers(1, 7))
def test_with_a_stride_every_window_is_a_part_of_the_text_and_none_is_left_out(
    text, length, stride
):
    whole = [*CHARACTERS.encode(text), LETTERS.eos_id]
    seen = np.zeros(len(whole), int)
    for row in document_rows([Text(text, None, "", "a")], LETTERS, length, stride):
        start = row["meta"]["start"]
        assert start % stride == 0
        assert row["input_ids"] == whole[start : start + length]
        seen[start : start + len(row["input_ids"])] += 1
    assert seen.all()


def test_a_stride_shows_more_of_the_training_text_alone(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("abcdefgh " * 200)
    settings = TextSettings(
        input=(str(path),), tokenizer="chars", max_length=33, output_dir=str(tmp_path / "out")
    )
    plain = prepare_text(settings)
    dense = prepare_text(replace(settings, stride=8, overwrite=True))
    assert dense["train"]["rows"] > 3 * plain["train"]["rows"]
    for side in ("validation", "test"):
        assert dense[side] == plain[side]
    for side in ("train", "validation", "test"):
        characters = {"train": 1440, "validation": 180, "test": 180}[side]
        name = SIDES[("train", "validation", "test").index(side)]
        if side != "train":
            # All characters and the end are predicted, the first character is not.
            assert rows_of(tmp_path / "out", name).target_count == characters


def test_the_last_part_of_a_long_text_is_held_out_in_order(tmp_path):
    path = tmp_path / "long.txt"
    text = "".join(chr(ord("a") + number % 26) for number in range(1000))
    path.write_text(text)
    settings = TextSettings(
        input=(str(path),), tokenizer="chars", max_length=1025, output_dir=str(tmp_path / "out")
    )
    prepare_text(settings)
    vocabulary = Vocabulary.load(tmp_path / "out" / "vocab.json")
    parts = []
    for name in SIDES:
        (row,) = lines_of(tmp_path / "out" / name)
        assert row["input_ids"][-1] == vocabulary.eos_id
        parts.append(vocabulary.tokenizer.decode(row["input_ids"]))
    assert "".join(parts) == text
    assert [len(part) for part in parts] == [800, 100, 100]


def test_many_documents_are_held_out_whole(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("\n<|endoftext|>\n".join(f"document {number}" for number in range(40)))
    settings = TextSettings(input=(str(path),), tokenizer="chars", output_dir=str(tmp_path / "out"))
    prepare_text(settings)
    vocabulary = Vocabulary.load(tmp_path / "out" / "vocab.json")
    found = [
        vocabulary.tokenizer.decode(row["input_ids"]).strip()
        for name in SIDES
        for row in lines_of(tmp_path / "out" / name)
    ]
    assert sorted(found) == sorted(f"document {number}" for number in range(40))
    assert len(lines_of(tmp_path / "out" / "test.jsonl")) == 4


def test_repeated_documents_leave_and_so_do_those_of_own_test_files(tmp_path):
    path, own = tmp_path / "few.txt", tmp_path / "own.txt"
    pieces = ["stone " * 9, "notes " * 9, "stone " * 9, "onset " * 9, "tones " * 9]
    path.write_text("\n<|endoftext|>\n".join(pieces))
    own.write_text("onset " * 9)
    summary = prepare_text(
        TextSettings(
            input=(str(path),),
            test_input=(str(own),),
            tokenizer="chars",
            validation_fraction=0.3,
            output_dir=str(tmp_path / "out"),
        )
    )
    vocabulary = Vocabulary.load(tmp_path / "out" / "vocab.json")
    decode = vocabulary.tokenizer.decode
    sides = {
        name: "".join(decode(row["input_ids"]) for row in lines_of(tmp_path / "out" / name))
        for name in SIDES
    }
    learned = sides["train.jsonl"] + sides["val.jsonl"]
    assert "onset" in sides["test.jsonl"] and "onset" not in learned
    assert learned.count("stone") == 9
    assert any("2 texts left out" in note for note in summary["notes"])


# ---- texts with labels ---------------------------------------------------------------


def test_no_text_stands_on_two_sides_and_repeats_leave(reviews):
    summary = prepare_text(reviews)
    folder = Path(reviews.output_dir)
    sides = [{row["text"] for row in lines_of(folder / name)} for name in SIDES]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 50
    assert summary["train"]["rows"] + summary["validation"]["rows"] == len(sides[0] | sides[1])
    assert summary["labels"] == ["0", "1"]
    for name in SIDES:
        labels = [row["label"] for row in lines_of(folder / name)]
        assert set(labels) == {"0", "1"}


def test_other_columns_stay_with_their_rows_and_variants(tmp_path):
    table = "id;text;stars\n" + "".join(
        f"r{n};Room {n}, bed {n}, bath {n}.;{'ok' if n % 2 else 'not ok'}\n" for n in range(30)
    )
    (tmp_path / "a.csv").write_text(table)
    out = tmp_path / "out"
    flags = ["--label_column", "stars", "--augment", "1", "--output_dir", str(out)]
    assert main(["text", "--input", str(tmp_path / "a.csv"), *flags]) == 0
    rows = [row for name in SIDES for row in lines_of(out / name)]
    assert len({row["id"] for row in rows}) == 30 < len(rows)
    for row in rows:
        assert row["meta"]["source"] == f"a.csv:{int(row['id'][1:]) + 2}"
    assert "kept with each row: id" in json.loads((out / "prepared.json").read_text())["notes"]


def test_other_keys_of_a_document_stay_with_each_of_its_rows(tmp_path):
    records = [
        {"id": n, "text": f"room {n} " * 20, "tokens": 9, "label": "a", "meta": {"of": n}}
        for n in range(20)
    ]
    path = write_jsonl(tmp_path / "long.jsonl", records)
    out = tmp_path / "out"
    settings = TextSettings(
        input=(path,), tokenizer="chars", max_length=33, output_dir=str(out), test_fraction=0.2
    )
    notes = prepare_text(settings)["notes"]
    rows = [row for name in SIDES for row in lines_of(out / name)]
    assert {row["id"] for row in rows} == set(range(20))
    for row in rows:
        assert row["meta"]["source"] == f"long.jsonl:{row['id'] + 1}"
        assert set(row) == {"input_ids", "meta", "id"}
    told = "left out, since rows need the name for something else: label, meta, tokens"
    assert {"kept with each row: id", told} <= set(notes)


def test_a_text_with_two_labels_keeps_both_and_is_told(reviews, tmp_path):
    lines = ["neg", "pos", "pos"]
    records = [{"text": f"room {n}", "label": label} for label in lines for n in range(60)]
    path = write_jsonl(tmp_path / "both.jsonl", records)
    summary = prepare_text(replace(reviews, input=(path,)))
    folder = Path(reviews.output_dir)
    for name in SIDES:
        labels = {"neg": set(), "pos": set()}
        for row in lines_of(folder / name):
            labels[row["label"]].add(row["text"])
        assert labels["neg"] == labels["pos"] != set()
    told = f"60 texts with more than one label, the first: {path}:1 has 'neg', {path}:61 has 'pos'"
    assert told in summary["notes"]
    assert any("repeated records left out" in note for note in summary["notes"])


def test_files_of_one_name_have_sources_of_their_own(long_reviews, tmp_path):
    for folder, label in (("fa", "bad"), ("fb", "good")):
        (tmp_path / folder).mkdir()
        records = [{"text": f"{label} {n}, {folder}.", "label": label} for n in range(20)]
        write_jsonl(tmp_path / folder / "data.jsonl", records)
    paths = tuple(str(tmp_path / folder / "data.jsonl") for folder in ("fa", "fb"))
    prepare_text(replace(long_reviews, input=paths[:1], test_input=paths[1:]))
    folder = Path(long_reviews.output_dir)
    of_training, of_test = (
        {row["meta"]["source"].split("data.jsonl")[0] for row in lines_of(folder / name)}
        for name in ("train.jsonl", "test.jsonl")
    )
    assert (of_training, of_test) == ({"fa/"}, {"fb/"})
    summary = prepare_text(replace(long_reviews, input=paths, overwrite=True))
    rows = rows_of(folder, "train.jsonl")
    visited = np.concatenate(epoch_batches(rows, 8, seed=0, epoch=0))
    assert len(visited) == summary["train"]["rows"]


def test_summary_counts_what_training_reads(reviews):
    summary = prepare_text(reviews)
    for name, side in zip(SIDES, ("train", "validation", "test"), strict=True):
        rows = rows_of(Path(reviews.output_dir), name)
        assert summary[side]["tokens"] == rows.lengths_N.sum()
        assert summary[side]["rows"] == summary[side]["labelled"] == len(rows)
    assert summary["train"]["unknown_tokens"] == 0


def test_the_tokenizer_is_learned_from_training_rows_alone(reviews, tmp_path):
    own = write_jsonl(tmp_path / "own.jsonl", [{"text": "Ω room", "label": 1}])
    summary = prepare_text(replace(reviews, test_input=(own,)))
    assert "Ω" not in Vocabulary.load(Path(reviews.output_dir) / "vocab.json").ids
    assert summary["test"] == {"rows": 1, "labelled": 1, "tokens": 9, "unknown_tokens": 1}


def test_training_texts_that_stand_in_own_test_files_are_left_out(reviews, tmp_path):
    repeated = [{"text": f" room {number} was bad\n", "label": 0} for number in (20, 22)]
    own = write_jsonl(tmp_path / "own.jsonl", repeated)
    summary = prepare_text(replace(reviews, test_input=(own,)))
    folder = Path(reviews.output_dir)
    learned = {row["text"] for name in SIDES[:2] for row in lines_of(folder / name)}
    assert learned.isdisjoint({"room 20 was bad", "room 22 was bad"})
    assert len(learned) == 48
    assert any("left out" in note for note in summary["notes"])


def test_labels_of_several_words_become_tokens_and_are_told(reviews, tmp_path):
    records = [
        {"text": f"room {number}", "label": "very good" if number % 2 else "bad"}
        for number in range(40)
    ]
    settings = replace(reviews, input=(write_jsonl(tmp_path / "words.jsonl", records),))
    summary = prepare_text(settings)
    assert summary["labels"] == ["bad", "very good"]
    told = "is '<CLS_very_good>'"
    assert any("'very good' of " in note and told in note for note in summary["notes"])
    written = lines_of(Path(reviews.output_dir) / "train.jsonl")
    assert {row["label"] for row in written} == {"bad", "very good"}


@pytest.mark.parametrize("labels", [("very good", "very_good"), ("a b_c", "a_b c")])
def test_two_labels_that_would_become_one_token_are_refused(reviews, tmp_path, labels):
    records = [{"text": f"room {number}", "label": labels[number % 2]} for number in range(40)]
    settings = replace(reviews, input=(write_jsonl(tmp_path / "words.jsonl", records),))
    first, second = (f"{settings.input[0]}:{line}" for line in (1, 2))
    words = f"^{second}: .*{labels[1]!r} would become one with {labels[0]!r} of {first}, "
    with pytest.raises(UserError, match=words):
        prepare_text(settings)
    own = write_jsonl(tmp_path / "own.jsonl", [{"text": "x", "label": labels[1]}])
    settings = replace(
        settings, input=(write_jsonl(tmp_path / "words.jsonl", records[::2]),), test_input=(own,)
    )
    with pytest.raises(UserError, match=rf"^{own}:1: .* of {first}, "):
        prepare_text(settings)


def test_spellings_that_differ_in_whitespace_alone_are_one_label_and_told(reviews, tmp_path):
    spellings = ["new york", " new  york", "new\u3000york\n"]
    records = [{"text": f"room {n}", "label": spellings[n % 3]} for n in range(40)]
    path = write_jsonl(tmp_path / "words.jsonl", records)
    summary = prepare_text(replace(reviews, input=(path,)))
    assert summary["labels"] == ["new york"]
    told = f"first: 'new york' of {path}:1, ' new  york' of {path}:2"
    assert any("1 label spelled with" in note and told in note for note in summary["notes"])


def test_more_labels_than_a_vocabulary_has_room_for_are_told_in_one_line(reviews, tmp_path):
    path = tmp_path / "many.tsv"
    path.write_text("".join(f"text {n}\tl{n % 10_001}\n" for n in range(20_002)))
    settings = replace(reviews, input=(str(path),), text_column="1", label_column="2")
    with pytest.raises(UserError, match=rf"^{path}:10001: 'l10000' is label number 10,001, ") as e:
        prepare_text(settings)
    assert "\n" not in str(e.value)


def test_characters_that_will_be_read_as_whitespace_are_told(reviews, tmp_path):
    mark = WHITESPACE_MARKS[" "]
    records = [{"text": f"{number} {mark}", "label": number % 2} for number in range(30)]
    settings = replace(reviews, input=(write_jsonl(tmp_path / "marks.jsonl", records),))
    assert any("read as whitespace" in note for note in prepare_text(settings)["notes"])
    assert not any(
        "read as whitespace" in note
        for note in prepare_text(replace(settings, tokenizer="bpe", overwrite=True))["notes"]
    )


def test_same_seed_same_files_another_seed_another_split(reviews):
    def texts() -> list[str]:
        return [row["text"] for row in lines_of(Path(reviews.output_dir) / "test.jsonl")]

    prepare_text(reviews)
    first = texts()
    prepare_text(reviews)
    assert texts() == first
    prepare_text(replace(reviews, seed=7, overwrite=True))
    assert texts() != first


@pytest.mark.parametrize("name", ["chars", "bpe"])
def test_size_of_the_vocabulary_is_kept(reviews, name):
    size = 20 if name == "chars" else 300
    summary = prepare_text(replace(reviews, tokenizer=name, vocab_size=size))
    assert summary["vocabulary_size"] <= size
    if name == "chars":
        assert summary["vocabulary_size"] == 20
        assert summary["train"]["unknown_tokens"] > 0


def test_vocabulary_grows_with_the_texts(tmp_path):
    random, sizes = np.random.default_rng(0), []
    words = ["".join(random.choice(list("abcdefghij"), 4)) for _ in range(800)]
    for lines in (20, 10_000):
        path, folder = tmp_path / f"{lines}.tsv", tmp_path / f"{lines}"
        path.write_text("".join(f"{' '.join(random.choice(words, 8))}\t{n % 2}\n"
                                for n in range(lines)))  # fmt: skip
        columns = {"text_column": "1", "label_column": "2", "augment": 0}
        summary = prepare_text(TextSettings(input=(str(path),), output_dir=str(folder), **columns))
        sizes.append(summary["vocabulary_size"])
        is_small = sizes[-1] < 4096
        assert any("--vocab_size 4096 takes more" in n for n in summary["notes"]) == is_small
        assert summary["train"]["tokens"] >= 64 * sizes[-1] or sizes[-1] <= 512
    assert sizes[0] <= 512 < sizes[1]
    # Without labels nothing is said of them, and the language gains nothing by fewer tokens.
    path, folder = tmp_path / "10000.tsv", tmp_path / "unlabelled"
    settings = TextSettings(input=(str(path),), output_dir=str(folder), text_column="1")
    summary = prepare_text(settings)
    assert summary["vocabulary_size"] > sizes[1]
    assert not any("--vocab_size" in n for n in summary["notes"])


def test_many_labels_leave_room_for_every_byte(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text("".join(f"text {n}\tlabel {n % 4000}\n" for n in range(40_000)))
    columns = {"text_column": "1", "label_column": "2", "augment": 0}
    folder = tmp_path / "rows"
    summary = prepare_text(TextSettings(input=(str(path),), output_dir=str(folder), **columns))
    assert summary["vocabulary_size"] >= 4000 + 256


def test_a_folder_that_was_prepared_is_a_tokenizer_for_other_texts(reviews, tmp_path):
    prepare_text(reviews)
    before = Vocabulary.load(Path(reviews.output_dir) / "vocab.json")
    other = replace(reviews, tokenizer=reviews.output_dir, output_dir=str(tmp_path / "other"))
    prepare_text(other)
    assert Vocabulary.load(tmp_path / "other" / "vocab.json").tokens == before.tokens
    assert rows_of(tmp_path / "other", "test.jsonl").counts.unknown_tokens == 0


@pytest.mark.parametrize("label", ["label", None])
def test_a_text_that_a_pretrained_tokenizer_fails_at_is_told_with_its_place(
    reviews, tmp_path, label
):
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    records = [{"text": "a " * n + "a", "label": n % 2} for n in range(30)]
    records[11]["text"] = "a b"
    path = write_jsonl(tmp_path / "some.jsonl", records)
    settings = replace(reviews, input=(path,), tokenizer=str(tmp_path), label_column=label)
    with pytest.raises(UserError, match=r"some\.jsonl:12: the tokenizer fails at this text: "):
        prepare_text(settings)


def test_labels_that_a_tokenizer_brings_along_are_told(reviews, tmp_path):
    prepare_text(reviews)
    records = [{"text": f"room {n}", "label": "new"} for n in range(30)]
    other = replace(
        reviews,
        input=(write_jsonl(tmp_path / "new.jsonl", records),),
        tokenizer=reviews.output_dir,
        output_dir=str(tmp_path / "other"),
    )
    summary = prepare_text(other)
    assert summary["labels"] == ["0", "1", "new"]
    assert "2 labels of the tokenizer's own, which no row has, stay" in summary["notes"]


def test_a_pretrained_token_that_no_vocabulary_takes_is_told(reviews, tmp_path):
    tokenizer = TextTokenizer.learn_characters(["a"], ("<PAD>", "<UNK>"))
    tokenizer.with_special(["x" * 1001])
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    with pytest.raises(UserError, match=rf"^the tokenizer {tmp_path}: token 'xxx.* 1,000 letters$"):
        prepare_text(replace(reviews, tokenizer=str(tmp_path)))


def test_a_long_run_of_one_letter_learns_no_token_too_long_for_a_vocabulary(reviews, tmp_path):
    records = [{"text": f"{'x' * 1300} {n}", "label": n % 2} for n in range(30)]
    settings = replace(reviews, input=(write_jsonl(tmp_path / "x.jsonl", records),))
    prepare_text(replace(settings, tokenizer="bpe"))
    tokens = Vocabulary.load(Path(reviews.output_dir) / "vocab.json").tokens
    assert 500 < max(map(len, tokens)) <= 1000


def test_a_file_name_that_is_no_unicode_is_written_and_read_again(reviews, tmp_path):
    path = tmp_path / "\udcff.jsonl"
    path.write_bytes(Path(reviews.input[0]).read_bytes())
    prepare_text(replace(reviews, input=(str(path),)))
    folder = Path(reviews.output_dir)
    assert json.loads((folder / "prepared.json").read_text())["settings"]["input"] == [str(path)]
    assert len(rows_of(folder, "train.jsonl")) == len(lines_of(folder / "train.jsonl"))


@pytest.mark.parametrize("has_model", [True, False])
def test_the_next_command_goes_on_from_the_model_whose_tokens_were_taken(
    reviews, tmp_path, capsys, has_model
):
    prepare_text(reviews)
    base = Path(reviews.output_dir)
    if has_model:
        (base / "config.json").write_text("{}")
    argv = ["text", "--input", *reviews.input, "--label_column", "label"]
    assert main([*argv, "--tokenizer", str(base), "--output_dir", str(tmp_path / "more")]) == 0
    assert (f"--init_from {base}" in capsys.readouterr().out.splitlines()[-1]) == has_model


def test_bad_records_are_skipped_where_asked_for_and_told(reviews, tmp_path):
    path = Path(reviews.input[0])
    path.write_text(path.read_text() + '{"text": "", "label": 1}\n{"text": "a"}\n')
    with pytest.raises(UserError, match=r":61: `text` is empty\n.*:62: no label") as caught:
        prepare_text(reviews)
    assert str(caught.value).splitlines()[0].endswith("--on_bad_row skip")
    summary = prepare_text(replace(reviews, on_bad_row="skip"))
    assert any("2 bad records skipped" in note for note in summary["notes"])


# ---- variants of texts with labels ---------------------------------------------------


@pytest.fixture
def long_reviews(tmp_path) -> TextSettings:
    """40 reviews of four clauses, and two of which one is a variant of the other."""
    records = [
        {"text": f"Room {n}, bed {n}, bath {n}, all {n}.", "label": n % 2} for n in range(40)
    ]
    records += [{"text": "One, two.", "label": 1}, {"text": "two. One,", "label": 1}]
    path = write_jsonl(tmp_path / "long.jsonl", records)
    return TextSettings(
        input=(path,), label_column="label", augment=5, output_dir=str(tmp_path / "out")
    )


def test_labelled_texts_get_variants_unless_a_flag_says_none(long_reviews):
    summary = prepare_text(replace(long_reviews, augment=AUTO))
    made = summary["train"]["variants"] / summary["train"]["rows"]
    told = (
        f"recipe: up to 30 variants of each text, {made:.1f} on average "
        f"(--augment 0 where the order of its clauses decides)"
    )
    assert made < 29 and told in summary["notes"] and summary["settings"]["augment"] == 30
    assert prepare_text(replace(long_reviews, augment=AUTO)) == summary  # the same again
    none = prepare_text(replace(long_reviews, augment=0, overwrite=True))
    assert "variants" not in none["train"] and not any("variant" in n for n in none["notes"])


def test_variants_that_equal_their_text_are_not_told_as_variants(long_reviews, tmp_path):
    records = [{"text": f"Room {n} was fine", "label": n % 2} for n in range(40)]  # of one clause
    path = write_jsonl(tmp_path / "short.jsonl", records)
    summary = prepare_text(replace(long_reviews, input=(path,), augment=AUTO))
    assert "variants" not in summary["train"]
    notes = "\n".join(summary["notes"])
    assert "recipe: up to 30 variants of each text, 0.0 on average" in notes
    assert f"{30 * summary['train']['rows']:,} variants equal to the text itself" in notes


def test_texts_without_labels_get_no_variants(long_reviews):
    summary = prepare_text(replace(long_reviews, augment=AUTO, label_column=None))
    assert summary["settings"]["augment"] == 0 and not any("recipe" in n for n in summary["notes"])


def test_variants_of_a_text_stand_beside_it_in_training_alone(long_reviews):
    summary = prepare_text(long_reviews)
    folder = Path(long_reviews.output_dir)
    train, validation, test = (lines_of(folder / name) for name in SIDES)
    assert not any(VARIANT in row["meta"] for row in validation + test)
    sources = {}
    for row in train:
        sources.setdefault(row["meta"]["source"], []).append(row)
    for rows in sources.values():
        assert rows[0]["meta"][VARIANT] == 0
        assert len({row["text"] for row in rows}) == len(rows) <= 6
        assert len({row["label"] for row in rows}) == 1
        assert all(set(row["text"].split()) <= set(rows[0]["text"].split()) for row in rows)
    assert len(sources) == summary["train"]["rows"] == 42 - len(validation) - len(test)
    assert len(train) - len(sources) == summary["train"]["variants"] > 4.5 * 30
    told = sum(int(n.split()[0]) for n in summary["notes"] if "variant" in n and "left out" in n)
    assert told == 5 * len(sources) - summary["train"]["variants"] > 0
    rows = rows_of(folder, "train.jsonl")
    assert rows.visited_rows == len(sources)


@pytest.mark.parametrize("seed", range(6))
def test_no_variant_is_a_text_of_another_side(long_reviews, seed):
    prepare_text(replace(long_reviews, seed=seed, test_fraction=0.3, validation_fraction=0.3))
    folder = Path(long_reviews.output_dir)
    train, validation, test = ({r["text"] for r in lines_of(folder / name)} for name in SIDES)
    assert train.isdisjoint(validation | test)


# ---- instructions --------------------------------------------------------------------


def test_no_prompt_stands_on_two_sides(orders):
    prepare_instructions(orders)
    folder = Path(orders.output_dir)
    sides = [{row["instruction"] for row in lines_of(folder / name)} for name in SIDES]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 40


def test_rows_of_instructions_read_as_prompt_and_answer(orders):
    summary = prepare_instructions(orders)
    folder = Path(orders.output_dir)
    for name, side in zip(SIDES, ("train", "validation", "test"), strict=True):
        rows, written = rows_of(folder, name), lines_of(folder / name)
        tokenizer = rows.vocabulary.tokenizer
        assert summary[side]["tokens"] == rows.lengths_N.sum()
        for index, record in enumerate(written):
            ids = rows.row(index).tolist()
            prompt = ids[: rows.prompt_lengths_N[index]]
            assert tokenizer.decode(prompt) == instruction_prompt(record["instruction"])
            assert tokenizer.decode(ids[len(prompt) :]) == record["output"]
            assert ids[-1] == rows.vocabulary.eos_id


def test_shares_in_order(orders):
    prepare_instructions(replace(orders, in_order=True, validation_fraction=0.05))
    folder = Path(orders.output_dir)
    sources = [
        [int(row["meta"]["source"].split(":")[1]) for row in lines_of(folder / name)]
        for name in SIDES
    ]
    flat = [line for side in sources for line in side]
    assert flat == sorted(flat)
    assert sources[2] == [41, 42, 43, 44, 45][-len(sources[2]) :]


# ---- mistakes ------------------------------------------------------------------------


def told(*words: str) -> str:
    with pytest.raises((UserError, SettingsError)) as caught:
        main([str(word) for word in words])
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name in FILES if name != "prepared.json"])
def test_a_folder_of_other_data_is_left_alone(reviews, tmp_path, name):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is there already and was not made by this"):
        prepare_text(replace(reviews, output_dir=str(foreign)))
    assert [path.name for path in foreign.iterdir()] == [name]
    assert (foreign / name).read_text() == "mine"


def test_an_input_is_never_overwritten(reviews, tmp_path):
    prepare_text(reviews)
    path = Path(reviews.output_dir) / "train.jsonl"
    before = path.read_bytes()
    with pytest.raises(SettingsError, match="would be overwritten"):
        prepare_text(replace(reviews, input=(str(path),)))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "\n \n", "<|endoftext|>\n"])
def test_a_file_without_text_is_told(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_text(content)
    assert (
        told("text", "--input", path, "--output_dir", tmp_path / "out") == f"{path}: nothing in it"
    )
    assert not (tmp_path / "out").exists()


def test_one_record_is_too_few(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one", "label": "a"}])
    text = told("text", "--input", path, "--label_column", "label", "--output_dir", tmp_path / "o")
    assert "nothing is left for" in text
    assert "\n" not in text


def test_a_heading_read_as_a_record_is_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(40)))
    by_number = ("--text_column", "1", "--label_column", "2", "--output_dir", tmp_path / "out")
    text = told("text", "--input", path, *by_number)
    assert text.startswith(
        f"{path}:1: no other line has the label 'label': if this line is a heading"
    )
    path.write_text("text 40, 1\n" + "".join(f"text {i},{i % 2}\n" for i in range(40)))
    assert main(["text", "--input", str(path), *map(str, by_number)]) == 0


def test_a_heading_of_own_test_files_is_told_too(tmp_path):
    lines = "".join(f"text {i},{i % 2}\n" for i in range(40))
    (tmp_path / "a.csv").write_text(lines)
    (tmp_path / "test.csv").write_text("text,label\n" + lines.replace("text", "other"))
    text = told("text", "--input", tmp_path / "a.csv", "--test_input", tmp_path / "test.csv",
                "--text_column", "1", "--label_column", "2",
                "--output_dir", tmp_path / "out")  # fmt: skip
    assert "test.csv:1: no other line has the label 'label'" in text


def test_own_test_files_that_hold_everything_are_told(reviews):
    with pytest.raises(UserError, match="every record stands in --test_input as well"):
        prepare_text(replace(reviews, test_input=reviews.input))


def test_rows_of_ids_are_refused_under_another_vocabulary(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("abcdefgh " * 200)
    folders = [tmp_path / name for name in ("chars", "bpe")]
    for folder in folders:
        prepare_text(
            TextSettings(input=(str(path),), tokenizer=folder.name, output_dir=str(folder))
        )
    for own, other in (folders, folders[::-1]):
        vocabulary = Vocabulary.load(other / "vocab.json")
        assert len(rows_of(own, "train.jsonl")) > 0
        with pytest.raises(UserError, match=r"train\.jsonl:1: its ids are those of another"):
            read_dataset(own / "train.jsonl", vocabulary, max_length=300)


def test_a_mistyped_tokenizer_names_the_near_one(reviews, monkeypatch):
    from smallgpt.files import hub

    def no_network(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(hub.urllib.request, "urlopen", no_network)
    for name, near in (("char", "chars"), ("bpee", "bpe")):
        with pytest.raises(UserError, match=rf"^{name}: .*no network.*did you mean {near}\?$"):
            prepare_text(replace(reviews, tokenizer=name))


def test_the_tokenizer_is_looked_for_before_any_file_is_read(reviews, tmp_path):
    missing = replace(reviews, tokenizer=str(tmp_path / "none"), input=(str(tmp_path / "no.txt"),))
    with pytest.raises(UserError, match=r"none: no such folder"):
        prepare_text(missing)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--vocab_size", "10000000000"), "out of range"),
        (("--vocab_size", "100"), "--vocab_size 100 is too small: 256 bytes"),
        (
            ("--vocab_size", "8", "--tokenizer", "chars", "--label_column", "room"),
            "--vocab_size 8 is too small: 1 character, 4 special tokens and 4 labels need 9",
        ),
        (("--text_column", "txt"), "no column 'txt'; there is text, label, room"),
        (("--stride", "300"), "--stride must be below --max_length"),
        (("--label_column", "text"), "60 records, the first: 'room 0 was bad'; is it the right"),
        (("--pair_column", "room"), "--pair_column needs --label_column; a text that answers"),
        (
            ("--pair_column", "text", "--label_column", "label"),
            "--pair_column text: another column is to be read there",
        ),
        (
            ("--pair_column", "b", "--label_column", "label", "--augment", "2"),
            "--augment leaves clauses out, which may change what a pair is",
        ),
        (("--pair_column", "room", "--label_column", "label"), "`room` must be a text, got 0"),
        (("--augment", "3"), "--augment needs --label_column; running text has --stride"),
        (("--test_fraction", "0.6", "--validation_fraction", "0.5"), "nothing to learn from"),
    ],
)
def test_a_wrong_value_is_told(reviews, flags, words):
    text = told("text", "--input", *reviews.input, "--output_dir", reviews.output_dir, *flags)
    assert words in text
    assert "\n" not in text
    assert not Path(reviews.output_dir).exists()


def test_a_file_of_bad_records_alone_is_told_in_one_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "你好", "label": "a"}\n'.encode("gbk") * 30)
    text = told("text", "--input", path, "--label_column", "label", "--output_dir", tmp_path / "o")
    assert text.startswith(f"not one of 30 records can be used, the first: {path}:1: not UTF-8")
    assert "iconv" in text
    assert "\n" not in text


def test_an_error_leaves_an_earlier_preparation_as_it_was(reviews, tmp_path):
    prepare_text(reviews)
    folder = Path(reviews.output_dir)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    Path(reviews.input[0]).write_text('{"text": "a"}\n')
    with pytest.raises(UserError):
        prepare_text(reviews)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_files_of_another_kind_of_preparation_leave(reviews, orders):
    prepare_text(reviews)
    prepare_instructions(replace(orders, validation_fraction=0.0, overwrite=True))
    folder = Path(orders.output_dir)
    assert not (folder / "val.jsonl").exists()
    assert "instruction" in lines_of(folder / "train.jsonl")[0]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["train.jsonl", "test.jsonl", "vocab.json", "tokenizer.json", "prepared.json"]
    )


# ---- pairs of texts ------------------------------------------------------------------


def pairs_table(path: Path, rows: list[tuple[str, str, str]]) -> str:
    with open(path, "w", newline="") as handle:
        csv.writer(handle).writerows([("a", "b", "kind"), *rows])
    return str(path)


def parts_of(folder: Path) -> dict[str, list[list[str]]]:
    """The two texts of each prepared pair, by side."""
    return {
        name: [row["text"].split(" <SEP> ") for row in lines_of(folder / name)] for name in SIDES
    }


@pytest.fixture
def pairs(tmp_path) -> TextSettings:
    """80 pairs of two labels, and 20 of them once more the other way round."""
    rows = [(f"first, {n}", f"second, {n // 2}", "yes" if n % 2 else "no") for n in range(80)]
    rows += [(second, first, kind) for first, second, kind in rows[:20]]
    return TextSettings(
        input=(pairs_table(tmp_path / "pairs.csv", rows),),
        text_column="a",
        pair_column="b",
        label_column="kind",
        test_fraction=0.2,
        output_dir=str(tmp_path / "out"),
    )


def test_pairs_are_rows_of_both_texts(pairs):
    summary = prepare_text(pairs)
    folder = Path(pairs.output_dir)
    vocabulary = Vocabulary.load(folder / "vocab.json")
    encode = vocabulary.tokenizer.encode
    sides = parts_of(folder)
    assert sum(map(len, sides.values())) == 100
    for name, side in sides.items():
        read = rows_of(folder, name)
        assert {tuple(row) for row in lines_of(folder / name)} == {("text", "label", "meta")}
        for number, (first, second) in enumerate(side):
            ids = [*encode(first), vocabulary.separator_id, *encode(second)]
            assert read.row(number).tolist()[:-3] == ids
    assert summary["settings"]["pair_column"] == "b"
    assert "variants" not in summary["train"]


def test_a_pair_in_either_order_stays_on_one_side(pairs):
    prepare_text(pairs)
    sides_of: dict[frozenset, set[str]] = {}
    for name, side in parts_of(Path(pairs.output_dir)).items():
        for pair in side:
            sides_of.setdefault(frozenset(pair), set()).add(name)
    assert len(sides_of) == 80
    assert all(len(sides) == 1 for sides in sides_of.values())


def test_a_turned_pair_of_own_test_files_leaves_training(pairs, tmp_path):
    test = pairs_table(tmp_path / "test.csv", [("second, 30", "first, 61", "yes")])
    summary = prepare_text(replace(pairs, test_input=(test,)))
    sides = parts_of(Path(pairs.output_dir))
    assert not any("first, 61" in pair for name in SIDES[:2] for pair in sides[name])
    assert any(note.startswith("1 record left out that stand") for note in summary["notes"])


def test_held_out_pairs_that_share_a_text_with_training_are_counted(pairs):
    notes = prepare_text(pairs)["notes"]
    train, *held_out = parts_of(Path(pairs.output_dir)).values()
    learned = {text for pair in train for text in pair}
    shared = [bool(learned & set(pair)) for side in held_out for pair in side]
    assert any(shared)
    words = f"{sum(shared)} of {len(shared)} held-out pairs have a text that stands in a training"
    assert any(note.startswith(words) for note in notes)


def test_a_text_that_holds_the_separator_itself_is_told(tmp_path):
    path = pairs_table(tmp_path / "a.csv", [("one <SEP> two", "three", "x")])
    columns = ("--text_column", "a", "--pair_column", "b", "--label_column", "kind")
    text = told("text", "--input", path, *columns, "--output_dir", tmp_path / "o")
    assert text.endswith("a.csv:2: a text holds <SEP>, which parts the two texts of a pair")


@pytest.mark.parametrize(("tokenizer", "size"), [("chars", 20), ("bpe", 264)])
def test_the_separator_counts_for_the_size_of_a_vocabulary(pairs, tokenizer, size):
    summary = prepare_text(replace(pairs, tokenizer=tokenizer, vocab_size=size))
    assert summary["vocabulary_size"] == size


@pytest.mark.parametrize("informed", [0, 1])
def test_baselines_see_both_texts(tmp_path, informed):
    rows = []
    for number in range(200):
        texts = [f"x {number}", f"x {number // 2}"]
        texts[informed] = f"{'up' if number % 2 else 'down'} {number}"
        rows.append((*texts, str(number % 2)))
    folder = tmp_path / "out"
    path = pairs_table(tmp_path / "a.csv", rows)
    prepare_text(
        TextSettings((path,), text_column="a", pair_column="b", label_column="kind",
                     output_dir=str(folder))
    )  # fmt: skip
    train, validation = (rows_of(folder, name) for name in SIDES[:2])
    figures, _ = measure_baselines(train, validation, codebook=None, done=lambda: None)
    assert figures["linear_ngram_accuracy"] == 1.0
