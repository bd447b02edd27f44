"""Labels told by a head: the same data and the same report as by label token."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from plain_settings import plain_settings
from pretrained_models import CHINESE, POSITIONS, SIZES, save_byte_level, write_data
from safetensors.torch import load_file
from training_runs import StopAfter
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    RobertaConfig,
    RobertaModel,
)

from inference import main
from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.inference.classify import classify, classify_file
from smallgpt.inference.evaluate import evaluate_file
from smallgpt.inference.generate import generate
from smallgpt.inference.next_tokens import next_tokens
from smallgpt.model.build import build_model, starting_model
from smallgpt.model.folder import save_model_folder
from smallgpt.model.forward import Forward
from smallgpt.model.hardware import Precision
from smallgpt.model.head import is_classifier
from smallgpt.model.pretrained import load_pretrained, with_pretrained_shape
from smallgpt.options.training import TrainSettings
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.reading import dataset_from_records, read_dataset
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.labels import label_token
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training.gradients import HeadStep, TokenStep, make_step
from smallgpt.training.objective import Objective, class_weights
from train_gpt import train

FP32 = Precision("fp32", "tests")
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
OF_TOKENS = {"loss", "perplexity", "body_perplexity", "next_token_accuracy", "label_perplexity"}


def labelled_rows(count: int = 48) -> list[dict]:
    """Rows whose first token tells the label, one label three times as frequent as another."""
    random = np.random.default_rng(0)
    labels = ["0", "1", "cat"]
    rows = []
    for number in range(count):
        kind = (0, 0, 0, 1, 2)[number % 5]
        letters = random.choice(list("ABCD"), 2 + number % 7)
        tokens = ["<IMG>", "ABC"[kind], *letters, "</IMG>"]
        rows.append({"tokens": " ".join(tokens), "label": labels[kind]})
    return rows


def settings_in(folder: Path, vocabulary: Vocabulary) -> TrainSettings:
    """A short run from scratch on `labelled_rows`."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary.ids))
    lines = [json.dumps(row) + "\n" for row in labelled_rows()]
    (folder / "train.jsonl").write_text("".join(lines))
    return plain_settings(
        data_path=str(folder / "train.jsonl"), vocab_path=str(folder / "vocab.json"),
        output_dir=str(folder / "run"), classifier="head",
        n_layer=2, n_head=2, n_embd=16, n_positions=32, max_length=32, num_epochs=3,
        batch_size=8, learning_rate=1e-2, log_steps=1, precision="fp32", device="cpu",
    )  # fmt: skip


@pytest.fixture
def own_settings(tmp_path, vocabulary, unpainted) -> TrainSettings:
    return settings_in(tmp_path, vocabulary)


@pytest.fixture(scope="module")
def own_run(made_once, vocabulary) -> Path:
    """The folder of a finished run with these settings."""
    made = made_once("head", lambda folder: train(settings_in(folder, vocabulary)))
    return made / "run"


