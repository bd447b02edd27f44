"""Folders and names that are no model to use as it is: told in one line; and whose a folder is."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from command_program import run_here
from hugging_face_models import save, save_bert
from pretrained_models import build
from trained_models import BEST_MODEL
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)

import export_model
import inference
from inference import generate, load_trained_model, next_tokens
from smallgpt.errors import UserError


@pytest.fixture
def gpt2(tmp_path, made_once) -> Path:
    """A folder of a GPT-2 that a test may change."""
    made = made_once("gpt2", lambda folder: save("gpt2", folder))
    return Path(shutil.copytree(made, tmp_path / "gpt2"))


def mistake_of(folder: object, **how) -> str:
    """The one line that loading says."""
    with pytest.raises(UserError) as caught:
        load_trained_model(folder, **how)
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and text.startswith(str(folder))
    return text


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# ------------------------------------------------------------------------------- other kinds


@pytest.mark.parametrize("architecture", [BertModel, BertForMaskedLM])
def test_an_encoder_without_labels_predicts_nothing(architecture, tmp_path):
    save_bert(tmp_path, architecture)
    assert "nothing to predict" in mistake_of(tmp_path)


def test_models_of_other_tasks_are_named(tmp_path):
    save_bert(tmp_path, BertForTokenClassification)
    assert "'BertForTokenClassification' is made for another task" in mistake_of(tmp_path)
    config = T5Config(vocab_size=35, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert "an encoder with a decoder" in mistake_of(tmp_path)


@pytest.mark.parametrize(
    "values", [{"num_labels": 1}, {"problem_type": "regression", "num_labels": 2},
               {"problem_type": "multi_label_classification", "num_labels": 3}],
)  # fmt: skip
def test_heads_that_choose_no_label_are_refused(values, tmp_path):
    save_bert(tmp_path, BertForSequenceClassification, **values)
    assert "does not choose one of several labels" in mistake_of(tmp_path)


def test_labels_of_one_spelling_are_refused(tmp_path):
    names = {0: "so so", 1: "so_so"}
    save_bert(tmp_path, BertForSequenceClassification, id2label=names)
    with pytest.raises(UserError, match="labels 'so so' and 'so_so' are one here"):
        load_trained_model(tmp_path)


# ------------------------------------------------------------------------------- damaged folders


def test_pickled_weights_are_refused_with_what_converts_them(gpt2, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (gpt2 / "model.safetensors").unlink()
    (gpt2 / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    text = mistake_of(gpt2)
    assert "never loaded" in text and f"from_pretrained('{gpt2}').save_pretrained" in text
    assert not (tmp_path / "ran").exists()


def test_without_a_tokenizer_there_is_nothing_to_read_text_with(gpt2):
    for path in gpt2.glob("*token*"):
        path.unlink()
    assert "tokenizer" in mistake_of(gpt2)


def test_a_tokenizer_that_needs_a_missing_library_names_it(tmp_path):
    pytest.importorskip("tokenizers")
    build("llama", 40).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    change(tmp_path / "config.json", tokenizer_class="LlamaTokenizer")
    text = mistake_of(tmp_path)
    assert "sentencepiece" in text or "tiktoken" in text


def test_code_of_a_checkpoint_is_never_run(gpt2, tmp_path):
    (gpt2 / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})\nM = T = 1\n")
    change(gpt2 / "config.json", auto_map={"AutoModelForCausalLM": "code.M"})
    change(gpt2 / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T", "code.T"]})
    try:
        load_trained_model(gpt2)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    change(gpt2 / "config.json", model_type="my_own")
    mistake_of(gpt2)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b""),
        ("config.json", b"[1]"),
        ("config.json", b'{"model_type": "gpt2", "n_embd": "wide"}'),
        ("config.json", b'{"model_type": ["gpt2"]}'),
        ("config.json", b'{"model_type": "gpt2", "architectures": {"a": 1}, "n_layer": 10000000}'),
        ("config.json", b'{"model_type": "gpt2", "vocab_size": 9, "n_embd": 32, "n_head": 4}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\xff\xfe"),
        ("generation_config.json", b"[[["),
        ("model.safetensors", b"no weights"),
        ("model.safetensors", b"\xff" * 100),
    ],
)  # fmt: skip
def test_damaged_files_are_told_in_a_line(name, content, gpt2):
    (gpt2 / name).write_bytes(content)
    mistake_of(gpt2)


def test_weights_that_lack_some_are_refused(gpt2):
    change(gpt2 / "config.json", n_layer=3)
    assert "its weights lack transformer.h.2" in mistake_of(gpt2)


def test_a_token_that_the_model_lacks_is_refused(gpt2):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    tokenizer.add_tokens([f"<new{number}>" for number in range(9)])  # there are 7 spare rows
    tokenizer.save_pretrained(gpt2)
    trained = load_trained_model(gpt2)
    assert generate(trained, "a<new6>", max_new_tokens=2).sequences
    with pytest.raises(UserError, match="has '<new7>', a token that the model lacks"):
        generate(trained, "a<new7>")
    with pytest.raises(UserError, match="is not a whole number from 0 to"):
        generate(trained, {"input_ids": [trained.vocabulary.pad_id]})


# ------------------------------------------------------------------------------- whose it is


def test_a_half_copied_folder_of_ours_is_not_taken_for_another(bars, tmp_path):
    whole = {path.name for path in (bars / BEST_MODEL).iterdir()}
    for missing in ("settings.yaml", "vocab.json", "config.json", "model.safetensors"):
        folder = Path(shutil.copytree(bars / BEST_MODEL, tmp_path / missing))
        (folder / missing).unlink()
        assert missing in mistake_of(folder) if missing != "vocab.json" else True
        with pytest.raises(UserError, match=missing):
            load_trained_model(folder)
    few = tmp_path / "few"
    few.mkdir()
    for name in whole & {"config.json", "model.safetensors", "vocab.json", "tokenizer.json"}:
        shutil.copy(bars / BEST_MODEL / name, few)
    assert "settings.yaml: missing" in mistake_of(few)
    (few / "vocab.json").unlink()
    assert "its rows are tokens, not text" in mistake_of(few)


def test_damaged_settings_of_ours_are_an_error(bars, tmp_path):
    folder = Path(shutil.copytree(bars / BEST_MODEL, tmp_path / "model"))
    (folder / "settings.yaml").write_text("theme: dark\n")
    with pytest.raises(UserError, match="not the settings that training wrote"):
        load_trained_model(folder)


# ------------------------------------------------------------------------------- names and engines


def test_names_that_neither_disk_nor_hub_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("gpt2", "uer/gpt2-chinese"):
        text = mistake_of(name)
        assert "neither a folder here nor" in text and "no network" in text
        assert "train_gpt.py" in text
    (tmp_path / "models").mkdir()
    for name in ("outputs/best_model", "models/gpt2", "./gpt2", "../a/b", "a/b/c", "gpt 2"):
        with pytest.raises(UserError, match="no model there; train one with"):
            load_trained_model(name)
    made = run_here(inference.main, "--model_path", "uer/gpt2-chinese", "--prompt", "a")
    assert made.returncode == 1 and len(made.stderr.splitlines()) == 1


def test_what_only_models_of_training_can_is_refused(gpt2, tmp_path):
    assert "--engine onnx" in mistake_of(gpt2, engine="onnx")
    assert "--precision int8" in mistake_of(gpt2, precision="int8")
    with pytest.raises(UserError, match="not the vocabulary"):
        load_trained_model(gpt2, vocab_path=gpt2 / "vocab.json" if (gpt2 / "vocab.json").exists()
                           else _vocabulary(tmp_path))  # fmt: skip
    words = ("--model_path", gpt2, "--output_dir", tmp_path / "out")
    made = run_here(export_model.main, *words)
    assert made.returncode == 1 and len(made.stderr.splitlines()) <= 2, made.stderr
    made = run_here(inference.main, "--mode", "compare", "--model_path", gpt2, gpt2)
    assert made.returncode == 1 and len(made.stderr.splitlines()) == 1, made.stderr


def _vocabulary(folder: Path) -> Path:
    path = folder / "vocab.json"
    path.write_text('{"<PAD>": 0, "a": 1}')
    return path


def test_the_command_that_is_named_converts_the_weights(gpt2):
    """Run as it is told: what it writes is a model with the same answers."""
    from safetensors.torch import load_file

    whole = next_tokens(load_trained_model(gpt2, "cpu", "fp32"), "the cat")
    torch.save(load_file(gpt2 / "model.safetensors"), gpt2 / "pytorch_model.bin")
    (gpt2 / "model.safetensors").unlink()
    text = mistake_of(gpt2)
    program = text[text.index('python -c "') + 11 : text.rindex('"')]
    exec(compile(program, "told", "exec"), {})
    assert next_tokens(load_trained_model(gpt2, "cpu", "fp32"), "the cat") == whole
