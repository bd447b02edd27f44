"""export_model.py --format hub: what plain transformers makes of the folder, and its card."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from local_hub import LocalHub, closed_address
from pretrained_models import CHINESE, build, save_chinese, train_settings, write_data
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from inference import classify, evaluate_file, load_trained_model
from smallgpt.export.card_programs import _example
from smallgpt.model.folder import replace_validation
from smallgpt.model.weights_file import read_validation
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary
from train_gpt import train

ROOT = Path(__file__).parents[2]
KINDS = ("bars", "head", "head of two layers", "no labels", "texts", "adapter")
WITH_DECISION = ("bars", "texts", "adapter")


def loaded(folder):
    return load_trained_model(folder, "cpu", "fp32", engine="torch")


def ask(decide, trained, state):
    """The answer of transformers' pipeline to the question for the label."""
    question = {"type": "choice", "criteria": dict.fromkeys(trained.label_names)}
    return decide({"state": state, "questions": {"label": question}})["label"]


def run_program(program, folder, monkeypatch):
    """What a program of a card prints."""
    monkeypatch.chdir(folder)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(program, {})
    return out.getvalue().strip()


def programs(folder):
    """The programs of a card, and what it says that the first of them prints."""
    text = (folder / "README.md").read_text()
    told = re.search(r"prints\n\n```json\n(.*?)\n```", text)
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL), told and told[1]


# ------------------------------------------------------------------------------- the folder