def save_bert(folder: Path, model_class=BertModel, pooler: bool = True) -> None:
    """A small BERT with a WordPiece tokenizer of its own."""
    letters = sorted(set("".join(CHINESE) + "0123456789"))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{n}" for n in range(9))]
    config = BertConfig(
        vocab_size=len(tokens), intermediate_size=48, max_position_embeddings=POSITIONS, **SIZES
    )
    torch.manual_seed(3)
    model = model_class(config) if pooler else model_class(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


def bert_settings(folder: Path, **values) -> TrainSettings:
    """A short run that starts from a small BERT."""
    if not (folder / "bert").exists():
        save_bert(folder / "bert")
    rows, vocab = write_data(folder / "data", folder / "bert", CHINESE)
    base = plain_settings(
        data_path=str(rows), vocab_path=str(vocab), output_dir=str(folder / "run"),
        init_from=str(folder / "bert"), classifier="head", max_length=POSITIONS, num_epochs=2,
        batch_size=8, learning_rate=3e-3, log_steps=1, precision="fp32", device="cpu",
    )  # fmt: skip
    return dataclasses.replace(base, **values)


def stored_bytes(folder: Path) -> dict[str, bytes]:
    """The bytes of each tensor of a model folder."""
    return {n: t.numpy().tobytes() for n, t in load_file(folder / "model.safetensors").items()}


# ------------------------------------------------------------------------------- logits


def classifier(kind: str) -> torch.nn.Module:
    few = {"vocab_size": 30, "max_position_embeddings": 40, "intermediate_size": 24, **SIZES}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "num_labels": 3}
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=30, n_positions=40, n_embd=32, n_layer=2, n_head=4, **ends)
        model = GPT2ForSequenceClassification(config)
    elif kind == "bert":
        model = BertForSequenceClassification(BertConfig(**few, pad_token_id=0, num_labels=3))
    elif kind == "llama":
        model = LlamaForSequenceClassification(LlamaConfig(**few, **ends))
    else:
        model = Qwen2ForSequenceClassification(Qwen2Config(**few, **ends, num_key_value_heads=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("kind", ["gpt2", "bert", "llama", "qwen2"])
@hypothesis_settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), grad=st.booleans())
def test_logits_of_ragged_rows_are_those_of_transformers(kind, lengths, grad):
    model = classifier(kind)
    assert is_classifier(model)
    rows = [torch.randint(2, 30, (length,)) for length in lengths]
    with torch.set_grad_enabled(grad):
        ours = Forward(model, FP32)(torch.cat(rows), lengths, "labels")
    with torch.no_grad():
        alone = torch.cat([model(row[None]).logits for row in rows])
        padded = torch.zeros(len(rows), max(lengths), dtype=torch.long)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        together = model(padded, attention_mask=(padded != 0).long()).logits
    assert ours.requires_grad == grad
    assert torch.allclose(ours, alone, atol=1e-5)
    assert torch.allclose(ours, together, atol=1e-5)


# ------------------------------------------------------------------------------- gradients


def head_objective(vocabulary, own_settings, **values) -> Objective:
    settings = dataclasses.replace(own_settings, dropout=0.0, **values)
    rows = dataset_from_records(labelled_rows(), vocabulary, max_length=32)
    model = build_model(settings, vocabulary).train()
    return Objective(model, rows.without_tails(), settings, FP32)


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_gradient_is_that_of_torch_however_the_rows_are_split(
    vocabulary, own_settings, class_weights
):
    objective = head_objective(vocabulary, own_settings, class_weights=class_weights)
    rows, model = objective.rows, objective.model
    indices = np.arange(12)
    logits = torch.cat(
        [model(torch.from_numpy(rows.body(i).astype(np.int64))[None]).logits for i in indices]
    )
    classes = torch.from_numpy(rows.classes_N[indices].astype(np.int64))
    weights = None
    if class_weights == "balanced":
        counts = np.bincount(rows.classes_N)
        weights = torch.from_numpy(len(rows) / (3 * counts)).float()
    weighted = torch.nn.functional.cross_entropy(logits, classes, weight=weights, reduction="sum")
    (weighted / len(indices)).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    unweighted = torch.nn.functional.cross_entropy(logits, classes, reduction="sum")
    for parts in ([indices], [indices[:5], indices[5:]]):
        model.zero_grad()
        nll = HeadStep(objective, NO_SCALER, frozen=False).add_gradients(parts)
        assert float(nll) == pytest.approx(unweighted.item(), rel=1e-5)
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter.grad, expected[name], atol=1e-6), name


def test_balanced_weights_count_every_label_alike(vocabulary, own_settings):
    objective = head_objective(vocabulary, own_settings, class_weights="balanced")
    counts_L = np.bincount(objective.rows.classes_N)
    assert counts_L.min() < counts_L.max()
    assert objective.class_weights_L * counts_L == pytest.approx(len(objective.rows) / 3)


def test_balanced_weights_count_a_source_once_however_many_variants_it_has(
    vocabulary, own_settings, write_rows
):
    records = [{"tokens": "A", "label": "0"}] * 6
    for source, variant in itertools.product(range(2), range(16)):
        meta = {"source": source, VARIANT: variant}
        records.append({"tokens": "A B " * (variant + 1), "label": "1", "meta": meta})
    rows = read_dataset(write_rows(*records), vocabulary, max_length=64)
    settings = dataclasses.replace(own_settings, class_weights="balanced")
    assert class_weights(rows, settings) == pytest.approx([8 / (2 * 6), 8 / (2 * 2), 1])


