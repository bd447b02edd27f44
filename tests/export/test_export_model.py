"""export_model.py: its files answer as the model does, on other engines too; report, mistakes."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pretrained_models import save_byte_level, train_settings
from transformers import AutoModelForCausalLM

from inference import classify, evaluate_file, generate, load_trained_model
from smallgpt.graphs.graph_builder import quantized
from smallgpt.tokens.text_tokenizer import TextTokenizer
from train_gpt import train

FORMATS = ("onnx", "onnx-int8")
KINDS = ("bars", "head", "head of two layers", "no labels", "texts", "adapter")
WITH_LABELS = [kind for kind in KINDS if kind != "no labels"]
WITH_TOKENS = [kind for kind in KINDS if not kind.startswith("head")]


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def classified(path, rows):
    """Probabilities of lists of ids, padded to one length with a token that is not padding."""
    longest = max(map(len, rows))
    ids_BxT = np.array([[*row, *[3] * (longest - len(row))] for row in rows])
    feed = {"input_ids": ids_BxT, "lengths": np.array([*map(len, rows)])}
    return session(path).run(None, feed)[0]


def decoded(path, ids_BxT, mask_BxC=None, places_BxT=None, cache=None):
    """Logits and the cache after some tokens."""
    model = session(path)
    B, T = ids_BxT.shape
    past = {}
    for each in model.get_inputs():
        if each.name.startswith("past"):
            past[each.name] = np.zeros((B, each.shape[1], 0, each.shape[3]), np.float32)
    past = cache or past
    before = next(iter(past.values())).shape[2]
    logits, *present = model.run(
        None,
        {
            "input_ids": ids_BxT,
            "attention_mask": np.ones((B, before + T), int) if mask_BxC is None else mask_BxC,
            "position_ids": np.tile(np.arange(before, before + T), (B, 1))
            if places_BxT is None
            else places_BxT,
            **past,
        },
    )
    return logits, dict(zip(past, present, strict=True))


def some_bodies(trained, count=6):
    """Ids of rows as they stand before the label, of different lengths."""
    random = np.random.default_rng(0)
    vocabulary = trained.vocabulary
    special = {*vocabulary.special_ids, *vocabulary.label_ids}
    usable = [index for index in range(len(vocabulary)) if index not in special]
    lengths = random.integers(2, trained.max_length - 4, count)
    return [random.choice(usable, length).tolist() for length in lengths]


# ------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("kind", WITH_LABELS)
def test_labels_have_the_calibrated_probabilities_of_the_model(kind, exported, model_of):
    trained = load_trained_model(model_of(kind), "cpu", "fp32")
    bodies = some_bodies(trained)
    told = classify(trained, bodies)
    folder = exported(kind)
    properties = session(folder / "classify.onnx").get_modelmeta().custom_metadata_map
    labels = json.loads(properties["smallgpt.labels"])
    row = json.loads(properties["smallgpt.row"])
    assert json.loads((folder / "classify.json").read_text()) == {"labels": labels, "row": row}
    shares = classified(folder / "classify.onnx", [body + row["append"] for body in bodies])
    for (label, expected), found in zip(told, shares, strict=True):
        assert labels[found.argmax()] == label
        assert dict(zip(labels, found.tolist(), strict=True)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", WITH_TOKENS)
def test_tokens_have_the_logits_of_transformers(kind, exported, model_of, tmp_path):
    trained = load_trained_model(model_of(kind), "cpu", "fp32")
    if kind == "adapter":  # plain transformers would need its base
        reference = trained.model
    else:
        reference = AutoModelForCausalLM.from_pretrained(model_of(kind)).eval()
    for ids in some_bodies(trained):
        with torch.inference_mode():
            expected = reference(torch.tensor([ids])).logits.numpy()
        path = exported(kind) / "decode.onnx"
        np.testing.assert_allclose(decoded(path, np.array([ids]))[0], expected, atol=1e-3)
        # The same token by token, by the cache.
        cache, steps = None, []
        for index in ids:
            logits, cache = decoded(path, np.array([[index]]), cache=cache)
            steps.append(logits[:, 0])
        np.testing.assert_allclose(np.stack(steps, 1), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["bars", "texts"])
def test_the_likeliest_continuation_is_that_of_the_model(kind, exported, model_of):
    trained = load_trained_model(model_of(kind), "cpu", "fp32")
    start = some_bodies(trained)[0][:2]
    expected = generate(trained, start, greedy=True, free=True, max_new_tokens=8).sequences[0]
    path = exported(kind) / "decode.onnx"
    ids, cache, new = [*start], None, start
    forbidden = [trained.vocabulary.pad_id]
    if trained.vocabulary.tokenizer is not None:
        forbidden.append(trained.vocabulary.unk_id)
    while len(ids) < len(expected):
        logits, cache = decoded(path, np.array([new]), cache=cache)
        logits[..., forbidden] = -np.inf
        new = [int(logits[0, -1].argmax())]
        ids += new
    assert ids == expected


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["bars", "head", "texts"])
def test_a_row_does_not_depend_on_its_neighbours_or_its_padding(kind, format, exported, model_of):
    trained = load_trained_model(model_of(kind), "cpu", "fp32")
    bodies = some_bodies(trained)
    path = exported(kind, format) / "classify.onnx"
    alone = np.concatenate([classified(path, [body]) for body in bodies])
    np.testing.assert_allclose(classified(path, bodies), alone, atol=2e-6)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_padding_changes_no_token(side, format, exported, model_of):
    trained = load_trained_model(model_of("bars"), "cpu", "fp32")
    path = exported("bars", format) / "decode.onnx"
    long, short = some_bodies(trained, 20)[:2]
    long = [*long, *short]
    pad = [0] * (len(long) - len(short))
    mask = [1] * len(short)
    row = [*pad, *short] if side == "left" else [*short, *pad]
    mask = [*pad, *mask] if side == "left" else [*mask, *pad]
    mask_2xT = np.array([[1] * len(long), mask])
    places_2xT = np.maximum(mask_2xT.cumsum(1) - 1, 0)
    together, cache = decoded(path, np.array([long, row]), mask_2xT, places_2xT)
    alone, own_cache = decoded(path, np.array([short]))
    real = np.flatnonzero(mask)
    np.testing.assert_allclose(together[1, real], alone[0], atol=1e-4)
    mask_2xC = np.concatenate([mask_2xT, [[1], [1]]], axis=1)
    places = np.array([[len(long)], [len(short)]])
    after, _ = decoded(path, np.array([[4], [4]]), mask_2xC, places, cache)
    np.testing.assert_allclose(
        after[1], decoded(path, np.array([[4]]), cache=own_cache)[0][0], atol=1e-4
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["bars", "head of two layers", "texts"])
def test_openvino_gives_the_same_answers(kind, format, exported, model_of):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed: the extra `dev`")
    trained = load_trained_model(model_of(kind), "cpu", "fp32")
    bodies = some_bodies(trained)
    path = exported(kind, format) / "classify.onnx"
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.compile_model(path, "CPU", exact)
    for body in bodies:
        feed = {"input_ids": np.array([body]), "lengths": np.array([len(body)])}
        np.testing.assert_allclose(model(feed)[0], classified(path, [body]), atol=1e-4)
    if (exported(kind, format) / "decode.onnx").exists():
        path = exported(kind, format) / "decode.onnx"
        model = openvino.compile_model(path, "CPU", exact)
        ids = np.array([bodies[0]])
        feed = {"input_ids": ids, "position_ids": np.arange(ids.shape[1])[None]}
        feed["attention_mask"] = np.ones_like(ids)
        for each in session(path).get_inputs():
            if each.name.startswith("past"):
                feed[each.name] = np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32)
        np.testing.assert_allclose(model(feed)["logits"], decoded(path, ids)[0], atol=2e-2)


# ------------------------------------------------------------------------------- int8


@hypothesis_settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 8), st.integers(1, 8), st.sampled_from([0, 1]), st.sampled_from([63, 127]),
    st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6]),
)  # fmt: skip
def test_whole_numbers_are_within_half_a_step_of_the_weights(
    rows, columns, axis, steps, seed, size
):
    weight = np.float32(size) * np.random.default_rng(seed).normal(size=(rows, columns))
    weight = weight.astype(np.float32)
    numbers, scale = quantized(weight, steps, axis)
    assert numbers.dtype == np.int8 and np.abs(numbers.astype(int)).max() <= steps
    assert (np.abs(numbers * scale - weight) <= 0.5001 * scale).all()


@pytest.mark.parametrize("kind", KINDS)
def test_products_in_int8_cannot_overflow_16_bits(kind, exported):
    """A CPU without VNNI adds two products of uint8 and int8 in 16 bits, and saturates."""
    folder = exported(kind, "onnx-int8")
    checked = 0
    for path in folder.glob("*.onnx"):
        graph = onnx.load(path).graph
        weights = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        for node in graph.node:
            if node.op_type == "MatMulInteger":
                assert 255 * 2 * np.abs(weights[node.input[1]].astype(int)).max() < 2**15
                checked += 1
    assert checked


def test_int8_is_a_third_of_the_size(exported):
    for name in ("classify.onnx", "decode.onnx"):
        sizes = [(exported("texts", format) / name).stat().st_size for format in FORMATS]
        assert sizes[1] < sizes[0] / 2  # of this tiny model a large part is no weights


# ------------------------------------------------------------------------------- the report


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_valid_and_the_report_has_what_was_checked(kind, exported, model_of):
    folder = exported(kind)
    report = json.loads((folder / "export_report.json").read_text())
    made = sorted(path.name for path in folder.glob("*.onnx"))
    assert sorted(report["files"]) == made
    for name in made:
        onnx.checker.check_model(folder / name, full_check=True)
        assert report["files"][name] == (folder / name).stat().st_size
    assert ("labels" in report, "tokens" in report) == (kind in WITH_LABELS, kind in WITH_TOKENS)
    assert report["agreement"] > 0.999
    for part in (report.get("labels"), report.get("tokens")):
        assert part is None or part["agreement"] > 0.999


def test_the_report_has_the_figures_of_an_evaluation(run, bars, model_of, tmp_path):
    done = run("--model_path", model_of("bars"), "--test_data", bars / "test.jsonl",
               "--output_dir", tmp_path / "out")  # fmt: skip
    assert "\n  95 % interval (Wilson)  " in done.stdout
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    trained = load_trained_model(model_of("bars"), "cpu", "fp32")
    figures = evaluate_file(trained, bars / "test.jsonl", tmp_path / "evaluation")
    assert report["labels"]["labelled_rows"] == 40
    for side in ("model", "export"):
        assert report["labels"]["accuracy"][side] == figures["accuracy"]
        assert report["labels"]["accuracy_interval"][side] == figures["accuracy_interval"]
        assert report["tokens"]["perplexity"][side] == pytest.approx(
            figures["perplexity"], rel=1e-4
        )
    assert report["tokens"]["tokens"] == figures["tokens"]


def test_the_int8_report_tells_how_answers_change(exported, model_of):
    report = json.loads((exported("bars", "onnx-int8") / "export_report.json").read_text())
    change = report["labels"]["change_of_winning_share"]
    assert 0 < change["mean"] <= change["largest"] < 0.2
    assert 0.9 < report["tokens"]["agreement"] < 1


def test_a_table_and_rows_of_which_one_is_bad_are_checked(run, model_of, tmp_path):
    body = "<IMG> " + " ".join(["<Z_001>"] * 16) + " </IMG>"
    table = tmp_path / "rows.csv"
    table.write_text(f"row,kind\n{body},1\nno such tokens,0\n{body},0\n")
    done = run("--model_path", model_of("bars"), "--test_data", table, "--tokens_column", "row",
               "--label_column", "kind", "--output_dir", tmp_path / "out")  # fmt: skip
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    assert report["labels"]["labelled_rows"] == 2
    assert "1 row could not be used, the first in line 3" in done.stderr


# ------------------------------------------------------------------------------- README.md


@pytest.mark.parametrize("kind", ["bars", "head", "no labels", "texts"])
def test_the_programs_of_the_readme_run_as_they_stand(kind, exported):
    folder = exported(kind)
    text = (folder / "README.md").read_text()
    outputs = []
    for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout.strip())
    told = re.findall(r"prints\n\n```json\n(.*?)\n```", text)
    assert outputs[: len(told)] == told and len(told) == (kind in WITH_LABELS)
    assert len(outputs) == (kind in WITH_LABELS) + (kind in WITH_TOKENS)
    assert all(outputs)


def test_the_readme_and_the_page_tell_of_pairs(run, exported, runtime, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    save_byte_level(tmp_path / "checkpoint")
    settings = train_settings(tmp_path, tmp_path / "checkpoint", num_epochs=1)
    data = tmp_path / "data"
    tokenizer = TextTokenizer.load(data / "tokenizer.json").with_separator()
    (data / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    ids = {token: index for index, token in enumerate(tokenizer.tokens)}
    (data / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    train(settings)
    out = tmp_path / "out"
    done = run("--model_path", tmp_path / "run" / "best_model", "--output_dir", out)
    assert done.returncode == 0, done.stderr
    told = "The model reads pairs: a text, ` <SEP> `, and another text. Of a pair"
    assert told in (out / "README.md").read_text()
    assert told not in (exported("texts") / "README.md").read_text()
    web = ["--format", "web", "--least_agreement", "0.5", "--output_dir", tmp_path / "web"]
    done = run("--model_path", tmp_path / "run" / "best_model", *web)
    assert done.returncode == 0, done.stderr
    for folder, of_pairs in ((tmp_path / "web", True), (exported("texts", "web"), False)):
        assert ("write ` <SEP> `" in (folder / "README.md").read_text()) == of_pairs
        assert json.loads((folder / "model" / "page.json").read_text())["pairs"] == of_pairs


# ------------------------------------------------------------------------------- mistakes


def test_an_export_that_agrees_too_little_is_not_written(run, model_of, tmp_path):
    out = tmp_path / "out"
    done = run("--model_path", model_of("no labels"), "--format", "onnx-int8",
               "--output_dir", out, "--least_agreement", "1")  # fmt: skip
    assert done.returncode == 1 and list(tmp_path.iterdir()) == []
    assert "nothing is written" in done.stderr and "--format onnx " in done.stderr
    assert "perplexity" in done.stdout  # the table shows why


def test_only_an_export_of_the_same_model_is_replaced(run, model_of, exported, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(exported("bars"), out)
    before = (out / "decode.onnx").read_bytes()
    assert run("--model_path", model_of("bars"), "--output_dir", out).returncode == 0
    assert (out / "decode.onnx").read_bytes() == before  # the same model gives the same file
    done = run("--model_path", model_of("no labels"), "--output_dir", out)
    assert done.returncode == 1 and "the export of another model" in done.stderr
    assert (out / "decode.onnx").read_bytes() == before
    done = run("--model_path", model_of("no labels"), "--output_dir", out, "--overwrite")
    assert done.returncode == 0 and not (out / "classify.onnx").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    done = run("--model_path", model_of("bars"), "--output_dir", other, "--overwrite")
    assert done.returncode == 1 and "no export" in done.stderr
    assert [path.name for path in other.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("report_lists_files", [True, False])
def test_files_of_others_within_an_export_are_never_deleted(
    report_lists_files, run, model_of, exported, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(exported("bars"), out)
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("mine")
    if not report_lists_files:  # as versions before wrote it
        report = json.loads((out / "export_report.json").read_text())
        del report["written"]
        (out / "export_report.json").write_text(json.dumps(report))
    before = sorted(out.rglob("*"))
    for flags in ([], ["--overwrite"]):
        done = run("--model_path", model_of("bars"), "--output_dir", out, *flags)
        assert done.returncode == 1 and "notes, notes/mine.txt; move it" in done.stderr
        assert sorted(out.rglob("*")) == before and [*tmp_path.iterdir()] == [out]
    shutil.rmtree(out / "notes")
    assert run("--model_path", model_of("bars"), "--output_dir", out).returncode == 0


def test_unknown_tokens_name_no_option_that_the_command_lacks(run, model_of, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"tokens": "not known", "label": "0"}\n')
    words = ["--model_path", model_of("bars"), "--output_dir", tmp_path / "out"]
    done = run(*words, "--test_data", tmp_path / "rows.jsonl")
    assert done.returncode == 1 and "is not in the vocabulary" in done.stderr
    assert "--unknown_token" not in done.stderr


def test_rows_that_are_gone_ask_for_others(run, model_of, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(model_of("bars"), model)
    settings = (model / "settings.yaml").read_text()
    changed = re.sub(r"(?m)^data_path: .*$", "data_path: gone.jsonl", settings)
    (model / "settings.yaml").write_text(changed)
    done = run("--model_path", model, "--output_dir", tmp_path / "out")
    assert done.returncode == 1 and "--test_data FILE" in done.stderr


def test_other_architectures_are_refused_in_a_line(run, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    save_byte_level(tmp_path / "checkpoint", "llama")
    train(train_settings(tmp_path, tmp_path / "checkpoint", num_epochs=1))
    model = tmp_path / "run" / "best_model"
    done = run("--model_path", model, "--output_dir", tmp_path / "out")
    assert done.returncode == 1 and "is a llama model" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "onxx"], "did you mean onnx?"),
        (["--label_column", "x"], "--label_column needs --test_data"),
        (["--least_agreement", "2"], "least_agreement"),
    ],
)
def test_a_wrong_flag_is_told(words, told, run):
    done = run(*words)
    assert done.returncode == 2 and told in done.stderr


def test_a_missing_library_is_named_with_its_extra(run, model_of, monkeypatch, tmp_path):
    monkeypatch.setattr("smallgpt.export.onnx_files.importlib.util.find_spec", lambda name: None)
    done = run("--model_path", model_of("bars"), "--output_dir", tmp_path / "out")
    assert done.returncode == 1 and ".[onnx]" in done.stderr


def test_a_missing_model_is_told_with_how_to_train_one(run, tmp_path):
    done = run("--model_path", tmp_path / "none")
    assert done.returncode == 1 and "none: no model there" in done.stderr