# (The head of two layers is no part of transformers: the program of its card loads it.)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "head of two layers"])
def test_plain_transformers_computes_what_the_model_does(kind, exported, model_of):
    folder, trained = exported(kind, "hub"), loaded(model_of(kind))
    ids_1xT = torch.tensor([[4, 5, 6, 7, 4]])
    with torch.inference_mode():
        expected = trained.model(ids_1xT).logits
    by_head = AutoModelForSequenceClassification if kind == "head" else AutoModelForCausalLM
    model = by_head.from_pretrained(folder)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids_1xT).logits, expected, atol=1e-5, rtol=1e-5)
    if trained.vocabulary.labels:
        assert list(model.config.id2label.values()) == trained.label_names
    assert len(AutoTokenizer.from_pretrained(folder)) == len(trained.vocabulary)


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_is_a_model_of_the_toolkit_too(kind, exported, model_of):
    trained, again = loaded(model_of(kind)), loaded(exported(kind, "hub"))
    assert again.validation == trained.validation
    assert again.first_tokens == trained.first_tokens
    assert again.max_length == trained.max_length
    if trained.vocabulary.labels:
        body = [4, 5, 6, 7]
        assert classify(again, body)[1] == pytest.approx(classify(trained, body)[1], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_folder_of_this_machine_stands_in_a_file(kind, exported, model_of):
    folder = exported(kind, "hub")
    private = [str(model_of(kind).parents[1]), str(ROOT), os.path.expanduser("~") + "/"]
    for path in folder.iterdir():
        content = path.read_bytes()
        assert not [name for name in private if name.encode() in content], path.name
    assert not {"made_by.json", "adapter_config.json"} & {path.name for path in folder.iterdir()}


def test_validation_rows_named_as_the_training_rows_stay_a_valid_setting(tmp_path, run, bars):
    model = tmp_path / "model"
    shutil.copytree(bars / "run" / "best_model", model)
    settings = (model / "settings.yaml").read_text()
    settings = re.sub(r"(?m)^data_path: .*$", f"data_path: {tmp_path}/a/rows.jsonl", settings)
    settings = re.sub(
        r"(?m)^val_data_path: .*$", f"val_data_path: {tmp_path}/b/rows.jsonl", settings
    )
    (model / "settings.yaml").write_text(settings)
    done = run("--model_path", model, "--format", "hub", "--dry_run", "--output_dir",
               tmp_path / "out", "--test_data", bars / "test.jsonl")  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = loaded(tmp_path / "out").settings
    assert (kept.data_path, kept.val_data_path) == ("rows.jsonl", "validation-rows.jsonl")


@pytest.mark.parametrize("kind", ["bars", "texts"])
def test_generating_samples_as_the_toolkit_does(kind, exported):
    model = AutoModelForCausalLM.from_pretrained(exported(kind, "hub"))
    assert model.generation_config.do_sample is True
    assert model.generation_config.eos_token_id == model.config.eos_token_id
    ids_1xT = torch.tensor([[6]])
    torch.manual_seed(0)
    wild = {tuple(model.generate(ids_1xT, max_new_tokens=8, temperature=9.0)[0].tolist())
            for _ in range(4)}  # fmt: skip
    assert len(wild) > 1


# ------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize("kind", WITH_DECISION)
def test_a_decision_has_the_calibrated_shares_of_classify(kind, exported, model_of):
    trained = loaded(model_of(kind))
    decide = pipeline("decision", model=str(exported(kind, "hub")))
    if kind == "bars":
        lines = (model_of(kind).parents[1] / "test.jsonl").read_text().splitlines()[:12]
        states = [json.loads(line)["tokens"] for line in lines]
        long = ["<IMG>", *["<Z_001>", "<Z_003>"] * 30, "</IMG>"]
        # Asked with its tail, as tokens, and longer than any training row.
        states += [f"{states[0]} <CLS> <CLS_1> <EOS>", states[1].split(), " ".join(long)]
        rows = [*states[:12], states[0], states[1], states[-1]]
    else:
        states = rows = ["the cat sat", " two  words\n", "a <CLS_yes> <EOS> dog", "你好"]
    for state, row in zip(states, rows, strict=True):
        label, shares = classify(trained, row)
        answer = ask(decide, trained, state)
        assert answer["choice"] == label
        assert answer["probabilities"] == pytest.approx(shares, abs=1e-3)
        count, best = len(shares), max(shares.values())
        expected = (count * best - 1) / (count - 1)
        assert answer["confidence"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("kind", ["texts", "head"])
def test_another_temperature_gives_other_shares(kind, run, model_of, tmp_path, monkeypatch):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(model_of(kind), model)
    validation = read_validation(model)
    validation["calibration"] = {"temperature": 0.2, "rows": 9, "ece": 0.1, "raw_ece": 0.2}
    replace_validation(model, validation)
    rows = tmp_path / "rows.jsonl"
    body = {"text": "the cat"} if kind == "texts" else {"tokens": "a b c d"}
    rows.write_text(json.dumps(body | {"label": loaded(model).label_names[0]}) + "\n")
    done = run("--model_path", model, "--format", "hub", "--dry_run", "--output_dir", out,
               "--test_data", rows)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, told = programs(out)
    assert run_program(found[0], out, monkeypatch) == told
    example = re.search(r'"state": "(.*?)"|tokenizer\("(.*?)"', found[0])
    shares = classify(loaded(model), example[1] or example[2])[1]
    before = classify(loaded(model_of(kind)), example[1] or example[2])[1]
    assert json.loads(told) == pytest.approx(shares, abs=1e-3)
    assert json.loads(told) != pytest.approx(before, abs=1e-2)


def test_a_tokenizer_that_marks_texts_is_read_as_in_training(tmp_path, run):
    """A GPT-2 with BERT's tokenizer: [CLS] text [SEP]."""
    (tmp_path / "checkpoint").mkdir()
    save_chinese(tmp_path / "checkpoint")
    settings = train_settings(tmp_path, tmp_path / "checkpoint", num_epochs=1)
    write_data(tmp_path / "data", tmp_path / "checkpoint", CHINESE * 3)
    train(settings)
    model, out = tmp_path / "run" / "best_model", tmp_path / "out"
    done = run("--model_path", model, "--format", "hub", "--dry_run", "--output_dir", out)
    assert done.returncode == 0, done.stderr
    trained, decide = loaded(model), pipeline("decision", model=str(out))
    for text in CHINESE:
        assert ask(decide, trained, text)["probabilities"] == pytest.approx(
            classify(trained, text)[1], abs=1e-3
        )


def save_marked_start(folder):
    """A Llama whose tokenizer, as some of that family, marks the start and the first word alone."""
    letters = sorted(set("▁abcdefghijklmnopqrstuvwxyz0123456789"))
    tokens = {token: index for index, token in enumerate(["<s>", "</s>", "<unk>", *letters])}
    backend = Tokenizer(models.BPE(vocab=tokens, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    build("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_where_a_decision_would_read_other_tokens_there_is_none(tmp_path, run, monkeypatch):
    (tmp_path / "checkpoint").mkdir()
    save_marked_start(tmp_path / "checkpoint")
    train(train_settings(tmp_path, tmp_path / "checkpoint", num_epochs=1))
    model, out = tmp_path / "run" / "best_model", tmp_path / "out"
    done = run("--model_path", model, "--format", "hub", "--dry_run", "--output_dir", out)
    assert done.returncode == 0, done.stderr
    assert not (out / "decision.json").exists()
    assert "There is no `decision.json`" in (out / "README.md").read_text()
    (label_program, _), told = programs(out)
    assert run_program(label_program, out, monkeypatch) == told


@pytest.mark.parametrize("kind", ["head", "head of two layers", "no labels"])
def test_models_without_label_tokens_have_no_decision(kind, exported):
    assert not list(exported(kind, "hub").glob("decision*"))


@pytest.mark.long
def test_transformers_serve_answers_with_the_calibrated_shares(exported, model_of):
    for library in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(library, reason=f"{library} is not installed: the extra `dev`")
    folder, trained = exported("bars", "hub"), loaded(model_of("bars"))
    address = closed_address()
    command = [shutil.which("transformers", path=Path(sys.executable).parent), "serve", folder]
    command += ["--host", "127.0.0.1", "--port", address.rpartition(":")[2]]

    def post(path, body):
        content = json.dumps({"model": str(folder), **body}).encode()
        request = urllib.request.Request(
            address + path, content, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    server = subprocess.Popen(
        command, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            assert server.poll() is None
            time.sleep(0.2)
        lines = (model_of("bars").parents[1] / "test.jsonl").read_text().splitlines()[:5]
        for row in (json.loads(line)["tokens"] for line in lines):
            label, shares = classify(trained, row)
            question = {"type": "choice", "criteria": dict.fromkeys(trained.label_names)}
            body = {"state": row, "questions": {"label": question}}
            answer = post("/v1/systemone", body)["answers"]["label"]
            assert answer["choice"] == label
            assert answer["probabilities"] == pytest.approx(shares, abs=1e-3)
        body = {"prompt": "<IMG>", "max_tokens": 8, "temperature": 5.0}
        rows = {post("/v1/completions", body)["choices"][0]["text"] for _ in range(4)}
        assert len(rows) > 1  # the temperature counts
    finally:
        server.terminate()
        server.wait(30)


# ------------------------------------------------------------------------------- the card


@pytest.mark.parametrize("kind", KINDS)
def test_the_programs_of_the_card_run_as_they_stand(kind, exported, monkeypatch):
    folder = exported(kind, "hub")
    found, told = programs(folder)
    assert len(found) == (kind != "no labels") + (not kind.startswith("head"))
    outputs = [run_program(program, folder, monkeypatch) for program in found]
    assert all(outputs)
    if kind != "no labels":
        assert outputs[0] == told


@pytest.mark.parametrize("kind", ["bars", "texts", "head"])
def test_the_example_of_the_card_is_a_row_that_can_exist_or_said_to_be_none(
    kind, exported, model_of
):
    folder, trained = exported(kind, "hub"), loaded(model_of(kind))
    (program, *_), _ = programs(folder)
    example = re.search(r'"state": "(.*?)"|tokenizer\("(.*?)"', program)
    row = example[1] or example[2]
    sentence = {
        "bars": "The example is a row that the model generated.",
        "texts": "The example is names of labels, which stand for a text of yours.",
        "head": "The example is a few tokens of the vocabulary, which stand for a row of yours: "
        "there may be no such row, and its label says nothing.",
    }[kind]
    assert f"```\n\n{sentence}\n\n" in (folder / "README.md").read_text()
    if kind == "bars":  # a whole image, without its label
        start, *codes, end = row.split()
        assert (start, end) == ("<IMG>", "</IMG>")
        assert len(codes) == 16 and set(codes) <= {f"<Z_{k:03}>" for k in range(4)}
    elif kind == "texts":
        assert row == " ".join(trained.label_names)


@pytest.mark.parametrize(("longest", "expected"), [(16, "yes <SEP> no"), (8, "a <SEP> b")])
def test_the_example_of_pairs_is_a_pair_that_fits(longest, expected):
    special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]
    tokenizer = TextTokenizer.learn_characters(["yes no ab"], special).with_separator()
    vocabulary = Vocabulary(
        (read := tokenizer.with_special(["<CLS_yes>", "<CLS_no>"])).tokens, read
    )
    trained = SimpleNamespace(
        vocabulary=vocabulary, max_length=longest, label_names=["yes", "no"], is_instructed=False
    )
    assert _example(trained) == (
        expected, "The example is names of labels, which stand for two texts of yours."
    )  # fmt: skip


def test_a_model_without_a_name_has_that_of_its_run_or_data(run, bars, model_of, tmp_path):
    model = tmp_path / "outputs" / "best_model"
    shutil.copytree(model_of("bars"), model)
    for name, expected in (("outputs", bars.name), ("mine", "mine")):
        model.parent.rename(tmp_path / name)
        model = tmp_path / name / "best_model"
        run("--model_path", model, "--test_data", bars / "test.jsonl", "--format", "hub",
            "--dry_run", "--output_dir", tmp_path / f"{name}-out")  # fmt: skip
        card = (tmp_path / f"{name}-out" / "README.md").read_text()
        assert f"\n# {expected}\n" in card and f"name: {expected}\n" in card


def test_the_metadata_has_the_figures_of_an_evaluation(run, bars, model_of, tmp_path):
    out = tmp_path / "out"
    run("--model_path", model_of("bars"), "--test_data", bars / "test.jsonl", "--format", "hub",
        "--dry_run", "--output_dir", out)  # fmt: skip
    figures = evaluate_file(loaded(model_of("bars")), bars / "test.jsonl", tmp_path / "evaluation")
    card = ModelCard.load(out / "README.md")
    accuracy, perplexity = card.data.eval_results
    assert (accuracy.metric_type, perplexity.metric_type) == ("accuracy", "perplexity")
    assert accuracy.metric_value == figures["accuracy"]
    assert accuracy.metric_args["interval_95"] == figures["accuracy_interval"]
    assert accuracy.dataset_name == perplexity.dataset_name == "test.jsonl"
    assert perplexity.metric_value == pytest.approx(figures["perplexity"], rel=1e-4)
    assert card.data.library_name == "transformers"
    low, high = figures["accuracy_interval"]
    assert f"{100 * low:.1f} .. {100 * high:.1f} %" in card.content
    assert "128 training rows of 2,560 tokens" in card.content
    assert "flatters" not in card.content  # the test rows had no say


def test_a_card_without_the_run_beside_the_model_tells_what_is_left(run, bars, tmp_path):
    shutil.copytree(bars / "run" / "best_model", tmp_path / "alone")
    (tmp_path / "data_report.json").write_text('{"splits": {"train": []}}')  # of nobody
    done = run("--model_path", tmp_path / "alone", "--test_data", bars / "test.jsonl", "--format",
               "hub", "--dry_run", "--output_dir", tmp_path / "out")  # fmt: skip
    text = (tmp_path / "out" / "README.md").read_text()
    assert done.returncode == 0 and "training rows of" not in text
    assert "a vocabulary of 12 tokens" in text and "labels (training rows): 0, 1" in text


def test_a_base_on_the_hub_is_named_and_one_on_this_machine_is_not(exported, run, tmp_path):
    base = ModelCard.load(exported("texts", "hub") / "README.md").data.base_model
    assert base is None
    model = tmp_path / "model"
    shutil.copytree(exported("texts", "hub"), model)
    settings = re.sub(
        r"(?m)^init_from: .*$", "init_from: me/base", (model / "settings.yaml").read_text()
    )
    (model / "settings.yaml").write_text(settings)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the cat", "label": "yes"}\n')
    run("--model_path", model, "--test_data", rows, "--format", "hub", "--dry_run",
        "--output_dir", tmp_path / "out")  # fmt: skip
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == "me/base" and "it began from me/base" in card.content


# ------------------------------------------------------------------------------- flags, upload


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "hub"], "--format hub needs --repo_id OWNER/NAME, or --dry_run"),
        (["--repo_id", "me/x"], "--repo_id needs --format hub"),
        (["--dry_run"], "--dry_run needs --format hub"),
        (["--public"], "--public needs --format hub"),
        (["--format", "hub", "--dry_run", "--public"], "--public has no effect with --dry_run"),
        (["--format", "hub", "--repo_id", "name"], "--repo_id is OWNER/NAME, got 'name'"),
        (["--format", "hub", "--repo_id", "me/-x"], "--repo_id is no name that the hub takes"),
        (["--format", "hub", "--repo_id", "a/b/c"], "--repo_id is OWNER/NAME"),
    ],
)
def test_a_contradiction_is_told(words, told, run):
    done = run(*words)
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.long
def test_a_model_is_published_loaded_and_trained_on(model_of, bars, tmp_path):
    """The commands as processes: up, down by plain transformers, and down as a start."""
    out = tmp_path / "out"

    def command(token, *words):
        return subprocess.run(
            [sys.executable, *map(str, words)], cwd=ROOT, env=hub.environment(tmp_path, token),
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    with LocalHub() as hub:
        publish = ("export_model.py", "--model_path", model_of("bars"), "--format", "hub",
                   "--repo_id", "me/bars", "--output_dir", out)  # fmt: skip
        done = command("wrong", *publish)
        assert done.returncode == 1 and not out.exists() and len(done.stderr.splitlines()) == 1
        done = command("writer", *publish)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"uploaded, private: {hub.address}/me/bars"
        made = hub.model("me/bars")
        assert made.private and len(made.commits) == 1
        (label_program, _), told = programs(out)
        assert '"me/bars"' in label_program
        assert command("writer", "-c", label_program).stdout.strip() == told
        assert command(None, "-c", label_program).returncode != 0
        rows = (
            "train_gpt.py", "--init_from", "me/bars", "--data_path", bars / "train.jsonl",
            "--output_dir", tmp_path / "run", "--num_epochs", 1, "--max_length", 32,
            "--device", "cpu", "--batch_size", 64, "--vocab_path",
        )  # fmt: skip
        (tmp_path / "other").mkdir()
        shutil.copyfile(bars / "vocab.json", tmp_path / "other" / "vocab.json")
        codes = np.arange(4, dtype=np.float32)[::-1, None]
        Codebook(codes, 1, 4, 4, 1, 0.0, 3.0, 3.0).save(tmp_path / "other" / "codebook.npz")
        done = command("writer", *rows, tmp_path / "other" / "vocab.json")
        assert done.returncode == 1 and "the same tokens stand for other patches" in done.stderr
        assert "images --codebook me/bars" in done.stderr
        done = command("writer", *rows, bars / "vocab.json")
        assert done.returncode == 0, done.stderr
        hf = shutil.which("hf", path=Path(sys.executable).parent)
        subprocess.run(
            [hf, "download", "me/bars", "--local-dir", tmp_path / "down"],
            env=hub.environment(tmp_path, "reader"), capture_output=True, check=True,
        )  # fmt: skip
    ids = [2, 6, 7, 8]
    assert classify(loaded(tmp_path / "down"), ids) == classify(loaded(out), ids)
    trained = loaded(tmp_path / "run" / "best_model")
    assert trained.settings.init_from == "me/bars"
    # It learned from the published weights: an untrained model of these rows has about 12.
    assert trained.validation["perplexity"] < 2
