"""Starting from a pretrained checkpoint: shape, tokens by name, other architectures, mistakes."""

import dataclasses
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from plain_settings import plain_settings
from pretrained_models import (
    CHINESE,
    POSITIONS,
    build,
    save_chinese,
    train_settings,
    write_data,
)
from safetensors.torch import load_file, save_file
from training_runs import StopAfter
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertLMHeadModel

from smallgpt.decoding.generate import generate_tokens, make_decoder
from smallgpt.decoding.plain_decoder import PlainDecoder
from smallgpt.decoding.sampling import Sampling
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation.scoring import score_rows
from smallgpt.model.build import build_model, count_parameters
from smallgpt.model.carried_embeddings import carry_over
from smallgpt.model.config_json import config_of
from smallgpt.model.folder import save_model_folder
from smallgpt.model.forward import Forward, TokenHead
from smallgpt.model.hardware import Precision
from smallgpt.model.packed_rows import PackedRows
from smallgpt.model.pretrained import load_pretrained, with_pretrained_shape
from smallgpt.options.config_file import to_yaml
from smallgpt.options.reader import load_settings, read_settings
from smallgpt.options.training import PRESETS, TrainSettings
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training.data import read_data
from smallgpt.training.gradients import TokenStep
from smallgpt.training.objective import Objective
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.run_log import RunLog
from smallgpt.training.setup import build_run, length_of_start, trained_length
from train_gpt import main, train

ROOT = Path(__file__).parents[2]
FP32 = Precision("fp32", "tests")
pytestmark = pytest.mark.usefixtures("unpainted")


def start(settings: TrainSettings, lines: list[str] | None = None):
    vocabulary = Vocabulary.load(settings.vocab_path)
    return vocabulary, load_pretrained(
        settings, vocabulary, (lines if lines is not None else []).append
    )


@pytest.fixture
def first_run(made_once, checkpoints) -> Path:
    """The folder of a finished run from the checkpoint of a GPT-2."""

    def make(folder: Path) -> None:
        train(train_settings(folder, checkpoints / "gpt2", num_epochs=1))

    return made_once("from a gpt2", make) / "run"


# ------------------------------------------------------------------------------- presets


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080),
     ("gpt2-xl", 1_557_611_200)],
)  # fmt: skip
def test_preset_has_the_parameters_of_openai_s_model(preset, parameters):
    vocabulary = Vocabulary(["<PAD>", *(f"t{number}" for number in range(50_256))])
    with torch.device("meta"):
        model = build_model(plain_settings(preset=preset), vocabulary)
    assert count_parameters(model) == parameters


def test_a_preset_leaves_no_shape_to_choose():
    settings = TrainSettings(preset="small-token")
    assert (settings.n_layer, settings.n_head, settings.n_embd) == (6, 8, 384)


def test_every_preset_takes_the_default_max_length():
    for preset in PRESETS:
        assert list(plain_settings(preset=preset).contradictions()) == []


def test_preset_of_the_file_sets_the_shape_and_the_run_stores_it(tmp_path):
    def read(*flags):
        return read_settings(
            TrainSettings, flags, prog="", description="", default_config=tmp_path / "c.yaml"
        )

    (tmp_path / "c.yaml").write_text("preset: gpt2\nn_layer: 6\nn_embd: 384\n")
    assert (read().n_layer, read().n_head, read().n_embd) == (12, 12, 768)
    assert read("--preset", "tiny").n_layer == 2
    assert read("--preset", "none").n_layer == 6
    assert read("--preset", "none", "--n_layer", "3").n_layer == 3
    (tmp_path / "stored.yaml").write_text(to_yaml(read()))
    assert load_settings(TrainSettings, tmp_path / "stored.yaml") == read()


# ------------------------------------------------------------------------------- tokens by name


