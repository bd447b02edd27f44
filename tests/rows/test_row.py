"""Rows as they are read: label tails, tokens, texts, cutting."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_rows import dataset_of, read, texts_of
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from smallgpt.errors import UserError
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.builder import RowsBuilder
from smallgpt.rows.row import Row, cut_row, parse_row
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.instruction_template import instruction_prompt
from smallgpt.tokens.labels import label_text
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary


def row_of(vocabulary, tokens, label=None, **options):
    """A parsed row of text, and its tokens as text again."""
    record = {"tokens": tokens} if label is None else {"tokens": tokens, "label": label}
    row = parse_row(record, vocabulary, **options)
    return row, vocabulary.decode(row.ids)


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


def test_without_unk_in_the_vocabulary_an_unknown_token_is_always_an_error():
    with pytest.raises(RowError, match="'B' is not in the vocabulary"):
        parse_row({"tokens": "A B"}, Vocabulary(["<PAD>", "A"]), "unk")


# ---- label values --------------------------------------------------------------------


@pytest.mark.parametrize("label", [7, "7", "猫", 0, -3, "a.b-c"])
def test_label_is_a_whole_number_or_a_word(label):
    assert label_text(label) == str(label)


@pytest.mark.parametrize("label", ["very good", " very  good\n", "very\u3000good", "very_good"])
def test_whitespace_in_a_label_is_an_underscore(label):
    assert label_text(label) == "very_good"


@pytest.mark.parametrize("label", [True, False, 1.0, "", " ", [1], {}])
def test_other_labels_are_refused(vocabulary, label):
    with pytest.raises(RowError, match="label must be a whole number or a text, got"):
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
    (line,) = [line for line in dataset.counts.lines() if "cut" in line]
    assert line == "3 rows of up to 12 tokens cut to max_length, 8: 6 tokens left out"


@given(st.integers(0, 30), st.booleans(), st.booleans(), st.integers(8, 20))
def test_cutting_keeps_the_image_mark_and_the_whole_tail(
    vocabulary, body_length, image, labelled, max_length
):
    body = [6 + place % 4 for place in range(body_length)]
    ids = [vocabulary.img_id] * image + body + [4, 11, 5] * labelled
    row = Row(ids, labelled - 1, image + body_length)
    cut = cut_row(row, max_length, vocabulary).ids
    assert len(cut) == min(len(ids), max_length)
    assert cut[: 1 * image] == ids[: 1 * image]
    kept = len(cut) - image
    assert cut[image:] == ids[len(ids) - kept :]


@pytest.fixture(scope="module")
def pair_vocabulary() -> Vocabulary:
    tokenizer = TextTokenizer.learn_characters(["ab"], ["<PAD>", "<UNK>", "<CLS>", "<EOS>"])
    tokenizer = tokenizer.with_separator().with_special(["<CLS_same>"])
    return Vocabulary(tokenizer.tokens, tokenizer)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(8, 30))
def test_of_a_pair_the_longer_text_is_cut_first(pair_vocabulary, first, second, max_length):
    texts = [list("ab" * 15)[:first], list("ba" * 15)[:second]]
    record = {"text": f"{''.join(texts[0])} <SEP> {''.join(texts[1])}", "label": "same"}
    rows = dataset_of(pair_vocabulary, record, max_length=max_length)
    while len(texts[0]) + len(texts[1]) + 4 > max_length:  # <SEP> and the label tail
        texts[0 if len(texts[0]) > len(texts[1]) else 1].pop(0)
    expected = [*texts[0], "<SEP>", *texts[1], "<CLS>", "<CLS_same>", "<EOS>"]
    assert [pair_vocabulary.tokens[index] for index in rows.row(0)] == expected
    builder = RowsBuilder(pair_vocabulary, max_length, for_label=True)
    builder.add(parse_row({"text": record["text"]}, pair_vocabulary, for_label=True), 1, None)
    asked = builder.finish().row(0)
    assert [pair_vocabulary.tokens[index] for index in asked] == expected[:-3]


def test_an_instruction_that_holds_a_separator_is_cut_as_any_other(pair_vocabulary):
    record = {"instruction": "a" * 20 + "<SEP>b", "output": "ab" * 4}
    whole = parse_row(record, pair_vocabulary)
    rows = dataset_of(pair_vocabulary, record, max_length=14)
    assert rows.row(0).tolist() == whole.ids[-14:]


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
        assert len(row.unknown) == row.ids.count(text_vocabulary.unk_id)


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
    train, held_out = split_dataset(rows, 0.25, seed=1)
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
    assert "4 unknown tokens read as <UNK>: '\u03a9' (4 times)" in rows.counts.lines()
