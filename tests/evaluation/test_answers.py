"""Answers to instructions: generated as transformers would, every figure from predictions.jsonl."""

import json
import math
import string
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_settings import plain_settings

from inference import main
from smallgpt.engines.trained import load_trained_model
from smallgpt.evaluation.answers import (
    RougeTokenizer,
    answer_figures,
    describe_answers,
    generate_answers,
    token_f1,
)
from smallgpt.inference.evaluate import evaluate_file
from smallgpt.inference.files import read_rows
from smallgpt.inference.next_tokens import next_tokens
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.tokens.instruction_template import instruction_prompt
from train_gpt import train

SETTINGS = plain_settings(n_layer=1, n_head=2, n_embd=32, n_positions=96, max_length=96)
ROWS = [
    {"instruction": "Say fox.", "input": "", "output": "fox", "id": "r0"},
    {"instruction": "Say dog.", "output": "the lazy dog", "id": "r1"},
    {"text": "the quick brown fox", "id": "r2"},
    {"instruction": "Say it again.", "input": "brown fox", "output": "brown fox ", "id": "r3"},
    {"instruction": "Say.", "id": "no output"},
    {"instruction": "Say it again.", "input": "fox " * 15, "output": "fox", "id": "cut"},
    {"instruction": "Say a lot.", "output": "fox " * 40, "id": "no prompt left"},
    {"tokens": "f o x", "instruction": "mine", "output": "mine", "id": "tokens"},
]
ANSWERED = ["r0", "r1", "r3", "cut", "no prompt left"]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_vocabulary):
    """A model of random weights; <EOS> is likely enough that some answers end early."""
    folder = tmp_path_factory.mktemp("models") / "model"
    model = build_model(SETTINGS, text_vocabulary)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    save_model_folder(model, folder, text_vocabulary, SETTINGS, None)
    return load_trained_model(folder, "cpu", "fp32")


@pytest.fixture(scope="module")
def evaluation(trained, tmp_path_factory):
    """Figures, predictions by their id, and the folder of an evaluation of ROWS."""
    folder = tmp_path_factory.mktemp("evaluation")
    path = write_rows(folder / "rows.jsonl", ROWS)
    figures = evaluate_file(trained, path, folder / "out")
    predictions = lines_of(folder / "out" / "predictions.jsonl")
    return figures, {row["row"]["id"]: row for row in predictions}, folder / "out"


def test_unknown_characters_of_a_prompt_are_told(trained, capsys):
    folder = str(trained.folder)
    for flags in (["--json"], ["--json", "--mode", "generate", "--max_new_tokens", "2"]):
        assert main(["--model_path", folder, "--prompt", "the €uro €", *flags]) == 0
        said = capsys.readouterr()
        assert "2 unknown tokens read as <UNK>" in said.err
        json.loads(said.out)
    assert main(["--model_path", folder, "--prompt", "the fox", "--json"]) == 0
    assert "<UNK>" not in capsys.readouterr().err


# ---- generating ----------------------------------------------------------------------


def test_every_instruction_has_an_answer_beside_its_own_keys(evaluation):
    _, rows, _ = evaluation
    assert [name for name, row in rows.items() if "answer" in row] == ANSWERED
    assert rows["no prompt left"]["answer"] == ""
    assert rows["r1"]["row"] == ROWS[1]
    assert "reason" in rows["no output"]


