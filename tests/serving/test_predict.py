"""POST /predict and /v1/score: what the toolkit says of the same rows, over HTTP."""

import json

import pytest
from running_server import JSON
from trained_models import body_of

from inference import classify, evaluate_file, generate, load_trained_model
from smallgpt.inference.prompts import row_text

LONG = "<IMG> " + "<Z_001> " * 50 + "</IMG>"
CHOICE = {"type": "choice", "instructions": "Which?"}


def near(told: dict, expected: dict) -> bool:
    return list(told) == list(expected) and told == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def trained(model_of):
    """A function: a model as the server loads it."""
    return lambda kind: load_trained_model(model_of(kind), precision="fp32", engine="onnx")


@pytest.mark.parametrize(
    "row",
    [
        body_of(1),
        {"tokens": body_of(1)},
        {"tokens": body_of(1).split()},
        [2, *[9] * 4, *[6] * 12, 3],
        {"input_ids": [2, *[9] * 4, *[6] * 12, 3]},
    ],
    ids=["string", "tokens", "list of tokens", "ids", "input_ids"],
)
def test_a_row_in_any_form_gets_its_label(bars_server, trained, row):
    status, told = bars_server.post("/predict", {"input_data": row})
    label, shares = classify(trained("bars"), row)
    assert status == 200
    assert told["prediction"] == label
    assert told["confidence"] == told["probabilities"][label]
    assert near(told["probabilities"], shares)
    assert told["calibrated"] is True


def test_a_list_gets_a_list(bars_server, trained):
    rows = [body_of(0), body_of(1), {"tokens": body_of(0)}, [2, 9, 9, 3]]
    status, told = bars_server.post("/predict", {"input_data": rows})
    assert status == 200
    for answer, (label, shares) in zip(
        told["predictions"], classify(trained("bars"), rows), strict=True
    ):
        assert answer["prediction"] == label and near(answer["probabilities"], shares)


def test_a_list_of_one_row_gets_a_list(bars_server):
    _, told = bars_server.post("/predict", {"input_data": [body_of(0)]})
    assert [each["prediction"] for each in told["predictions"]] == ["0"]


def test_texts_are_labelled(server_of, trained):
    server = server_of("texts")
    texts = ["the cat sat", "never again"]
    _, told = server.post("/predict", {"input_data": texts})
    for answer, (label, shares) in zip(
        told["predictions"], classify(trained("texts"), texts), strict=True
    ):
        assert answer["prediction"] == label and near(answer["probabilities"], shares)


def test_a_model_without_labels_answers_with_what_follows(server_of, trained):
    server, model = server_of("no labels"), trained("no labels")
    row = " ".join(model.vocabulary.tokens[index] for index in model.vocabulary.ids.values())
    row = next(token for token in row.split() if not token.startswith("<"))
    expected = row_text(model, generate(model, row, greedy=True).sequences[0])
    status, told = server.post("/predict", {"input_data": row})
    assert status == 200
    assert row + told.pop("prediction") == expected
    assert told == {"confidence": None, "probabilities": None, "calibrated": False}
    _, many = server.post("/predict", {"input_data": [row, {"tokens": [row]}]})
    assert [row + each["prediction"] for each in many["predictions"]] == [expected] * 2


def test_a_row_that_is_cut_is_told(bars_server):
    _, told = bars_server.post("/predict", {"input_data": LONG})
    assert told["prediction"] in ("0", "1")
    assert "cut" in " ".join(told["notes"])


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/", {"inputs": LONG}),
        ("/v1/systemone", {"state": LONG, "questions": {"q": CHOICE | {"criteria": {"0": ""}}}}),
        ("/v1/decisions", {"input": LONG, "questions": [CHOICE | {"choices": [{"value": "0"}]}]}),
    ],
)
def test_a_row_that_is_cut_is_told_beside_an_answer_whose_form_is_not_ours(
    bars_server, path, asked
):
    status, _, headers = bars_server.ask("POST", path, json.dumps(asked), JSON)
    assert status == 200 and "cut" in headers["X-Notes"]
    short = json.loads(json.dumps(asked).replace(LONG, body_of(0)))
    assert "X-Notes" not in bars_server.ask("POST", path, json.dumps(short), JSON)[2]


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ("<Z_999>", "<Z_999>"),
        ([body_of(0), "<Z_999>"], "rows[1]"),
        ([], "no rows"),
        (None, "not rows"),
        (1.5, "not rows"),
        ([[1.5]], "rows[0]"),
        ([99999], "99999"),
        ({"tokens": 3}, "tokens"),
        ({}, ""),
    ],
)
def test_rows_that_cannot_be_read_are_refused_with_the_reason(bars_server, rows, part):
    status, told = bars_server.post("/predict", {"input_data": rows})
    assert status == 422
    assert part in told["error"]["message"]
    assert told["error"]["type"] == "invalid_request_error"


def test_who_asks_is_told_no_flag_of_the_command_line(bars_server):
    _, of_labels = bars_server.post("/predict", {"input_data": "<Z_999>"})
    _, of_prompts = bars_server.post("/v1/completions", {"prompt": "<IMG> <IMG>"})
    for told, part in ((of_labels, "not in the vocabulary"), (of_prompts, "token 2 of the prompt")):
        assert part in told["error"]["message"] and "--" not in told["error"]["message"]


# ------------------------------------------------------------------------------- scores


def test_scores_are_those_of_an_evaluation(bars_server, trained, model_of, tmp_path):
    test = model_of("bars").parents[1] / "test.jsonl"
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    evaluate_file(trained("bars"), test, tmp_path / "out")
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    asked = [{"tokens": row["tokens"], "label": row["label"]} for row in rows]
    status, told = bars_server.post("/v1/score", {"rows": asked})
    assert status == 200
    for score, expected in zip(told["scores"], map(json.loads, lines), strict=True):
        assert score["nll_sum"] == pytest.approx(expected["nll_sum"], abs=1e-4)
        assert score["prediction"] == expected["prediction"]
        assert score["label_nll"] == pytest.approx(expected["label_nll"], abs=1e-4)


def test_tokens_are_scored_one_by_one(bars_server):
    _, told = bars_server.post("/v1/score", {"rows": body_of(0), "tokens": True})
    (score,) = told["scores"]
    assert score["tokens"][0] == {"id": 2, "text": "<IMG>", "nll": None}
    costs = [token["nll"] for token in score["tokens"][1:]]
    assert sum(costs) == pytest.approx(score["nll_sum"], abs=1e-4)
