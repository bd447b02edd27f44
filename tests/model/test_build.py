"""The model and its folder: what transformers reads from it, and what is refused on loading."""

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from plain_settings import plain_settings
from safetensors.torch import load_file, save_file

from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import UserError
from smallgpt.model.build import build_model, count_parameters
from smallgpt.model.folder import save_model_folder
from smallgpt.model.forward import Forward
from smallgpt.model.hardware import (
    Precision,
    choose_device,
    choose_precision,
    random_states,
    set_random_states,
)
from smallgpt.model.packed_rows import PackedRows
from smallgpt.tokens.vocabulary import Vocabulary

SETTINGS = plain_settings(n_layer=2, n_head=2, n_embd=16, n_positions=32, max_length=32)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.for_images(8, ["0", "1"])


@pytest.fixture
def saved(tmp_path, vocabulary):
    model = build_model(SETTINGS, vocabulary).eval()
    folder = tmp_path / "model"
    save_model_folder(model, folder, vocabulary, SETTINGS, None)
    return model, folder


def logits(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


IDS = torch.tensor([[2, 7, 9, 3, 4], [6, 6, 8, 4, 1]])


def test_default_model_has_the_reference_shape():
    model = build_model(plain_settings(), Vocabulary.for_images(500, map(str, range(10))))
    assert count_parameters(model) == 11_238_912
    assert model.lm_head.weight is model.transformer.wte.weight


def test_seed_decides_the_weights(vocabulary):
    one, again = build_model(SETTINGS, vocabulary), build_model(SETTINGS, vocabulary)
    other = build_model(plain_settings(**{**vars(SETTINGS), "seed": 1}), vocabulary)
    assert torch.equal(logits(one.eval(), IDS), logits(again.eval(), IDS))
    assert not torch.equal(logits(one, IDS), logits(other.eval(), IDS))


@pytest.mark.parametrize("loader", ["GPT2LMHeadModel", "AutoModelForCausalLM"])
def test_transformers_gives_the_same_logits(saved, loader):

    model, folder = saved
    theirs = getattr(transformers, loader).from_pretrained(folder).eval()
    ours = load_trained_model(folder, "cpu", "fp32").model
    assert torch.equal(logits(theirs, IDS), logits(model, IDS))
    assert torch.equal(logits(ours, IDS), logits(model, IDS))
    assert theirs.config.eos_token_id == 5 and theirs.config.pad_token_id == 0


@pytest.mark.parametrize("loader", ["AutoTokenizer", "GPT2Tokenizer"])
def test_tokenizer_beside_it_gives_the_vocabulary_s_ids(saved, vocabulary, loader):

    tokenizer = getattr(transformers, loader).from_pretrained(saved[1])
    text = "<IMG> <Z_003> <Z_000> </IMG> <CLS> <CLS_1> <EOS>"
    assert tokenizer(text)["input_ids"] == vocabulary.encode(text)
    assert len(tokenizer) == len(vocabulary)
    assert tokenizer.model_max_length == SETTINGS.max_length


@pytest.mark.parametrize("wrapped", [False, True], ids=["blocks", "padded"])
def test_hidden_states_of_packed_rows_are_those_of_each_row_alone(saved, wrapped):
    model, _ = saved
    if wrapped:  # a map that cpu_block.py does not know
        block = model.transformer.h[0]
        block.mlp.c_fc = torch.nn.Sequential(block.mlp.c_fc)
    ids = [IDS[0], IDS[0, :2], IDS[0].flip(0)]
    forward, rows = Forward(model, Precision("fp32", "")), PackedRows([len(row) for row in ids])
    with torch.no_grad():
        packed = forward(torch.cat(ids), [len(row) for row in ids])
        found = forward(torch.cat(ids), [len(row) for row in ids], "last")
        expected = torch.cat([model.transformer(row[None]).last_hidden_state[0] for row in ids])
    torch.testing.assert_close(packed, expected)
    torch.testing.assert_close(found, expected[rows.last_B])


def test_attention_scaled_by_layer_is_computed_as_transformers_does():
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=16, n_layer=3, n_head=2, n_embd=16,
        scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    ids_BxT = torch.randint(20, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = Forward(model, Precision("fp32", ""))(ids_BxT.flatten(), [7, 7])
        expected = model.transformer(ids_BxT).last_hidden_state
    torch.testing.assert_close(found.view_as(expected), expected)


def test_second_save_changes_only_the_weights(saved, vocabulary):
    model, folder = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        model.transformer.wte.weight += 1
    save_model_folder(model, folder, vocabulary, SETTINGS, None)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"model.safetensors"}
    assert torch.equal(logits(load_trained_model(folder, "cpu", "fp32").model, IDS),
                       logits(model, IDS))  # fmt: skip


def damage_nothing_there(folder: Path) -> None:
    shutil.rmtree(folder)


def damage_config_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def damage_config_has_another_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": 32}))


def damage_config_has_a_word_for_a_number(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_layer": "two"}))


def damage_weights_are_cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def damage_weights_lack_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.ln_f.weight"]
    save_file(weights, folder / "model.safetensors")


def damage_weights_are_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


def damage_pickle_is_called_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))


