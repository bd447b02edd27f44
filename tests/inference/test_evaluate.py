"""Evaluation of a file: figures, predictions, pictures, rows that cannot be scored."""

import dataclasses
import json

import pytest
import torch
from PIL import Image
from small_rows import json_lines
from trained_models import BEST_MODEL, body_of

from inference import (
    classify,
    evaluate_file,
)
from smallgpt.errors import UserError
from smallgpt.evaluation.report import describe_figures
from smallgpt.inference.evaluate import evaluate_given
from smallgpt.inference.files import read_rows


@pytest.fixture(scope="module")
def evaluation(trained, bars, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    figures = evaluate_file(trained, bars / "test.jsonl", folder)
    return figures, json_lines(folder / "predictions.jsonl"), folder


def test_model_has_learned_the_bars(evaluation):
    assert evaluation[0]["accuracy"] > 0.9


def test_row_scores_equal_those_of_plain_transformers(evaluation, bars):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bars / BEST_MODEL).eval()
    ids_of = json.loads((bars / BEST_MODEL / "vocab.json").read_text())
    records = json_lines(bars / "test.jsonl")
    for record, row in zip(records[:5], evaluation[1][:5], strict=True):
        text = f"{record['tokens']} <CLS> <CLS_{record['label']}> <EOS>"
        ids = torch.tensor([[ids_of[token] for token in text.split()]])
        with torch.no_grad():
            out = model(ids, labels=ids)
        assert row["token_count"] == ids.shape[1] - 1
        assert row["nll_sum"] == pytest.approx(out.loss.item() * row["token_count"], abs=1e-4)
        right = (out.logits[0, :-1].argmax(-1) == ids[0, 1:]).sum().item()
        assert row["correct_tokens"] == right


def test_own_keys_come_back_untouched(evaluation, bars):
    records = json_lines(bars / "test.jsonl")
    assert [row["row"] for row in evaluation[1]] == [{"id": record["id"]} for record in records]


def test_pictures_are_there(evaluation):
    assert {path.suffix for path in evaluation[2].iterdir()} == {".json", ".jsonl", ".png"}
    for name in ("confusion_matrix", "class_accuracy", "reliability"):
        assert (evaluation[2] / f"{name}.png").stat().st_size > 1000


def test_mistakes_are_drawn_from_their_tokens(trained, tmp_path):
    rows = [{"tokens": body_of(0), "label": number % 2} for number in range(6)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate_file(trained, data, tmp_path / "out")
    with Image.open(tmp_path / "out" / "mistakes.png") as image:
        assert image.format == "PNG" and image.width > 300
    data.write_text(json.dumps(rows[0]) + "\n")
    evaluate_file(trained, data, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "mistakes.png").exists()


def test_a_picture_that_cannot_be_drawn_costs_no_figures(trained, tmp_path):
    (tmp_path / "codebook.npz").write_text("damaged")
    damaged = dataclasses.replace(trained, codebook=tmp_path / "codebook.npz")
    rows = [{"tokens": body_of(number % 2), "label": 1} for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = read_rows(trained, tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=r"codebook\.npz"):
        evaluate_given(damaged, given, tmp_path / "out", 64, None, False)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["records"] == 4


def test_batch_size_does_not_change_the_figures(trained, bars, tmp_path, evaluation):
    figures = evaluate_file(trained, bars / "test.jsonl", tmp_path, batch_size=3)
    assert figures["perplexity"] == pytest.approx(evaluation[0]["perplexity"], rel=1e-6)
    assert figures["accuracy"] == evaluation[0]["accuracy"]


def test_file_without_labels_gives_the_language_figures(run, tmp_path):
    data = tmp_path / "plain.jsonl"
    data.write_text(json.dumps({"tokens": body_of(0) + " <EOS>"}) + "\n")
    done = run("--test_data", str(data), "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "label figures need rows with labels" in done.stdout
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["perplexity"] > 1 and "accuracy" not in figures
    assert json_lines(tmp_path / "out" / "predictions.jsonl")[0]["prediction"] in ("0", "1")


def test_row_that_cannot_be_scored_is_kept_with_its_reason(trained, tmp_path):
    data = tmp_path / "mixed.jsonl"
    good = json.dumps({"tokens": body_of(0), "label": 0})
    lines = [good, "not json", json.dumps({"tokens": "<IMG> <Z_000>", "label": 5, "k": 1}), good]
    data.write_text("\n".join(lines) + "\n")
    figures = evaluate_file(trained, data, tmp_path / "out")
    rows = json_lines(tmp_path / "out" / "predictions.jsonl")
    assert (figures["records"], figures["unscored"], figures["labelled_records"]) == (4, 2, 2)
    assert [row["line"] for row in rows] == [1, 2, 3, 4]
    assert "not valid JSON" in rows[1]["reason"]
    assert "<CLS_5>" in rows[2]["reason"] and rows[2]["row"] == {"k": 1}


def test_own_key_that_utf8_cannot_hold_comes_back(trained, tmp_path):
    data = tmp_path / "surrogate.jsonl"
    row = {"tokens": body_of(0), "label": 0, "note": "\ud800 猫"}
    data.write_text(json.dumps(row) + "\n")
    evaluate_file(trained, data, tmp_path / "out")
    assert json_lines(tmp_path / "out" / "predictions.jsonl")[0]["row"] == {"note": row["note"]}


def test_trained_length_cuts_rows_again(trained, tmp_path):
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"tokens": "<IMG> " + "<Z_000> " * 100, "label": 0}) + "\n")
    figures = evaluate_file(trained, data, tmp_path / "out")
    row = json_lines(tmp_path / "out" / "predictions.jsonl")[0]
    assert row["token_count"] == trained.max_length - 1
    left_out = 104 - trained.max_length  # with the label tail
    assert (figures["rows_cut"], figures["tokens_left_out"]) == (1, left_out)
    told = describe_figures(figures, False)
    assert f"1 row cut to the trained length, {left_out} tokens left out" in told


def test_a_head_reads_a_row_again_only_where_the_room_for_a_tail_cuts_it(untrained, tmp_path):
    trained, read = untrained["head"], []
    path = tmp_path / "rows.jsonl"
    rows = [{"tokens": "A B"}, {"tokens": "A " * 11}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    hook = trained.model.score.register_forward_hook(lambda *args: read.append(len(args[2])))
    evaluate_file(trained, path, tmp_path / "out")
    hook.remove()
    assert sum(read) == 2 + 1
    told = json_lines(tmp_path / "out" / "predictions.jsonl")
    assert told[0]["probabilities"] == pytest.approx(classify(trained, "A B")[1], abs=1e-6)
    assert told[1]["probabilities"] == pytest.approx(classify(trained, "A " * 9)[1], abs=1e-6)


def test_a_row_that_names_a_label_in_its_body_is_scored_and_not_asked(untrained, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"tokens": "A <CLS_1> B"}, {"tokens": "A B"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate_file(untrained["tokens"], path, tmp_path / "out")
    told = json_lines(tmp_path / "out" / "predictions.jsonl")
    assert told[0]["prediction"] is None and told[0]["token_count"] == 2
    assert told[1]["prediction"] is not None


def test_missing_test_file_is_told(run):
    done = run("--test_data", "nothing.jsonl")
    assert done.returncode == 1
    assert "nothing.jsonl: no such file" in done.stderr and "Traceback" not in done.stderr


def test_file_without_one_good_row_is_told(run, tmp_path):
    data = tmp_path / "bad.jsonl"
    data.write_text("{}\n")
    done = run("--test_data", str(data), "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "bad.jsonl:1: no `tokens`" in done.stderr
