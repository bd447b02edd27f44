"""OpenAI's own client against the server: completions, chat, decisions, models, errors."""

import pytest
from trained_models import body_of

from inference import classify, generate, load_trained_model
from smallgpt.inference.prompts import row_text

openai = pytest.importorskip("openai", reason="the client of OpenAI is not installed")


def client_of(server, **facts):
    facts = {"api_key": "none", "max_retries": 0, **facts}
    return openai.OpenAI(base_url=f"{server.address}/v1", **facts)


@pytest.fixture(scope="module")
def client(bars_server):
    with client_of(bars_server) as client:
        yield client


@pytest.fixture(scope="module")
def trained(model_of):
    return load_trained_model(model_of("bars"), precision="fp32", engine="onnx")


def test_the_model_is_named(client):
    (model,) = client.models.list().data
    assert model.id == "best_model"
    assert client.models.retrieve("best_model").id == "best_model"
    with pytest.raises(openai.NotFoundError, match="this is 'best_model'"):
        client.models.retrieve("gpt-9")


# ------------------------------------------------------------------------------- completions


def test_a_greedy_completion_is_that_of_generate(client, trained):
    prompt = "<IMG> <Z_003> <Z_003>"
    told = client.completions.create(model="best_model", prompt=prompt, temperature=0)
    expected = row_text(trained, generate(trained, prompt, greedy=True).sequences[0])
    (choice,) = told.choices
    assert prompt + choice.text == expected
    assert choice.finish_reason == "stop"
    assert told.usage.prompt_tokens == 3
    assert told.usage.completion_tokens == len(expected.split()) - 3


def test_samples_are_those_of_generate_with_the_seed(client, trained):
    asked = {"model": "", "prompt": "<IMG>", "n": 3, "seed": 11, "temperature": 0.9}
    told = client.completions.create(**asked)
    rows = generate(trained, "<IMG>", count=3, seed=11, temperature=0.9).sequences
    assert [f"<IMG>{choice.text}" for choice in told.choices] == [
        row_text(trained, ids) for ids in rows
    ]
    again = client.completions.create(**asked)
    assert [c.text for c in again.choices] == [c.text for c in told.choices]


@pytest.mark.parametrize("echo", [False, True])
def test_many_prompts_as_texts_and_ids_keep_their_order(client, echo):
    texts = ["<IMG> <Z_003>", "<IMG> <Z_000>", "<IMG>"]
    ids = [[2, 9], [2, 6], [2]]
    asked = {"model": "", "temperature": 0, "n": 2, "echo": echo}
    of_texts = client.completions.create(prompt=texts, **asked).choices
    of_ids = client.completions.create(prompt=ids, **asked).choices
    assert [c.text for c in of_texts] == [c.text for c in of_ids]
    assert [c.index for c in of_texts] == list(range(6))
    alone = [client.completions.create(prompt=text, **asked).choices[0].text for text in texts]
    assert [c.text for c in of_texts[::2]] == alone
    if echo:
        assert all(c.text.startswith(texts[c.index // 2] + " ") for c in of_texts)


def test_one_prompt_may_be_ids(client):
    asked = {"model": "", "temperature": 0}
    (of_ids,) = client.completions.create(prompt=[2, 9], **asked).choices
    (of_text,) = client.completions.create(prompt="<IMG> <Z_003>", **asked).choices
    assert of_ids.text == of_text.text


def test_length_and_stop_texts_end_a_continuation(client):
    asked = {"model": "", "prompt": "<IMG> <Z_003>", "temperature": 0}
    (short,) = client.completions.create(max_tokens=2, **asked).choices
    assert short.finish_reason == "length" and len(short.text.split()) == 2
    (stopped,) = client.completions.create(stop=["</IMG>"], **asked).choices
    assert stopped.finish_reason == "stop" and "</IMG>" not in stopped.text


def test_logprobs_are_told_of_each_token(client):
    told = client.completions.create(
        model="", prompt="<IMG>", temperature=0, logprobs=3, max_tokens=4
    )
    found = told.choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset) == 4
    for token, logprob, top in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, strict=True
    ):
        assert len(top) == 3 and max(top, key=top.get) == token and top[token] == logprob
    places = [told.choices[0].text.index(found.tokens[0]), *found.text_offset[1:]]
    assert found.text_offset == places


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("prompt", ["<IMG>", ["<IMG> <Z_003>", "<IMG> <Z_000>"]])
def test_a_stream_adds_up_to_the_whole(client, prompt, n):
    asked = {"model": "", "prompt": prompt, "seed": 5, "n": n, "echo": True}
    whole = client.completions.create(**asked)
    texts, reasons, counted = {}, {}, None
    with client.completions.create(
        stream=True, stream_options={"include_usage": True}, **asked
    ) as events:
        for event in events:
            counted = event.usage or counted
            for choice in event.choices:
                assert choice.index not in reasons
                texts[choice.index] = texts.get(choice.index, "") + choice.text
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
    assert texts == {c.index: c.text for c in whole.choices}
    assert reasons == {c.index: c.finish_reason for c in whole.choices}
    assert counted == whole.usage


def test_a_stream_ends_with_done(bars_server):
    events = bars_server.events("/v1/completions", {"prompt": "<IMG>", "stream": True})
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("asked", "error", "part"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "gpt-9"),
        ({"temperature": 3}, openai.UnprocessableEntityError, "temperature"),
        ({"n": 0}, openai.UnprocessableEntityError, "n:"),
        ({"max_tokens": 0}, openai.UnprocessableEntityError, "max_tokens"),
        ({"frequency_penalty": 1}, openai.UnprocessableEntityError, "frequency_penalty"),
        ({"prompt": "<Z_999>"}, openai.UnprocessableEntityError, "<Z_999>"),
        ({"prompt": [12345]}, openai.UnprocessableEntityError, "12345"),
        ({"prompt": "<IMG> " * 40}, openai.UnprocessableEntityError, "tokens"),
        ({"extra_body": {"max_token": 3}}, openai.UnprocessableEntityError, "max_token"),
        ({"prompt": ["<IMG>"] * 200, "n": 100}, openai.UnprocessableEntityError, "20,000"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_is_refused_with_the_reason(client, asked, error, part, stream):
    with pytest.raises(error) as raised:
        client.completions.create(**{"model": "", "prompt": "<IMG>", "stream": stream, **asked})
    assert part in raised.value.message
    assert set(raised.value.body) == {"message", "type", "param"}


# ------------------------------------------------------------------------------- chat


@pytest.fixture(scope="module")
def chat_client(server_of):
    with client_of(server_of("instructions")) as client:
        yield client


def test_an_instruction_is_answered(chat_client, model_of):
    messages = [{"role": "user", "content": "say 3"}]
    asked = {"model": "best_model", "messages": messages, "temperature": 0, "max_tokens": 5}
    told = chat_client.chat.completions.create(**asked)
    trained = load_trained_model(model_of("instructions"), precision="fp32", engine="onnx")
    ids = generate(trained, "say 3", greedy=True, max_new_tokens=5).sequences[0]
    assert told.choices[0].message.content == row_text(trained, ids)
    assert told.choices[0].message.role == "assistant"
    parts = [{"type": "text", "text": "say "}, {"type": "text", "text": "3"}]
    asked["messages"] = [{"role": "user", "content": parts}]
    again = chat_client.chat.completions.create(**asked)
    assert again.choices[0].message.content == told.choices[0].message.content


def test_an_answer_streams_with_logprobs(chat_client):
    asked = {
        "model": "",
        "messages": [{"role": "user", "content": "say 3"}],
        "temperature": 0,
        "max_completion_tokens": 5,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = chat_client.chat.completions.create(**asked).choices[0]
    assert len(whole.logprobs.content[0].top_logprobs) == 2
    text, tokens, roles, reason = "", [], [], None
    for event in chat_client.chat.completions.create(stream=True, **asked):
        (choice,) = event.choices
        text += choice.delta.content or ""
        roles.append(choice.delta.role)
        tokens += [each.token for each in choice.logprobs.content]
        reason = choice.finish_reason
    assert text == whole.message.content and reason == whole.finish_reason
    assert tokens == [each.token for each in whole.logprobs.content]
    assert roles[0] == "assistant" and not any(roles[1:])


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "be kind"}, {"role": "user", "content": "say 3"}],
        [{"role": "assistant", "content": "the cat"}],
        [],
    ],
)
def test_conversations_are_refused(chat_client, messages):
    with pytest.raises(openai.UnprocessableEntityError):
        chat_client.chat.completions.create(model="", messages=messages)


