"""huggingface_hub's own client against the server."""

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from trained_models import body_of

from inference import classify, generate, load_trained_model
from smallgpt.inference.prompts import row_text


@pytest.fixture(autouse=True)
def not_offline(monkeypatch):
    """The client asks no address while another test has told it that there is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def client(bars_server):
    return InferenceClient(model=bars_server.address)


@pytest.fixture(scope="module")
def trained(model_of):
    return load_trained_model(model_of("bars"), precision="fp32", engine="onnx")


def test_classification_has_all_labels_the_likeliest_first(client, trained):
    _, shares = classify(trained, body_of(1))
    told = client.text_classification(body_of(1))
    assert {each.label: each.score for each in told} == pytest.approx(shares, abs=1e-6)
    assert [each.label for each in told] == list(shares)
    (best,) = client.text_classification(body_of(1), top_k=1, function_to_apply="softmax")
    assert best.label == "1"
    with pytest.raises(HfHubHTTPError, match="422"):
        client.text_classification(body_of(1), function_to_apply="sigmoid")


def test_several_texts_are_classified(bars_server):
    status, told = bars_server.post("/", {"inputs": [body_of(0), body_of(1)]})
    assert status == 200
    assert [row[0]["label"] for row in told] == ["0", "1"]


def test_a_model_with_labels_generates_where_it_is_asked_to(client, trained):
    prompt = "<IMG> <Z_003>"
    expected = row_text(trained, generate(trained, prompt, greedy=True).sequences[0])
    # Without any parameter a client sends of both tasks the same: those of a classification.
    assert prompt + client.text_generation(prompt, max_new_tokens=99) == expected
    assert client.text_generation(prompt, return_full_text=True) == expected
    short = client.text_generation(prompt, max_new_tokens=3)
    assert len(short.split()) == 3
    sampled = [
        client.text_generation("<IMG>", do_sample=True, seed=4, temperature=0.9) for _ in range(2)
    ]
    rows = generate(trained, "<IMG>", seed=4, temperature=0.9).sequences
    assert sampled == [row_text(trained, rows[0]).removeprefix("<IMG>")] * 2


def test_details_tell_each_token(client):
    told = client.text_generation("<IMG> <Z_003>", details=True, top_n_tokens=2)
    assert told.generated_text == "".join(token.text for token in told.details.tokens)
    assert told.details.finish_reason == "eos_token"
    assert told.details.generated_tokens == len(told.details.tokens)
    assert all(token.logprob <= 0 for token in told.details.tokens)
    assert [len(place) for place in told.details.top_tokens] == [2] * len(told.details.tokens)
    cut = client.text_generation("<IMG>", details=True, max_new_tokens=2)
    assert cut.details.finish_reason == "length"
    stopped = client.text_generation("<IMG>", details=True, stop=["</IMG>"])
    assert stopped.details.finish_reason == "stop_sequence"


def test_a_stream_is_an_event_a_token(client):
    whole = client.text_generation("<IMG> <Z_003>", details=True)
    events = list(client.text_generation("<IMG> <Z_003>", details=True, stream=True))
    assert [e.token.id for e in events] == [token.id for token in whole.details.tokens]
    assert [e.index for e in events] == list(range(1, len(events) + 1))
    assert "".join(e.token.text for e in events) == whole.generated_text
    assert events[-1].generated_text == whole.generated_text
    assert events[-1].details.finish_reason == "eos_token"
    assert all(e.generated_text is None and e.details is None for e in events[:-1])
    texts = list(client.text_generation("<IMG> <Z_003>", stream=True))
    assert "".join(texts) == whole.generated_text


def test_texts_stream(server_of):
    client = InferenceClient(model=server_of("texts").address)
    whole = client.text_generation("the c", max_new_tokens=8)
    assert "".join(client.text_generation("the c", max_new_tokens=8, stream=True)) == whole


def test_chat_of_the_client(server_of):
    client = InferenceClient(model=server_of("instructions").address)
    messages = [{"role": "user", "content": "say 3"}]
    whole = client.chat_completion(messages, max_tokens=4, temperature=0)
    events = client.chat_completion(messages, max_tokens=4, temperature=0, stream=True)
    parts = [event.choices[0].delta.content for event in events]
    assert "".join(filter(None, parts)) == whole.choices[0].message.content


@pytest.mark.parametrize(
    "given", [{"repetition_penalty": 1.3}, {"best_of": 2}, {"typical_p": 0.5}, {"top_p": 3.0}]
)
def test_what_has_no_effect_here_is_refused(client, given):
    with pytest.raises(HfHubHTTPError, match="422"):
        client.text_generation("<IMG>", **given)


def test_a_mistake_in_a_stream_is_an_error(client):
    with pytest.raises(HfHubHTTPError, match="422"):
        list(client.text_generation("<Z_999>", stream=True))


def test_the_client_sends_its_token(server_of):
    server = server_of("bars", "--token", "a secret with spaces".replace(" ", "-"))
    client = InferenceClient(model=server.address, token="a-secret-with-spaces")
    assert client.text_classification(body_of(0))[0].label == "0"
    assert "".join(client.text_generation("<IMG>", stream=True)).endswith("<EOS>")
    for token in (None, "hf_wrong"):
        client = InferenceClient(model=server.address, token=token)
        with pytest.raises(HfHubHTTPError, match="401"):
            client.text_classification(body_of(0))
