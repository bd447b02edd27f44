"""POST /v1/systemone: questions and answers in the form of `transformers serve`."""

import json

import pytest
from trained_models import body_of

from inference import classify, load_trained_model
from smallgpt.serving.choices import choose

QUESTION = {"type": "choice", "instructions": "Which?", "criteria": {"0": "top", "1": None}}


@pytest.mark.parametrize(
    "state", [body_of(1), body_of(1).split(), {"tokens": body_of(1)}], ids=["text", "list", "row"]
)
def test_answers_come_by_name(bars_server, model_of, state):
    trained = load_trained_model(model_of("bars"), precision="fp32", engine="onnx")
    label, shares = classify(trained, body_of(1))
    only = {"type": "choice", "criteria": {"1": ""}}
    status, told = bars_server.post(
        "/v1/systemone", {"state": state, "questions": {"bar": QUESTION, "only": only}}
    )
    assert status == 200
    assert told["answers"]["bar"]["choice"] == label
    assert told["answers"]["bar"]["probabilities"] == pytest.approx(shares, abs=1e-6)
    assert told["answers"]["bar"]["confidence"] == pytest.approx(2 * shares[label] - 1, abs=1e-6)
    assert told["answers"]["only"] == {
        "type": "choice", "choice": "1", "confidence": 1.0, "probabilities": {"1": 1.0},
    }  # fmt: skip
    assert told["model"] == "best_model" and told["usage"]["output_tokens"] == 0


def test_a_text_model_reads_other_states_as_json(server_of):
    server, state = server_of("texts"), {"message": "你好"}
    _, by_text = server.post("/predict", {"input_data": json.dumps(state, ensure_ascii=False)})
    labels = list(by_text["probabilities"])
    question = {"type": "choice", "criteria": dict.fromkeys(labels)}
    _, told = server.post("/v1/systemone", {"state": state, "questions": {"q": question}})
    assert told["answers"]["q"]["probabilities"] == pytest.approx(by_text["probabilities"])


def test_the_shares_of_some_labels_add_up():
    told = {"probabilities": {"a": 0.5, "b": 0.3, "c": 0.2}}
    choice = choose(told, ["c", "b"], "q")
    assert choice.option == "b"
    assert choice.shares == pytest.approx({"c": 0.4, "b": 0.6})
    assert choice.confidence == pytest.approx(0.2)
    assert choose({"probabilities": {"a": 0.0, "b": 0.0}}, ["a", "b"], "q").confidence == 0


@pytest.mark.parametrize(
    ("changed", "status", "part"),
    [
        ({"questions": {"q": {"type": "choice", "criteria": {"0": "", "cat": ""}}}}, 422, "'cat'"),
        ({"questions": {"q": {"type": "noul"}}}, 422, "choice only"),
        ({"questions": {"q": {"type": "score", "criteria": ["a", "b"]}}}, 422, "choice only"),
        ({"questions": {"q": {"type": "choice"}}}, 422, "one option"),
        ({"questions": {}}, 422, "questions"),
        ({"assets": {"a": {}}}, 422, "assets"),
        ({"state": "<Z_999>"}, 422, "<Z_999>"),
        ({"model": "gpt-9"}, 404, "gpt-9"),
        ({"model": "best_model"}, 200, ""),
    ],
)
def test_what_no_label_answers_is_refused(bars_server, changed, status, part):
    asked = {"state": body_of(0), "questions": {"q": QUESTION}, **changed}
    found, told = bars_server.post("/v1/systemone", asked)
    assert found == status and part in json.dumps(told)