@pytest.mark.parametrize("classifier", ["head", "label_token"])
def test_balanced_weights_do_not_cancel_in_small_batches(vocabulary, own_settings, classifier):
    """An epoch of single rows moves the weights as all rows at once do, so rare labels count."""
    settings = dataclasses.replace(
        own_settings, classifier=classifier, class_weights="balanced", dropout=0.0
    )
    random = np.random.default_rng(0)
    records = [  # of one length: single rows of a causal model then weigh alike
        {"tokens": " ".join(random.choice(list("ABCD"), 4)), "label": label}
        for label in ("0", "0", "0", "1", "0", "cat", "0", "0")
    ]
    rows = dataset_from_records(records, vocabulary, max_length=32)
    model = build_model(settings, vocabulary).train()
    if classifier == "head":
        step = HeadStep(Objective(model, rows.without_tails(), settings, FP32), NO_SCALER, False)
    else:
        step = TokenStep(Objective(model, rows, settings, FP32), NO_SCALER)

    def gradient(batches: list[np.ndarray]) -> torch.Tensor:
        step.add_gradients(batches)
        found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        step.clear_gradients()
        return found

    together = gradient([np.arange(8)])
    alone = torch.stack([gradient([np.array([index])]) for index in range(8)])
    torch.testing.assert_close(alone.mean(0), together, atol=1e-6, rtol=1e-4)


def test_balanced_weights_of_label_tokens_are_those_spelled_out(vocabulary, own_settings):
    settings = dataclasses.replace(
        own_settings, classifier="label_token", class_weights="balanced", dropout=0.0,
        label_loss_weight=5.0,
    )  # fmt: skip
    rows = dataset_from_records(labelled_rows(), vocabulary, max_length=32)
    model = build_model(settings, vocabulary).train()
    objective = Objective(model, rows, settings, FP32)
    indices = np.arange(8)
    # Spelled out: the label token weighs 5 times its class, every other token 1. The mean is over
    # the weights without the classes', which are 1 on average over the rows of an epoch.
    nll, total = torch.zeros(()), 0.0
    for index in indices:
        ids = torch.from_numpy(rows.row(index).astype(np.int64))[None]
        each = torch.nn.functional.cross_entropy(
            model(ids).logits[0, :-1], ids[0, 1:], reduction="none"
        )
        weights = torch.ones(len(each))
        weights[-2] = 5.0 * objective.class_weights_L[rows.classes_N[index]]
        nll, total = nll + (each * weights).sum(), total + len(each) - 1 + 5.0
    (nll / total).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    TokenStep(objective, NO_SCALER).add_gradients([indices])
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-6), name


def test_step_of_a_head_is_chosen_by_the_settings(vocabulary, own_settings):
    objective = head_objective(vocabulary, own_settings)
    step = make_step(
        objective.model, objective.rows, own_settings, FP32, NO_SCALER, say=lambda line: None
    )
    assert isinstance(step, HeadStep)


# ------------------------------------------------------------------------------- a run


