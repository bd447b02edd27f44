"""The recipe: what training chooses by its rows, what it leaves alone, and that runs repeat."""

import json

import pytest
import yaml
from small_rows import dataset_of, read, unique_rows, variant_rows
from training_runs import change, same_weights, write_rule_rows

from prepare_data import main
from smallgpt.options.option import AUTO, options_of
from smallgpt.options.training import SHAPE, TrainSettings
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training import recipe
from smallgpt.training.recipe import choose_recipe, epochs_in_time, larger_in_time
from train_gpt import train

CHOSEN = [name for name, option in options_of(TrainSettings).items() if option.can_be_auto]
WORDS = [("good", "yes"), ("bad", "no"), ("fine", "yes"), ("poor", "no"), ("large", "yes")]
VOCABULARY = Vocabulary(["<PAD>", "<UNK>", "<CLS>", "<EOS>", *"ABCD", "<CLS_0>", "<CLS_1>"])


def recipe_of(records, **values):
    return choose_recipe(TrainSettings(**values), dataset_of(VOCABULARY, *records))


def unlabelled_rows(count):
    return [{"tokens": row["tokens"]} for row in unique_rows({0: 20 + count})[20:]]


def test_nothing_is_left_open_and_each_choice_is_told():
    settings, reasons = recipe_of(unique_rows({0: 50, 1: 50}))
    assert AUTO not in [getattr(settings, name) for name in CHOSEN]
    assert list(settings.contradictions()) == []
    for word in (settings.optimizer, f"{settings.num_epochs} epochs", "since"):
        assert word in reasons


def test_fewer_rows_get_more_epochs_and_many_tokens_a_larger_model():
    few, _ = recipe_of(unique_rows({0: 40, 1: 40}))
    more, _ = recipe_of(unique_rows({0: 400, 1: 400}))
    large, _ = choose_recipe(TrainSettings(), dataset_of(VOCABULARY, *LONG_ROWS, max_length=1024))
    assert few.num_epochs > more.num_epochs > large.num_epochs >= 1
    assert few.n_embd == more.n_embd < large.n_embd


LONG_ROWS = [{"tokens": "A B C D " * 250, "label": 0}] * 600


@pytest.mark.parametrize("given", [{}, {"n_embd": 64}, {"preset": "tiny"}])
def test_time_for_many_tokens_gives_a_larger_model_where_no_flag_names_a_shape(given):
    rows = dataset_of(VOCABULARY, *LONG_ROWS, max_length=1024)
    settings = TrainSettings(max_minutes=60.0, task="classify", **given)
    usual = choose_recipe(settings, rows)[0].n_embd
    assert larger_in_time(settings, rows, 1e6) is None
    larger = larger_in_time(settings, rows, 3e7)
    assert larger is None if given else larger.n_embd > usual
    few = dataset_of(VOCABULARY, *unique_rows({0: 40, 1: 40}))
    assert larger_in_time(settings, few, 1e9) is None


def test_rows_with_variants_need_less_dropout(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in variant_rows(20, 4)))
    plain, _ = recipe_of(unique_rows({0: 20}))
    varied, _ = choose_recipe(TrainSettings(), read(path, VOCABULARY))
    assert varied.dropout < plain.dropout
    assert varied.token_dropout < plain.token_dropout


@pytest.fixture
def texts(tmp_path):
    """Rows of labelled texts with their tokenizer."""
    lines = [f"the {word} room was {word}\t{label}\n" for word, label in WORDS for _ in range(4)]
    (tmp_path / "texts.tsv").write_text("".join(f"{n} {line}" for n, line in enumerate(lines)))
    columns = ("--text_column", "1", "--label_column", "2")
    folder = tmp_path / "rows"
    main(["text", "--input", str(tmp_path / "texts.tsv"), *columns, "--output_dir", str(folder)])
    return read(folder / "train.jsonl", Vocabulary.load(folder / "vocab.json"))


def test_labels_of_texts_are_asked_for_at_each_place(texts):
    settings, reasons = choose_recipe(TrainSettings(task="classify"), texts)
    assert settings.early_label_weight > 0 and settings.ema_decay > 0
    assert "labels asked for at each place" in reasons


PRETRAINED = {"init_from": "gpt2", **dict.fromkeys(SHAPE, 4)}


@pytest.mark.parametrize("given", [{"classifier": "head"}, {"task": "lm"}, PRETRAINED])
def test_where_texts_have_no_labels_to_learn_from_scratch_none_is_asked_early(texts, given):
    settings, reasons = choose_recipe(TrainSettings(**{"task": "classify"} | given), texts)
    assert settings.early_label_weight == settings.ema_decay == 0
    assert "labels asked for" not in reasons


