"""Tables and standard input: read as rows, and their cells come back with predictions beside."""

import csv
import io
import json
import sys

import pytest
import torch
from plain_settings import plain_settings

from inference import classify_file, load_trained_model, main
from smallgpt.errors import SettingsError, UserError
from smallgpt.inference.columns import Columns
from smallgpt.inference.files import read_rows
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.reader import check_settings
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary


def save(folder, vocabulary, **settings):
    """A model folder with random weights."""
    shape = plain_settings(
        n_layer=1, n_head=2, n_embd=16, n_positions=64, max_length=64, **settings
    )
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
    assert "\ndevice: cpu; engine: torch; precision: fp32\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["new.csv", "new.TSV", "new", "new.txt"])
def test_any_name_but_jsonl_may_hold_a_table(texts, write, name):
    rows = read(texts, write("text\tlabel\na fox\tgood\n", name))
    assert rows.dataset.records == [{"text": "a fox", "label": "good"}]


def test_jsonl_of_any_name_stays_jsonl(texts, write):
    for name in ("new.jsonl", "new.txt", "new"):
        rows = read(texts, write('\ufeff\n {"text": "a fox", "k": 1}\n', name))
        assert rows.dataset.records == [{"text": "a fox", "k": 1}] and rows.form.table is None


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


def test_a_document_is_no_table(texts, write, stdin):
    takes = "--test_data takes rows: JSONL, an object a line, or a table"
    for content in ("# Notes\n\nA text.\n", "| text | label |\n|---|---|\n| a fox | good |\n"):
        with pytest.raises(UserError, match=f"notes.md: a document; {takes}"):
            read(texts, write(content, "notes.md"))
    letter = "Dear fox,\nit is quick, and not lazy.\n"
    words = f"{takes} .CSV, TSV.; read as a table it has no column 'text'"
    with pytest.raises(UserError, match=f"letter.txt: {words}"):
        read(texts, write(letter, "letter.txt"))
    stdin(letter)
    with pytest.raises(UserError, match=f"stdin: {words}"):
        read(texts, "-")
    with pytest.raises(UserError, match=r"letter.txt: no column 'review'; there is Dear fox"):
        read(texts, write(letter, "letter.txt"), text="review")


