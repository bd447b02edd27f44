"""Generated rows: what they begin and end with, their label, their pictures."""

import dataclasses
import json
import shutil
from collections import Counter

import pytest
import torch
from PIL import Image
from trained_models import BEST_MODEL, train_rule_rows
from training_runs import LETTERS

from inference import classify, generate, load_trained_model, main
from smallgpt.errors import SettingsError, UserError
from smallgpt.tokens.vocabulary import Vocabulary


def test_generated_rows_start_with_the_prompt_and_stop_at_eos(trained):
    result = generate(trained, "<IMG> <Z_003>", count=20, seed=1)
    eos = trained.vocabulary.eos_id
    for row in result.sequences:
        assert trained.vocabulary.decode(row[:2]) == "<IMG> <Z_003>"
        assert eos not in row[:-1] and len(row) <= trained.max_length
        assert row[-1] == eos or len(row) == trained.max_length
        assert trained.vocabulary.pad_id not in row


def test_greedy_equals_transformers_generate(trained, bars):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bars / BEST_MODEL).eval()
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


# ---- without a prompt -----------------------------------------------------------------


@pytest.fixture(scope="module")
def alphabet(made_once):
    """A model of the rows of `write_rule_rows`, which have no start token."""
    return load_trained_model(made_once("rule rows", train_rule_rows) / "run" / "best_model", "cpu")


def test_rows_without_a_start_token_begin_as_the_training_rows_did(alphabet):
    assert set(alphabet.first_tokens) == set(LETTERS)
    tilted = dataclasses.replace(alphabet, first_tokens={"b": 300, "d": 100})
    made = [
        alphabet.vocabulary.decode(row) for row in generate(tilted, count=400, seed=1).sequences
    ]
    begun = Counter(row.split()[0] for row in made)
    assert set(begun) == {"b", "d"} and 260 < begun["b"] < 340
    again = generate(tilted, count=400, seed=1).sequences
    assert made == [alphabet.vocabulary.decode(row) for row in again]
    (greedy,) = generate(tilted, greedy=True).sequences
    assert alphabet.vocabulary.decode(greedy[:1]) == "b"


def test_rows_of_a_label_need_no_prompt(alphabet):
    label = classify(alphabet, "a b c d")[0]
    for row in generate(alphabet, label=label, count=3, seed=1).sequences:
        assert alphabet.vocabulary.decode(row).endswith(f"<CLS> <CLS_{label}> <EOS>")


def test_where_no_first_token_is_known_one_is_asked_for_with_an_example(alphabet):
    older = dataclasses.replace(alphabet, first_tokens={})
    with pytest.raises(UserError, match=r"with --prompt, for example --prompt a$"):
        generate(older)


# ---- pictures -------------------------------------------------------------------------


def test_images_are_drawn(run, tmp_path):
    picture = tmp_path / "sheet.png"
    done = run("--mode", "generate", "--num_return_sequences", "6", "--seed", "1",
               "--image", str(picture), "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["sequences"]) == 6 and answer["seed"] == 1
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width > 100


def test_rows_without_all_codes_are_told_when_drawn(run, tmp_path):
    done = run("--mode", "generate", "--max_new_tokens", "3", "--num_return_sequences", "2",
               "--image", str(tmp_path / "few.png"))  # fmt: skip
    assert done.returncode == 0
    assert "2 of 2 rows do not have 16 codes" in done.stderr


def test_no_picture_overwrites_a_file_of_the_model(bars, tmp_path):
    vocabulary = bars / BEST_MODEL / "vocab.json"
    before = vocabulary.read_bytes()
    picture = tmp_path / "sheet.png"
    picture.symlink_to(vocabulary)
    with pytest.raises(SettingsError, match="would overwrite a file of the model"):
        main(
            ["--model_path", str(bars / BEST_MODEL), "--mode", "generate", "--image", str(picture)]
        )
    assert vocabulary.read_bytes() == before


def test_a_link_to_nothing_in_the_model_folder_keeps_no_picture_from_being_drawn(bars, tmp_path):
    shutil.copytree(bars / BEST_MODEL, tmp_path / "model")
    (tmp_path / "model" / "gone").symlink_to("nowhere")
    (tmp_path / "sheet.png").symlink_to("nowhere")
    argv = ["--model_path", str(tmp_path / "model"), "--device", "cpu", "--mode", "generate"]
    assert main([*argv, "--image", str(tmp_path / "sheet.png")]) == 0


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