def damage_vocabulary_of_another_model(folder: Path) -> None:
    (folder / "vocab.json").write_text('{"<PAD>": 0}')


def damage_settings_are_missing(folder: Path) -> None:
    (folder / "settings.yaml").unlink()


@pytest.mark.parametrize(
    "damage",
    [value for name, value in sorted(globals().items()) if name.startswith("damage_")],
    ids=lambda function: function.__name__.removeprefix("damage_"),
)
def test_damaged_folder_is_refused_in_plain_words(saved, damage):
    folder = saved[1]
    damage(folder)
    with pytest.raises(UserError, match=str(folder)) as caught:
        load_trained_model(folder)
    assert len(str(caught.value).splitlines()) <= 2


def test_pickled_weights_are_never_loaded(saved):
    damage_weights_are_a_pickle(saved[1])
    with pytest.raises(UserError, match="never loaded"):
        load_trained_model(saved[1])


def test_missing_device_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda"):
            choose_device("cuda")
        with pytest.raises(UserError, match="--device cuda:1: no such device here"):
            choose_device("cuda:1")
    assert choose_device("cpu").type == "cpu"


def test_random_generators_are_those_of_the_device_and_come_back(monkeypatch):
    def untouched(*_):
        raise AssertionError("a run on another device starts no context on this one")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", untouched)
    monkeypatch.setattr(torch.cuda, "set_rng_state", untouched)
    put_back = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "state")
    monkeypatch.setattr(torch.mps, "set_rng_state", put_back.append)
    for device, names in (("cpu", ["cpu"]), ("mps", ["cpu", "mps"])):
        states = random_states(torch.device(device))
        assert list(states) == names
        drawn = torch.rand(3)
        set_random_states(states, torch.device(device))
        assert torch.equal(torch.rand(3), drawn)
        assert put_back == ["state"] * (device == "mps")
    set_random_states({**states, "cuda": states["cpu"]}, torch.device("cpu"))  # it moved


def test_a_gpu_is_chosen_by_its_number(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("cuda:1", "cuda:01"):
        assert choose_device(name) == torch.device("cuda", 1)
    assert current == [1, 1]
    for name in ("cuda:2", "cuda:N"):
        with pytest.raises(UserError, match=f"--device {name}: the GPUs here are cuda:0 to cuda:1"):
            choose_device(name)


def test_precision_tells_its_reason():
    chosen = choose_precision("auto", torch.device("cpu"))
    assert chosen.name in ("fp32", "bf16") and "CPU" in chosen.reason
    assert choose_precision("bf16", torch.device("cpu")).dtype == torch.bfloat16
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        choose_precision("fp16", torch.device("cpu"))


@pytest.mark.parametrize("name", ["model.pth", "pytorch_model.bin"])
def test_a_pickled_file_as_a_model_is_refused_in_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=r"a pickle can run any code .* model\.safetensors") as no:
        load_trained_model(tmp_path / name)
    assert "\n" not in str(no.value)


def test_settings_of_a_version_that_lacked_an_option_are_read(saved):
    path = saved[1] / "settings.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not re.match("(token_)?dropout:", line)))
    assert load_trained_model(saved[1]).learned_unknown  # such versions hid a tenth of the tokens
