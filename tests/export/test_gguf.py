"""export_model.py --format gguf: llama.cpp and transformers answer as the model does."""

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from plain_settings import plain_settings
from pretrained_models import CHINESE, save_byte_level, save_chinese, train_settings
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from inference import classify, generate, load_trained_model
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.export.gguf_tokenizer import GgufTokenizer
from smallgpt.model.hardware import Precision
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary
from train_gpt import train

gguf = pytest.importorskip("gguf", reason="gguf is not installed: the extra `gguf`")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: the extra `gguf`")

from smallgpt.export.gguf_files import PRECISIONS, write_gguf  # noqa: E402
from smallgpt.export.llama_server import LlamaServer  # noqa: E402

KINDS = ("bars", "no labels", "texts", "adapter")
WITH_LABELS = [kind for kind in KINDS if kind != "no labels"]
SPECIAL = ("<PAD>", "<UNK>", "<CLS>", "<EOS>")
TEXTS = [
    "The cat's 12 mats, the dogs' houses; don't!",
    "línea\n\n  two  spaces\ttab",
    "日本語 \uff14\uff15",
]
# Names that llama.cpp, Unicode, JSON or a shell could take for something else.
ODD = [
    *SPECIAL, "a", "ab", "abc", "b", "</s>", "<s>", "<|endoftext|>", "<EOT>", "<0x0A>", "?", "'s",
    "\u2019", "日本", "語", "日本語", "é", "e\u0301", "🙂", "👩‍👧", "x" * 1000, "x" * 999, "\x01",
    "\ufeff", "שלום", '"', "\\", "\\n", "%s", "{{x}}", "Ġ", "##a", "ﬁ", "²", "\ufffd", "<CLS_a>",
    "<CLS_x_y>",
]  # fmt: skip


def opened(exported, kind, precision, trained):
    path = exported(kind, "gguf") / f"model-{precision}.gguf"
    return LlamaServer(path, trained.vocabulary.label_ids, trained.temperature)


def rows_of(trained):
    """Ids of rows as they stand before the label, of different lengths."""
    drawn, vocabulary = np.random.default_rng(0), trained.vocabulary
    special = {*vocabulary.special_ids, *vocabulary.label_ids}
    usable = [index for index in range(len(vocabulary)) if index not in special]
    return [drawn.choice(usable, length).tolist() for length in (1, 2, 7, 15)]


