"""Graph engines answer as torch does: labels, next tokens, scores, continuations."""

import importlib.util

import numpy as np
import pytest
import torch
from trained_models import body_of

from inference import classify, embeddings, evaluate_file, generate, load_trained_model, next_tokens
from smallgpt.decoding.generate import generate_tokens
from smallgpt.decoding.sampling import Sampling
from smallgpt.engines.graph_engine import GraphDecoder
from smallgpt.engines.runtimes import RUNTIMES
from smallgpt.errors import UserError

KINDS = ("bars", "head", "head of two layers", "no labels", "texts", "adapter")
WITH_LABELS = [kind for kind in KINDS if kind != "no labels"]
WITH_TOKENS = [kind for kind in KINDS if not kind.startswith("head")]


@pytest.fixture(params=sorted(RUNTIMES))
def engine(request):
    """The name of a graph engine."""
    if importlib.util.find_spec(RUNTIMES[request.param]) is None:
        pytest.skip(f"{RUNTIMES[request.param]} is not installed")
    return request.param


@pytest.fixture
def load(model_of):
    """A function: a model of a kind, by an engine in a precision."""
    return lambda kind, *how: load_trained_model(
        model_of(kind), "cpu", how[1] if how[1:] else "fp32", engine=how[0]
    )


def some_rows(trained, count=5):
    """Ids and lengths of rows of different lengths."""
    random = np.random.default_rng(0)
    lengths_B = random.integers(1, trained.max_length, count)
    return random.integers(6, len(trained.vocabulary), lengths_B.sum()), lengths_B


@pytest.mark.parametrize("kind", WITH_LABELS)
def test_labels_have_the_logits_of_torch(kind, engine, load):
    trained = load(kind, "torch")
    rows = some_rows(trained)
    expected = trained.engines.for_rows(1).label_logits(*rows)
    found = load(kind, engine).engines.for_rows(1).label_logits(*rows)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", WITH_TOKENS)
def test_tokens_have_the_scores_of_torch(kind, engine, load):
    trained = load(kind, "torch")
    ids_M, lengths_B = some_rows(trained)
    targets_M = np.roll(ids_M, -1)
    places_R = np.array([0, 3, len(ids_M) - 1])
    ours, torchs = (load(kind, name).engines.for_rows(1) for name in (engine, "torch"))
    found, expected = (
        each.score_tokens(ids_M, lengths_B, targets_M, places_R) for each in (ours, torchs)
    )
    np.testing.assert_allclose(found.nll_M, expected.nll_M, atol=1e-3, rtol=1e-4)
    assert (found.correct_M == expected.correct_M).mean() > 0.97  # ties of drawn weights
    np.testing.assert_allclose(
        found.label_logits_RxL, expected.label_logits_RxL, atol=1e-3, rtol=1e-4
    )
    found, expected = (each.next_logits(ids_M, lengths_B) for each in (ours, torchs))
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bars", "no labels", "texts"])
def test_likeliest_continuations_are_those_of_torch_whichever_rows_end_first(kind, engine, load):
    trained = load(kind, "torch")
    ids_M, lengths_B = some_rows(trained)
    prompts = [row[:4].tolist() for row in np.split(ids_M, np.cumsum(lengths_B)[:-1])]
    most = trained.max_length - max(map(len, prompts))
    decoders = [load(kind, name).engines.decoder(5, 1) for name in ("torch", engine)]
    assert isinstance(decoders[1], GraphDecoder)

    def continued(decoder, stops):
        return generate_tokens(
            decoder, prompts, max_new_tokens=min(most, 12), stop_ids=stops, batch_size=4,
            sampling=Sampling(greedy=True),
        )  # fmt: skip

    expected = continued(decoders[0], [])
    assert continued(decoders[1], []) == expected
    stops = [expected[0][0], expected[1][-2]]  # rows end at different steps
    assert continued(decoders[1], stops) == continued(decoders[0], stops)


def test_a_full_cache_and_a_prompt_that_is_too_long_are_refused(load, engine):
    decoder = load("bars", engine).engines.decoder(1, 1)
    decoder.prefill(torch.tensor([[1, 2]]), torch.tensor([2]), 3)
    decoder.step(torch.tensor([1]))
    with pytest.raises(ValueError, match="cache is full"):
        decoder.step(torch.tensor([1]))
    with pytest.raises(ValueError, match="do not fit a cache of 2 columns"):
        decoder.prefill(torch.tensor([[1, 2, 3]]), torch.tensor([3]), 2)