@pytest.mark.parametrize(("others", "visits"), [(0, 1), (5, 1), (20, 2), (60, 6), (400, 40)])
def test_two_thirds_of_the_visits_are_to_rows_with_labels(others, visits):
    rows = [*unique_rows({0: 10, 1: 10}), *unlabelled_rows(others)]
    settings, reasons = recipe_of(rows, task="classify")
    assert settings.labelled_visits == visits
    assert (f"{visits} visits an epoch to each row with a label" in reasons) == (visits > 1)
    # Epochs have as many updates as they visit rows.
    whole, _ = recipe_of(unique_rows({0: 10 + others // 2, 1: 10 + others // 2}), task="classify")
    assert settings.num_epochs <= whole.num_epochs


def test_rows_without_labels_are_told_from_none_where_only_tokens_are_learned():
    rows = [*unique_rows({0: 10}), *unlabelled_rows(100)]
    assert recipe_of(rows, task="lm")[0].labelled_visits == 1


def test_labels_of_tokens_are_asked_for_at_the_end_alone():
    settings, reasons = recipe_of(unique_rows({0: 50, 1: 50}), task="classify")
    assert settings.early_label_weight == settings.ema_decay == 0
    assert "labels asked for" not in reasons


@pytest.mark.parametrize(
    "given",
    [
        {"num_epochs": 3, "dropout": 0.4, "token_dropout": 0.3, "batch_size": 7},
        {"optimizer": "adamw", "learning_rate": 5e-4},
        {"n_layer": 1, "n_head": 3},  # 3 must divide the width
        {"n_embd": 100},
        {"n_embd": 7, "dropout": 0.0},
        {"preset": "tiny"},
        {"token_dropout": None},  # half of dropout
    ],
)
def test_what_is_given_stays_and_the_rest_fits(given):
    settings, reasons = recipe_of(unique_rows({0: 20, 1: 20}), **given)
    assert {name: getattr(settings, name) for name in given} == given
    assert AUTO not in [getattr(settings, name) for name in CHOSEN]
    assert list(settings.contradictions()) == []
    assert reasons


def test_a_recipe_with_nothing_to_choose_says_nothing():
    settings, _ = recipe_of(unique_rows({0: 20}))
    assert choose_recipe(settings, dataset_of(VOCABULARY, *unique_rows({0: 20}))) == (settings, "")


@pytest.mark.parametrize("length", [{"max_minutes": 3.0}, {"steps": "20"}])
def test_whoever_says_how_long_to_train_is_not_told_epochs(length):
    settings, reasons = recipe_of(unique_rows({0: 20}), **length)
    assert settings.num_epochs == AUTO
    assert "epochs" not in reasons


def test_epochs_are_halved_until_they_fit():
    rows = dataset_of(VOCABULARY, *unique_rows({0: 20}))
    settings = TrainSettings(num_epochs=200)
    assert epochs_in_time(settings, rows, seconds_of_epoch=1.0) == 200
    assert epochs_in_time(settings, rows, seconds_of_epoch=2.0) == 100
    assert epochs_in_time(settings, rows, seconds_of_epoch=1e6) == 1


def test_texts_with_labels_may_take_twice_the_time(texts):
    for task, epochs in (("classify", 200), ("lm", 100)):
        settings = TrainSettings(num_epochs=200, task=task)
        assert epochs_in_time(settings, texts, seconds_of_epoch=2.0) == epochs


def recipe_run(folder, **values):
    data, vocab = write_rule_rows(folder)
    where = {"data_path": str(data), "vocab_path": str(vocab), "output_dir": str(folder / "run")}
    small = {"n_layer": 1, "n_embd": 16, "max_length": 32, "n_positions": 32, "device": "cpu"}
    return TrainSettings(**where, **small, **values)


def test_a_run_is_repeated_by_its_settings(tmp_path):
    settings = recipe_run(tmp_path, steps="4")
    folder = train(settings).folder
    stored = yaml.safe_load(folder.settings.read_text())
    assert AUTO not in [stored[name] for name in CHOSEN if name != "num_epochs"]
    assert "recipe: " in folder.log.read_text()
    repeated = TrainSettings(**(stored | {"output_dir": str(tmp_path / "again")}))
    assert same_weights(train(repeated).folder.final_model, folder.final_model)


def test_a_run_too_long_for_the_machine_gets_fewer_epochs_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "_SECONDS", 1e-9)  # no machine is as fast
    folder = train(recipe_run(tmp_path)).folder
    assert yaml.safe_load(folder.settings.read_text())["num_epochs"] == 1
    assert "1 epoch instead of 400, which would take" in folder.log.read_text()


def test_epochs_that_were_asked_for_are_never_halved(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "_SECONDS", 1e-9)
    folder = train(recipe_run(tmp_path, num_epochs=3)).folder
    assert yaml.safe_load(folder.settings.read_text())["num_epochs"] == 3


def test_resume_takes_what_the_recipe_chose(tmp_path):
    settings = recipe_run(tmp_path, num_epochs=2)
    train(settings)
    result = train(change(settings, num_epochs=3, resume=True))
    assert result.exit_code == 0
    assert "3 epochs" in result.folder.log.read_text()
