"""Labels of prompts and of the rows of a file."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_rows import json_lines
from trained_models import body_of

from inference import (
    classify,
    classify_file,
    main,
)
from smallgpt.errors import UserError
from smallgpt.evaluation.scoring import score_rows
from smallgpt.inference.classify import classify_dataset
from smallgpt.inference.evaluate import ask_unlabelled
from smallgpt.inference.files import read_rows


def test_shares_are_a_softmax_over_the_label_tokens_alone(trained):
    vocabulary = trained.vocabulary
    ids = torch.tensor([vocabulary.encode(body_of(0) + " <CLS>")])
    with torch.no_grad():
        logits = trained.model(ids).logits[0, -1, vocabulary.label_ids]
    assert trained.temperature != 1
    expected = (logits / trained.temperature).softmax(-1).tolist()
    label, shares = classify(trained, body_of(0))
    assert [shares["0"], shares["1"]] == pytest.approx(expected, abs=1e-6)
    assert label == max(shares, key=shares.get)


@pytest.mark.parametrize(
    "tail",
    ["", " <CLS>", " <EOS>", " <CLS> <EOS>", " <CLS> <CLS> <EOS>", " <CLS> <CLS_0> <EOS>",
     " <CLS> <CLS_1> <EOS>"],
)  # fmt: skip
def test_tail_of_the_prompt_does_not_change_the_answer(trained, tail):
    assert classify(trained, body_of(1) + tail)[1] == pytest.approx(
        classify(trained, body_of(1))[1], abs=1e-6
    )


def test_label_token_in_a_prompt_is_refused(trained):
    with pytest.raises(UserError, match=r"^a label token stands before"):
        classify(trained, "<IMG> <CLS_1> <Z_000> </IMG>")


def test_a_prompt_too_long_to_be_read_whole_is_classified_and_told(trained, capsys):
    argv = ["--model_path", str(trained.folder), "--device", "cpu", "--mode", "classify"]
    assert main([*argv, "--prompt", "<IMG> " + "<Z_000> " * 40]) == 0
    left_out = 41 + 3 - trained.max_length  # a label tail of three has its place
    assert f"{left_out} tokens left out of the body" in capsys.readouterr().err
    assert main([*argv, "--prompt", body_of(0)]) == 0
    assert "left out" not in capsys.readouterr().err


def test_classify_file_answers_every_row_in_order(trained, tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [
        {"tokens": body_of(0), "key": "first"},
        {"tokens": "nonsense"},
        {"tokens": body_of(1), "label": 1},
        {"tokens": "<IMG>"},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictions = classify_file(trained, data, tmp_path / "out")
    assert predictions == json_lines(tmp_path / "out" / "predictions.jsonl")
    assert [p["line"] for p in predictions] == [1, 2, 3, 4]
    assert predictions[0]["row"] == {"key": "first"} and predictions[0]["label"] is None
    assert predictions[1]["prediction"] is None and "nonsense" in predictions[1]["reason"]
    assert predictions[2]["label"] == "1"
    for row in (predictions[0], predictions[2], predictions[3]):
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["confidence"] == max(row["probabilities"].values())
        assert row["probabilities"][row["prediction"]] == row["confidence"]


def test_a_label_that_the_model_never_learned_is_no_hindrance_to_naming_one(trained, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"tokens": body_of(0), "label": "never learned"}) + "\n")
    (found,) = classify_file(trained, data, tmp_path / "out")
    assert found["prediction"] in ("0", "1") and found["label"] is None


def test_a_file_without_one_row_to_classify_is_refused(trained, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"tokens": "nonsense"}\nnot json\n')
    with pytest.raises(UserError, match="not one of 2 rows can be classified"):
        classify_file(trained, data, tmp_path / "out")


def test_the_first_rows_of_a_file_are_shown_with_label_and_confidence(run, tmp_path):
    rows = [{"tokens": body_of(number % 2)} for number in range(12)]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    done = run("--mode", "classify", "--test_data", tmp_path / "new.jsonl", "--output_dir", out)
    shown = done.stdout.splitlines()
    assert shown[0].split() == ["line", "label", "confidence"]
    told = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    for line, row in zip(shown[1:11], told, strict=False):
        assert line.split() == [str(row["line"]), row["prediction"], f"{row['confidence']:.4f}"]
    assert shown[11] == "the first 10 of 12 rows; all of them: predictions.jsonl"


def test_rows_that_are_cut_to_be_classified_are_told(run, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"tokens": "<Z_000> " * 60}) + "\n")
    done = run("--mode", "classify", "--test_data", str(tmp_path / "rows.jsonl"),
               "--output_dir", str(tmp_path / "out"), "--json")  # fmt: skip
    assert (
        "rows.jsonl: 1 row of 63 tokens cut to 21, the most that the model has learned to "
        in done.stderr
    )
    assert json.loads(done.stdout)["line"] == 1


def test_file_and_prompt_agree(trained, bars, tmp_path):
    first = json_lines(bars / "test.jsonl")[0]
    from_file = classify_file(trained, bars / "test.jsonl", tmp_path)[0]
    # Sums in fp32 over other batches differ in the last bits.
    assert from_file["probabilities"] == pytest.approx(
        classify(trained, first["tokens"])[1], rel=1e-5
    )


TAILS_OF_A_LABELLED_ROW = ("", "<EOS>", "<CLS>", "<CLS> <EOS>", "<CLS> <CLS> <EOS>")


BODIES = st.lists(st.sampled_from(["A", "B", "C", "<CLS>", "<IMG>", "<EOS>"]), max_size=20).map(
    lambda tokens: " ".join([*tokens, "D"])
)


@given(bodies=st.lists(BODIES, min_size=1, max_size=8), batch_size=st.sampled_from([1, 7, 64]))
@settings(max_examples=6)
@pytest.mark.parametrize("classifier", ["tokens", "head"])
def test_a_row_is_told_alike_with_and_without_its_label_wherever_it_is_asked(
    untrained, tmp_path_factory, classifier, bodies, batch_size
):
    trained = untrained[classifier]
    labelled = [{"tokens": f"{body} {tail}", "label": label} for body in bodies
                for tail in TAILS_OF_A_LABELLED_ROW for label in (0, "cat")]  # fmt: skip
    labelled += [{"tokens": f"{body} <CLS> <CLS_1> <EOS>"} for body in bodies]
    asked = [{"tokens": row["tokens"]} for row in labelled]
    plain = [{"tokens": f"{body} {tail}"} for body in bodies for tail in ("", "<EOS>", "<CLS>")]
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"

    def read(rows: list[dict], for_label: bool):
        order = np.random.default_rng(len(rows)).permutation(len(rows))
        path.write_text("".join(json.dumps(rows[place]) + "\n" for place in order))
        dataset = read_rows(trained, path, for_label).dataset
        assert not dataset.bad_rows
        return dataset

    def check(dataset, shares):
        for record, log_probs_L in zip(dataset.records, shares.log_probs_NxK, strict=True):
            body = record["tokens"][: record["tokens"].rindex("D") + 1]
            expected = [alone[body][name] for name in trained.vocabulary.labels]
            assert np.exp(log_probs_L) == pytest.approx(expected, abs=1e-5)

    alone = {body: classify(trained, body)[1] for body in bodies}
    for rows in (labelled, asked, plain):
        dataset = read(rows, for_label=True)
        check(dataset, classify_dataset(trained, dataset, batch_size))
    for rows in (labelled, [row for row in plain if " " in row["tokens"].strip()]):
        if rows:
            dataset = read(rows, for_label=False)
            scores = score_rows(trained.engines.torch, dataset, batch_size=batch_size)
            ask_unlabelled(trained, dataset, scores, batch_size)
            check(dataset, scores.label_probs)
