"""A log of events given to a model: one row a session, answered like the same row in JSONL."""

import csv
import json

import pytest
import torch
from plain_settings import plain_settings

from inference import EventColumns, classify_file, evaluate_file, load_trained_model, main
from smallgpt.errors import SettingsError, UserError
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.tokens.vocabulary import Vocabulary

HEADING = ["session", "event", "at", "client", "outcome"]
EVENTS = [
    ["s2", "log in", "3", "web", "stays"],
    ["s1", "search", "2", "app", "leaves us"],
    ["s2", "search", "1", "web", ""],
    ["s1", "log in", "1", "app", ""],
    ["s1", "buy", "3", "app", ""],
    ["s3", "buy", "9", "web", ""],
]
ROWS = [
    {"session": "s2", "client": "web", "tokens": "search log_in", "label": "stays"},
    {"session": "s1", "client": "app", "tokens": "log_in search buy", "label": "leaves us"},
    {"session": "s3", "client": "web", "tokens": "buy <EOS>"},
]
LOG = ["--group_column=session", "--event_column=event", "--time_column=at"]
LABELLED = [*LOG, "--label_column=outcome"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of sessions with drawn weights."""
    events = ["log_in", "search", "buy"]
    labels = ["<CLS_stays>", "<CLS_leaves_us>"]
    vocabulary = Vocabulary(["<PAD>", "<UNK>", "<CLS>", "<EOS>", *events, *labels])
    vocabulary.spell_labels(["stays", "leaves us"])
    shape = plain_settings(n_layer=1, n_head=2, n_embd=16, n_positions=8, max_length=8)
    torch.manual_seed(0)
    model = build_model(shape, vocabulary)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    path = tmp_path_factory.mktemp("model") / "model"
    save_model_folder(model, path, vocabulary, shape, None)
    return path


@pytest.fixture
def run(folder, tmp_path):
    """A function that runs inference.py on a log or rows; returns the objects of predictions."""

    def run(given: list, *flags: str) -> list[dict]:
        if isinstance(given[0], dict):
            path = tmp_path / "log.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in given))
        else:
            path = tmp_path / "log.csv"
            with open(path, "w", newline="") as handle:
                csv.writer(handle, delimiter=";").writerows([HEADING, *given])
        argv = [f"--model_path={folder}", "--device=cpu", f"--test_data={path}", "--overwrite"]
        assert main([*argv, f"--output_dir={tmp_path / 'out'}", *flags]) == 0
        told = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
        return [json.loads(line) for line in told]

    return run


def without_line(predictions: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "line"} for row in predictions]


@pytest.mark.parametrize("mode", ["evaluate", "classify"])
def test_a_log_gets_the_answers_of_its_rows(run, mode, capsys):
    found = run(EVENTS, "--mode", mode, *LABELLED)
    assert "6 events of 3 kinds in 3 rows, one for each 'session'" in capsys.readouterr().err
    assert without_line(found) == without_line(run(ROWS, "--mode", mode))
    assert [row["line"] for row in found] == [2, 3, 7]
    assert [row["row"] for row in found] == [
        {"session": "s2", "client": "web"},
        {"session": "s1", "client": "app"},
        {"session": "s3", "client": "web"},
    ]
    assert [row["label"] for row in found] == ["stays", "leaves us", None]


def test_a_session_without_a_label_is_named_as_with_one(run):
    labelled = run(EVENTS, "--mode", "classify", *LABELLED)
    bare = [[*event[:4], ""] for event in EVENTS]
    asked = run(bare, "--mode", "classify", *LABELLED)
    assert [row["probabilities"] for row in asked] == [row["probabilities"] for row in labelled]


def test_a_session_with_an_unusable_event_is_kept_with_the_reason(run, capsys):
    events = [["s1", "", "0", "app", ""], *EVENTS, ["s4", "buy", "soon", "web", ""]]
    events += [["", "buy", "4", "web", ""]]
    found = run(events, "--mode", "classify", *LABELLED)
    told = {row["row"].get("session"): row.get("reason") for row in found}
    assert told == {
        "s2": None,
        "s1": "the event in line 2: no event in 'event'",
        "s3": None,
        "s4": "the event in line 9: the time 'soon' is neither a number nor an ISO date, "
        "such as 2024-05-31 or 2024-05-31 14:05:00",
        None: "an event of no known 'session': no value in 'session'",
    }
    assert [row["line"] for row in found] == [2, 3, 8, 9, 10]
    assert capsys.readouterr().out.startswith("!!! 3 of 5 rows could not be classified")


def test_a_table_of_the_sessions_has_the_form_of_the_log(run, tmp_path):
    found = run(EVENTS, "--mode", "classify", *LABELLED)
    told = (tmp_path / "out" / "predictions.csv").read_bytes().decode()
    rows = list(csv.DictReader(told.splitlines(), delimiter=";"))
    assert [row["session"] for row in rows] == ["s2", "s1", "s3"]
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in found]
    assert [row["label"] for row in rows] == ["stays", "leaves us", ""]
    assert told.count("\r\n") == 4  # as in the log


def test_a_line_of_another_width_is_told(run, tmp_path, folder, capsys):
    found = run([*EVENTS, ["s3", "buy"]], "--mode", "classify", *LABELLED)
    assert found[-1]["line"] == 8 and "2 columns where the first line has 5" in found[-1]["reason"]


def test_new_events_are_refused_or_read_as_unk(run):
    events = [*EVENTS, ["s3", "chat bot", "10", "web", ""]]
    refused = run(events, "--mode", "classify", *LABELLED)[2]
    assert "token 'chat_bot' is not in the vocabulary" in refused["reason"]
    read = run(events, "--mode", "classify", *LABELLED, "--unknown_token", "unk")[2]
    assert read["unknown_tokens"] == ["chat_bot"] and read["prediction"]


def test_a_long_session_is_cut_from_its_start(run, capsys):
    events = [["s1", "buy", str(at), "app", ""] for at in range(20)]
    (found,) = run(events, "--mode", "classify", *LOG)
    assert "1 row of 23 tokens cut to 8, the most that" in capsys.readouterr().err
    assert found["prediction"]


@pytest.mark.parametrize(
    "flags, words",
    [
        (LOG[:1], "--group_column: a log of events needs --group_column and --event_column"),
        (LOG[2:], "--time_column: a log of events needs"),
        ([*LOG, "--tokens_column=x"], "--group_column makes rows of events"),
    ],
)
def test_contradictions_about_logs_are_told(flags, words):
    with pytest.raises(SettingsError, match=words):
        main(["--test_data=log.csv", *flags])


def test_a_log_on_standard_input_is_refused():
    with pytest.raises(SettingsError, match="--group_column needs a file"):
        main(["--test_data=-", *LOG])


def test_a_column_that_is_not_there_is_told(run):
    with pytest.raises(UserError, match="no column 'user'; there is session, event, at"):
        run(EVENTS, "--group_column=user", "--event_column=event")


def test_from_python_columns_name_those_of_a_log(folder, tmp_path):
    path = tmp_path / "march.csv"
    with open(path, "w", newline="") as handle:
        csv.writer(handle).writerows([HEADING, *EVENTS])
    trained = load_trained_model(folder, "cpu", "fp32")
    columns = EventColumns("session", "event", "at", label="outcome")
    found = classify_file(trained, path, tmp_path / "labels", columns=columns)
    assert [row["row"]["session"] for row in found] == ["s2", "s1", "s3"]
    figures = evaluate_file(trained, path, tmp_path / "figures", columns=columns)
    assert (figures["records"], figures["labelled_records"]) == (3, 2)
