"""An evaluation says which of its rows the model has learned."""

import json

import pytest
import torch
from plain_settings import plain_settings

from inference import evaluate_file, load_trained_model, main
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder


@pytest.fixture
def folder(tmp_path, vocabulary, write_rows):
    """A model with drawn weights whose settings name a training file of three rows."""
    learned = write_rows(
        {"tokens": "A B", "label": 0}, {"tokens": "B A", "label": 1}, {"tokens": "A A A"}
    )
    shape = plain_settings(
        data_path=str(learned), n_layer=1, n_head=2, n_embd=16, n_positions=12, max_length=12
    )
    torch.manual_seed(0)
    save_model_folder(build_model(shape, vocabulary), tmp_path / "model", vocabulary, shape, None)
    return tmp_path / "model"


def test_rows_that_were_learned_are_counted_and_told(folder, tmp_path, write_rows, capsys):
    rows = [{"tokens": "A B"}, {"tokens": "B A <CLS> <CLS_cat> <EOS>"}, {"tokens": "C D"}]
    path = write_rows(*rows, name="test.jsonl")
    argv = [f"--model_path={folder}", "--device=cpu", f"--test_data={path}"]
    assert main([*argv, f"--output_dir={tmp_path / 'out'}"]) == 0
    assert "!!! 2 of 3 rows have the tokens of a row in " in capsys.readouterr().out
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["learned_rows"] == 2


def test_nothing_is_written_beside_the_file_that_a_model_names(
    folder, tmp_path, write_rows, monkeypatch
):
    monkeypatch.setattr("smallgpt.rows.reading.SMALLEST_FILE", 0)  # even a small one is cached
    test = tmp_path / "test"
    test.mkdir()
    path = write_rows({"tokens": "A B", "label": 0}, name="test/test.jsonl")
    trained = load_trained_model(folder, "cpu", "fp32")
    before = sorted(each.name for each in tmp_path.iterdir())
    assert evaluate_file(trained, path, test / "out")["learned_rows"] == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == before


def test_new_rows_are_not_told(folder, tmp_path, write_rows):
    path = write_rows({"tokens": "C D", "label": 0}, name="test.jsonl")
    trained = load_trained_model(folder, "cpu", "fp32")
    assert evaluate_file(trained, path, tmp_path / "out")["learned_rows"] == 0


def test_without_the_training_file_nothing_is_said(folder, tmp_path, write_rows):
    path = write_rows({"tokens": "A B", "label": 0}, name="test.jsonl")
    trained = load_trained_model(folder, "cpu", "fp32")
    (tmp_path / "rows.jsonl").unlink()
    assert evaluate_file(trained, path, tmp_path / "out")["learned_rows"] is None


def test_a_training_file_is_read_some_lines_at_a_time(folder, tmp_path, write_rows, monkeypatch):
    monkeypatch.setattr("smallgpt.inference.learned_rows._LINES_AT_ONCE", 2)
    write_rows(
        b"oops", {"tokens": "x"}, {"tokens": "A B"}, {"tokens": "A A"}, {"tokens": "B A"}
    )  # the first two lines have no row at all
    rows = [{"tokens": body} for body in ("A B", "B A", "A B", "C D")]
    path = write_rows(*rows, name="test.jsonl")
    trained = load_trained_model(folder, "cpu", "fp32")
    assert evaluate_file(trained, path, tmp_path / "out")["learned_rows"] == 3
    write_rows(b"oops", b"oops", b"oops")
    figures = evaluate_file(trained, path, tmp_path / "out", overwrite=True)
    assert figures["learned_rows"] is None