def test_answers_are_those_of_transformers_greedy_generation(trained, tmp_path):
    dataset = read_rows(trained, write_rows(tmp_path / "rows.jsonl", ROWS)).dataset
    found = generate_answers(trained, dataset, max_new_tokens=20)
    vocabulary, asked = trained.vocabulary, 0
    for index, prompt_length in enumerate(dataset.prompt_lengths_N.tolist()):
        if not prompt_length:
            continue
        room = min(20, SETTINGS.max_length - prompt_length)
        prompt = torch.tensor([dataset.row(index)[:prompt_length].tolist()])
        made = trained.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=room,
            eos_token_id=[vocabulary.eos_id, vocabulary.cls_id],
            pad_token_id=vocabulary.pad_id,
            suppress_tokens=[vocabulary.pad_id, vocabulary.unk_id],
        )[0, prompt_length:]
        assert found[index] == vocabulary.tokenizer.decode(made.tolist())
        asked += 1
    assert asked == 4
    assert len({answer for answer in found if answer}) > 1


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_an_answer_does_not_depend_on_the_rows_beside_it(trained, evaluation, tmp_path, batch_size):
    _, rows, _ = evaluation
    dataset = read_rows(trained, write_rows(tmp_path / "rows.jsonl", ROWS)).dataset
    found = generate_answers(trained, dataset, batch_size)
    names = [record["id"] for record in dataset.records]
    assert [rows[name].get("answer") for name in names] == found


def test_answers_stay_within_the_trained_length_and_the_bound(trained, tmp_path):
    dataset = read_rows(trained, write_rows(tmp_path / "rows.jsonl", ROWS)).dataset
    for bound in (1, 5, None):
        for index, answer in enumerate(generate_answers(trained, dataset, 64, bound)):
            if answer is not None:
                room = SETTINGS.max_length - int(dataset.prompt_lengths_N[index])
                assert len(answer) <= min(room, bound or math.inf)


def test_a_file_without_instructions_has_no_answers(trained, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "the fox"}, {"tokens": "f o x"}])
    figures = evaluate_file(trained, path, tmp_path / "out")
    assert "answers" not in figures
    assert all("answer" not in row for row in lines_of(tmp_path / "out" / "predictions.jsonl"))


