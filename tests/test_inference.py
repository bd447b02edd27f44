"""Using a model: next tokens, generation, classification, the evaluation folder, mistakes."""

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inference import (
    classify,
    classify_file,
    evaluate_file,
    generate,
    load_trained_model,
    main,
    next_tokens,
)
from smallgpt.command import run_command
from smallgpt.console import printable_lines
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation.folder import named_after
from smallgpt.evaluation.report import describe_figures
from smallgpt.evaluation.scoring import score_rows
from smallgpt.files.locks import hold_folder
from smallgpt.inference.classify import classify_dataset
from smallgpt.inference.evaluate import ask_unlabelled, evaluate_given
from smallgpt.inference.files import read_rows
from smallgpt.model.build import build_model
from smallgpt.model.folder import TrainedModel, save_model_folder
from smallgpt.model.hardware import Precision
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary
from train_gpt import train

ROOT = Path(__file__).parent.parent
SIDE = 4  # pixels of an image, patches of one pixel


def image_of(label: int, random: np.random.Generator) -> np.ndarray:
    """A bright bar at the top (0) or at the bottom (1), with some noise."""
    image = random.integers(0, 2, (SIDE, SIDE))
    image[0 if label == 0 else -1] = 3
    return image


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model trained for a moment on 4x4 images of two classes, and a test file."""
    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    codes = np.arange(4, dtype=np.float32)[:, None]
    codebook = Codebook(codes, 1, SIDE, SIDE, 1, 0.0, 3.0, 3.0)
    codebook.save(folder / "codebook.npz")
    tokens = ["<PAD>", "<UNK>", "<IMG>", "</IMG>", "<CLS>", "<EOS>"]
    tokens += [f"<Z_{code:03d}>" for code in range(4)] + ["<CLS_0>", "<CLS_1>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    for name, count in (("train", 160), ("test", 40)):
        with open(folder / f"{name}.jsonl", "w") as handle:
            for number in range(count):
                body = image_of(number % 2, random).ravel()
                text = " ".join(f"<Z_{code:03d}>" for code in body)
                row = {"tokens": f"<IMG> {text} </IMG>", "label": number % 2, "id": f"r{number}"}
                handle.write(json.dumps(row) + "\n")
    result = train(
        TrainSettings(
            data_path=str(folder / "train.jsonl"),
            vocab_path=str(folder / "vocab.json"),
            output_dir=str(folder / "run"),
            n_layer=2, n_head=2, n_embd=32, n_positions=32, max_length=32, num_epochs=25,
            batch_size=16, learning_rate=1e-2, precision="fp32", device="cpu",
        )
    )  # fmt: skip
    return folder, result.folder.best_model


@pytest.fixture(scope="module")
def trained(world):
    return load_trained_model(world[1], "cpu", "fp32")


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def body_of(label: int) -> str:
    image = image_of(label, np.random.default_rng(5)).ravel()
    return "<IMG> " + " ".join(f"<Z_{code:03d}>" for code in image) + " </IMG>"


def run(world, *flags: str, stdin: str = "") -> subprocess.CompletedProcess:
    """The command in this process, which has loaded torch already."""
    argv = ["inference.py", "--model_path", str(world[1]), "--device", "cpu", *flags]
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        patch.setattr(sys, "argv", argv)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        run_command(main)
    return subprocess.CompletedProcess(argv, left.value.code, out.getvalue(), err.getvalue())


# ------------------------------------------------------------------------------- next token


def test_next_tokens_are_those_of_plain_transformers(trained, world):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = "<IMG> <Z_003> <Z_003>"
    model = AutoModelForCausalLM.from_pretrained(world[1]).eval()
    tokenizer = AutoTokenizer.from_pretrained(world[1])
    with torch.no_grad():
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    expected = logits.softmax(-1).topk(5)
    found = next_tokens(trained, prompt)
    assert [token for token, _ in found] == tokenizer.convert_ids_to_tokens(expected.indices)
    assert [share for _, share in found] == pytest.approx(expected.values.tolist(), abs=1e-6)


def test_the_next_token_costs_one_row_of_logits_however_long_the_prompt(trained):
    places = []
    hook = trained.model.lm_head.register_forward_hook(
        lambda module, inputs, output: places.append(inputs[0].shape[1])
    )
    try:
        next_tokens(trained, body_of(0))
    finally:
        hook.remove()
    assert max(places, default=1) == 1


def test_unknown_token_is_named_with_the_nearest(trained):
    with pytest.raises(UserError, match=r"'<Z_03>' \(did you mean <Z_0"):
        next_tokens(trained, "<IMG> <Z_03>")


def test_prompt_beyond_the_trained_length_is_refused(trained):
    with pytest.raises(UserError, match="shorten it"):
        next_tokens(trained, "<Z_000> " * 33)


def test_interactive_reads_answers_and_leaves_at_quit(world):
    done = run(world, "--json", stdin="<IMG>\nnonsense\n\n<IMG> <Z_003>\nquit\n<IMG>\n")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a.get("prompt") for a in answers] == ["<IMG>", None, "<IMG> <Z_003>"]
    assert "nonsense" in answers[1]["error"]
    shares = [entry["probability"] for entry in answers[0]["next_tokens"]]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True)


def test_interactive_leaves_at_the_end_of_input(world):
    assert run(world).returncode == 0


def test_prompt_flag_answers_once(world):
    done = run(world, "--prompt", "<IMG>")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 6


# ------------------------------------------------------------------------------- generate


def test_generated_rows_start_with_the_prompt_and_stop_at_eos(trained):
    result = generate(trained, "<IMG> <Z_003>", count=20, seed=1)
    eos = trained.vocabulary.eos_id
    for row in result.sequences:
        assert trained.vocabulary.decode(row[:2]) == "<IMG> <Z_003>"
        assert eos not in row[:-1] and len(row) <= trained.max_length
        assert row[-1] == eos or len(row) == trained.max_length
        assert trained.vocabulary.pad_id not in row


def test_greedy_equals_transformers_generate(trained, world):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(world[1]).eval()
    prompt = torch.tensor([trained.vocabulary.encode("<IMG>")])
    expected = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=31
    )[0].tolist()
    assert generate(trained, "<IMG>", greedy=True).sequences == [expected]


def test_seed_repeats_the_sample(trained):
    one, again, other = (generate(trained, count=5, seed=s).sequences for s in (1, 1, 2))
    assert one == again != other


def test_too_many_new_tokens_are_cut_and_told(trained):
    result = generate(trained, "<IMG>", max_new_tokens=500)
    assert "cut from 500 to 20" in result.note
    assert len(result.sequences[0]) <= 21


def test_prompt_that_fills_the_model_is_refused(trained):
    with pytest.raises(UserError, match="nothing can follow"):
        generate(trained, "<Z_000> " * 32)


@pytest.mark.parametrize("label", ["0", "1"])
def test_guided_rows_are_read_as_the_label(trained, label):
    result = generate(trained, count=4, label=label, seed=3)
    assert len(result.sequences) == 4 and "%" in result.note
    for row in result.sequences:
        text = trained.vocabulary.decode(row)
        assert text.endswith(f"<CLS> <CLS_{label}> <EOS>")
        assert classify(trained, text)[0] == label


def test_a_label_may_be_asked_for_as_its_rows_spell_it(trained):
    tokens = [token.replace("CLS_1", "CLS_new_york") for token in trained.vocabulary.tokens]
    spaced = dataclasses.replace(trained, vocabulary=Vocabulary(tokens))
    asked = [generate(spaced, label=label, seed=3).sequences for label in ("new york", "new_york")]
    assert asked[0] == asked[1]


def test_unknown_label_is_refused(trained):
    with pytest.raises(UserError, match="no such label; it has 0, 1"):
        generate(trained, label="9")


def test_images_are_drawn(world, tmp_path):
    picture = tmp_path / "sheet.png"
    done = run(world, "--mode", "generate", "--num_return_sequences", "6", "--seed", "1",
               "--image", str(picture), "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["sequences"]) == 6 and answer["seed"] == 1
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width > 100


# ------------------------------------------------------------------------------- classify


def test_shares_are_a_softmax_over_the_label_tokens_alone(trained):
    vocabulary = trained.vocabulary
    ids = torch.tensor([vocabulary.encode(body_of(0) + " <CLS>")])
    with torch.no_grad():
        logits = trained.model(ids).logits[0, -1, vocabulary.label_ids]
    assert trained.temperature != 1
    expected = (logits / trained.temperature).softmax(-1).tolist()
    label, shares = classify(trained, body_of(0))
    assert [shares["0"], shares["1"]] == pytest.approx(expected, abs=1e-6)
    assert label == max(shares, key=shares.get)


@pytest.mark.parametrize(
    "tail",
    ["", " <CLS>", " <EOS>", " <CLS> <EOS>", " <CLS> <CLS> <EOS>", " <CLS> <CLS_0> <EOS>",
     " <CLS> <CLS_1> <EOS>"],
)  # fmt: skip
def test_tail_of_the_prompt_does_not_change_the_answer(trained, tail):
    assert classify(trained, body_of(1) + tail)[1] == pytest.approx(
        classify(trained, body_of(1))[1], abs=1e-6
    )


def test_classify_file_answers_every_row_in_order(trained, world, tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [
        {"tokens": body_of(0), "key": "first"},
        {"tokens": "nonsense"},
        {"tokens": body_of(1), "label": 1},
        {"tokens": "<IMG>"},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictions = classify_file(trained, data, tmp_path / "out")
    assert predictions == lines_of(tmp_path / "out" / "predictions.jsonl")
    assert [p["line"] for p in predictions] == [1, 2, 3, 4]
    assert predictions[0]["row"] == {"key": "first"} and predictions[0]["label"] is None
    assert predictions[1]["prediction"] is None and "nonsense" in predictions[1]["reason"]
    assert predictions[2]["label"] == "1"
    for row in (predictions[0], predictions[2], predictions[3]):
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["confidence"] == max(row["probabilities"].values())
        assert row["probabilities"][row["prediction"]] == row["confidence"]


def test_a_label_that_the_model_never_learned_is_no_hindrance_to_naming_one(trained, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"tokens": body_of(0), "label": "never learned"}) + "\n")
    (found,) = classify_file(trained, data, tmp_path / "out")
    assert found["prediction"] in ("0", "1") and found["label"] is None


def test_a_file_without_one_row_to_classify_is_refused(trained, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"tokens": "nonsense"}\nnot json\n')
    with pytest.raises(UserError, match="not one of 2 rows can be classified"):
        classify_file(trained, data, tmp_path / "out")


def test_a_prompt_too_long_to_be_read_whole_is_classified_and_told(trained, capsys):
    argv = ["--model_path", str(trained.folder), "--device", "cpu", "--mode", "classify"]
    assert main([*argv, "--prompt", "<IMG> " + "<Z_000> " * 40]) == 0
    left_out = 41 + 3 - trained.max_length  # a label tail of three has its place
    assert f"{left_out} tokens left out of the body" in capsys.readouterr().err
    assert main([*argv, "--prompt", body_of(0)]) == 0
    assert "left out" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, vocabulary):
    """Models whose weights were drawn and not trained, wide enough apart to show any difference."""
    made = {}
    for classifier in ("tokens", "head"):
        settings = TrainSettings(
            n_layer=1, n_head=2, n_embd=16, n_positions=12, max_length=12, classifier=classifier
        )
        model = build_model(settings, vocabulary).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(10)
        device, precision = torch.device("cpu"), Precision("fp32", "")
        folder = tmp_path_factory.mktemp(classifier)
        made[classifier] = TrainedModel(
            model, vocabulary, settings, device, precision, None, folder, {}
        )
    return made


TAILS_OF_A_LABELLED_ROW = ("", "<EOS>", "<CLS>", "<CLS> <EOS>", "<CLS> <CLS> <EOS>")
BODIES = st.lists(st.sampled_from(["A", "B", "C", "<CLS>", "<IMG>", "<EOS>"]), max_size=20).map(
    lambda tokens: " ".join([*tokens, "D"])
)


@given(bodies=st.lists(BODIES, min_size=1, max_size=8), batch_size=st.sampled_from([1, 7, 64]))
@settings(max_examples=6)
@pytest.mark.parametrize("classifier", ["tokens", "head"])
def test_a_row_is_told_alike_with_and_without_its_label_wherever_it_is_asked(
    untrained, tmp_path_factory, classifier, bodies, batch_size
):
    trained = untrained[classifier]
    labelled = [{"tokens": f"{body} {tail}", "label": label} for body in bodies
                for tail in TAILS_OF_A_LABELLED_ROW for label in (0, "cat")]  # fmt: skip
    labelled += [{"tokens": f"{body} <CLS> <CLS_1> <EOS>"} for body in bodies]
    asked = [{"tokens": row["tokens"]} for row in labelled]
    plain = [{"tokens": f"{body} {tail}"} for body in bodies for tail in ("", "<EOS>", "<CLS>")]
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"

    def read(rows: list[dict], for_label: bool):
        order = np.random.default_rng(len(rows)).permutation(len(rows))
        path.write_text("".join(json.dumps(rows[place]) + "\n" for place in order))
        dataset = read_rows(trained, path, for_label).dataset
        assert not dataset.bad_rows
        return dataset

    def check(dataset, shares):
        for record, log_probs_L in zip(dataset.records, shares.log_probs_NxK, strict=True):
            body = record["tokens"][: record["tokens"].rindex("D") + 1]
            expected = [alone[body][name] for name in trained.vocabulary.labels]
            assert np.exp(log_probs_L) == pytest.approx(expected, abs=1e-5)

    alone = {body: classify(trained, body)[1] for body in bodies}
    for rows in (labelled, asked, plain):
        dataset = read(rows, for_label=True)
        check(dataset, classify_dataset(trained, dataset, batch_size))
    for rows in (labelled, [row for row in plain if " " in row["tokens"].strip()]):
        if rows:
            dataset = read(rows, for_label=False)
            scores = score_rows(trained.model, dataset, trained.precision, batch_size=batch_size)
            ask_unlabelled(trained, dataset, scores, batch_size)
            check(dataset, scores.label_probs)


def test_a_head_reads_a_row_again_only_where_the_room_for_a_tail_cuts_it(untrained, tmp_path):
    trained, read = untrained["head"], []
    path = tmp_path / "rows.jsonl"
    rows = [{"tokens": "A B"}, {"tokens": "A " * 11}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    hook = trained.model.score.register_forward_hook(lambda *args: read.append(len(args[2])))
    evaluate_file(trained, path, tmp_path / "out")
    hook.remove()
    assert sum(read) == 2 + 1
    told = lines_of(tmp_path / "out" / "predictions.jsonl")
    assert told[0]["probabilities"] == pytest.approx(classify(trained, "A B")[1], abs=1e-6)
    assert told[1]["probabilities"] == pytest.approx(classify(trained, "A " * 9)[1], abs=1e-6)


def test_a_row_that_names_a_label_in_its_body_is_scored_and_not_asked(untrained, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"tokens": "A <CLS_1> B"}, {"tokens": "A B"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate_file(untrained["tokens"], path, tmp_path / "out")
    told = lines_of(tmp_path / "out" / "predictions.jsonl")
    assert told[0]["prediction"] is None and told[0]["token_count"] == 2
    assert told[1]["prediction"] is not None


def test_file_and_prompt_agree(trained, world, tmp_path):
    first = lines_of(world[0] / "test.jsonl")[0]
    from_file = classify_file(trained, world[0] / "test.jsonl", tmp_path)[0]
    # Sums in fp32 over other batches differ in the last bits.
    assert from_file["probabilities"] == pytest.approx(
        classify(trained, first["tokens"])[1], rel=1e-5
    )


# ------------------------------------------------------------------------------- evaluate


@pytest.fixture(scope="module")
def evaluation(trained, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    figures = evaluate_file(trained, world[0] / "test.jsonl", folder)
    return figures, lines_of(folder / "predictions.jsonl"), folder


def test_model_has_learned_the_bars(evaluation):
    assert evaluation[0]["accuracy"] > 0.9


def test_row_scores_equal_those_of_plain_transformers(evaluation, world):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(world[1]).eval()
    ids_of = json.loads((world[1] / "vocab.json").read_text())
    records = lines_of(world[0] / "test.jsonl")
    for record, row in zip(records[:5], evaluation[1][:5], strict=True):
        text = f"{record['tokens']} <CLS> <CLS_{record['label']}> <EOS>"
        ids = torch.tensor([[ids_of[token] for token in text.split()]])
        with torch.no_grad():
            out = model(ids, labels=ids)
        assert row["token_count"] == ids.shape[1] - 1
        assert row["nll_sum"] == pytest.approx(out.loss.item() * row["token_count"], abs=1e-4)
        right = (out.logits[0, :-1].argmax(-1) == ids[0, 1:]).sum().item()
        assert row["correct_tokens"] == right


def test_own_keys_come_back_untouched(evaluation, world):
    records = lines_of(world[0] / "test.jsonl")
    assert [row["row"] for row in evaluation[1]] == [{"id": record["id"]} for record in records]


def test_pictures_are_there(evaluation):
    assert {path.suffix for path in evaluation[2].iterdir()} == {".json", ".jsonl", ".png"}
    for name in ("confusion_matrix", "class_accuracy", "reliability"):
        assert (evaluation[2] / f"{name}.png").stat().st_size > 1000


def test_mistakes_are_drawn_from_their_tokens(trained, tmp_path):
    rows = [{"tokens": body_of(0), "label": number % 2} for number in range(6)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate_file(trained, data, tmp_path / "out")
    with Image.open(tmp_path / "out" / "mistakes.png") as image:
        assert image.format == "PNG" and image.width > 300
    data.write_text(json.dumps(rows[0]) + "\n")
    evaluate_file(trained, data, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "mistakes.png").exists()


def test_batch_size_does_not_change_the_figures(trained, world, tmp_path, evaluation):
    figures = evaluate_file(trained, world[0] / "test.jsonl", tmp_path, batch_size=3)
    assert figures["perplexity"] == pytest.approx(evaluation[0]["perplexity"], rel=1e-6)
    assert figures["accuracy"] == evaluation[0]["accuracy"]


def test_file_without_labels_gives_the_language_figures(world, tmp_path):
    data = tmp_path / "plain.jsonl"
    data.write_text(json.dumps({"tokens": body_of(0) + " <EOS>"}) + "\n")
    done = run(world, "--test_data", str(data), "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "label figures need rows with labels" in done.stdout
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["perplexity"] > 1 and "accuracy" not in figures
    assert lines_of(tmp_path / "out" / "predictions.jsonl")[0]["prediction"] in ("0", "1")


def test_row_that_cannot_be_scored_is_kept_with_its_reason(trained, tmp_path):
    data = tmp_path / "mixed.jsonl"
    good = json.dumps({"tokens": body_of(0), "label": 0})
    lines = [good, "not json", json.dumps({"tokens": "<IMG> <Z_000>", "label": 5, "k": 1}), good]
    data.write_text("\n".join(lines) + "\n")
    figures = evaluate_file(trained, data, tmp_path / "out")
    rows = lines_of(tmp_path / "out" / "predictions.jsonl")
    assert (figures["records"], figures["unscored"], figures["labelled_records"]) == (4, 2, 2)
    assert [row["line"] for row in rows] == [1, 2, 3, 4]
    assert "not valid JSON" in rows[1]["reason"]
    assert "<CLS_5>" in rows[2]["reason"] and rows[2]["row"] == {"k": 1}


def test_own_key_that_utf8_cannot_hold_comes_back(trained, tmp_path):
    data = tmp_path / "surrogate.jsonl"
    row = {"tokens": body_of(0), "label": 0, "note": "\ud800 猫"}
    data.write_text(json.dumps(row) + "\n")
    evaluate_file(trained, data, tmp_path / "out")
    assert lines_of(tmp_path / "out" / "predictions.jsonl")[0]["row"] == {"note": row["note"]}


def test_trained_length_cuts_rows_again(trained, tmp_path):
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"tokens": "<IMG> " + "<Z_000> " * 100, "label": 0}) + "\n")
    figures = evaluate_file(trained, data, tmp_path / "out")
    row = lines_of(tmp_path / "out" / "predictions.jsonl")[0]
    assert row["token_count"] == trained.max_length - 1
    left_out = 104 - trained.max_length  # with the label tail
    assert (figures["rows_cut"], figures["tokens_left_out"]) == (1, left_out)
    told = describe_figures(figures, False)
    assert f"1 row cut to the trained length, {left_out} tokens left out" in told


# ------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mode", "evaluate"], "--test_data"),
        (["--mode", "classify"], "--prompt"),
        (["--mode", "generate", "--test_data", "x"], "does not go with"),
        (["--image", "x.png"], "--mode generate"),
        (["--mode", "sing"], "not one of"),
        (["--top_p", "1.5"], "out of range"),
        (["--temperature", "0"], r"out of range \(above 0\); --greedy always takes the likeliest"),
        (["--mode", "generate", "--label", "1", "--greedy"], "drop one"),
        (["--mode", "generate", "--greedy", "--num_return_sequences", "3"], "the same row"),
        (["--mode", "generate", "--greedy", "--temperature", "2"], "does not sample"),
        (["--mode", "generate", "--image", "x.txt"], "must end in .png"),
        (["--overwrite"], "--overwrite needs --test_data, --images or --image"),
    ],
)
def test_contradicting_flags_are_refused(flags, words):
    with pytest.raises(SettingsError, match=words):
        main(flags)


def test_missing_model_is_told_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"train_gpt\.py"):
        main(["--model_path", str(tmp_path / "nothing")])


def test_run_folder_instead_of_its_model_is_told(world):
    with pytest.raises(UserError, match=r"this is a run; name its model: .*best_model"):
        main(["--model_path", str(world[1].parent)])


def test_wrong_model_path_waits_for_no_library(tmp_path):
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['inference.py', '--model_path', {str(tmp_path / 'absent')!r}]\n"
        "try:\n"
        "    runpy.run_path('inference.py', run_name='__main__')\n"
        "except SystemExit as leaving:\n"
        "    print(leaving.code, {'torch', 'numpy', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "1 set()\n" and "absent: no model there" in done.stderr


def test_label_token_in_a_prompt_is_refused(trained):
    with pytest.raises(UserError, match=r"^a label token stands before"):
        classify(trained, "<IMG> <CLS_1> <Z_000> </IMG>")


def test_rows_without_all_codes_are_told_when_drawn(world, tmp_path):
    done = run(world, "--mode", "generate", "--max_new_tokens", "3", "--num_return_sequences", "2",
               "--image", str(tmp_path / "few.png"))  # fmt: skip
    assert done.returncode == 0
    assert "2 of 2 rows do not have 16 codes" in done.stderr


def test_closed_input_ends_the_interactive_prompt(world):
    line = f"{sys.executable} inference.py --model_path {world[1]} <&-"
    assert subprocess.run(["bash", "-c", line], cwd=ROOT, check=False).returncode == 0


def test_missing_test_file_is_told(world):
    done = run(world, "--test_data", "nothing.jsonl")
    assert done.returncode == 1
    assert "nothing.jsonl: no such file" in done.stderr and "Traceback" not in done.stderr


def test_foreign_vocabulary_is_refused(world, tmp_path):
    other = tmp_path / "vocab.json"
    other.write_text('{"<PAD>": 0, "a": 1}')
    with pytest.raises(UserError, match="not the vocabulary"):
        load_trained_model(world[1], vocab_path=other)
    load_trained_model(world[1], vocab_path=world[0] / "vocab.json")


def test_file_without_one_good_row_is_told(world, tmp_path):
    data = tmp_path / "bad.jsonl"
    data.write_text("{}\n")
    done = run(world, "--test_data", str(data), "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "bad.jsonl:1: no `tokens`" in done.stderr


# ------------------------------------------------------------------------------- odd names


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory):
    """A model of random weights whose tokens and labels hold what a terminal would obey."""
    folder = tmp_path_factory.mktemp("odd")
    tokens = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", "\x1b[31mA", "\u202eB", "好"]
    vocabulary = Vocabulary([*tokens, "<CLS_\x1b[2J>", "<CLS_好评>"])
    settings = TrainSettings(n_layer=1, n_head=2, n_embd=16, n_positions=16, max_length=16)
    model = build_model(settings, vocabulary)
    save_model_folder(model, folder / "model", vocabulary, settings, None)
    return folder / "model"


@pytest.mark.parametrize(
    "flags",
    [
        ["--prompt", "好"],
        ["--mode", "generate", "--prompt", "\x1b[31mA", "--num_return_sequences", "20"],
        ["--mode", "classify", "--prompt", "好"],
        ["--mode", "classify", "--test_data", "rows.jsonl"],
        ["--test_data", "rows.jsonl"],
    ],
)
def test_what_a_terminal_would_obey_is_never_printed(odd_model, flags, capsys, monkeypatch):
    monkeypatch.chdir(odd_model.parent)
    rows = [{"tokens": "好 \u202eB", "label": "\x1b[2J"}, {"tokens": "好", "label": "\x1b[9m"}] * 3
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["--model_path", str(odd_model), "--device", "cpu", "--seed", "1", *flags]
    main(argv)
    told = "".join(capsys.readouterr())
    assert told == printable_lines(told) and r"\x1b" in told
    main([*argv, "--json"])
    told = capsys.readouterr().out
    assert told == printable_lines(told)
    values = [json.loads(line) for line in told.splitlines()]
    assert "\x1b" in json.dumps(values, ensure_ascii=False).replace(r"\u001b", "\x1b")


# ------------------------------------------------------------------------------- from Python


def test_a_labelled_row_takes_no_more_than_the_trained_length(untrained):
    trained = untrained["tokens"]  # its 12 positions suffice for 9 of a body
    lengths = {
        len(row)
        for seed in range(6)
        for row in generate(trained, "A", label="cat", count=1, seed=seed).sequences
    }
    assert lengths and max(lengths) <= trained.max_length
    label = classify(trained, "A B C D A B C D A")[0]
    result = generate(trained, "A B C D A B C D", label=label, max_new_tokens=99)
    assert "cut from 99 to 1: " in result.note and "3 of them for the label" in result.note
    with pytest.raises(UserError, match="nothing can follow"):
        generate(trained, "A B C D A B C D A", label="cat")
    with pytest.raises(UserError, match="label token already"):
        generate(trained, "A <CLS_1>", label="cat")


def test_a_label_is_asked_for_only_where_a_row_can_end_in_one(untrained):
    vocabulary = Vocabulary(["<PAD>", "<CLS>", "A", "<CLS_1>"])
    trained = dataclasses.replace(untrained["tokens"], vocabulary=vocabulary)
    with pytest.raises(UserError, match="needs <CLS> and <EOS>"):
        generate(trained, "A", label="1")


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": 0},
        {"temperature": float("nan")},
        {"max_new_tokens": 0},
        {"batch_size": 0},
        {"top_k": -1},
        {"top_p": 0},
        {"num_return_sequences": 0},
        {"seed": -1},
        {"label": 1},
    ],
    ids=str,
)
def test_python_refuses_what_the_command_line_refuses_and_names_it(untrained, tmp_path, arguments):
    (name,) = arguments
    given = {"count" if name == "num_return_sequences" else name: arguments[name]}
    (shown,) = given
    with pytest.raises(SettingsError, match=f"^{shown}: "):
        generate(untrained["tokens"], "A", **given)
    if name in ("batch_size", "max_new_tokens"):
        with pytest.raises(SettingsError, match=name):
            evaluate_file(untrained["tokens"], "rows.jsonl", tmp_path, **given)
    if name == "batch_size":
        with pytest.raises(SettingsError, match=name):
            classify_file(untrained["tokens"], "rows.jsonl", tmp_path, **given)


def test_no_next_tokens_is_no_count(untrained):
    with pytest.raises(UserError, match="count: 0 is out of range"):
        next_tokens(untrained["tokens"], "A", count=0)


def state_of_the_process() -> list:
    return [
        torch.get_rng_state().tolist(),
        repr(np.random.get_state()),
        random.getstate(),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        threading.active_count(),
        dict(os.environ),
        len(os.listdir("/proc/self/fd")),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        os.getcwd(),
    ]


def test_a_call_leaves_nothing_behind(trained, world, tmp_path):
    test_file = world[0] / "test.jsonl"

    def use():
        generate(trained, count=2)
        generate(trained, count=1, label="1")
        next_tokens(trained, "<IMG>")
        classify(trained, body_of(0))
        classify_file(trained, test_file, tmp_path / "told")
        evaluate_file(trained, test_file, tmp_path / "scored")
        load_trained_model(trained.folder, "cpu", "fp32")

    use()  # what is imported or drawn for the first time may stay
    before = state_of_the_process()
    use()
    for was, is_now in zip(before, state_of_the_process(), strict=True):
        assert was == is_now
    assert not trained.model.training


# ------------------------------------------------------------------------------- files written


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard"])
@pytest.mark.parametrize("name", ["predictions.jsonl", "metrics.json", "reliability.png"])
@pytest.mark.parametrize("use", [classify_file, evaluate_file])
def test_no_evaluation_overwrites_its_own_input(untrained, tmp_path, use, name, link):
    path = tmp_path / name
    path.write_text('{"tokens": "A B"}\n')
    given = tmp_path / "other.jsonl"
    if link == "symbolic":
        given.symlink_to(path)
    elif link == "hard":
        given.hardlink_to(path)
    else:
        given = tmp_path / "." / name
    with pytest.raises(SettingsError, match="would be overwritten: give another --output_dir"):
        use(untrained["tokens"], given, tmp_path)
    assert path.read_text() == '{"tokens": "A B"}\n'


@pytest.mark.parametrize("name", ["predictions.jsonl", "metrics.json", "mistakes.png"])
@pytest.mark.parametrize("use", [classify_file, evaluate_file])
def test_no_evaluation_overwrites_files_of_others(untrained, world, tmp_path, use, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} was left by no evaluation, and one writes under"):
        use(untrained["tokens"], world[0] / "test.jsonl", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_no_picture_overwrites_a_file_of_the_model(world, tmp_path):
    vocabulary = world[1] / "vocab.json"
    before = vocabulary.read_bytes()
    picture = tmp_path / "sheet.png"
    picture.symlink_to(vocabulary)
    with pytest.raises(SettingsError, match="would overwrite a file of the model"):
        main(["--model_path", str(world[1]), "--mode", "generate", "--image", str(picture)])
    assert vocabulary.read_bytes() == before


def test_a_link_to_nothing_in_the_model_folder_keeps_no_picture_from_being_drawn(world, tmp_path):
    shutil.copytree(world[1], tmp_path / "model")
    (tmp_path / "model" / "gone").symlink_to("nowhere")
    (tmp_path / "sheet.png").symlink_to("nowhere")
    argv = ["--model_path", str(tmp_path / "model"), "--device", "cpu", "--mode", "generate"]
    assert main([*argv, "--image", str(tmp_path / "sheet.png")]) == 0


def test_a_file_in_the_place_of_the_output_folder_is_told(trained, world, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out is a file: give a folder as --output_dir"):
        evaluate_file(trained, world[0] / "test.jsonl", tmp_path / "out")


def test_a_picture_that_cannot_be_drawn_costs_no_figures(trained, world, tmp_path):
    (tmp_path / "codebook.npz").write_text("damaged")
    damaged = dataclasses.replace(trained, codebook=tmp_path / "codebook.npz")
    rows = [{"tokens": body_of(number % 2), "label": 1} for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = read_rows(trained, tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=r"codebook\.npz"):
        evaluate_given(damaged, given, tmp_path / "out", 64, None, False)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["records"] == 4


def test_rows_that_are_cut_to_be_classified_are_told(world, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"tokens": "<Z_000> " * 60}) + "\n")
    done = run(world, "--mode", "classify", "--test_data", str(tmp_path / "rows.jsonl"),
               "--output_dir", str(tmp_path / "out"), "--json")  # fmt: skip
    assert "rows.jsonl: 1 row of 63 tokens cut to max_length, " in done.stderr
    assert json.loads(done.stdout)["line"] == 1


def test_labels_told_into_the_folder_of_an_evaluation_stand_alone(trained, world, tmp_path):
    evaluate_file(trained, world[0] / "test.jsonl", tmp_path)
    assert len(list(tmp_path.iterdir())) > 2
    (tmp_path / "mine.png").write_text("not an evaluation's")
    classify_file(trained, world[0] / "test.jsonl", tmp_path, overwrite=True)
    left = {"predictions.jsonl", "made_from.json", "mine.png"}
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize("name", ["best_model", "best_model/.", ".", "../best_model"])
def test_result_files_lie_beside_the_model_folder_however_it_is_named(
    world, tmp_path, monkeypatch, name
):
    shutil.copytree(world[1], tmp_path / "best_model")
    monkeypatch.chdir(tmp_path if name.startswith("best") else tmp_path / "best_model")
    before = set(os.listdir(tmp_path / "best_model"))
    flags = ["--model_path", name, "--test_data", str(world[0] / "test.jsonl"), "--device", "cpu"]
    assert main([*flags, "--mode", "classify"]) == 0
    assert (tmp_path / "classification_test" / "predictions.jsonl").exists()
    assert set(os.listdir(tmp_path / "best_model")) == before


# ------------------------------------------------------------------------------- nothing is lost


@pytest.fixture
def two_files(trained, tmp_path):
    """A model folder of its own, and a file of rows beside another of the same name."""
    shutil.copytree(trained.folder, tmp_path / "model")
    for number, place in enumerate(("a", "b")):
        (tmp_path / place).mkdir()
        rows = [{"tokens": body_of(k) + " <EOS>", "k": number} for k in (0, 1)]  # no pictures
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / place / "test.jsonl").write_text(text)
    return tmp_path


def evaluate_in(folder, data, *flags):
    argv = ["--model_path", str(folder / "model"), "--device", "cpu", "--precision", "fp32"]
    return main([*argv, "--test_data", str(folder / data / "test.jsonl"), *flags])


def test_evaluations_of_several_files_lie_side_by_side(two_files, capsys):
    for data in ("a", "b", "a", "b"):
        assert evaluate_in(two_files, data) == 0
    assert evaluate_in(two_files, "a", "--mode", "classify") == 0
    out = capsys.readouterr().out
    folders = {"a": "evaluation_test", "b": "evaluation_test_2"}
    for data, name in folders.items():
        metrics = json.loads((two_files / name / "metrics.json").read_text())
        assert metrics["data"] == str(two_files / data / "test.jsonl")
        assert lines_of(two_files / name / "predictions.jsonl")[0]["row"] == {"k": "ab".index(data)}
        assert out.count(f"written to {two_files / name}: ") == 2
    first = f"{two_files / 'evaluation_test'} holds an evaluation of "
    assert out.count(first) == 2
    made = {path.name for path in two_files.iterdir()}
    assert made == {"model", "a", "b", *folders.values(), "classification_test"}


def test_figures_of_other_weights_or_contents_stay(two_files):
    assert evaluate_in(two_files, "a") == 0
    with open(two_files / "a" / "test.jsonl", "a") as handle:
        handle.write(json.dumps({"tokens": body_of(0)}) + "\n")
    assert evaluate_in(two_files, "a") == 0
    settings = two_files / "model" / "settings.yaml"
    settings.write_text(settings.read_text().replace("seed: ", "seed: 1"))  # another run
    assert evaluate_in(two_files, "a") == 0
    assert evaluate_in(two_files, "a") == 0
    found = {
        path.parent.name: json.loads(path.read_text())["records"]
        for path in two_files.glob("*/metrics.json")
    }
    assert found == {"evaluation_test": 2, "evaluation_test_2": 3, "evaluation_test_3": 3}


def test_named_folder_with_another_evaluation_needs_overwrite(two_files):
    out = "--output_dir", str(two_files / "out")
    assert evaluate_in(two_files, "a", *out) == 0
    before = (two_files / "out" / "predictions.jsonl").read_bytes()
    for changed in (["b"], ["a", "--mode", "classify"], ["a", "--max_new_tokens", "3"]):
        with pytest.raises(UserError, match=r"out holds an evaluation of .*--overwrite$"):
            evaluate_in(two_files, *changed, *out)
    with pytest.raises(UserError, match=r"a/test.jsonl with other settings: give another"):
        evaluate_in(two_files, "a", "--max_new_tokens", "3", *out)
    assert evaluate_in(two_files, "a", *out) == 0
    assert (two_files / "out" / "predictions.jsonl").read_bytes() == before
    assert evaluate_in(two_files, "b", *out, "--overwrite") == 0
    assert lines_of(two_files / "out" / "predictions.jsonl")[0]["row"] == {"k": 1}


def test_evaluation_of_an_earlier_version_needs_overwrite(two_files):
    assert evaluate_in(two_files, "a") == 0
    (two_files / "evaluation_test" / "made_from.json").unlink()
    assert evaluate_in(two_files, "a") == 0
    assert (two_files / "evaluation_test_2" / "metrics.json").exists()
    with pytest.raises(UserError, match="holds an evaluation: give another"):
        evaluate_in(two_files, "a", "--output_dir", str(two_files / "evaluation_test"))


def test_evaluation_that_was_killed_is_taken_up_again(two_files):
    assert evaluate_in(two_files, "a") == 0
    folder = two_files / "evaluation_test"
    # Killed after the first file, in the middle of the second.
    (folder / "metrics.json").unlink()
    (folder / "predictions.jsonl").unlink()
    (folder / ".predictions.jsonl.1.tmp").write_text("half")
    assert evaluate_in(two_files, "b") == 0  # nothing is there that could be lost
    assert json.loads((folder / "metrics.json").read_text())["records"] == 2
    assert not list(folder.glob(".*"))


def test_folder_in_use_is_left_alone(two_files, capsys):
    with hold_folder(two_files / "evaluation_test", "evaluation"):
        assert evaluate_in(two_files, "a") == 0
        assert "evaluation_test is in use\nwritten to " in capsys.readouterr().out
        with pytest.raises(UserError, match="another evaluation uses this folder"):
            evaluate_in(two_files, "a", "--output_dir", str(two_files / "evaluation_test"))
    assert (two_files / "evaluation_test_2" / "metrics.json").exists()


def test_foreign_file_in_the_usual_folder_is_left_alone(two_files):
    (two_files / "evaluation_test").mkdir()
    (two_files / "evaluation_test" / "metrics.json").write_text("{}")
    (two_files / "evaluation_test_2").write_text("a file")
    assert evaluate_in(two_files, "a") == 0
    assert (two_files / "evaluation_test" / "metrics.json").read_text() == "{}"
    assert (two_files / "evaluation_test_3" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/new rows.csv", "x_new_rows"),
        ("pictures/", "x_pictures"),
        ("数据.jsonl", "x_数据"),
        ("a\udcff\x1b[1m/b\udcff\n.jsonl", "x_b_"),
        ("n" * 300, "x_" + "n" * 198),
    ],
)
def test_results_are_named_after_their_rows(source, name):
    assert named_after("x", source) == name


def test_earlier_drawing_is_replaced_and_a_picture_of_others_is_not(trained, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    argv = ["--model_path", str(trained.folder), "--device", "cpu", "--mode", "generate"]
    argv += ["--seed", "1", "--image", str(sheet)]
    assert main(argv) == 0
    assert capsys.readouterr().err.endswith(f"drawn: {sheet}\n")
    assert main(argv) == 0
    assert capsys.readouterr().err.endswith(f"drawn: {sheet}, in place of another\n")
    Image.new("L", (4, 4)).save(sheet)
    holiday = sheet.read_bytes()
    with pytest.raises(UserError, match=r"sheet.png is there already .*--overwrite$"):
        main(argv)
    assert sheet.read_bytes() == holiday
    assert main([*argv, "--overwrite"]) == 0
    assert sheet.read_bytes() != holiday


# ------------------------------------------------------------------------------- random words

FLAGS = [f"--{field.name}" for field in dataclasses.fields(InferenceSettings)]
FLAGS = [flag for flag in FLAGS if flag not in ("--model_path", "--device", "--precision")]
VALUES = st.sampled_from(
    ["", "0", "1", "-1", "2", "nan", "1e-40", "1e30", "none", "true", "<IMG>", "<IMG> <Z_000>",
     "<CLS>", "<CLS_1>", "<CLS> <CLS> <EOS>", "<PAD>", "\ud800", "\0", "x.png", ".", "rows.jsonl",
     "classify", "generate", "evaluate", "interactive", "99999999999999999999"]
) | st.text(max_size=5)  # fmt: skip


@given(
    words=st.lists(st.tuples(st.sampled_from(FLAGS), VALUES), max_size=4, unique_by=lambda w: w[0]),
    typed=st.lists(VALUES.map(lambda text: text.encode(errors="surrogatepass")) | st.binary()),
)
@settings(max_examples=40)
def test_any_words_are_answered_or_refused_in_words(world, tmp_path_factory, words, typed):
    folder = tmp_path_factory.mktemp("words")
    before = os.getcwd()
    (folder / "rows.jsonl").write_text('{"tokens": "<IMG> <Z_000>"}\n{"tokens": 3}\n')
    argv = ["--model_path", str(world[1]), "--device", "cpu", "--precision", "fp32"]
    argv += [f"{flag}={value}" for flag, value in words]
    stdin = io.TextIOWrapper(io.BytesIO(b"\n".join(typed)))
    try:
        os.chdir(folder)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
            patch.setattr(sys, "stdin", stdin)
            assert main(argv) == 0
    except UserError as error:
        assert str(error)
    except SystemExit as left:  # --help
        assert left.code in (0, 2)
    finally:
        os.chdir(before)
