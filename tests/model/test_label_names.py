"""Labels come back as the rows spelled them: stored with the model, used by every output."""

import json
from dataclasses import replace

import pytest
from plain_settings import plain_settings

from smallgpt.engines.trained import load_trained_model
from smallgpt.inference.classify import classify, classify_file
from smallgpt.inference.evaluate import evaluate_file
from smallgpt.inference.generate import generate
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.rows import reading
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training.data import read_data

TOKENS = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *"ABCD", "<CLS_7>", "<CLS_bad>", "<CLS_not_good>"]
NAMES = ["7", "bad", " not  good"]
SETTINGS = plain_settings(n_layer=1, n_head=1, n_embd=8, n_positions=16, max_length=16)


def save(folder, settings=SETTINGS, names=NAMES):
    vocabulary = Vocabulary(TOKENS)
    vocabulary.spell_labels(names)
    save_model_folder(build_model(settings, vocabulary), folder, vocabulary, settings, None)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return load_trained_model(save(tmp_path_factory.mktemp("named") / "model"), "cpu", "fp32")


def test_every_output_spells_labels_as_the_rows_did(trained, write_rows, tmp_path):
    assert trained.vocabulary.labels == ["7", "bad", "not_good"]
    assert trained.label_names == NAMES
    assert set(classify(trained, "A B")[1]) == set(NAMES)
    rows = [{"tokens": "A B", "label": label} for label in ("not good", "not_good", 7, "bad")]
    path = write_rows(*rows)
    figures = evaluate_file(trained, path, tmp_path / "evaluation")
    assert figures["labels"] == NAMES
    assert list(figures["per_class"]) == NAMES
    assert figures["per_class"][" not  good"]["support"] == 2
    told = classify_file(trained, path, tmp_path / "classification")
    assert [row["label"] for row in told] == [" not  good", " not  good", "7", "bad"]
    assert {row["prediction"] for row in told} <= set(NAMES)
    assert all(list(row["probabilities"]) == NAMES for row in told)
    for label in ("not good", "not_good"):
        row = generate(trained, "A", label=label, seed=1, temperature=5.0).sequences[0]
        assert trained.vocabulary.decode(row).endswith("<CLS> <CLS_not_good> <EOS>")


@pytest.mark.parametrize("classifier", ["label_token", "head"])
def test_the_names_stand_in_config_json_where_transformers_keeps_them(tmp_path, classifier):
    folder = save(tmp_path / "model", replace(SETTINGS, classifier=classifier))
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "7", "1": "bad", "2": " not  good"}
    assert config["label2id"] == {"7": 0, "bad": 1, " not  good": 2}
    assert load_trained_model(folder, "cpu", "fp32").label_names == NAMES


@pytest.mark.parametrize("stored", [None, {}, [], {"0": "LABEL_0", "1": 3}, {"0": "x" * 2000}])
def test_a_model_without_names_of_its_labels_has_those_of_their_tokens(tmp_path, stored):
    folder = save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": stored}))
    assert load_trained_model(folder, "cpu", "fp32").label_names == ["7", "bad", "not_good"]


def test_training_takes_the_first_spelling_also_from_the_cache(tmp_path, write_rows, monkeypatch):
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(TOKENS)}))
    rows = [{"tokens": f"A {x}", "label": label} for x in "ABCD" for label in ("not  good", 7)]
    path = write_rows(*rows, {"tokens": "B B", "label": "not good"})
    held_out = write_rows({"tokens": "C", "label": "bad "}, {"tokens": "D", "label": "not good"},
                          name="held_out.jsonl")  # fmt: skip
    settings = replace(
        SETTINGS,
        data_path=str(path),
        vocab_path=str(tmp_path / "vocab.json"),
        val_data_path=str(held_out),
    )
    monkeypatch.setattr(reading, "SMALLEST_FILE", 1)
    for _ in range(2):  # parsed, then from the cache
        train, validation = read_data(settings, print)
        assert train.vocabulary is validation.vocabulary
        assert train.vocabulary.label_names == ["7", "bad ", "not  good"]
    assert (tmp_path / ".cache").is_dir()