def in_memory(vocabulary, folder, **config):
    """A model of drawn weights."""
    torch.manual_seed(0)
    shape = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2, **config}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(vocabulary), **ends, **shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    engine = TorchEngine(model, Precision("fp32", ""), vocabulary.label_ids)
    return TrainedModel.of(engine, vocabulary, plain_settings(max_length=32), folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A function: a server of a model of drawn weights with a vocabulary."""

    def serve(vocabulary):
        folder = tmp_path_factory.mktemp("gguf")
        write_gguf(in_memory(vocabulary, folder), folder / "model.gguf", "f32", "0" * 64)
        return LlamaServer(folder / "model.gguf")

    return serve


def ids_in(server, text):
    return server.ask("/tokenize", content=text, parse_special=False)["tokens"]


# ------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(("precision", "near"), [("f32", 2e-3), ("q8_0", 0.05)])
@pytest.mark.parametrize("kind", WITH_LABELS)
def test_labels_have_the_calibrated_probabilities_of_the_model(
    kind, precision, near, exported, model_of
):
    trained = load_trained_model(model_of(kind), "cpu", "fp32")
    bodies = rows_of(trained)
    rows = [np.array([*body, trained.vocabulary.cls_id]) for body in bodies]
    server = opened(exported, kind, precision, trained)
    shares_BxL = server.probabilities(np.concatenate(rows), np.array([*map(len, rows)]))
    for shares_L, (_, expected) in zip(shares_BxL, classify(trained, bodies), strict=True):
        found = dict(zip(trained.label_names, shares_L.tolist(), strict=True))
        assert found == pytest.approx(expected, abs=near)
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("precision", "near"), [("f32", 1e-5), ("q8_0", 0.3)])
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_weights_of_the_model(kind, precision, near, exported, model_of):
    trained = load_trained_model(model_of(kind), "cpu", "fp32", engine="torch")
    # Given the shape, since transformers takes all files for ones of 1,024 positions.
    read = AutoModelForCausalLM.from_pretrained(
        exported(kind, "gguf"), config=trained.model.config, gguf_file=f"model-{precision}.gguf"
    ).eval()
    for ids in rows_of(trained):
        ids_1xT = torch.tensor([ids])
        with torch.inference_mode():
            found, expected = (model(ids_1xT).logits for model in (read, trained.model))
        assert (found - expected).abs().max() < near


@pytest.mark.parametrize("kind", KINDS)
def test_every_place_has_the_logits_that_llama_cpp_itself_tells(kind, exported, model_of):
    trained = load_trained_model(model_of(kind), "cpu", "fp32", engine="torch")
    row = np.array(rows_of(trained)[3])
    for precision in PRECISIONS:
        server = opened(exported, kind, precision, trained)
        found_TxV = torch.from_numpy(server.token_logits(row)).log_softmax(-1).numpy()
        for end in (1, 8, len(row)):
            # It tells none where the end or a part of a letter follows: another token is drawn.
            answer = server.ask(
                "/completion", prompt=row[:end].tolist(), n_predict=1, cache_prompt=False,
                n_probs=len(trained.vocabulary), logit_bias=[[len(trained.vocabulary) - 1, 100]],
            )  # fmt: skip
            told = {
                each["id"]: each["logprob"]
                for each in answer["completion_probabilities"][0]["top_logprobs"]
            }
            told_V = np.array([told[index] for index in range(len(trained.vocabulary))])
            np.testing.assert_allclose(found_TxV[end - 1], told_V, atol=1e-2)
        if precision == "f32":
            with torch.inference_mode():
                logits = trained.model(torch.from_numpy(row)[None]).logits[0]
            np.testing.assert_allclose(found_TxV, logits.log_softmax(-1), atol=2e-2)


@pytest.mark.parametrize("kind", ["bars", "texts"])
def test_the_likeliest_continuation_is_that_of_the_model(kind, exported, model_of):
    trained = load_trained_model(model_of(kind), "cpu", "fp32")
    server = opened(exported, kind, "f32", trained)
    for start in rows_of(trained)[1:3]:
        expected = generate(trained, start, greedy=True, free=True, max_new_tokens=8).sequences[0]
        answer = server.ask(
            "/completion", prompt=start, n_predict=8, temperature=0, return_tokens=True,
            logit_bias=[[trained.vocabulary.pad_id, False], [trained.vocabulary.unk_id, False]],
        )  # fmt: skip
        assert [*start, *answer["tokens"]] == expected


def test_the_end_token_ends_a_row(exported, model_of):
    trained = load_trained_model(model_of("bars"), "cpu", "fp32")
    vocabulary = trained.vocabulary
    row = "<IMG> " + " ".join(["<Z_001>"] * 16) + " </IMG> <CLS> <CLS_1>"
    server = opened(exported, "bars", "f32", trained)
    answer = server.ask("/completion", prompt=row, n_predict=5, temperature=0, return_tokens=True)
    assert answer["stop_type"] == "eos" and answer["tokens"] == [vocabulary.eos_id]
    assert answer["tokens_evaluated"] == len(row.split())


@pytest.mark.parametrize(
    "config",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"tie_word_embeddings": False},
        {"activation_function": "gelu"},
        {"n_inner": 40, "n_embd": 48, "n_head": 3},  # 48 and 40 are no blocks of 32
    ],
)
def test_every_shape_of_a_gpt2_is_computed_as_it_is(config, tmp_path):
    vocabulary = Vocabulary([*SPECIAL, *"abcdefghij"])
    trained = in_memory(vocabulary, tmp_path, **config)
    ids_T = np.array([4, 9, 6, 5, 13, 7, 7, 10])
    with torch.inference_mode():
        expected = trained.model(torch.from_numpy(ids_T)[None]).logits[0].softmax(-1)
    for precision, near in (("f32", 2e-3), ("q8_0", 0.1)):
        write_gguf(trained, tmp_path / f"{precision}.gguf", precision, "0" * 64)
        found = LlamaServer(tmp_path / f"{precision}.gguf").token_logits(ids_T)
        assert (torch.from_numpy(found).softmax(-1) - expected).abs().max() < near


# ------------------------------------------------------------------------------- tokens


def test_a_row_of_odd_tokens_is_read_and_written_as_it_stands(served):
    server = served(Vocabulary(ODD))
    drawn = random.Random(0)
    rows = [[index] for index in range(len(ODD))]
    rows += [drawn.sample(range(len(ODD)), drawn.randrange(2, 12)) for _ in range(100)]
    for row in rows:
        text = " ".join(ODD[index] for index in row)
        assert ids_in(server, text) == row
        assert server.ask("/detokenize", tokens=row)["content"].removeprefix(" ") == text


def test_tokens_that_no_row_has_are_unknown(served):
    server = served(Vocabulary([*SPECIAL, "a", "ab"]))
    assert ids_in(server, " a  zz ab yy zz ") == [4, 1, 5, 1]  # several in a row are one
    assert ids_in(served(Vocabulary(["<PAD>", "a", "b"])), "a zz") == [1, 0]


def test_a_token_with_nul_takes_no_other_tokens_place(served):
    server = served(Vocabulary([*SPECIAL, "a\0b", "a"]))
    assert ids_in(server, "a a") == [5, 5]


@pytest.fixture(scope="module")
def byte_pairs(served):
    tokenizer = TextTokenizer.learn_bpe(TEXTS * 5, SPECIAL, 400)
    return tokenizer, served(Vocabulary(tokenizer.tokens, tokenizer))


@pytest.fixture(scope="module")
def characters(served):
    tokenizer = TextTokenizer.learn_characters(TEXTS * 5, SPECIAL)
    return tokenizer, served(Vocabulary(tokenizer.tokens, tokenizer))


several = hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@several
@given(
    st.text(st.sampled_from("abcThe cat's 12,;.!?\n\t\r\v\f\x85\xa0\u3000é\u0301²Ⅷ٣日🙂<>_\u2019"))
    | st.text()
    | st.sampled_from(["<CLS>", "a <EOS> b", "<PAD>"])
)
def test_llama_cpp_cuts_texts_into_our_byte_pairs(byte_pairs, text):
    tokenizer, server = byte_pairs
    assert ids_in(server, text.replace("\0", "")) == tokenizer.encode(text.replace("\0", ""))


@several
@given(st.text(st.sampled_from(sorted({*"".join(TEXTS)}))))
def test_llama_cpp_cuts_texts_into_our_characters(characters, text):
    tokenizer, server = characters
    ids = tokenizer.encode(text)
    assert ids_in(server, text) == ids
    assert server.ask("/detokenize", tokens=ids)["content"] == text


def test_byte_pairs_without_merges_are_read(served):
    tokenizer = TextTokenizer.learn_bpe([""], SPECIAL, 260)
    server = served(Vocabulary(tokenizer.tokens, tokenizer))
    assert ids_in(server, "<PAD> <PAD>é") == tokenizer.encode("<PAD> <PAD>é")


def test_a_tokenizer_without_a_counterpart_is_refused(tmp_path):
    save_chinese(tmp_path)
    tokenizer = TextTokenizer.pretrained(str(tmp_path), SPECIAL)
    with pytest.raises(UserError, match="no tokenizer that reads texts"):
        GgufTokenizer.of(Vocabulary(tokenizer.tokens, tokenizer))
    mark = TextTokenizer.learn_characters(["▁ a"] * 5, SPECIAL)  # how GGUF writes a space
    with pytest.raises(UserError, match="no tokenizer that reads texts"):
        GgufTokenizer.of(Vocabulary(mark.tokens, mark))
    assert "▁" in mark.tokens and CHINESE[0][0] in tokenizer.tokens


# ------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_has_both_precisions_and_the_worse_decides(kind, exported):
    folder = exported(kind, "gguf")
    report = json.loads((folder / "export_report.json").read_text())
    assert sorted(report["files"]) == ["model-f32.gguf", "model-q8_0.gguf"]
    assert "llama.cpp" in report["read_by"]
    found = report["precisions"]
    assert list(found) == [*PRECISIONS]
    assert report["agreement"] == min(each["agreement"] for each in found.values())
    assert found["f32"]["tokens"]["agreement"] > 0.999
    assert 0.9 < found["q8_0"]["tokens"]["agreement"] < found["f32"]["tokens"]["agreement"]
    for each in found.values():
        assert ("labels" in each) == (kind in WITH_LABELS)
        assert kind not in WITH_LABELS or each["labels"]["agreement"] > 0.9


def test_a_file_tells_what_a_program_needs(exported, model_of):
    trained = load_trained_model(model_of("bars"), "cpu", "fp32")
    for precision, kind in (("f32", 0), ("q8_0", 7)):
        reader = gguf.GGUFReader(exported("bars", "gguf") / f"model-{precision}.gguf")

        def told(name, reader=reader):
            return reader.get_field(name).contents()

        assert told("general.architecture") == "gpt2" and told("general.file_type") == kind
        assert told("gpt2.context_length") == trained.model.config.n_positions
        assert told("tokenizer.ggml.eos_token_id") == trained.vocabulary.eos_id
        assert told("tokenizer.ggml.padding_token_id") == trained.vocabulary.pad_id
        assert told("tokenizer.ggml.unknown_token_id") == trained.vocabulary.unk_id
        assert told("tokenizer.ggml.add_bos_token") is False
        assert told("smallgpt.labels") == trained.label_names
        assert told("smallgpt.label_ids") == trained.vocabulary.label_ids
        assert told("smallgpt.temperature") == pytest.approx(trained.temperature)
        assert str(trained.folder) not in str(reader.fields)
    large, small = (
        (exported("bars", "gguf") / f"model-{precision}.gguf").stat().st_size
        for precision in PRECISIONS
    )
    assert small < large / 2


def test_matrices_that_are_no_blocks_of_32_stay_in_f32_and_are_told(run, model_of, tmp_path):
    out = tmp_path / "out"
    done = run("--model_path", model_of("no labels"), "--format", "gguf", "--output_dir", out,
               "--least_agreement", "0.5")  # fmt: skip
    told = re.search(r"model-q8_0.gguf: (\d+) of its matrices stay in f32", done.stdout)
    reader = gguf.GGUFReader(out / "model-q8_0.gguf")
    kept = [
        tensor.name
        for tensor in reader.tensors
        if len(tensor.shape) == 2 and tensor.tensor_type == 0 and "position" not in tensor.name
    ]
    assert told and int(told[1]) == len(kept) == 7  # its width is 16
    assert "7 matrices are in f32" in (out / "README.md").read_text()


@pytest.mark.parametrize("kind", ["bars", "no labels", "texts"])
def test_the_programs_of_the_readme_run_as_they_stand(kind, exported):
    folder = exported(kind, "gguf")
    text = (folder / "README.md").read_text()
    outputs = []
    for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout.strip())
    told = re.findall(r"prints\n\n```json\n(.*?)\n```", text)
    assert outputs[: len(told)] == told and len(told) == (kind in WITH_LABELS)
    assert len(outputs) == 1 + (kind in WITH_LABELS) and all(outputs)


# ------------------------------------------------------------------------------- mistakes


def test_an_export_that_agrees_too_little_is_not_written(run, model_of, tmp_path):
    done = run("--model_path", model_of("texts"), "--format", "gguf",
               "--output_dir", tmp_path / "out", "--least_agreement", "1",
               "--test_data", tmp_path / "rows.jsonl")  # fmt: skip
    assert done.returncode == 1  # no such file: nothing is written either
    done = run("--model_path", model_of("no labels"), "--format", "gguf",
               "--output_dir", tmp_path / "out", "--least_agreement", "1")  # fmt: skip
    assert done.returncode == 1 and list(tmp_path.iterdir()) == []
    assert "nothing is written" in done.stderr and "export (q8_0)" in done.stdout


@pytest.mark.parametrize("kind", ["head", "llama"])
def test_what_llama_cpp_does_not_compute_is_refused_in_a_line(kind, run, model_of, tmp_path):
    if kind == "llama":
        (tmp_path / "checkpoint").mkdir()
        save_byte_level(tmp_path / "checkpoint", "llama")
        train(train_settings(tmp_path, tmp_path / "checkpoint", num_epochs=1))
        model, told = tmp_path / "run" / "best_model", "is a llama model"
    else:
        model, told = model_of("head"), "export it as onnx"
    done = run("--model_path", model, "--format", "gguf", "--output_dir", tmp_path / "out")
    assert done.returncode == 1 and told in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def without(library, monkeypatch):
    """Make a library look as if it were not installed."""
    find = "smallgpt.export.gguf_format.importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: None if name == library else True)


def test_a_missing_library_is_named_with_its_extra(run, model_of, monkeypatch, tmp_path):
    without("gguf", monkeypatch)
    done = run("--model_path", model_of("bars"), "--format", "gguf", "--output_dir", tmp_path / "o")
    assert done.returncode == 1 and ".[gguf]" in done.stderr


def test_without_llama_cpp_the_files_are_written_and_not_checked(
    run, model_of, monkeypatch, tmp_path
):
    without("xllamacpp", monkeypatch)
    out = tmp_path / "out"
    done = run("--model_path", model_of("bars"), "--format", "gguf", "--output_dir", out)
    assert done.returncode == 0
    assert "not checked" in done.stdout and ".[gguf]" in done.stdout
    report = json.loads((out / "export_report.json").read_text())
    assert report["checked"] is False and "agreement" not in report
    assert "prints" not in (out / "README.md").read_text()


def test_a_file_that_is_cut_off_is_told(exported, tmp_path):
    path = shutil.copy(exported("bars", "gguf") / "model-f32.gguf", tmp_path / "cut.gguf")
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:-20_000])
    with pytest.raises(UserError, match="not a whole GGUF file"):
        LlamaServer(Path(path))
