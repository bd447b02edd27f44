"""Rows for a label: generated from it where training taught that, else picked from samples."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_settings import plain_settings
from training_runs import change, small_settings

from inference import classify, generate, load_trained_model, main
from smallgpt.errors import SettingsError, UserError
from smallgpt.options.reader import check_settings
from smallgpt.options.training import TrainSettings
from train_gpt import train

LETTERS = {"low": "abc", "high": "defg"}


def letter_settings(folder: Path) -> TrainSettings:
    """A run on rows of an s and letters from the first or the second part of the alphabet."""
    settings = small_settings(folder)
    tokens = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *"sabcdefg", "<CLS_low>", "<CLS_high>"]
    Path(settings.vocab_path).write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    random = np.random.default_rng(0)
    with open(settings.data_path, "w") as handle:
        for number in range(160):
            label = ("low", "high")[number % 2]
            body = random.choice(list(LETTERS[label]), size=random.integers(3, 10))
            handle.write(json.dumps({"tokens": " ".join(["s", *body]), "label": label}) + "\n")
    return change(settings, num_epochs=6, learning_rate=1e-2, dropout=0.0, label_first_share=0.5)


@pytest.fixture(scope="module")
def trained(made_once):
    made = made_once("letters", lambda folder: train(letter_settings(folder)))
    return load_trained_model(made / "run" / "final_model", "cpu", "fp32")


@pytest.mark.parametrize("label", ["low", "high"])
def test_rows_follow_from_their_label_in_one_pass(trained, label):
    result = generate(trained, "s", count=40, label=label, seed=1)
    assert result.tried <= 50  # of rows that do not begin with their label half are of another
    assert f"generated from the label {label}: " in result.note and "were read as" in result.note
    texts = [trained.vocabulary.decode(row) for row in result.sequences]
    assert all(text.endswith(f"<CLS> <CLS_{label}> <EOS>") for text in texts)
    assert all(classify(trained, text)[0] == label for text in texts)
    letters = [word for text in texts for word in text.split()[1:-3]]
    assert sum(letter in LETTERS[label] for letter in letters) > 0.8 * len(
        letters
    )  # by chance about half
    assert len(set(texts)) > 20


def test_no_more_rows_come_than_were_asked_for(trained):
    for count in (1, 3, 70):
        rows = generate(trained, "s", count=count, label="low", seed=2, batch_size=16).sequences
        assert len(rows) == count


def test_plain_transformers_goes_on_from_the_label(trained):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trained.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.folder)
    for label, letters in LETTERS.items():
        ids = tokenizer(f"<CLS_{label}> s", return_tensors="pt").input_ids
        with torch.no_grad():
            share = model(ids).logits[0, -1].softmax(-1)
        assert share[tokenizer.convert_tokens_to_ids(list(letters))].sum() > 0.8


def test_the_label_is_learned_from_the_other_rows(trained):
    assert classify(trained, "s a c b a")[0] == "low"
    assert classify(trained, "s f d g d")[0] == "high"


def test_the_command_says_how_the_rows_were_made(trained, capsys):
    argv = ["--model_path", str(trained.folder), "--device", "cpu", "--mode", "generate",
            "--prompt", "s", "--label", "low", "--seed", "1"]  # fmt: skip
    assert main(argv) == 0
    told = capsys.readouterr()
    assert "generated from the label low: 1 of " in told.err
    assert main([*argv, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["note"].startswith("generated from the label low: 1 of ")


def test_rows_that_have_no_label_to_stand_first_are_refused(tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(f'{{"tokens": "s {a} {b}"}}\n' for a in "abc" for b in "abc"))
    settings = change(letter_settings(tmp_path), data_path=str(plain))
    with pytest.raises(UserError, match="--label_first_share needs labels, and no row has one"):
        train(settings)
    for contradiction in ({"classifier": "head"}, {"task": "instruct"}):
        with pytest.raises(SettingsError, match="label_first_share learns rows from their labels"):
            check_settings(plain_settings(label_first_share=0.5, **contradiction))