def test_chat_is_for_models_of_instructions(client):
    with pytest.raises(openai.UnprocessableEntityError, match="learned no instructions"):
        client.chat.completions.create(model="", messages=[{"role": "user", "content": "<IMG>"}])


# ------------------------------------------------------------------------------- decisions


def question(*values, **more):
    choices = [{"value": value} for value in values]
    return {"type": "choice", "instructions": "Which?", "choices": choices, **more}


def test_a_decision_is_the_calibrated_label(client, trained):
    label, shares = classify(trained, body_of(1))
    told = client.decisions.create(
        model="best_model",
        input=body_of(1),
        questions=[question("0", "1", name="bar"), question("1"), question("1", "0")],
    )
    first, alone, turned = told.answers
    assert first.type == "choice" and first.name == "bar" and first.choice == label
    assert {each.value: each.probability for each in first.probabilities} == pytest.approx(
        shares, abs=1e-6
    )
    assert first.confidence == pytest.approx(2 * shares[label] - 1, abs=1e-6)
    assert [each.value for each in turned.probabilities] == ["1", "0"]
    assert alone.choice == "1" and alone.confidence == 1 and alone.probabilities[0].probability == 1
    assert told.model == "best_model" and told.usage.output_tokens == 0


def test_the_input_may_be_a_message(client):
    plain = client.decisions.create(model="", input=body_of(0), questions=[question("0", "1")])
    part = {"type": "input_text", "text": body_of(0)}
    for content in (body_of(0), [part]):
        told = client.decisions.create(
            model="", input=[{"role": "user", "content": content}], questions=[question("0", "1")]
        )
        assert told.answers == plain.answers


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"questions": [question("0", "cat")]}, "'cat'"),
        ({"questions": [question("0", True)]}, "True"),
        ({"questions": [question("0", "0")]}, "each once"),
        ({"questions": [question()]}, "one option"),
        ({"questions": [{"type": "predicate", "instructions": "Is it?"}]}, "choice only"),
        ({"questions": []}, "questions"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "one text"),
        ({"input": [{"role": "system", "content": "x"}]}, "one text"),
        ({"input": "<Z_999>"}, "<Z_999>"),
    ],
)
def test_questions_that_no_label_answers_are_refused(client, asked, part):
    given = {"model": "", "input": body_of(0), "questions": [question("0", "1")], **asked}
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.decisions.create(**given)
    assert part in raised.value.message


def test_a_model_without_labels_decides_nothing(server_of):
    with (
        client_of(server_of("no labels")) as client,
        pytest.raises(openai.UnprocessableEntityError, match="no labels"),
    ):
        client.decisions.create(model="", input="a", questions=[question("0", "1")])


def test_a_model_of_labels_alone_continues_nothing(server_of):
    with (
        client_of(server_of("head")) as client,
        pytest.raises(openai.UnprocessableEntityError, match="only names labels"),
    ):
        client.completions.create(model="", prompt="a")
