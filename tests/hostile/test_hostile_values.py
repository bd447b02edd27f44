"""Extreme values in JSON, rows, settings, commands, models and images are refused clearly."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_program import run_here
from hostile.models import SMALL
from hostile.options import VOCABULARY
from hypothesis import given
from hypothesis import strategies as st
from plain_settings import plain_settings
from safetensors.numpy import load_file, save_file

import inference
import prepare_data
from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import SettingsError, UserError
from smallgpt.files.reading import MOST_JSON_LEVELS, parse_json, shown
from smallgpt.inference.classify import classify
from smallgpt.inference.generate import generate
from smallgpt.inference.next_tokens import next_tokens
from smallgpt.inputs.image_formats import read_images
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.options.reader import load_settings
from smallgpt.options.training import TrainSettings
from smallgpt.rows.lines import MOST_LINE_BYTES
from smallgpt.rows.reading import read_dataset
from smallgpt.tokens.codebook import Codebook

ROOT = Path(__file__).parents[2]

# ------------------------------------------------------------------------------- JSON, messages


def test_json_is_read_to_the_named_depth_and_no_deeper():
    deep = "[" * MOST_JSON_LEVELS + "]" * MOST_JSON_LEVELS
    assert parse_json(deep) == json.loads(deep)
    for text in (f"[{deep}]", '{"a":' * 65 + "1" + "}" * 65, "[" * 10**6):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)
    # Many brackets are not deep.
    assert len(parse_json("[" + "[]," * 1000 + '"[[["]')) == 1001


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_value_in_a_message_is_one_short_printable_line(value):
    for text in (shown(value), shown(json.dumps(value) * 100), shown(10**5000)):
        assert len(text) <= 800 and text.isprintable()


def test_line_longer_than_the_limit_is_a_bad_row_and_the_next_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = b'{"tokens": "<IMG> <Z_001>", "x": "%s"}\n'
    spaces = MOST_LINE_BYTES - len(row % b"")
    for longer in (0, 1, 3 * MOST_LINE_BYTES):
        path.write_bytes(row % (b" " * (spaces + longer)) + row % b"next")
        rows = read_dataset(path, VOCABULARY, max_length=8, on_bad_row="keep")
        assert rows.lines_N.tolist() == ([1, 2] if not longer else [2])
        assert [bad.line for bad in rows.bad_rows] == ([1] if longer else [])
        assert all("longer than 16 MiB" in bad.reason for bad in rows.bad_rows)


def test_of_endless_bad_rows_only_the_told_ones_are_kept(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"1\n" * 5000)
    with pytest.raises(UserError) as caught:
        read_dataset(path, VOCABULARY, max_length=8)
    told = str(caught.value).splitlines()
    assert len(told) == 7 and told[6] == "... and 4,995 more"
    monkeypatch.setattr("smallgpt.rows.reading.MOST_BAD_ROWS", 1000)
    with pytest.raises(UserError, match=r"rows\.jsonl:1001: .*\n.*more than 1,000 bad rows"):
        read_dataset(path, VOCABULARY, max_length=8, on_bad_row="keep")


# ------------------------------------------------------------------------------- settings


def config_mistakes(text: str, tmp_path) -> list[str]:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(TrainSettings, path)
    assert all(len(line) < 400 for line in caught.value.mistakes)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: " + "[" * 50_000, "nested too deeply"),
        ("- " * 30_000, "nested too deeply"),
        ("\n".join(" " * depth + "a:" for depth in range(200)), "nested too deeply"),
        ("# x\n" * 50_000, "larger than 64 KiB"),
        ("n_layer: 0x" + "f" * 60_000, "out of range"),
        ("num_epochs: 1" + ":1" * 5_000, "too large a number"),
        ("batch_size: 1" + "0" * 30, "too large a number"),
        ("n_layer: 1000000000", "out of range"),
        ('data_path: "a\\0b"', "without NUL"),
        ('output_dir: "\\ud800"', "settings.yaml"),
        ("".join(f"k{number}: 1\n" for number in range(4000)), "unknown option"),
    ],
    ids=range(11),
)
def test_hostile_settings_are_told_in_few_short_lines(text, reason, tmp_path):
    mistakes = config_mistakes(text, tmp_path)
    assert reason in mistakes[0] and len(mistakes) <= 21


def test_path_that_is_no_unicode_is_refused_before_anything_is_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "prepare_data.py", "digits", "--output_dir",
         os.fsencode(tmp_path) + b"/\xff"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "not valid Unicode" in done.stderr
    assert not list(tmp_path.iterdir())


def test_loop_of_links_as_input_and_output_is_told(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "rows.jsonl").write_text('{"tokens": "a b"}\n' * 9)
    for argv in (
        ["--input", tmp_path / "loop", "--output_dir", tmp_path / "out"],
        ["--input", tmp_path / "rows.jsonl", "--output_dir", tmp_path / "loop"],
    ):
        done = run_here(prepare_data.main, "tokens", *argv)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr


# ------------------------------------------------------------------------------- models


@pytest.fixture
def model_folder(tmp_path) -> Path:
    folder = tmp_path / "model"
    save_model_folder(build_model(SMALL, VOCABULARY), folder, VOCABULARY, SMALL, None)
    return folder


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "values",
    [
        {"n_layer": 10**9},
        {"n_layer": 1000},
        {"n_embd": 65_536},
        {"n_inner": 10**9},
        {"vocab_size": 2**30},
        {"n_positions": 10**6},
        {"n_head": 0},
        {"n_head": 3},
        {"n_embd": True},
        {"activation_function": "os.system"},
        {"layer_norm_epsilon": "x"},
        {"attn_pdrop": 7},
        {"model_type": "llama"},
        {"eos_token_id": 50256},
    ],
    ids=str,
)
def test_configuration_beyond_reason_is_refused_before_it_is_built(model_folder, values):
    change_config(model_folder, **values)
    with pytest.raises(UserError, match=r"config\.json") as caught:
        load_trained_model(model_folder)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "values",
    [
        {"attn_implementation": "someone/kernels"},
        {"_attn_implementation": "someone/kernels"},
        {"auto_map": {"AutoModelForCausalLM": "someone/repo--module.Class"}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"add_cross_attention": True},
        {"num_labels": 10**12},
        {"forward": "x", "__class__": "x", "to_dict": 1},
    ],
    ids=str,
)
def test_keys_that_name_code_or_other_models_have_no_effect(model_folder, values):
    before = load_trained_model(model_folder, "cpu", "fp32").model.state_dict()
    change_config(model_folder, **values)
    trained = load_trained_model(model_folder, "cpu", "fp32")
    assert trained.model.config._attn_implementation in ("eager", "sdpa")
    assert not any(hasattr(trained.model.config, name) for name in ("auto_map", "forward"))
    for name, tensor in trained.model.state_dict().items():
        assert np.array_equal(tensor.numpy(), before[name].numpy())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(model_folder, value):
    weights = load_file(model_folder / "model.safetensors")
    weights["transformer.ln_f.bias"][3] = value
    save_file(weights, model_folder / "model.safetensors")
    with pytest.raises(UserError, match=r"ln_f\.bias holds numbers that are not finite"):
        load_trained_model(model_folder)


def test_weights_that_overflow_are_told_by_each_way_to_use_them(model_folder):
    weights = load_file(model_folder / "model.safetensors")
    save_file({name: np.full_like(values, 3e38) for name, values in weights.items()},
              model_folder / "model.safetensors")  # fmt: skip
    trained = load_trained_model(model_folder, "cpu", "fp32")
    for use in (next_tokens, classify, generate):
        with pytest.raises(UserError, match="finite"):
            use(trained, "<IMG> <Z_001>")


def test_header_that_lies_about_its_length_is_refused(model_folder):
    path = model_folder / "model.safetensors"
    for length in (2**63, 2**40, 2**24, path.stat().st_size + 1):
        path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
        with pytest.raises(UserError, match=r"model\.safetensors: damaged .*its header would have"):
            load_trained_model(model_folder)


def test_model_larger_than_the_machine_is_refused_before_it_is_built():
    huge = plain_settings(n_layer=1000, n_embd=65_536, n_head=1)
    with pytest.raises(UserError, match="lower --n_layer"):
        build_model(huge, VOCABULARY)


# ------------------------------------------------------------------------------- images


def test_sizes_beside_a_zero_are_refused(tmp_path):
    path = tmp_path / "images.idx"
    path.write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 0, 2**32 - 1, 2**32 - 1))
    with pytest.raises(UserError, match=r"images\.idx: no images or labels in it"):
        read_images(path)


def test_letters_that_are_no_unicode_are_refused(tmp_path):
    labels = np.array(["a", "b"]).view("<u4").copy()
    labels[1] = 2**31
    np.savez(
        tmp_path / "images.npz", images=np.zeros((2, 4, 4), np.uint8), labels=labels.view("U1")
    )
    with pytest.raises(UserError, match="no Unicode"):
        read_images(tmp_path / "images.npz")


def test_codebook_of_equal_patches_has_finite_embeddings():
    for count in (1, 5):
        codebook = Codebook(np.ones((count, 4), np.float32), 2, 4, 4, 1, 0.0, 1.0, 1.0)
        assert np.isfinite(codebook.embeddings(6, seed=0)).all()


def test_prompts_from_a_pipe_may_be_any_bytes(model_folder):
    asked = [b"\xff\xfe", b"\0", b"<IMG>", b"x" * 3_000_000, b"<Z_001> <Z_002>", b"\xed\xa0\x80"]
    argv = ["--json", "--model_path", model_folder]
    done = run_here(inference.main, *argv, stdin=b"\n".join(asked))
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in answer for answer in answers] == [True, True, False, True, False, True]
    assert "longer than 1 MiB" in answers[3]["error"]