@hypothesis_settings(max_examples=40)
@given(
    st.lists(st.sampled_from("abcdefghij"), unique=True, min_size=3),
    st.lists(st.sampled_from(["a", "b", "c", "x", "y", "<EOS>", "<UNK>"]), unique=True),
    st.booleans(),
)
def test_tokens_keep_their_embeddings_whatever_their_ids(old, new, tied):
    model = build("llama tied" if tied else "llama", len(old) + 1)  # one row without a token
    before_in = model.get_input_embeddings().weight.detach().clone()
    before_out = model.get_output_embeddings().weight.detach().clone()
    vocabulary = Vocabulary(["<PAD>", *new])
    roles = {"<EOS>": 1, "<UNK>": None, "<PAD>": 0}
    new_ids = carry_over(model, old, roles, vocabulary, 0, "it", lambda line: None)
    after_in, after_out = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (after_in is after_out) == tied
    assert len(after_in) == len(after_out) == len(vocabulary) == model.config.vocab_size
    for index, token in enumerate(vocabulary.tokens):
        if token in old:
            source = old.index(token)
        elif roles.get(token) is not None:
            source = roles[token]
        else:
            near = (after_in[index] - before_in.mean(0)).abs()
            assert (near <= before_in.std(0) + 1e-6).all() and near.any()
            continue
        assert torch.equal(after_in[index], before_in[source])
        assert torch.equal(after_out[index], before_out[source])
    assert new_ids == [i for i, token in enumerate(vocabulary.tokens) if token not in old]


def test_new_embeddings_follow_from_the_seed(tmp_path, checkpoints):
    settings = train_settings(tmp_path, checkpoints / "gpt2")
    (_, one), (_, again) = start(settings), start(settings)
    _, other = start(dataclasses.replace(settings, seed=1))
    rows = [s.model.get_input_embeddings().weight for s in (one, again, other)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert (rows[0] != rows[2]).any(1).nonzero().flatten().tolist() == [
        i for i in one.new_ids if Vocabulary.load(settings.vocab_path).tokens[i] not in
        ("<EOS>", "<UNK>")
    ]  # fmt: skip


def test_start_computes_what_the_checkpoint_computes(tmp_path, checkpoints, kind):
    theirs = AutoModelForCausalLM.from_pretrained(checkpoints / kind).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / kind)
    lines = []
    vocabulary, found = start(train_settings(tmp_path, checkpoints / kind), lines)
    text = "the cat ran to the house"
    ids = torch.tensor([vocabulary.tokenizer.encode(text)])
    assert ids.tolist() == tokenizer([text])["input_ids"]
    with torch.no_grad():
        expected = theirs(ids).logits
        logits = found.model.eval()(ids).logits[..., : expected.shape[-1]]
    torch.testing.assert_close(logits, expected)
    known = len(tokenizer)
    (line,) = lines
    assert line.startswith(
        f"tokens: {known} of {known + 6} carried over by name from {checkpoints / kind}; "
    )
    assert "; <EOS> starts as <|endoftext|>; " in line and "<CLS_no>, <CLS_yes>); 0 of" in line
    assert found.model.get_input_embeddings().padding_idx is None
    assert found.model.config.pad_token_id == vocabulary.pad_id
    assert found.model.generation_config.eos_token_id == vocabulary.eos_id


@pytest.mark.parametrize("named", [True, False], ids=["class named", "vocab.txt alone"])
def test_chinese_gpt2_brings_its_characters(tmp_path, named):
    save_chinese(tmp_path / "chinese", named)
    settings = train_settings(tmp_path, tmp_path / "chinese")
    write_data(tmp_path / "data", tmp_path / "chinese", CHINESE)
    lines = []
    vocabulary, found = start(settings, lines)
    assert "<EOS> starts as [SEP]" in lines[0] and "<PAD> starts as [PAD]" in lines[0]
    ids = torch.tensor([vocabulary.tokenizer.encode("天气很好")])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "chinese").eval()
    with torch.no_grad():
        expected = theirs(ids).logits
        logits = found.model.eval()(ids).logits[..., : expected.shape[-1]]
    torch.testing.assert_close(logits, expected)
    assert vocabulary.unk_id not in ids


def test_model_of_ours_gives_its_tokens(tmp_path, first_run):
    ours = first_run / "best_model"
    lines = []
    vocabulary, found = start(train_settings(tmp_path, ours), lines)
    assert f"{len(vocabulary)} of {len(vocabulary)} carried over" in lines[0]
    assert found.new_ids == []
    weights = load_file(ours / "model.safetensors")
    assert torch.equal(found.model.transformer.wte.weight, weights["transformer.wte.weight"])


