"""Tables and standard input: read as rows, and their cells come back."""

import io
import json
import sys

import pytest
import torch

from inference import load_trained_model, main
from smallgpt.errors import SettingsError, UserError
from smallgpt.inference.columns import Columns
from smallgpt.inference.files import read_rows
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.reader import check_settings
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary


def save(folder, vocabulary, **settings):
    """A model folder with random weights."""
    shape = TrainSettings(n_layer=1, n_head=2, n_embd=16, n_positions=64, max_length=64, **settings)
    torch.manual_seed(0)
    model = build_model(shape, vocabulary).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    save_model_folder(model, folder, vocabulary, shape, None)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A model of texts with the labels `good` and `not good`."""
    special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]
    tokenizer = TextTokenizer.learn_characters(["a quick fox, not lazy; it is good"], special)
    tokenizer = tokenizer.with_special(["<CLS_good>", "<CLS_not_good>"])
    vocabulary = Vocabulary(tokenizer.tokens, tokenizer)
    vocabulary.spell_labels(["not good"])
    return save(tmp_path_factory.mktemp("texts") / "model", vocabulary)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, vocabulary):
    """A model of tokens."""
    return save(tmp_path_factory.mktemp("tokens") / "model", vocabulary)


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "new.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def stdin(monkeypatch):
    """A function that sets what standard input holds."""

    def stdin(content: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))

    return stdin


def run(model, *flags: object) -> int:
    argv = ["--model_path", model, "--device", "cpu", "--precision", "fp32", *flags]
    return main([str(part) for part in argv])


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(model, path, for_label=True, **columns):
    return read_rows(load_trained_model(model, "cpu", "fp32"), path, for_label, Columns(**columns))


REVIEWS = "id;review;rating\n7;a fox, quick;not good\n8;lazy;\n9;;good\n"


# ------------------------------------------------------------------------------- reading


def test_a_table_is_evaluated_and_its_columns_come_back(texts, write, tmp_path, capsys):
    flags = ("--text_column", "review", "--label_column", "rating", "--output_dir", tmp_path / "o")
    assert run(texts, "--test_data", write(REVIEWS), *flags) == 0
    rows = lines_of(tmp_path / "o" / "predictions.jsonl")
    assert [row["line"] for row in rows] == [2, 3, 4]
    assert [row["label"] for row in rows] == ["not good", None, None]
    assert [row["row"] for row in rows] == [
        {"id": "7", "text": "a fox, quick"},
        {"id": "8", "text": "lazy"},
        {"id": "9", "text": ""},
    ]
    assert rows[2]["reason"] == "`text` is empty"
    assert {row["prediction"] for row in rows[:2]} <= {"good", "not good"}
    made_from = json.loads((tmp_path / "o" / "made_from.json").read_text())
    assert made_from["data"].endswith("new.csv")


@pytest.mark.parametrize("name", ["new.csv", "new.TSV", "new", "new.txt"])
def test_any_name_but_jsonl_may_hold_a_table(texts, write, name):
    rows = read(texts, write("text\tlabel\na fox\tgood\n", name))
    assert rows.dataset.records == [{"text": "a fox", "label": "good"}]


def test_jsonl_of_any_name_stays_jsonl(texts, write):
    for name in ("new.jsonl", "new.txt", "new"):
        rows = read(texts, write('\ufeff\n {"text": "a fox", "k": 1}\n', name))
        assert rows.dataset.records == [{"text": "a fox", "k": 1}] and rows.table is None


def test_columns_of_a_table_without_a_heading_are_counted(texts, write):
    rows = read(texts, write("7,a fox,good\n8,lazy,good\n"), text="2", label="3")
    assert rows.dataset.records[1] == {"1": "8", "text": "lazy", "label": "good"}


def test_columns_of_tokens_and_label_have_their_usual_names(tokens, write):
    rows = read(tokens, write("at,tokens,label\n3,A B,cat\n4,A C,\n5,D,0\n"), for_label=False)
    assert rows.dataset.records == [
        {"at": "3", "tokens": "A B", "label": "cat"},
        {"at": "4", "tokens": "A C"},
        {"at": "5", "tokens": "D", "label": "0"},
    ]
    names = rows.dataset.vocabulary.label_names
    assert [k >= 0 and names[k] for k in rows.dataset.classes_N] == ["cat", False, "0"]


def test_keys_of_jsonl_are_named_the_same_way(texts, write):
    content = (
        '{"review": "a fox", "n": 1, "rating": "good"}\n{"n": 2}\n{"review": "a", "text": ""}\n'
    )
    rows = read(texts, write(content, "a.jsonl"), text="review", label="rating")
    assert rows.dataset.records == [{"text": "a fox", "n": 1, "label": "good"}]
    reasons = [row.reason for row in rows.dataset.bad_rows]
    assert reasons[0] == "no `review`; there is n"
    assert reasons[1] == "`text` stands beside `review`, which is to be read as it: rename one"


def test_labels_that_the_model_lacks_are_no_hindrance_to_classify(texts, write):
    rows = read(texts, write("text,label\na fox,sublime\n"))
    assert not rows.dataset.bad_rows
    bad = read(texts, write("text,label\na fox,sublime\n"), for_label=False).dataset.bad_rows
    assert "sublime" in bad[0].reason


def test_instructions_come_from_their_three_columns(tmp_path, write, text_vocabulary):
    model = save(tmp_path / "model", text_vocabulary, task="instruct")
    table = "id,instruction,input,output\n1,fox,the dog,lazy\n2,fox,,dog\n"
    rows = read(model, write(table), for_label=False)
    assert not rows.dataset.bad_rows
    assert rows.dataset.records[0] == {
        "id": "1", "instruction": "fox", "input": "the dog", "output": "lazy",
    }  # fmt: skip
    with pytest.raises(UserError, match="no column 'output'"):
        read(model, write("instruction\nfox\n"))


@pytest.mark.parametrize(
    ("content", "columns", "words"),
    [
        ("id,review\n1,a\n", {}, "no column 'text'; there is id, review: --text_column names"),
        ("id,review\n1,a\n", {"text": "Review"}, "no column 'Review'; there is id, review"),
        ("id,text\n1,a\n", {"label": "rating"}, "no column 'rating'; there is id, text"),
        ("tokens,text\n1,a\n", {}, "the column 'tokens' has a name that rows need: rename it"),
        ("text,review\n1,a\n", {"text": "review"}, "the column 'text' has a name that rows need"),
        ("instruction,text\n1,a\n", {}, "the column 'instruction' has a name that rows need"),
        (b"text\ngr\xfcn\n", {}, "not UTF-8 text .* iconv"),
        ('text\n"a\n', {}, "new.csv:2: not valid CSV"),
        ("text\n", {}, "no rows in this file"),
    ],
)
def test_a_table_that_cannot_be_read_is_told(texts, write, content, columns, words):
    with pytest.raises(UserError, match=words):
        read(texts, write(content), **columns)


def test_a_column_of_texts_is_for_models_of_texts(tokens, write):
    with pytest.raises(UserError, match="no model of texts; --tokens_column names"):
        read(tokens, write("text\nA B\n"), text="text")
    with pytest.raises(UserError, match="--tokens_column names the one to read"):
        read(tokens, write("text\nA B\n"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"text_column": "a"}, "--text_column needs --test_data"),
        ({"test_data": "a", "text_column": "a", "tokens_column": "b"}, "give one of them"),
        ({"test_data": "a", "text_column": "a", "label_column": "a"}, "name the same column"),
    ],
)
def test_contradicting_flags_are_refused(flags, words):
    with pytest.raises(SettingsError, match=words):
        check_settings(InferenceSettings(**flags))


# ------------------------------------------------------------------------------- standard input


def test_standard_input_is_jsonl_or_a_table(texts, stdin):
    for content in ('{"text": "a fox"}\n', "text\na fox\n"):
        stdin(content)
        rows = read(texts, "-")
        assert (rows.source, rows.dataset.records) == ("stdin", [{"text": "a fox"}])
