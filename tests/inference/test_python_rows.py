"""Rows given from Python: one or many of any kind, with the answers of the command line."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_settings import plain_settings

from inference import classify, classify_file, embeddings, generate, next_tokens
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import SettingsError, UserError
from smallgpt.inference.python_rows import python_rows
from smallgpt.model.build import build_model
from smallgpt.model.hardware import Precision
from smallgpt.tokens.vocabulary import Vocabulary

LENGTH = 12


@pytest.fixture(scope="module")
def make_model(tmp_path_factory):
    """A function that makes a model of drawn weights, wide apart to show any difference."""

    def make(vocabulary: Vocabulary, **options) -> TrainedModel:
        length = options.setdefault("max_length", LENGTH)
        shape = plain_settings(n_layer=2, n_head=2, n_embd=16, n_positions=length, **options)
        torch.manual_seed(0)
        model = build_model(shape, vocabulary).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.5)
        engine = TorchEngine(model, Precision("fp32", ""), vocabulary.label_ids)
        folder = tmp_path_factory.mktemp("model")
        (folder / "config.json").write_text("{}")
        return TrainedModel.of(engine, vocabulary, shape, folder, learned_unknown=True)

    return make


@pytest.fixture(scope="module")
def trained(make_model, vocabulary):
    return make_model(vocabulary)


@pytest.fixture(scope="module")
def of_texts(make_model, text_vocabulary):
    return make_model(text_vocabulary)


@pytest.fixture(scope="module")
def instructed(make_model, text_vocabulary):
    return make_model(text_vocabulary, task="instruct", max_length=90)


# ------------------------------------------------------------------------------- what is given

SAME_ROW = {
    "string": lambda ids, text: text,
    "ids": lambda ids, text: ids,
    "tuple": lambda ids, text: tuple(ids),
    "array": lambda ids, text: np.array(ids, np.uint16),
    "list of numbers of numpy": lambda ids, text: list(np.array(ids)),
    "tensor": lambda ids, text: torch.tensor(ids),
    "tokens": lambda ids, text: {"tokens": text.split()},
    "record": lambda ids, text: {"tokens": text, "label": 1, "id": 7},
    "record of an array": lambda ids, text: {"input_ids": np.array(ids)},
}


@pytest.mark.parametrize("kind", SAME_ROW)
def test_a_row_may_be_given_in_any_form_alone_or_in_a_list(trained, kind):
    text = "<IMG> A B D"
    row = SAME_ROW[kind](trained.vocabulary.encode(text), text)
    for ask in (classify, next_tokens, embeddings, generate):
        alone, expected = ask(trained, row), ask(trained, text)
        (listed,) = ask(trained, [row])
        if ask is embeddings:
            assert alone.shape == (16,) and (alone == expected).all() and (listed == alone).all()
        else:
            assert alone == expected == listed


def test_a_list_of_strings_is_many_rows_and_within_a_list_the_tokens_of_one(trained):
    many = next_tokens(trained, ["A", "B"], batch_size=1)
    assert many == [next_tokens(trained, row) for row in "AB"]
    assert next_tokens(trained, [["A", "B"]]) == [next_tokens(trained, "A B")]


@pytest.mark.parametrize(
    "many", [iter(["A", "B C"]), (row for row in ["A", "B C"]), np.array(["A", "B C"]),
             np.array(["A", "B C"], object), {"A": 0, "B C": 0}.keys()],
    ids=["iterator", "generator", "array of strings", "array of objects", "keys"],
)  # fmt: skip
def test_many_rows_are_whatever_one_can_iterate_over(trained, many):
    expected = [classify(trained, row) for row in ("A", "B C")]
    assert classify(trained, many, batch_size=1) == expected


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "no rows: one row is a string"),
        (np.array([]), "no rows"),
        (None, "not rows: None; one row is"),
        (b"A B", "not rows: b'A B'"),
        (7, "not rows: 7"),
        (["A", 7], r"rows\[1\] is no row: 7; one row is"),
        ([["A", 7]], r"rows\[0\] is no row: .'A', 7."),
        ([[]], r"rows\[0\] is no row"),
        ([True, False], r"rows\[0\] is no row: True"),
        ([1.0, 2.0], r"rows\[0\] is no row: 1.0"),
        (SimpleNamespace(columns=["tokens"]), "a table is no list of rows: .* to_dict"),
        ("", "no tokens"),
        (["A", ""], r"rows\[1\]: .*no tokens"),
        ([{"tokens": "A"}, {"text": "B"}], r"rows\[1\]: no `tokens`"),
        ([[6, 99]], r"rows\[0\]: input id 99"),
        (["A", "B nonsense"], r"rows\[1\]: not in the vocabulary: 'nonsense'"),
        ("<IMGE> A", r"'<IMGE>' \(did you mean <IMG>\?\)"),
        ({"tokens": 7}, "`tokens` must be a string or a list of strings"),
    ],
)
def test_what_is_no_row_is_told_with_its_place(trained, rows, told):
    for ask in (classify, next_tokens, embeddings, *([generate] if rows is not None else [])):
        with pytest.raises(UserError, match=told):
            ask(trained, rows)


@pytest.mark.parametrize("ask", [classify, next_tokens, embeddings, generate])
def test_wrong_arguments_are_told(trained, ask):
    with pytest.raises(SettingsError, match="batch_size"):
        ask(trained, "A", batch_size=0)
    with pytest.raises(UserError, match="'ask' is neither 'error' nor 'unk'"):
        ask(trained, "A", unknown_token="ask")


# ------------------------------------------------------------------------------- answers

BODIES = st.lists(st.sampled_from("ABCD"), min_size=1, max_size=14).map(" ".join)


@given(bodies=st.lists(BODIES, min_size=2, max_size=9), batch_size=st.sampled_from([1, 2, 64]))
@settings(max_examples=15)
@pytest.mark.parametrize("classifier", ["label_token", "head"])
def test_answers_do_not_depend_on_the_rows_beside(make_model, vocabulary, classifier, bodies,
                                                   batch_size):  # fmt: skip
    trained = make_model(vocabulary, classifier=classifier)
    many = classify(trained, bodies, batch_size=batch_size)
    for body, (label, shares) in zip(bodies, many, strict=True):
        alone = classify(trained, body)
        assert label == alone[0] and shares == pytest.approx(alone[1], abs=1e-6)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
    vectors = embeddings(trained, bodies, batch_size=batch_size)
    assert vectors.dtype == np.float32 and vectors.shape == (len(bodies), 16)
    expected = np.stack([embeddings(trained, body) for body in bodies])
    assert vectors == pytest.approx(expected, abs=1e-5)
    if classifier == "head":
        return
    bodies = [body[: 2 * LENGTH - 1] for body in bodies]  # as many tokens as were trained
    many = next_tokens(trained, bodies, count=3, batch_size=batch_size)
    for body, found in zip(bodies, many, strict=True):
        alone = next_tokens(trained, body, count=3)
        assert [token for token, _ in found] == [token for token, _ in alone]
        assert [share for _, share in found] == pytest.approx(
            [share for _, share in alone], abs=1e-6
        )


def test_labels_are_those_of_a_file(trained, tmp_path, capsys):
    rows = [
        {"tokens": "A " * 11 + "B", "id": 1},
        {"tokens": "C <CLS> <CLS_1> <EOS>"},
        {"tokens": "D", "label": "cat"},
        {"input_ids": [6, 7]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_file = classify_file(trained, path, tmp_path / "out")
    told_of_file = capsys.readouterr().err.replace(f"{path}: ", "")
    for (label, shares), row in zip(classify(trained, rows), of_file, strict=True):
        assert label == row["prediction"]
        assert shares == pytest.approx(row["probabilities"], abs=1e-6)
    assert capsys.readouterr().err == told_of_file != ""


@given(
    prompts=st.lists(BODIES.filter(lambda body: len(body) < 15), min_size=2, max_size=6),
    how=st.sampled_from([{}, {"greedy": True}, {"max_new_tokens": 2}, {"free": True}]),
    batch_size=st.sampled_from([1, 64]),
)
@settings(max_examples=25)
def test_each_of_many_rows_goes_on_as_it_does_alone_with_a_seed_of_its_own(
    trained, prompts, how, batch_size
):
    count = 1 if "greedy" in how else 2
    many = generate(trained, prompts, seed=5, count=count, batch_size=batch_size, **how)
    for index, (prompt, made) in enumerate(zip(prompts, many, strict=True)):
        assert made == generate(trained, prompt, seed=5 + index, count=count, **how)
        assert len(made.sequences) == made.tried == count


def test_rows_of_a_label_go_on_from_each_of_many(trained):
    how = {"label": classify(trained, "A")[0], "count": 2, "temperature": 3.0}
    many = generate(trained, ["A", "A B"], seed=1, **how)
    assert many == [generate(trained, "A", seed=1, **how), generate(trained, "A B", seed=2, **how)]
    for made, start in zip(many, ("A", "A B"), strict=True):
        for ids in made.sequences:
            text = trained.vocabulary.decode(ids)
            assert text.startswith(start) and text.endswith(f"<CLS> <CLS_{how['label']}> <EOS>")


def test_the_prompt_of_many_that_nothing_can_follow_is_named(trained):
    with pytest.raises(UserError, match=r"rows\[1\]: the prompt is a whole row already"):
        generate(trained, ["A", "A <CLS> <CLS_1> <EOS>"])
    with pytest.raises(UserError, match=r"rows\[2\]: the prompt has 12 tokens"):
        generate(trained, ["A", "B", "A " * LENGTH])
    with pytest.raises(UserError, match=r"rows\[1\]: the prompt has 13 tokens"):
        next_tokens(trained, ["A", "A " * (LENGTH + 1)])


def test_mistakes_name_the_arguments_of_python(trained, of_texts):
    for told, ask in {
        r"free=True": lambda: generate(trained, "A <CLS> <CLS_1> <EOS>"),
        r"give the first tokens of a row with --prompt$": lambda: generate(of_texts),
        "label 'dog': the model has no such label": lambda: generate(trained, label="dog"),
    }.items():
        with pytest.raises(UserError, match=told):
            ask()


# ------------------------------------------------------------------------------- unknown tokens


def test_unknown_tokens_are_refused_or_read_as_unk_as_in_training(
    make_model, vocabulary, trained, capsys
):
    lenient = make_model(vocabulary, unknown_token="unk")
    for ask in (classify, next_tokens, generate):
        expected = ask(trained, "A <UNK> <UNK> B")
        assert capsys.readouterr().err == ""
        assert ask(lenient, "A new newer B") == expected
        assert "2 unknown tokens read as <UNK>" in capsys.readouterr().err
        assert ask(trained, "A new newer B", unknown_token="unk") == expected
        capsys.readouterr()
        with pytest.raises(UserError, match="not in the vocabulary: 'new', 'newer'"):
            ask(lenient, "A new newer B", unknown_token="error")
    next_tokens(lenient, ["A new", "B newer new"])
    told = capsys.readouterr().err
    assert told == "3 unknown tokens read as <UNK>: 'new' (2 times), 'newer'\n"
    no_unk = make_model(Vocabulary(["<PAD>", "A", "<CLS>", "<EOS>", "<CLS_a>"]))
    with pytest.raises(UserError, match="needs <UNK>"):
        classify(no_unk, "A", unknown_token="unk")
    with pytest.raises(UserError, match="label token '<CLS_new>' is not in the vocabulary"):
        classify(trained, "A <CLS> <CLS_new>", unknown_token="unk")


# ------------------------------------------------------------------------------- texts


def test_texts_are_strings_and_records(of_texts, capsys):
    text = "fox 123"
    for ask in (classify, next_tokens, generate):
        assert ask(of_texts, {"text": text}) == ask(of_texts, text)
        assert ask(of_texts, [text])[0] == ask(of_texts, text)
    assert embeddings(of_texts, [text, "dog"]).shape == (2, 16)
    assert capsys.readouterr().err == ""
    next_tokens(of_texts, ["fox ñ", "ü é"])
    assert capsys.readouterr().err == "3 unknown tokens read as <UNK>: 'ñ', 'ü', 'é'\n"
    with pytest.raises(UserError, match="expected a text, got 7"):
        next_tokens(of_texts, {"text": 7})


def test_instructions_are_strings_and_records(instructed):
    row = {"instruction": "fox", "input": "dog", "output": "never read"}
    prompt = instructed.vocabulary.tokenizer.encode(
        "### Instruction:\nfox\n\n### Input:\ndog\n\n### Response:\n"
    )
    assert next_tokens(instructed, row) == next_tokens(instructed, prompt)
    assert (embeddings(instructed, row) == embeddings(instructed, prompt)).all()
    assert next_tokens(instructed, {"instruction": "fox"}) == next_tokens(instructed, "fox")
    many = generate(instructed, ["fox", row], greedy=True, max_new_tokens=5)
    assert many[0] == generate(instructed, "fox", greedy=True, max_new_tokens=5)
    assert len(many[1].sequences[0]) <= 5  # the answer alone
    with pytest.raises(UserError, match="no tokens"):
        next_tokens(instructed, {"instruction": "  "})


# ------------------------------------------------------------------------------- embeddings


def test_the_vector_is_the_state_that_names_the_label(trained, make_model, vocabulary):
    ids = vocabulary.encode("A B <CLS>")
    vector = embeddings(trained, "A B")
    with torch.no_grad():
        states_TxE = trained.model.transformer(torch.tensor([ids])).last_hidden_state[0]
    assert vector == pytest.approx(states_TxE[-1].numpy(), abs=1e-5)
    assert (embeddings(trained, "A B <CLS> <CLS_1> <EOS>") == vector).all()
    assert (embeddings(trained, {"tokens": "A B", "label": "cat"}) == vector).all()
    head = make_model(vocabulary, classifier="head")
    with torch.no_grad():
        logits_L = head.model.score(torch.tensor(embeddings(head, "A B"))).softmax(-1)
    _, shares = classify(head, "A B")
    assert [shares[name] for name in head.label_names] == pytest.approx(logits_L.tolist(), abs=1e-5)


def test_without_labels_the_vector_is_the_mean_of_the_states(make_model, vocabulary):
    plain = make_model(Vocabulary(vocabulary.tokens[:10]))
    rows = ["A B C", "D " * LENGTH]
    for row, vector in zip(rows, embeddings(plain, rows), strict=True):
        ids = torch.tensor([plain.vocabulary.encode(row)])
        with torch.no_grad():
            mean_E = plain.model.transformer(ids).last_hidden_state[0].mean(0)
        assert vector == pytest.approx(mean_E.numpy(), abs=1e-5)
    with pytest.raises(UserError, match="it cannot classify"):
        classify(plain, rows)


def test_rows_read_once_are_the_same_objects(trained):
    record = {"tokens": "A", "input_ids": None}
    assert python_rows(trained, record).records == [record]
    assert python_rows(trained, [record]).is_one is False
