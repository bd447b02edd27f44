"""Rows for a label: generated from it where training taught that, else picked from samples."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from training_runs import change, small_settings, write_rule_rows

from inference import classify, generate, load_trained_model, main
from smallgpt.errors import SettingsError, UserError
from smallgpt.options.reader import check_settings
from smallgpt.options.training import TrainSettings
from train_gpt import train


@pytest.fixture(scope="module")
def rule_settings(tmp_path_factory):
    """Rows that run through the alphabet forwards or backwards; the direction is the label."""
    folder = tmp_path_factory.mktemp("rules")
    settings = small_settings(folder)
    write_rule_rows(folder, 240)
    return change(settings, n_embd=32, num_epochs=8, learning_rate=1e-2, dropout=0.0,
                  label_first_share=0.5)  # fmt: skip


@pytest.fixture(scope="module")
def trained(rule_settings):
    return load_trained_model(train(rule_settings).folder.final_model, "cpu", "fp32")


def direction(text: str) -> str:
    """The label that the letters of a generated row show: which step most of them take."""
    letters = [word for word in text.split() if not word.startswith("<")]
    steps = Counter((ord(b) - ord(a)) % 6 for a, b in pairwise(letters))
    return "up" if steps[1] > steps[5] else "down"


@pytest.mark.parametrize("label", ["up", "down"])
def test_rows_follow_from_their_label_in_one_pass(trained, label):
    result = generate(trained, "c", count=40, label=label, seed=1)
    assert result.tried <= 60  # of samples without the label half would do
    assert f"generated from the label {label}: " in result.note and "were read as" in result.note
    texts = [trained.vocabulary.decode(row) for row in result.sequences]
    assert all(text.endswith(f"<CLS> <CLS_{label}> <EOS>") for text in texts)
    assert all(classify(trained, text)[0] == label for text in texts)
    assert sum(direction(text) == label for text in texts) >= 36
    assert len(set(texts)) > 15


def test_no_more_rows_come_than_were_asked_for(trained):
    for count in (1, 3, 70):
        rows = generate(trained, "c", count=count, label="up", seed=2, batch_size=16).sequences
        assert len(rows) == count


def test_plain_transformers_goes_on_from_the_label(trained):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trained.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.folder)
    for label, following in (("up", "d"), ("down", "b")):
        ids = tokenizer(f"<CLS_{label}> c", return_tensors="pt").input_ids
        with torch.no_grad():
            likeliest = model(ids).logits[0, -1].argmax()
        assert tokenizer.convert_ids_to_tokens(int(likeliest)) == following


def test_the_label_is_learned_from_the_other_rows(trained):
    random = np.random.default_rng(3)
    for number in range(20):
        step, label = ((1, "up"), (-1, "down"))[number % 2]
        start = random.integers(6)
        body = " ".join("abcdef"[(start + step * place) % 6] for place in range(6))
        assert classify(trained, body)[0] == label


def test_the_command_says_how_the_rows_were_made(trained, capsys):
    argv = ["--model_path", str(trained.folder), "--device", "cpu", "--mode", "generate",
            "--prompt", "a b", "--label", "up", "--seed", "1"]  # fmt: skip
    assert main(argv) == 0
    told = capsys.readouterr()
    assert "generated from the label up: 1 of " in told.err
    assert main([*argv, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["note"].startswith("generated from the label up: 1 of ")


def test_rows_that_have_no_label_to_stand_first_are_refused(rule_settings, tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"tokens": "a b c"}\n' * 8)
    settings = change(rule_settings, data_path=str(plain), output_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="--label_first_share needs labels, and no row has one"):
        train(settings)
    for contradiction in ({"classifier": "head"}, {"task": "instruct"}):
        with pytest.raises(SettingsError, match="label_first_share learns rows from their labels"):
            check_settings(TrainSettings(label_first_share=0.5, **contradiction))