def test_run_learns_reports_and_is_loaded_by_plain_transformers(vocabulary, tmp_path):
    settings = dataclasses.replace(
        settings_in(tmp_path, vocabulary), num_epochs=12, dropout=0.0, token_dropout=0.0
    )
    result = train(settings)
    rows = read_metrics(result.folder.metrics)
    validation = [row for row in rows if row["kind"] == "validation"]
    assert validation[-1]["label_loss"] < validation[0]["label_loss"]
    assert not OF_TOKENS & validation[-1].keys()
    assert not OF_TOKENS & result.validation.keys()
    assert (result.folder.plots / "loss.png").exists()
    assert not (result.folder.plots / "perplexity.png").exists()

    folder = result.folder.best_model
    trained = load_trained_model(folder, "cpu", "fp32")
    assert not OF_TOKENS & trained.validation.keys() and "calibration" in trained.validation
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert plain.config.id2label == dict(enumerate(vocabulary.labels))
    figures = evaluate_file(trained, settings.data_path, tmp_path / "evaluation", batch_size=5)
    assert figures["accuracy"] > 0.9
    assert not (OF_TOKENS | {"tokens"}) & figures.keys()
    lines = (tmp_path / "evaluation" / "predictions.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    for row, record in zip(told, labelled_rows(), strict=True):
        ids = torch.tensor([vocabulary.encode(record["tokens"])])
        with torch.no_grad():
            shares = plain(ids).logits.softmax(-1)[0].tolist()
        assert row["prediction"] == plain.config.id2label[int(np.argmax(shares))]
        assert row["raw_confidence"] == pytest.approx(max(shares), abs=1e-5)
        assert row["label_nll"] == pytest.approx(-np.log(shares[vocabulary.labels.index(
            record["label"])]), abs=1e-4)  # fmt: skip
        assert "nll_sum" not in row


def test_row_is_told_alike_whether_its_tail_stands_there_or_not(own_run, write_rows, tmp_path):
    trained = load_trained_model(own_run / "best_model", "cpu", "fp32")
    body = "<IMG> A B C </IMG>"
    label, shares = classify(trained, body)
    for tail in (" <CLS>", " <CLS> <CLS_1> <EOS>", " <CLS> <CLS_cat> <EOS>"):
        assert classify(trained, body + tail) == (label, shares)
    path = write_rows({"tokens": body}, {"tokens": "<CLS>"}, {"tokens": body, "label": "1"})
    told = classify_file(trained, path, tmp_path / "told")
    assert told[0]["probabilities"] == pytest.approx(shares)
    assert told[2]["probabilities"] == pytest.approx(shares)
    assert told[1]["prediction"] is None  # nothing to go by
    assert "nothing before its label tail" in told[1]["reason"]
    figures = evaluate_file(trained, path, tmp_path / "evaluation")
    assert (figures["records"], figures["labelled_records"], figures["unlabelled"]) == (3, 1, 1)
    assert figures["unscored"] == 1  # an evaluation wants more than one token


def test_model_that_only_names_labels_says_so(own_run, capsys):
    folder = own_run / "best_model"
    trained = load_trained_model(folder, "cpu", "fp32")
    for ask in (next_tokens, generate):
        with pytest.raises(UserError, match=r"only names labels .*: classify or evaluate with it"):
            ask(trained, "<IMG> A")
    capsys.readouterr()
    # The interactive prompt names labels.
    assert main(["--model_path", str(folder), "--prompt", "<IMG> A </IMG>", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("0", "1", "cat")


def test_told_figures_have_no_perplexity(own_settings, capsys, tmp_path):
    folder = train(own_settings).folder.best_model
    said = capsys.readouterr().out
    assert "label acc" in said and "val loss" not in said and "token acc" not in said
    main([
        "--model_path", str(folder), "--test_data", own_settings.data_path,
        "--output_dir", str(tmp_path / "evaluation"),
    ])  # fmt: skip
    report = capsys.readouterr().out
    assert "accuracy" in report and "perplexity" not in report


def test_speed_and_plan_count_the_tokens_read(own_settings, vocabulary, capsys):
    result = train(dataclasses.replace(own_settings, num_epochs=1, validation_fraction=0.5))
    rows = read_dataset(own_settings.data_path, vocabulary, max_length=32)
    kept, _ = split_dataset(rows, 0.5, own_settings.seed)
    assert f"{int(kept.body_lengths_N.sum()):,} tokens an epoch" in capsys.readouterr().out
    first = next(row for row in read_metrics(result.folder.metrics) if row["kind"] == "train")
    # 8 rows of 5 to 11 tokens, whatever their time: never 8 rows as such.
    assert first["tokens_per_second"] > 0
    assert 0 < first["loss"] < 5  # a mean over rows


@pytest.mark.parametrize("metric", ["loss", "label_accuracy"])
def test_best_metric_goes_by_the_labels(own_settings, metric):
    result = train(dataclasses.replace(own_settings, best_metric=metric))
    stored = load_trained_model(result.folder.best_model).validation
    rows = [r for r in read_metrics(result.folder.metrics) if r["kind"] == "validation"]
    (chosen,) = [row for row in rows if row["step"] == stored["step"]]
    figure = "label_loss" if metric == "loss" else "label_accuracy"
    assert stored["best_value"] == chosen[figure]


def test_row_without_a_label_is_refused_with_the_count(own_settings, write_rows):
    rows = [*labelled_rows(), {"tokens": "<IMG> A </IMG>"}, {"tokens": "<IMG> B </IMG>"}]
    settings = dataclasses.replace(
        own_settings,
        data_path=str(write_rows(*rows, name="some.jsonl")),
        val_data_path=own_settings.data_path,
    )
    with pytest.raises(UserError, match=r"2 of 50 rows have none"):
        train(settings)


def test_class_weights_need_labels(own_settings, write_rows):
    rows = [{"tokens": f"<IMG> {a} {b} </IMG>"} for a in "ABCD" for b in "ABCD"]
    settings = dataclasses.replace(
        own_settings, classifier="label_token", class_weights="balanced",
        data_path=str(write_rows(*rows, name="bare.jsonl")),
    )  # fmt: skip
    with pytest.raises(UserError, match="--class_weights needs labels"):
        train(settings)


def test_many_long_labels_that_are_saved_can_be_loaded(tmp_path):
    labels = ["\u732b" * 990 + f"{number:03}" for number in range(400)]
    vocabulary = Vocabulary(["<PAD>", "<CLS>", "<EOS>", *(label_token(name) for name in labels)])
    settings = plain_settings(
        classifier="head", n_layer=1, n_head=1, n_embd=4, n_positions=8, max_length=8
    )
    figures = {
        "rows": 400, "accuracy": 0.0, "accuracy_interval": [0.0, 0.1], "chance_accuracy": 0.1,
        "above_chance": False, "not_above_chance": labels, "too_few_rows": labels, "baselines": {},
    }  # fmt: skip
    model, folder = build_model(settings, vocabulary), tmp_path / "model"
    save_model_folder(model, folder, vocabulary, settings, None, figures)
    assert (folder / "config.json").stat().st_size > 2**22
    loaded = load_trained_model(folder, "cpu", "fp32")
    assert list(loaded.model.config.id2label.values()) == labels
    assert loaded.validation == figures


def test_hidden_layer_is_saved_and_loaded_here_the_backbone_anywhere(own_settings):
    settings = dataclasses.replace(own_settings, classifier_hidden=12)
    result = train(settings)
    folder = result.folder.final_model
    stored = load_file(folder / "model.safetensors")
    assert stored["score.0.weight"].shape == (12, 16) and stored["score.3.weight"].shape == (3, 12)
    trained = load_trained_model(folder, "cpu", "fp32")
    again = trained.model.state_dict()
    assert all(torch.equal(stored[name], again[name]) for name in stored)
    classify(trained, "<IMG> A </IMG>")
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(plain.transformer.wte.weight, stored["transformer.wte.weight"])
    # Strict: settings that ask for another layer do not belong to these weights.
    text = (
        (folder / "settings.yaml")
        .read_text()
        .replace("classifier_hidden: 12", "classifier_hidden: 13")
    )
    (folder / "settings.yaml").write_text(text)
    with pytest.raises(UserError, match="do not belong together"):
        load_trained_model(folder)


def test_muon_trains_the_blocks_and_not_the_head(own_settings):
    result = train(dataclasses.replace(own_settings, optimizer="muon", num_epochs=1))
    assert result.exit_code == 0


@pytest.mark.parametrize("hidden", [None, 12])
def test_resumed_run_ends_bit_for_bit_where_the_whole_one_ends(
    own_settings, tmp_path, hidden, monkeypatch
):
    settings = dataclasses.replace(own_settings, classifier_hidden=hidden)
    whole = train(dataclasses.replace(settings, output_dir=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        patch.setattr("train_gpt.StopSignal", lambda _: StopAfter(7))
        assert train(settings).exit_code == 130
    resumed = train(dataclasses.replace(settings, resume=True))
    assert stored_bytes(resumed.folder.final_model) == stored_bytes(whole.folder.final_model)


def test_head_cannot_be_changed_within_a_run(own_settings, own_run):
    shutil.copytree(own_run, own_settings.output_dir)
    with pytest.raises(SettingsError, match="classifier"):
        train(dataclasses.replace(own_settings, classifier="label_token", resume=True))


# ------------------------------------------------------------------------------- pretrained


def test_causal_checkpoint_keeps_its_embeddings_by_name(tmp_path):
    base = save_byte_level(tmp_path / "gpt2")
    _, vocab = write_data(tmp_path / "data", tmp_path / "gpt2")
    vocabulary = Vocabulary.load(vocab)
    settings = plain_settings(init_from=str(tmp_path / "gpt2"), classifier="head")
    lines = []
    start = load_pretrained(settings, vocabulary, lines.append)
    assert isinstance(start.model, GPT2ForSequenceClassification)
    assert start.fresh == {"score.weight"} and any("score.weight" in line for line in lines)
    ours, theirs = start.model.transformer, base.transformer
    assert torch.equal(ours.h[0].attn.c_attn.weight, theirs.h[0].attn.c_attn.weight)
    same = [i for i in range(len(vocabulary)) if i not in start.new_ids]
    assert len(same) > 200
    tokens = sorted(tuple(row.tolist()) for row in theirs.wte.weight.detach())
    assert tuple(ours.wte.weight[same[5]].tolist()) in tokens


def test_encoder_trains_classifies_and_is_loaded_by_plain_transformers(tmp_path, capsys):
    settings = bert_settings(tmp_path, num_epochs=6)
    result = train(settings)
    assert "fresh, since" in capsys.readouterr().out
    folder = result.folder.best_model
    trained = load_trained_model(folder, "cpu", "fp32")
    figures = evaluate_file(trained, settings.data_path, tmp_path / "evaluation", batch_size=7)
    assert figures["records"] == 24 and not OF_TOKENS & figures.keys()
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert type(plain) is BertForSequenceClassification
    text = CHINESE[1]
    ids = trained.vocabulary.tokenizer.encode(text)
    with torch.no_grad():
        shares = plain(torch.tensor([ids])).logits.softmax(-1)[0]
    told = classify(trained, text)
    assert told[0] == plain.config.id2label[int(shares.argmax())]


def test_encoder_is_refused_for_label_tokens_with_the_remedy(tmp_path):
    settings = bert_settings(tmp_path, classifier="label_token")
    save_bert(tmp_path / "bert", BertForMaskedLM)
    with pytest.raises(UserError, match="--classifier head"):
        train(settings)


def test_model_that_takes_padding_into_its_positions_is_refused(tmp_path):
    save_bert(tmp_path / "bert")
    settings = bert_settings(tmp_path)
    config = RobertaConfig(vocab_size=60, intermediate_size=48, max_position_embeddings=60, **SIZES)
    RobertaModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="padding into its positions"):
        train(settings)


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("hidden", [None, 8])
def test_frozen_backbone_is_bit_identical_after_training(tmp_path, hidden):
    settings = bert_settings(tmp_path, freeze_backbone=True, classifier_hidden=hidden, dropout=0.3)
    vocabulary = Vocabulary.load(settings.vocab_path)
    start = load_pretrained(settings, vocabulary, lambda line: None)
    assert start.fresh == {n for n, _ in start.model.named_parameters() if "classifier" in n}
    before = {f"bert.{n}": t.clone() for n, t in start.model.bert.state_dict().items()}
    result = train(settings)
    after = load_file(result.folder.final_model / "model.safetensors")
    backbone = {name for name in after if name.startswith("bert.")}
    assert backbone == {name for name in before if name in after} and len(backbone) > 30
    for name in backbone:
        assert after[name].numpy().tobytes() == before[name].numpy().tobytes(), name
    heads = [name for name in after if name.startswith("classifier.")]
    start_head = start.model.state_dict()
    assert heads and any(not torch.equal(after[name], start_head[name]) for name in heads)
    # Its rows were read whole: no token was dropped.
    assert not load_trained_model(result.folder.final_model, "cpu").learned_unknown


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("hidden", [None, 8])
def test_kept_inputs_of_a_frozen_backbone_give_the_same_gradient(
    tmp_path, kind, hidden, monkeypatch
):
    settings = dataclasses.replace(
        bert_settings(tmp_path), freeze_backbone=True, classifier_hidden=hidden, dropout=0.0
    )
    if kind != "bert":
        save_byte_level(tmp_path / kind, kind)
        rows, vocab = write_data(tmp_path / "other", tmp_path / kind)
        settings = dataclasses.replace(
            settings, init_from=str(tmp_path / kind), data_path=str(rows), vocab_path=str(vocab)
        )
    vocabulary = Vocabulary.load(settings.vocab_path)
    model = starting_model(settings, vocabulary, dict, None, lambda line: None).model
    rows = read_dataset(settings.data_path, vocabulary, max_length=POSITIONS)
    objective = Objective(model, rows.without_tails(), settings, FP32)
    indices = np.array([3, 0, 11, 7, 20])
    found = []
    for keeps in (False, True):
        step = HeadStep(objective, NO_SCALER, frozen=True)
        assert not keeps or step.keep_inputs()
        step.clear_gradients()
        if keeps:  # the backbone is asked no more
            monkeypatch.setattr(objective, "forward", None)
        nll = float(step.add_gradients([indices]))
        found.append((nll, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}))
    (nll, gradients), (kept_nll, kept_gradients) = found
    assert kept_nll == pytest.approx(nll, rel=1e-5)
    assert gradients.keys() == kept_gradients.keys() and gradients
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, kept_gradients[name], atol=1e-5), name


@pytest.mark.usefixtures("unpainted")
def test_what_a_frozen_checkpoint_lacks_is_trained(tmp_path):
    save_bert(tmp_path / "bert", pooler=False)
    settings = bert_settings(tmp_path, freeze_backbone=True)
    vocabulary = Vocabulary.load(settings.vocab_path)
    start = load_pretrained(settings, vocabulary, lambda line: None).model.state_dict()
    after = load_file(train(settings).folder.final_model / "model.safetensors")
    changed = {name for name in after if not torch.equal(after[name], start[name])}
    assert changed == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"
    }  # fmt: skip


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("frozen", [False, True])
def test_resumed_run_from_an_encoder_ends_bit_for_bit_alike(tmp_path, frozen, monkeypatch):
    settings = bert_settings(tmp_path, freeze_backbone=frozen, dropout=0.1)
    whole = train(dataclasses.replace(settings, output_dir=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        patch.setattr("train_gpt.StopSignal", lambda _: StopAfter(4))
        assert train(settings).exit_code == 130
    newest = max((tmp_path / "run" / "checkpoints").glob("step_*"))
    stored = load_file(newest / "model.safetensors")
    assert (len(stored) == 2) == frozen  # only what is trained
    resumed = train(dataclasses.replace(settings, resume=True))
    assert stored_bytes(resumed.folder.final_model) == stored_bytes(whole.folder.final_model)


@pytest.mark.usefixtures("unpainted")
def test_resume_notices_another_backbone(tmp_path, monkeypatch):
    settings = bert_settings(tmp_path, freeze_backbone=True)
    with monkeypatch.context() as patch:
        patch.setattr("train_gpt.StopSignal", lambda _: StopAfter(3))
        train(settings)
    weights = load_file(tmp_path / "bert" / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"] += 1
    from safetensors.torch import save_file

    save_file(weights, tmp_path / "bert" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="the base model"):
        train(dataclasses.replace(settings, resume=True))


def test_own_classifier_can_be_started_from_and_keeps_its_head(own_settings, own_run):
    folder = own_run / "best_model"
    vocabulary = Vocabulary.load(own_settings.vocab_path)
    settings = dataclasses.replace(own_settings, init_from=str(folder))
    start = load_pretrained(settings, vocabulary, lambda line: None)
    stored = load_file(folder / "model.safetensors")
    assert not start.fresh and torch.equal(start.model.score.weight, stored["score.weight"])
    # Of other labels the head is drawn anew, also where there are as many.
    other = [token.replace("<CLS_cat>", "<CLS_dog>") for token in vocabulary.tokens]
    start = load_pretrained(settings, Vocabulary(other), lambda line: None)
    assert start.fresh == {"score.weight"}
    assert not torch.equal(start.model.score.weight, stored["score.weight"])
    fewer = [token for token in vocabulary.tokens if token != "<CLS_cat>"]
    start = load_pretrained(settings, Vocabulary(fewer), lambda line: None)
    assert start.model.score.weight.shape == (2, 16) and start.fresh == {"score.weight"}


def test_a_head_that_is_left_behind_is_told(own_settings, own_run, vocabulary):
    folder = own_run / "best_model"
    said = []
    settings = dataclasses.replace(
        own_settings, classifier="label_token", init_from=str(folder), classifier_hidden=None
    )
    load_pretrained(with_pretrained_shape(settings), vocabulary, said.append)
    assert any(f"1 tensor of {folder} not used here, the first: score.weight" in s for s in said)