@pytest.mark.parametrize("kind", ["bars", "head", "texts"])
def test_a_row_in_int8_does_not_depend_on_the_rows_beside_it(kind, engine, load):
    trained = load(kind, engine, "int8")
    ids_M, lengths_B = some_rows(trained)
    of_rows, of_row = trained.engines.for_rows(1), trained.engines.for_row()
    together = of_rows.label_logits(ids_M, lengths_B)
    rows = np.split(ids_M, np.cumsum(lengths_B)[:-1])
    alone = [of_row.label_logits(row, np.array([len(row)]))[0] for row in rows]
    np.testing.assert_array_equal(together, np.stack(alone))
    assert of_rows.precision == "int8"


def test_every_function_answers_by_every_engine_and_tells_which(load, engine, bars, tmp_path):
    by_torch, trained = load("bars", "torch"), load("bars", engine)
    bodies = [body_of(number) for number in range(4)]
    for (label, shares), (expected, theirs) in zip(
        classify(trained, bodies), classify(by_torch, bodies), strict=True
    ):
        assert label == expected and shares == pytest.approx(theirs, abs=1e-4)
    for found, expected in zip(
        next_tokens(trained, bodies), next_tokens(by_torch, bodies), strict=True
    ):
        assert [share for _, share in found] == pytest.approx([s for _, s in expected], abs=1e-4)
    assert generate(trained, greedy=True) == generate(by_torch, greedy=True)
    figures = evaluate_file(trained, bars / "test.jsonl", tmp_path / "a")
    expected = evaluate_file(by_torch, bars / "test.jsonl", tmp_path / "b")
    assert (figures["engine"], expected["engine"]) == (engine, "torch")
    assert figures["accuracy"] == expected["accuracy"]
    assert figures["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-5)
    np.testing.assert_array_equal(embeddings(trained, bodies), embeddings(by_torch, bodies))


# ------------------------------------------------------------------------------- exports


@pytest.mark.parametrize("format", ["onnx", "onnx-int8"])
@pytest.mark.parametrize("kind", ["bars", "head", "texts", "adapter"])
def test_an_export_is_used_like_its_model(kind, format, engine, exported, load, bars, tmp_path):
    folder, by_torch = exported(kind, format), load(kind, "torch")
    precision = "int8" if format == "onnx-int8" else "fp32"
    # (On a CPU with bf16 OpenVINO takes that unless asked.)
    trained = load_trained_model(folder, precision=precision, engine=engine)
    assert trained.engines.for_row().precision == precision
    for name in ("validation", "first_tokens", "label_names", "temperature", "learned_unknown"):
        assert getattr(trained, name) == getattr(by_torch, name)
    (row,) = ["the quick" if kind == "texts" else [7, 8, 9]]
    near = 1e-4 if format == "onnx" else 0.2
    assert classify(trained, row)[1] == pytest.approx(classify(by_torch, row)[1], abs=near)
    if kind == "bars":
        figures = evaluate_file(trained, bars / "test.jsonl", tmp_path / "out")
        assert (figures["engine"], figures["precision"]) == (engine, precision)
        assert len(generate(trained, seed=1).sequences[0]) > 5


def test_what_an_export_cannot_do_is_said(exported):
    with pytest.raises(UserError, match="exported in int8, not in fp32"):
        load_trained_model(exported("bars", "onnx-int8"), precision="fp32")
    with pytest.raises(UserError, match="torch does not read"):
        load_trained_model(exported("bars"), engine="torch")
    trained = load_trained_model(exported("bars"))
    with pytest.raises(UserError, match="needs the model itself, not an export"):
        embeddings(trained, body_of(0))
    with pytest.raises(UserError, match=r"no decode\.onnx; this model predicts no tokens"):
        load_trained_model(exported("head")).engines.decoder(1, 1)


def test_an_export_is_refused_where_only_its_model_will_do(exported, model_of, tmp_path):
    import export_model
    import inference

    folder, model = str(exported("bars")), str(model_of("bars"))
    with pytest.raises(UserError, match="is an export, not a model folder: name the model"):
        export_model.main(["--model_path", folder, "--output_dir", str(tmp_path / "out")])
    with pytest.raises(UserError, match="is an export, not a model folder: evaluate it"):
        inference.main(["--mode", "compare", "--model_path", model, folder])


def test_a_damaged_export_is_refused(exported, tmp_path):
    import shutil

    folder = tmp_path / "export"
    shutil.copytree(exported("bars"), folder)
    for text in ("", "{}", '{"precision": "fp8", "positions": 3}', "[1]"):
        (folder / "model.json").write_text(text)
        with pytest.raises(UserError, match=r"model\.json: damaged"):
            load_trained_model(folder)