def test_a_model_that_learned_its_answers_gives_them(text_vocabulary, tmp_path, capsys):
    rows = [
        {"instruction": f"Say {word}.", "output": f"the {word}"} for word in ("fox", "dog", "brown")
    ]
    (tmp_path / "vocab.json").write_text(text_vocabulary.to_json(), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(text_vocabulary.tokenizer.to_json(), encoding="utf-8")
    path = str(write_rows(tmp_path / "rows.jsonl", rows))
    settings = replace(
        SETTINGS,
        data_path=path,
        val_data_path=str(write_rows(tmp_path / "val.jsonl", rows)),
        vocab_path=str(tmp_path / "vocab.json"),
        output_dir=str(tmp_path / "run"),
        num_epochs=120,
        batch_size=3,
        learning_rate=1e-2,
        dropout=0.0,
        early_stopping_patience=0,
        precision="fp32",
        device="cpu",
    )
    train(settings)
    lengths = [
        len(text_vocabulary.tokenizer.encode(instruction_prompt(row["instruction"])))
        + len(text_vocabulary.tokenizer.encode(row["output"]))
        for row in rows
    ]  # and <EOS>; every token but the last is read, though the answers alone are scored
    assert f" {sum(lengths):,} tokens an epoch" in capsys.readouterr().out
    trained = load_trained_model(tmp_path / "run" / "best_model", "cpu", "fp32")
    # Asked without a mode, too, it reads the instruction in its template, and answers.
    likeliest, share = next_tokens(trained, "Say dog.")[0]
    assert likeliest == "t" and share > 0.9
    assert main(["--model_path", str(trained.folder), "--prompt", "Say dog.", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"prompt": "Say dog.", "answer": "the dog"}
    figures = evaluate_file(trained, path, tmp_path / "out")
    assert (figures["exact_match"], figures["answers"]) == (1.0, 3)
    assert figures["loss"] < 0.1
    for name, best in (("bleu", 100), ("rouge_l", 1)):
        assert figures[name] is None or figures[name] == pytest.approx(best)


# ---- figures -------------------------------------------------------------------------


def pairs_of(rows: dict[str, dict]) -> tuple[list[str], list[str]]:
    answered = [row for row in rows.values() if "answer" in row]
    return [row["row"]["output"] for row in answered], [row["answer"] for row in answered]


def test_exact_match_is_the_share_of_equal_texts(evaluation):
    figures, rows, folder = evaluation
    expected, given_ = pairs_of(rows)
    right = sum(one.strip() == other.strip() for one, other in zip(expected, given_, strict=True))
    assert figures["exact_match"] == right / len(expected)
    assert figures["answers"] == len(ANSWERED)
    assert json.loads((folder / "metrics.json").read_text())["answers"] == len(ANSWERED)


def f1_of_squad(expected: str, given_: str) -> float:
    """Precision and recall of words, as Rajpurkar et al. (2016) describe their evaluation."""
    sides = []
    for text in (expected, given_):
        kept = text.lower().translate(str.maketrans("", "", string.punctuation))
        sides.append([word for word in kept.split() if word not in ("a", "an", "the")])
    expected_words, given_words = sides
    if not expected_words or not given_words:
        return float(expected_words == given_words)
    left, common = list(expected_words), 0
    for word in given_words:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(given_words), common / len(expected_words)
    return 2 * precision * recall / (precision + recall)


def test_token_f1_is_computed_again_from_the_predictions(evaluation):
    figures, rows, folder = evaluation
    scores = [f1_of_squad(*pair) for pair in zip(*pairs_of(rows), strict=True)]
    assert figures["token_f1"] == pytest.approx(sum(scores) / len(scores), abs=1e-12)
    assert json.loads((folder / "metrics.json").read_text())["token_f1"] == figures["token_f1"]


WORDS = st.lists(
    st.sampled_from(
        ["the", "a", "An", "cat", "cat's", "Cat.", "sat,", "--", "$5", "U.S.", "on", "x-ray"]
    )
)


@given(WORDS.map(" ".join), WORDS.map("  ".join))
def test_token_f1_is_that_of_squad(expected, given_):
    assert token_f1(expected, given_) == pytest.approx(f1_of_squad(expected, given_))


@pytest.mark.parametrize(
    ("expected", "given_", "f1"),
    [
        ("in the Hague", "The Hague", 2 / 3),  # in, hague against hague: precision 1, recall 1/2
        ("the", "an", 1),  # neither has a word left
        ("the", "cat", 0),
        ("cat cat dog", "cat cat cat", 2 / 3),  # a word counts as often as both have it
        ("在北京。", "北京", 0.8),  # 在 北 京 against 北 京: precision 1, recall 2/3
        ("東京タワー", "東京", 4 / 7),  # 2 of 5 characters, 2 of 2
        ("हिन्दी में", "हिन्दी।", 2 / 3),  # vowel signs belong to their words
    ],
)
def test_token_f1_by_hand(expected, given_, f1):
    assert token_f1(expected, given_) == pytest.approx(f1)


def test_bleu_is_computed_again_from_the_predictions(evaluation):
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    figures, rows, folder = evaluation
    expected, given_ = pairs_of(rows)
    again = (
        sacrebleu.BLEU(tokenize="13a", effective_order=True).corpus_score(given_, [expected]).score
    )
    assert figures["bleu"] == pytest.approx(again, abs=1e-9)
    assert figures["bleu_tokenizer"] == "13a"
    assert json.loads((folder / "metrics.json").read_text())["bleu"] == figures["bleu"]


def test_rouge_l_is_computed_again_from_the_predictions(evaluation):
    scorers = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    figures, rows, folder = evaluation
    scorer = scorers.RougeScorer(["rougeL"], tokenizer=RougeTokenizer())
    scores = [scorer.score(*pair)["rougeL"].fmeasure for pair in zip(*pairs_of(rows), strict=True)]
    assert figures["rouge_l"] == pytest.approx(sum(scores) / len(scores), abs=1e-12)
    assert json.loads((folder / "metrics.json").read_text())["rouge_l"] == figures["rouge_l"]


@given(st.lists(st.tuples(st.text(string.printable), st.text(string.printable)), min_size=1))
def test_english_figures_are_those_of_the_libraries_as_they_come(pairs):
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    scorers = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    expected, found = [one for one, _ in pairs], [other for _, other in pairs]
    figures = answer_figures(expected, found)
    whole = sacrebleu.corpus_bleu(found, [expected])
    if whole.totals[-1]:  # else there are no four words in a row to compare
        assert figures["bleu"] == whole.score
    scorer = scorers.RougeScorer(["rougeL"])
    scores = [scorer.score(one, other)["rougeL"].fmeasure for one, other in pairs]
    assert figures["rouge_l"] == pytest.approx(sum(scores) / len(scores))


def test_chinese_is_compared_by_characters():
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    pytest.importorskip("rouge_score", reason="rouge-score is not installed")
    expected, found = ["房间很好、服务也好。", "位置不错"], ["房间不好、服务也好。", "位置不错"]
    figures = answer_figures(expected, found)
    assert figures["bleu_tokenizer"] == "zh"
    assert figures["bleu"] == sacrebleu.corpus_bleu(found, [expected], tokenize="zh").score
    assert 0 < figures["bleu"] < 100
    # 7 of the first 8 characters are right, punctuation aside; the second text is.
    assert figures["rouge_l"] == pytest.approx((7 / 8 + 1) / 2)
    assert figures["exact_match"] == 0.5


def test_figures_of_texts_that_are_known():
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    pytest.importorskip("rouge_score", reason="rouge-score is not installed")
    figures = answer_figures(["the cat sat"], ["the cat lay"])
    assert figures["rouge_l"] == pytest.approx(2 / 3)
    assert figures["exact_match"] == 0
    figures = answer_figures(["Привет, мир", "café"], ["привет мир", "café\n"])
    assert figures["rouge_l"] == 1
    assert answer_figures(["the cat"], ["the cat"])["bleu"] == pytest.approx(100)
    assert figures["exact_match"] == 0.5


def test_a_missing_library_costs_its_figure_and_one_line(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    path = write_rows(tmp_path / "rows.jsonl", ROWS[:3])
    words = ["--model_path", trained.folder, "--test_data", path, "--output_dir", tmp_path / "out"]
    assert main([*map(str, words), "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (figures["bleu"], figures["rouge_l"]) == (None, None)
    assert figures["exact_match"] == 0.0
    told = capsys.readouterr().out
    assert "needs sacrebleu: pip install -e '.[text]'" in told
    assert "needs rouge-score: pip install -e '.[text]'" in told


# ---- telling -------------------------------------------------------------------------


def test_report_shows_the_figures_and_three_examples(trained, tmp_path, capsys):
    path = write_rows(tmp_path / "rows.jsonl", [*ROWS[:4], ROWS[5]])
    words = ["--model_path", trained.folder, "--test_data", path, "--output_dir", tmp_path / "out"]
    assert main([*map(str, words), "--device", "cpu", "--max_new_tokens", "5"]) == 0
    told = capsys.readouterr().out
    assert "4 answers" in told
    assert "equal to the expected one" in told
    assert "line 1: Say fox." in told
    assert "line 4: Say it again. | brown fox" in told
    assert told.count("  expected: ") == told.count("  answer:   ") == 3
    assert "label figures need rows with labels" not in told
    assert all(
        len(row["answer"]) <= 5
        for row in lines_of(tmp_path / "out" / "predictions.jsonl")
        if "answer" in row
    )


def test_table_of_figures():
    figures = {"answers": 1, "exact_match": 0.25, "token_f1": 0.375, "bleu": 12.34, "rouge_l": 0.5}
    table = describe_answers({**figures, "bleu_tokenizer": "zh"})
    assert table.splitlines() == [
        "1 answer",
        "equal to the expected one  25.0 %",
        "token F1                   0.375",
        "BLEU (zh)                  12.3",
        "ROUGE-L F1                 0.500",
    ]