def test_a_column_of_texts_is_for_models_of_texts(tokens, write):
    with pytest.raises(UserError, match="no model of texts; --tokens_column names"):
        read(tokens, write("text\nA B\n"), text="text")
    with pytest.raises(UserError, match="--tokens_column names the one to read"):
        read(tokens, write("text\nA B\n"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A model of pairs of texts with the labels `same` and `other`."""
    special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]
    tokenizer = TextTokenizer.learn_characters(["a quick fox, not lazy"], special)
    tokenizer = tokenizer.with_separator().with_special(["<CLS_same>", "<CLS_other>"])
    vocabulary = Vocabulary(tokenizer.tokens, tokenizer)
    return save(tmp_path_factory.mktemp("pairs") / "model", vocabulary)


def test_two_columns_are_read_as_a_prompt_with_a_separator(pairs, write, tmp_path, capsys):
    table = write("id,one,two,label\n7,a fox,lazy fox,same\n8,a fox,,other\n9,a <SEP>,fox,\n")
    columns = ("--text_column", "one", "--pair_column", "two")
    assert run(pairs, "--test_data", table, *columns, "--output_dir", tmp_path / "o") == 0
    rows = lines_of(tmp_path / "o" / "predictions.jsonl")
    assert rows[0]["row"] == {"id": "7", "text": "a fox <SEP> lazy fox"}
    assert rows[0]["label"] == "same"
    assert rows[1]["reason"] == "`two` is empty"
    assert rows[2]["reason"] == "`one` holds <SEP>, which parts the two texts of a pair"
    objects = write(json.dumps({"one": " a fox", "two": "lazy fox\n"}) + "\n", "new.jsonl")
    to_classify = ("--mode", "classify", "--test_data", objects, "--output_dir", tmp_path / "p")
    assert run(pairs, *to_classify, *columns) == 0
    (classified,) = lines_of(tmp_path / "p" / "predictions.jsonl")
    capsys.readouterr()
    assert run(pairs, "--mode", "classify", "--prompt", "a fox <SEP> lazy fox", "--json") == 0
    prompted = json.loads(capsys.readouterr().out)
    for row in (rows[0], classified):
        assert row["prediction"] == prompted["label"]
        assert row["confidence"] == pytest.approx(prompted["confidence"], abs=1e-5)


def test_a_pair_of_an_object_must_be_two_texts(pairs, write):
    lines = [{"text": "a", "two": 3}, {"two": "fox"}, {"text": "a"}, {"text": "a", "two": "fox"}]
    path = write("".join(json.dumps(line) + "\n" for line in lines), "new.jsonl")
    rows = read(pairs, path, pair="two")
    assert [bad.reason for bad in rows.dataset.bad_rows] == [
        "`two` must be a text, got 3",
        "`text` must be a text, got null",
        "no `two`; there is text",
    ]
    assert rows.dataset.records == [{"text": "a <SEP> fox"}]


def test_a_second_text_is_for_models_of_pairs(texts, tokens, write):
    for model in (texts, tokens):
        with pytest.raises(UserError, match=r"--pair_column two: .* is no model of pairs of texts"):
            read(model, write("text,two\na,fox\n"), pair="two")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"text_column": "a"}, "--text_column needs --test_data"),
        ({"pair_column": "a"}, "--pair_column needs --test_data"),
        ({"test_data": "a", "pair_column": "a", "tokens_column": "b"}, "drop one"),
        ({"test_data": "a", "text_column": "a", "tokens_column": "b"}, "give one of them"),
        ({"test_data": "a", "text_column": "a", "label_column": "a"}, "name the same column"),
        ({"output_format": "csv"}, "--output_format needs --test_data or --images"),
        ({"test_data": "-", "output_format": "csv"}, "needs --output_dir to evaluate"),
        (
            {"test_data": "-", "mode": "classify", "output_format": "csv", "json": True},
            "print different forms",
        ),
    ],
)
def test_contradicting_flags_are_refused(flags, words):
    with pytest.raises(SettingsError, match=words):
        check_settings(InferenceSettings(**flags))


# ------------------------------------------------------------------------------- predictions.csv


def classified(model, path, folder, *flags) -> str:
    """predictions.csv of a file, as text with its line ends."""
    argv = ("--test_data", path, "--mode", "classify", "--output_dir", folder, *flags)
    assert run(model, *argv) == 0
    return (folder / "predictions.csv").read_bytes().decode()


def test_a_table_comes_back_as_it_was_with_columns_beside(texts, write, tmp_path):
    table = '\ufeffid; text ;label\r\n07;"a ""fox"";\nlazy";not good\r\n\r\n8;=1+2;new\r\n9;;\r\n'
    text = classified(texts, write(table.encode()), tmp_path / "o")
    assert text.startswith("\ufeffid; text ;label;prediction;confidence;")
    assert text.count("\r\n") == text.count("\n") - 1 == 4
    headings, *rows = csv.reader(io.StringIO(text[1:], newline=""), delimiter=";")
    added = ["prediction", "confidence", "probability good", "probability not good", "reason"]
    assert headings == ["id", " text ", "label", *added]
    own = [["07", 'a "fox";\nlazy', "not good"], ["8", "=1+2", "new"], ["9", "", ""]]
    assert [row[:3] for row in rows] == own
    whole = lines_of(tmp_path / "o" / "predictions.jsonl")
    for row, cells in zip(whole, rows, strict=True):
        assert cells[3] == (row["prediction"] or "")
        for name, cell in zip(("good", "not good"), cells[5:7], strict=True):
            assert cell == (f"{row['probabilities'][name]:.6f}" if row["prediction"] else "")
    assert rows[2][3:] == ["", "", "", "", "`text` is empty"]
    assert {row[3] for row in rows[:2]} <= {"good", "not good"}


def test_columns_of_the_users_keep_their_names(texts, write, tmp_path, capsys):
    text = classified(texts, write("text,prediction,reason\na fox,rain,none\n"), tmp_path / "o")
    assert text.splitlines()[0].startswith("text,prediction,reason,prediction_2,confidence,")
    assert text.splitlines()[1].startswith("a fox,rain,none,")
    told = "predictions.csv: 'prediction_2' is the model's, 'prediction' the table's own"
    assert told in capsys.readouterr().err


def test_quotes_that_are_text_stay_text(texts, write, tmp_path):
    text = classified(texts, write('text\tn\nan "odd\t1\n', "new.tsv"), tmp_path / "o")
    assert text.splitlines()[1].startswith('an "odd\t1\t')


def test_a_table_without_a_heading_gets_its_numbers(texts, write, tmp_path):
    text = classified(texts, write("a,7\nb,8\n"), tmp_path / "o", "--text_column", "1")
    assert text.startswith("1,2,prediction,") and len(text.splitlines()) == 3


def test_cells_beyond_the_heading_are_told_as_the_reason(texts, write, tmp_path):
    text = classified(texts, write("id,text\n1,a fox\n2,lazy, fox\n"), tmp_path / "o")
    assert text.splitlines()[2].startswith("2,lazy,,")
    assert "3 columns where the first line has 2; left over: ' fox'" in text.splitlines()[2]


def test_jsonl_as_a_table_where_asked_for(texts, write, tmp_path):
    content = (
        '{"text": "a fox", "n": {"a": [1]}, "label": "good"}\n{"text": "it", "k": "\\ud800"}\n'
    )
    path = write(content, "a.jsonl")
    text = classified(texts, path, tmp_path / "o", "--output_format", "csv")
    headings, *rows = csv.reader(io.StringIO(text))
    assert headings[:5] == ["line", "text", "n", "k", "label"] and headings[5] == "prediction"
    assert rows[0][:5] == ["1", "a fox", '{"a": [1]}', "", "good"]
    assert rows[1][:5] == ["2", "it", "", "\\ud800", ""]
    assert run(texts, "--test_data", path, "--output_dir", tmp_path / "p") == 0
    assert not (tmp_path / "p" / "predictions.csv").exists()


def test_an_evaluation_adds_how_unexpected_each_row_was(tokens, write, tmp_path):
    path = write("id,tokens\nx,A B C\ny,A Z\n")
    assert run(tokens, "--test_data", path, "--output_dir", tmp_path / "o") == 0
    first, second = csv.DictReader((tmp_path / "o" / "predictions.csv").open())
    whole = lines_of(tmp_path / "o" / "predictions.jsonl")
    assert float(first["nll_per_token"]) == pytest.approx(whole[0]["nll_sum"] / 2, abs=1e-6)
    assert (second["id"], second["nll_per_token"]) == ("y", "")
    assert second["reason"] == "token 'Z' is not in the vocabulary"


def test_results_of_a_table_are_protected_and_taken_up_as_those_of_jsonl(
    texts, write, tmp_path, monkeypatch, capsys
):
    path = write("text\na fox\n")
    out = tmp_path / "o"
    classified(texts, path, out)
    classified(texts, path, out)  # the very same again
    assert "predictions.jsonl, predictions.csv" in capsys.readouterr().out
    path.write_text("text\nlazy\n")
    with pytest.raises(UserError, match="holds a classification of"):
        classified(texts, path, out)
    assert "lazy" in classified(texts, path, out, "--overwrite")
    with pytest.raises(SettingsError, match="would be overwritten"):
        classified(texts, out / "predictions.csv", out)
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "predictions.csv").write_text("mine")
    with pytest.raises(UserError, match="was left by no evaluation"):
        classified(texts, path, foreign, "--overwrite")
    assert (foreign / "predictions.csv").read_text() == "mine"


def test_results_of_a_table_lie_in_a_folder_named_after_it(texts, write):
    assert run(texts, "--test_data", write("text\na fox\n", "july 7.csv")) == 0
    assert (texts.parent / "evaluation_july_7" / "predictions.csv").exists()


# ------------------------------------------------------------------------------- standard input


def test_standard_input_is_jsonl_or_a_table(texts, stdin):
    for content in ('{"text": "a fox"}\n', "text\na fox\n"):
        stdin(content)
        rows = read(texts, "-")
        assert (rows.source, rows.dataset.records) == ("stdin", [{"text": "a fox"}])


@pytest.mark.parametrize(
    ("content", "flags", "form"),
    [
        ("id;text\n1;a fox\n2;\n", (), "csv"),
        ("id;text\n1;a fox\n2;\n", ("--output_format", "jsonl"), "jsonl"),
        ("id;text\n1;a fox\n2;\n", ("--json",), "jsonl"),
        ('{"id": 1, "text": "a fox"}\n{"id": 2, "text": ""}\n', (), "jsonl"),
    ],
)
def test_predictions_of_standard_input_alone_are_printed(
    texts, stdin, content, flags, form, capsys
):
    stdin(content)
    before = sorted(texts.parent.iterdir())
    assert run(texts, "--mode", "classify", "--test_data", "-", *flags) == 0
    out, err = capsys.readouterr()
    if form == "csv":
        headings, *rows = csv.reader(io.StringIO(out), delimiter=";")
        assert headings[:3] == ["id", "text", "prediction"]
        assert [row[:2] for row in rows] == [["1", "a fox"], ["2", ""]]
    else:
        rows = [json.loads(line) for line in out.splitlines()]
        assert [str(row["row"]["id"]) for row in rows] == ["1", "2"]
    assert "1 of 2 rows could not be classified" in err
    assert sorted(texts.parent.iterdir()) == before


def test_an_evaluation_of_standard_input_writes_only_into_a_folder_given(
    texts, stdin, tmp_path, capsys
):
    before = sorted(texts.parent.iterdir())
    stdin("text,label\na fox,good\n")
    assert run(texts, "--test_data", "-") == 0
    assert "nothing was written" in capsys.readouterr().out
    assert sorted(texts.parent.iterdir()) == before
    stdin("text,label\na fox,good\n")
    assert run(texts, "--test_data", "-", "--output_dir", tmp_path / "o") == 0
    assert json.loads((tmp_path / "o" / "made_from.json").read_text())["data"] == "stdin"
    assert (tmp_path / "o" / "predictions.csv").exists()


def test_a_person_at_the_keyboard_is_told_how_to_end(texts, stdin, monkeypatch, capsys):
    stdin("text\na fox\n")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    read(texts, "-")
    assert "reading rows from the keyboard until Ctrl-D" in capsys.readouterr().err


def test_nothing_on_standard_input_is_told(texts, stdin):
    stdin("")
    with pytest.raises(UserError, match="stdin: no rows"):
        read(texts, "-")


def test_an_unlabelled_text_is_scored_without_an_end(texts, write, tmp_path):
    """Training had <CLS> after each text: what its <EOS> costs would say nothing of the text."""
    unlabelled = write("id,text\n1,a quick fox\n2,it is good\n", "bare.csv")
    labelled = write("id,text,label\n1,a quick fox,good\n2,it is good,not good\n", "with.csv")
    figures = []
    for path in (unlabelled, labelled):
        assert run(texts, "--test_data", path, "--output_dir", tmp_path / path.stem) == 0
        figures.append(json.loads((tmp_path / path.stem / "metrics.json").read_text()))
    assert figures[0]["perplexity"] == pytest.approx(figures[1]["body_perplexity"], rel=1e-6)


def test_an_excel_workbook_is_told_as_one(texts, write):
    with pytest.raises(UserError, match="an Excel workbook; save its sheet as CSV"):
        run(texts, "--test_data", write(b"PK\x03\x04\x14\x00\xff\xfe", "new.xlsx"))


def test_a_model_of_texts_reads_no_log(texts, write):
    log = write("session,event\n1,login\n", "log.csv")
    with pytest.raises(UserError, match="is a model of texts: it reads no log"):
        run(texts, "--test_data", log, "--group_column", "session", "--event_column", "event")


def test_a_log_given_without_its_columns_names_the_flags(tokens, write):
    log = write("session,event\n1,login\n", "log.csv")
    with pytest.raises(UserError, match="one event, --group_column and --event_column"):
        run(tokens, "--test_data", log)


def test_from_python_columns_name_those_of_a_table(texts, write, tmp_path):
    table = write("id;comment\n1;a quick fox\n", "new.csv")
    trained = load_trained_model(texts, "cpu", "fp32")
    (row,) = classify_file(trained, table, tmp_path / "out", columns=Columns(text="comment"))
    assert row["prediction"] in ("good", "not good") and row["row"]["id"] == "1"
