"""The same row gets the same answer from every engine and every format that a model is exported to.

torch in fp32 is what the others are compared with; the page computes in int8.
"""

import numpy as np
import pytest
from running_server import RunningServer
from transformers import pipeline
from web_pages import ASK

from inference import classify, generate, load_trained_model

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: the extra `gguf`")
pytest.importorskip("openvino", reason="openvino is not installed: the extra `openvino`")

from smallgpt.export.llama_server import LlamaServer

ROWS = {
    "letters": ["a b c d", "f e d", "c d e f a", "b a f e d c"],
    "texts": ["the cat sat on", "a dog ran", "  the house", "don't 12"],
}
NEAR = {
    "onnx": 1e-4,
    "openvino": 1e-4,
    "server": 1e-4,
    "hub": 1e-3,
    "llama.cpp": 2e-3,
    "browser": 0.05,
}
NEW_TOKENS = 4


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("kind", ROWS)
def test_a_row_gets_the_same_answer_everywhere(kind, exported, model_of, browser, served):
    rows = ROWS[kind]
    torch = load_trained_model(model_of(kind), "cpu", "fp32", engine="torch")
    vocabulary, names = torch.vocabulary, torch.label_names
    told = [{name: shares[name] for name in names} for _, shares in classify(torch, rows)]
    starts = [torch.vocabulary.encode(row) for row in rows] if kind == "letters" else [
        torch.vocabulary.tokenizer.encode(row) for row in rows
    ]  # fmt: skip
    how = {"greedy": True, "free": True, "max_new_tokens": NEW_TOKENS}

    def new_tokens(trained):
        made = generate(trained, starts, **how)
        return [each.sequences[0][len(start) :] for each, start in zip(made, starts, strict=True)]

    expected = new_tokens(torch)

    shares: dict[str, list[dict[str, float]]] = {}
    for engine in ("onnx", "openvino"):
        other = load_trained_model(exported(kind, "onnx"), "cpu", "fp32", engine=engine)
        shares[engine] = [each for _, each in classify(other, rows)]
        assert new_tokens(other) == expected, engine

    decide = pipeline("decision", model=str(exported(kind, "hub")))
    question = {"label": {"type": "choice", "criteria": dict.fromkeys(names)}}
    shares["hub"] = [
        decide({"state": row, "questions": question})["label"]["probabilities"] for row in rows
    ]

    over_http = RunningServer(model_of(kind))
    told_over_http = over_http.post("/predict", {"input_data": rows})[1]["predictions"]
    shares["server"] = [each["probabilities"] for each in told_over_http]
    of_prompts = {"prompt": starts, "max_tokens": NEW_TOKENS, "temperature": 0}
    made = over_http.post("/v1/completions", of_prompts)[1]["choices"]
    assert over_http.stop() == 0
    ruled = generate(torch, starts, greedy=True, max_new_tokens=NEW_TOKENS)
    for choice, each, start in zip(made, ruled, starts, strict=True):
        assert choice["token_ids"] == each.sequences[0][len(start) :]

    server = LlamaServer(
        exported(kind, "gguf") / "model-f32.gguf", vocabulary.label_ids, torch.temperature
    )
    asked = [np.array([*start, vocabulary.cls_id]) for start in starts]
    found_BxL = server.probabilities(np.concatenate(asked), np.array([*map(len, asked)]))
    shares["llama.cpp"] = [dict(zip(names, found.tolist(), strict=True)) for found in found_BxL]
    never = [[index, False] for index in (vocabulary.pad_id, vocabulary.unk_id)]
    for start, continued in zip(starts, expected, strict=True):
        answer = server.ask(
            "/completion", prompt=start, n_predict=len(continued), temperature=0,
            return_tokens=True, logit_bias=never,
        )  # fmt: skip
        assert answer["tokens"][: len(continued)] == continued

    page = browser.new_page()
    page.goto(served(exported(kind, "web")))
    questions = [{"text": row, "added": []} for row in rows]
    answers = page.evaluate(ASK, {"method": "read", "questions": questions})
    assert [answer["ids"] for answer in answers] == starts
    shares["browser"] = [dict(zip(names, each["labels"], strict=True)) for each in answers]
    asked_to_go_on = [{**each, "temperature": 0} for each in questions]
    made = page.evaluate(ASK, {"method": "goOn", "questions": asked_to_go_on})
    page.close()
    of_command_line = generate(load_trained_model(exported(kind, "onnx-int8")), rows, greedy=True)
    ends = {vocabulary.eos_id, vocabulary.cls_id}
    for answer, each, start in zip(made, of_command_line, starts, strict=True):
        continued = each.sequences[0][len(start) :]
        if kind == "texts":  # a text ends where its label tail begins
            continued = [index for index in continued if index not in ends]
        assert answer["added"] == continued

    for name, found in shares.items():
        for row, here, there in zip(rows, told, found, strict=True):
            assert there == pytest.approx(here, abs=NEAR[name]), (name, row)
            assert max(there, key=there.get) == max(here, key=here.get), (name, row)