def test_other_tokenizer_is_told_with_the_remedy(tmp_path, checkpoints):
    settings = train_settings(tmp_path, checkpoints / "gpt2")
    lines = []
    start(dataclasses.replace(settings, init_from=str(checkpoints / "chinese")), lines)
    assert len(lines) == 2 and "prepare_data.py text --tokenizer" in lines[1]


def test_dropout_of_the_settings_reaches_the_model(tmp_path, checkpoints):
    settings = train_settings(tmp_path, checkpoints / "gpt2", dropout=0.3, attention_dropout=0.4)
    config = start(settings)[1].model.config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.3, 0.3, 0.4)
    settings = dataclasses.replace(settings, init_from=str(checkpoints / "opt"))
    config = start(settings)[1].model.config
    assert (config.dropout, config.attention_dropout) == (0.3, 0.4)


# ------------------------------------------------------------------------------- training


def test_run_from_a_checkpoint_ends_in_a_standard_model(tmp_path, checkpoints, kind):
    settings = train_settings(tmp_path, checkpoints / kind)
    result = train(settings)
    trained = load_trained_model(result.folder.best_model, "cpu", "fp32")
    stored = trained.settings
    assert (stored.n_layer, stored.n_head, stored.n_embd, stored.n_positions) == (2, 4, 32, 48)
    assert type(trained.model) is type(build(kind, 10))
    theirs = AutoModelForCausalLM.from_pretrained(result.folder.best_model).eval()
    ids = torch.tensor([trained.vocabulary.tokenizer.encode("the cat")])
    with torch.no_grad():
        torch.testing.assert_close(trained.model(ids).logits, theirs(ids).logits)
    tied = theirs.get_input_embeddings().weight is theirs.get_output_embeddings().weight
    assert tied == (kind not in ("llama", "qwen2"))
    assert str(checkpoints) not in (result.folder.best_model / "config.json").read_text()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_resumed_run_needs_its_checkpoint_no_more(tmp_path, checkpoints, kind, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(checkpoints / kind, source)
    settings = train_settings(tmp_path, source, dropout=0.1, attention_dropout=0.1)
    whole = train(dataclasses.replace(settings, output_dir=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        patch.setattr("train_gpt.StopSignal", lambda _: StopAfter(3))
        assert train(settings).exit_code == 130
    shutil.rmtree(source)
    assert train(dataclasses.replace(settings, resume=True)).exit_code == 0
    for name in ("best_model", "final_model"):
        one, other = (
            load_file(Path(folder) / name / "model.safetensors")
            for folder in (whole.folder.root, settings.output_dir)
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_model_begun_from_one_of_ours_is_good_for_the_longest_row_of_both(
    tmp_path, checkpoints, monkeypatch
):
    rows = [{"text": f"row {n:02d}", "label": ("no", "yes")[n % 2]} for n in range(20)]
    settings = train_settings(tmp_path, checkpoints / "gpt2", num_epochs=1)
    Path(settings.data_path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = train(dataclasses.replace(settings, output_dir=str(tmp_path / "first"))).folder
    stored = (first.best_model / "settings.yaml").read_text()
    # From a foreign model: as long as was asked for.
    assert f"max_length: {POSITIONS}\n" in stored
    again = dataclasses.replace(settings, init_from=str(first.best_model), num_epochs=2)
    rows, held_out = read_data(again, str)
    longest = max(rows.lengths_N.max(), held_out.lengths_N.max())
    for length in (8, longest + 2):
        ours = stored.replace(f"max_length: {POSITIONS}\n", f"max_length: {length}\n")
        (first.best_model / "settings.yaml").write_text(ours)
        assert trained_length(again, rows, held_out) == max(length, longest) < POSITIONS
    with monkeypatch.context() as patch:
        patch.setattr("train_gpt.StopSignal", lambda _: StopAfter(2))
        assert train(again).exit_code == 130
    shutil.rmtree(first.best_model)
    made = train(dataclasses.replace(again, resume=True)).folder.final_model
    assert load_settings(TrainSettings, made / "settings.yaml").max_length == longest + 2
    assert "trained_length" not in (made / "config.json").read_text()


def test_pretrained_embeddings_are_not_replaced_by_those_of_codes(tmp_path):
    codes = np.arange(4, dtype=np.float32)[:, None]
    Codebook(codes, 1, 2, 2, 1, 0.0, 3.0, 3.0).save(tmp_path / "codebook.npz")
    vocabulary = Vocabulary.for_images(4, ["0", "1"])
    (tmp_path / "vocab.json").write_text(vocabulary.to_json())
    with open(tmp_path / "rows.jsonl", "w") as handle:
        for number in range(16):
            body = " ".join(f"<Z_00{(number >> 2 * place) % 4}>" for place in range(4))
            row = {"tokens": f"<IMG> {body} </IMG>", "label": number % 2}
            handle.write(json.dumps(row) + "\n")
    settings = plain_settings(
        data_path=str(tmp_path / "rows.jsonl"), vocab_path=str(tmp_path / "vocab.json"),
        output_dir=str(tmp_path / "one"), n_layer=1, n_head=1, n_embd=8, n_positions=32,
        max_length=32, num_epochs=1, device="cpu", precision="fp32",
    )  # fmt: skip
    best = train(settings).folder.best_model
    following = dataclasses.replace(settings, init_from=str(best), output_dir=str(tmp_path / "two"))
    folder = RunFolder(following.output_dir)
    run = build_run(following, folder, RunLog(folder), *read_data(following, print))
    weights = load_file(best / "model.safetensors")["transformer.wte.weight"]
    assert torch.equal(run.model.transformer.wte.weight, weights)


# ------------------------------------------------------------------------------- computing


def test_packed_rows_go_through_any_architecture(kind):
    model = build(kind, 20)
    rows = [[3, 7, 9, 2, 4], [6, 6], [8, 1, 5]]
    lengths = [len(row) for row in rows]
    ids_N = torch.tensor([token for row in rows for token in row])
    with torch.no_grad():
        forward = Forward(model, FP32)
        found, last = forward(ids_N, lengths), forward(ids_N, lengths, "last")
        expected = torch.cat(
            [model.base_model(torch.tensor([row])).last_hidden_state[0] for row in rows]
        )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(last, expected[PackedRows(lengths).last_B])


def test_scores_are_those_of_transformers_loss(tmp_path, checkpoints, kind):
    vocabulary, found = start(train_settings(tmp_path, checkpoints / kind))
    model = found.model.eval()
    if kind == "llama":  # a head with a bias, as GPT-J has it
        head = model.lm_head
        model.lm_head = torch.nn.Linear(32, len(vocabulary))
        model.lm_head.weight = head.weight
        torch.nn.init.normal_(model.lm_head.bias)
    dataset, _ = read_data(train_settings(tmp_path, checkpoints / kind), print)
    scores = score_rows(
        TorchEngine(model, FP32, dataset.vocabulary.label_ids), dataset, batch_size=7
    )
    for index in range(4):
        ids = torch.from_numpy(dataset.row(index).astype("int64"))[None]
        with torch.no_grad():
            loss = model(ids, labels=ids).loss
        mean = scores.tokens.nll_sum_N[index] / dataset.scored_counts[index]
        assert mean == pytest.approx(float(loss), rel=1e-4)
    assert TokenHead.of(model).weight_VxE.shape == (len(vocabulary), 32)


def test_gradients_are_those_of_transformers_loss(tmp_path, checkpoints, kind):
    settings = train_settings(
        tmp_path, checkpoints / kind, dropout=0.0, label_loss_weight=1.0, token_dropout=0.0
    )
    dataset, _ = read_data(settings, print)
    model = start(settings)[1].model
    step = TokenStep(
        Objective(model, dataset, settings, FP32), torch.amp.GradScaler("cpu", enabled=False)
    )
    step.add_gradients([np.array([0, 1]), np.array([2])])
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    step.clear_gradients()
    total = sum(dataset.lengths_N[i] - 1 for i in range(3))
    for index in range(3):
        ids = torch.from_numpy(dataset.row(index).astype("int64"))[None]
        (model(ids, labels=ids).loss * (ids.shape[1] - 1) / total).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("lengths", [[1], [4, 4, 4], [5, 1, 9, 3]])
def test_greedy_decoding_equals_transformers_generate(kind, lengths):
    model = build(kind, 40)
    model.generation_config.pad_token_id = 0
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(4, 40, (n,), generator=generator).tolist() for n in lengths]
    decoder = make_decoder(model, torch.float32)
    stop = 7
    found = generate_tokens(
        decoder, prompts, max_new_tokens=12, stop_ids=[stop], sampling=Sampling(greedy=True),
        batch_size=3,
    )  # fmt: skip
    for prompt, tokens in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
            eos_token_id=stop,
        )[0, len(prompt):].tolist()  # fmt: skip
        assert tokens == expected


@pytest.mark.parametrize("make", [make_decoder, PlainDecoder])  # a GPT-2 numbers its positions
def test_decoding_step_by_step_equals_the_plain_forward(kind, make):
    model = build(kind, 40)
    decoder = make(model, torch.float32)
    rows = [[5, 9, 12, 8, 30, 11, 6], [7, 3, 22, 17, 9, 10, 4], [21, 2, 33, 5, 6, 8, 8]]
    lengths = [4, 1, 2]
    ids_BxT = torch.zeros(3, 4, dtype=torch.long)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids_BxT[index, :length] = torch.tensor(row[:length])
    with torch.no_grad():
        plain = [model(torch.tensor([row])).logits[0] for row in rows]
    logits_BxV = decoder.prefill(ids_BxT, torch.tensor(lengths), capacity=7)
    live = [0, 1, 2]
    for step in range(3):
        expected = torch.stack([plain[row][lengths[row] + step - 1] for row in live])
        torch.testing.assert_close(logits_BxV, expected, atol=1e-4, rtol=1e-4)
        if step == 1:
            decoder.keep([0, 2])
            live = [0, 2]
        ids_B = torch.tensor([rows[row][lengths[row] + step] for row in live])
        logits_BxV = decoder.step(ids_B)
    with pytest.raises(ValueError, match="full"):
        decoder.step(ids_B)


def test_model_without_such_a_cache_says_so():
    config = transformers.MambaConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1)
    decoder = make_decoder(transformers.MambaForCausalLM(config).eval(), torch.float32)
    with pytest.raises(UserError, match="mamba model cannot generate"):
        decoder.prefill(torch.tensor([[1, 2]]), torch.tensor([2]), 4)


# ------------------------------------------------------------------------------- mistakes


def mistake_of(settings: TrainSettings) -> str:
    with pytest.raises(UserError) as caught:
        train(settings)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_pickled_checkpoint_is_never_loaded(tmp_path, checkpoints):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = tmp_path / "old"
    shutil.copytree(checkpoints / "gpt2", folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    settings = train_settings(tmp_path, checkpoints / "gpt2")
    for name in (folder, folder / "pytorch_model.bin"):
        text = mistake_of(dataclasses.replace(settings, init_from=str(name)))
        assert "never loaded" in text and "safetensors" in text
    shutil.move(folder / "pytorch_model.bin", tmp_path / "my.pth")
    assert "never loaded" in mistake_of(
        dataclasses.replace(settings, init_from=str(tmp_path / "my.pth"))
    )
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run" / "settings.yaml").exists()


def test_code_of_a_checkpoint_is_never_run(tmp_path, checkpoints):
    folder = tmp_path / "foreign"
    shutil.copytree(checkpoints / "gpt2", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "my_own", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM":
               "code.M"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})\nC = M = 1\n")
    settings = train_settings(tmp_path, checkpoints / "gpt2")
    mistake_of(dataclasses.replace(settings, init_from=str(folder)))
    assert not (tmp_path / "ran").exists()


FOREIGN = "no-such-owner/kernels"
FOREIGN_KEYS = {
    "attn_implementation": FOREIGN,
    "_attn_implementation": FOREIGN,
    "_attn_implementation_internal": FOREIGN,
    "experts_implementation": FOREIGN,
    "kernel_config": {"LlamaRMSNorm": f"{FOREIGN}:norm"},
    "auto_map": {"AutoModelForCausalLM": f"{FOREIGN}--code.M"},
    "dtype": "float64",
    "torch_dtype": "float16",
    "name_or_path": FOREIGN,
    "trust_remote_code": True,
}


@pytest.mark.parametrize("kind", ["gpt2", "llama"], indirect=True)
def test_configuration_of_a_checkpoint_chooses_its_shape_and_nothing_else(
    tmp_path, checkpoints, kind, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    folder = tmp_path / "foreign"
    shutil.copytree(checkpoints / kind, folder)
    config = json.loads((folder / "config.json").read_text())
    plain = train_settings(tmp_path / "plain", checkpoints / kind)
    _, expected = start(plain)
    nested = {"sub": [dict(FOREIGN_KEYS)]}
    (folder / "config.json").write_text(json.dumps(config | FOREIGN_KEYS | nested))
    (folder / "generation_config.json").write_text(
        json.dumps({"cache_implementation": FOREIGN, "custom_generate": FOREIGN, "max_length": -7})
    )
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    settings = train_settings(tmp_path, folder)
    assert with_pretrained_shape(settings).n_embd == 32
    _, found = start(settings)
    config = found.model.config
    assert config._attn_implementation == expected.model.config._attn_implementation
    assert config.sub == [{}] and not hasattr(config, "auto_map")
    assert FOREIGN not in config.to_json_string() + found.model.generation_config.to_json_string()
    assert found.fingerprint == expected.fingerprint
    assert all(p.dtype == torch.float32 for p in found.model.parameters())


@pytest.mark.parametrize(
    "values",
    [{"num_hidden_layers": 10**9}, {"vocab_size": 10**12}, {"max_position_embeddings": 10**12}],
    ids=str,
)
def test_checkpoint_beyond_reason_is_refused_before_it_is_built(tmp_path, checkpoints, values):
    folder = tmp_path / "huge"
    shutil.copytree(checkpoints / "llama", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    settings = train_settings(tmp_path, checkpoints / "llama", init_from=str(folder))
    assert f"{next(iter(values))} is " in mistake_of(settings)


def test_a_model_of_ours_on_the_hub_is_known_as_one(tmp_path, monkeypatch):
    vocabulary = Vocabulary(["<PAD>", "<EOS>", "a", "b"])
    settings = plain_settings(n_layer=1, n_head=1, n_embd=8, max_length=8, n_positions=16)
    cached, commit = tmp_path / "models--owner--model", "c" * 40
    folder = cached / "snapshots" / commit
    save_model_folder(build_model(settings, vocabulary), folder, vocabulary, settings, None)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    settings = dataclasses.replace(settings, init_from="owner/model", max_length=16)
    assert load_pretrained(settings, vocabulary, str).new_ids == []
    assert length_of_start(settings) == 8


def test_an_opt_without_its_last_norm_stays_without_it(tmp_path, checkpoints):
    folder = tmp_path / "older"
    shutil.copytree(checkpoints / "opt", folder)
    config = transformers.OPTConfig.from_pretrained(folder)
    config._remove_final_layer_norm = True
    model = transformers.OPTForCausalLM(config)
    model.save_pretrained(folder)
    settings = train_settings(tmp_path, checkpoints / "opt", init_from=str(folder))
    found = start(settings)[1].model
    assert found.state_dict().keys() == model.state_dict().keys()


def test_infinity_in_a_stored_configuration_is_read_again():
    config = transformers.Mamba2Config(time_step_limit=(0.5, float("inf")))
    stored = json.loads(config.to_json_string())
    assert list(config_of(stored).time_step_limit) == [0.5, float("inf")]


def test_adapter_does_not_lead_to_its_base(tmp_path, checkpoints):
    folder = tmp_path / "foreign"
    shutil.copytree(checkpoints / "gpt2", folder)
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": FOREIGN, "auto_mapping": {"base_model_class": "os"}})
    )
    settings = train_settings(tmp_path, checkpoints / "gpt2", init_from=str(folder))
    assert "adapter" in mistake_of(settings)


def test_more_length_than_positions_is_told_with_the_remedy(tmp_path, checkpoints):
    settings = train_settings(tmp_path, checkpoints / "gpt2", max_length=64)
    assert "--max_length 48 or less" in mistake_of(settings)


def test_encoder_is_refused(tmp_path, checkpoints):
    folder = tmp_path / "bert"
    shutil.copytree(checkpoints / "chinese", folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=30, intermediate_size=16, **sizes)
    BertLMHeadModel(config).save_pretrained(folder)
    settings = train_settings(tmp_path, checkpoints / "gpt2", init_from=str(folder))
    assert "encoder" in mistake_of(settings)


def test_quantized_checkpoint_is_refused(tmp_path, checkpoints):
    folder = tmp_path / "small"
    shutil.copytree(checkpoints / "llama", folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    settings = train_settings(tmp_path, checkpoints / "gpt2", init_from=str(folder))
    assert "quantized" in mistake_of(settings)


def test_missing_weights_are_named(tmp_path, checkpoints):
    folder = tmp_path / "hole"
    shutil.copytree(checkpoints / "llama", folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = train_settings(tmp_path, checkpoints / "gpt2", init_from=str(folder))
    assert "model.norm.weight" in mistake_of(settings)


def test_run_folder_instead_of_its_model_is_told(tmp_path, checkpoints, first_run):
    settings = train_settings(tmp_path, checkpoints / "gpt2", init_from=str(first_run))
    assert str(first_run / "best_model") in mistake_of(settings)


def test_wrong_checkpoint_deletes_nothing(tmp_path, checkpoints, first_run):
    shutil.copytree(first_run, tmp_path / "run")
    absent = str(tmp_path / "none" / "x")
    settings = train_settings(tmp_path, checkpoints / "gpt2", init_from=absent, overwrite=True)
    mistake_of(settings)
    assert (tmp_path / "run" / "best_model" / "model.safetensors").exists()


def test_name_on_the_hub_without_a_network_is_told(tmp_path, checkpoints, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = train_settings(tmp_path, checkpoints / "gpt2", init_from="no-one/nothing")
    assert "no network" in mistake_of(settings)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset", "gpt2-meduim"], "did you mean gpt2-medium"),
        (["--preset", "gpt2", "--n_layer", "3"], "preset gpt2 sets the shape"),
        (["--init_from", "x", "--n_embd", "3"], "the shape is that of init_from x"),
        (["--init_from", "x", "--preset", "gpt2"], "the shape is that of init_from x"),
        (["--lora_rank", "4"], "--init_from"),
        (["--init_from", "x", "--merge_lora"], "no effect without --lora_rank"),
        (["--init_from", "x", "--lora_alpha", "4"], "no effect without --lora_rank"),
    ],
)
def test_contradicting_flags_are_told_in_one_line(flags, words):
    with pytest.raises(SettingsError, match=re.escape(words)) as caught:
        main(flags)
    assert len(caught.value.mistakes) == 1


def test_command_says_where_it_starts_from(tmp_path, checkpoints):
    settings = train_settings(tmp_path, checkpoints / "opt")
    flags = [f"--{name}={getattr(settings, name)}" for name in (
        "data_path", "vocab_path", "output_dir", "init_from", "max_length", "device")]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "train_gpt.py", *flags, "--num_epochs=1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "carried over by name" in done.stdout
    assert done.stderr == ""


def test_shape_is_taken_from_the_checkpoint(tmp_path, checkpoints):
    shaped = with_pretrained_shape(train_settings(tmp_path, checkpoints / "qwen2", preset="tiny"))
    assert (shaped.preset, shaped.n_layer, shaped.n_embd) == ("none", 2, 32)


def test_transformers_are_left_as_talkative_as_they_were(tmp_path, checkpoints):
    before = transformers.logging.get_verbosity()
    start(train_settings(tmp_path, checkpoints / "llama"))
    assert transformers.logging.get_verbosity() == before


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no model in this folder: it has no config\.json$"):
        with_pretrained_shape(plain_settings(init_from=str(tmp_path)))


def test_rows_longer_than_a_preset_are_told_the_remedy_that_works():
    found = list(plain_settings(preset="tiny", max_length=2000).contradictions())
    assert found == ["max_length (2000) is above the 1024 positions of tiny: lower it"]
