"""Advice for a run that is behind: each remedy where its condition holds, and not elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
from plain_settings import plain_settings
from prepared_files import SMALL, SMALL_LABELS
from training_runs import change, small_settings, start_run

from prepare_data import main
from smallgpt.evaluation.verdicts import baseline_ahead
from smallgpt.training.advice import what_may_help
from train_gpt import train

BEHIND = {
    "rows": 200,
    "labelled_records": 200,
    "accuracy": 0.5,
    "above_chance": False,
    "baselines": {"majority_class_accuracy": 0.5, "naive_bayes_accuracy": 0.9},
}


@pytest.fixture
def run(tmp_path):
    """A run of 40 epochs of 6 updates, at its end."""
    run = start_run(change(small_settings(tmp_path), num_epochs=80, task="classify"))
    run.state.step = run.state.best_step = 480
    return run


def advice(run, losses=(3.0, 2.0, 2.0, 2.0) * 20, validation=BEHIND) -> str:
    evaluations = [{"kind": "validation", "train_loss": loss} for loss in losses]
    return "\n".join(what_may_help(run, validation, evaluations))


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({}, "the baseline naive bayes is ahead, accuracy 90.0 % against 50.0 %"),
        (
            {"accuracy": 0.89},
            "the baseline naive bayes is ahead, accuracy 90.0 % against 89.0 %, which may be luck",
        ),
        ({"accuracy": 0.9}, ""),
        ({"accuracy": 0.91}, ""),
        ({"baselines": {}}, ""),
    ],
)
def test_a_baseline_ahead_is_told_however_little_it_is(figures, told):
    assert baseline_ahead({**BEHIND, **figures}) == told


def test_a_baseline_ahead_in_perplexity_is_told_where_rows_have_no_labels():
    language = {"rows": 9, "perplexity": 5.0, "baselines": {"bigram_perplexity": 4.0}}
    told = "the baseline bigram is ahead, perplexity 4.00 against 5.00"
    assert baseline_ahead(language) == told
    assert baseline_ahead({**language, "perplexity": 3.0}) == ""


def test_course_of_the_run_decides_about_epochs_and_learning_rate(run):
    falling = list(np.linspace(3, 1, 80))
    assert (
        "more epochs: the training loss still fell at the end, from 1.506 to 1.000 "
        "(--num_epochs 160)"
    ) in advice(run, falling)
    assert "more epochs" not in advice(run) and "learning rate" not in advice(run)
    run.state.step = 240
    assert "more epochs" not in advice(run, falling[:40])  # early stopping ended it
    run.state.step = 480
    assert "another learning rate: the training loss hardly fell" in advice(run, [2.0] * 80)
    run.state.best_step = 60
    assert "after epoch 10 of 80 the training loss fell" in advice(run, falling)
    run.state.step = 12
    run.state.plan = [[0, 12]]
    told = advice(run, [3.0, 2.9])
    assert "more epochs: the weights were updated 12 times only (--num_epochs 100)" in told
    assert "by heart" not in told


def test_a_run_by_minutes_is_told_minutes(run):
    longer = replace(run, settings=change(run.settings, max_minutes=3, num_epochs="auto"))
    run.state.plan = [[0, 2400]]  # all epochs of the recipe
    run.state.step = run.state.best_step = 2400
    assert "(--max_minutes 6)" in advice(longer, list(np.linspace(3, 1, 80)))


def test_a_run_whose_minutes_cut_the_recipe_short_is_told_minutes_first(run):
    timed = replace(run, settings=change(run.settings, max_minutes=3, num_epochs="auto"))
    few = {"majority_class_accuracy": 0.5, "naive_bayes_accuracy": 0.53}
    falling = list(np.linspace(3, 1, 80))
    told = advice(timed, falling, {**BEHIND, "baselines": few}).splitlines()
    assert told[0] == (
        "more time: it was enough for 80 of the 400 epochs that the recipe has for these rows "
        "(--max_minutes 15)"
    )
    assert "no baseline tells the labels" in told[1]  # nor does a run too short tell that
    assert "more epochs" not in "".join(told)
    words = "more time"
    assert words not in advice(run, falling)  # its epochs were given
    run.state.best_step = 60
    assert words not in advice(timed, falling)  # it learned by heart
    run.state.best_step, run.state.step = 240, 240
    assert words not in advice(timed, falling)  # early stopping ended it


def test_texts_behind_a_baseline_are_offered_a_pretrained_start(run, text_vocabulary):
    words = "a pretrained model to start from"
    assert words not in advice(run)
    of_texts = replace(run, rows=replace(run.rows, vocabulary=text_vocabulary))
    assert words in advice(of_texts)
    started = replace(of_texts, settings=change(run.settings, init_from="gpt2"))
    assert words not in advice(started)


def test_labels_that_no_baseline_tells_may_not_be_there(run):
    words = "no baseline tells the labels either"
    assert words not in advice(run)
    few = {"majority_class_accuracy": 0.5, "naive_bayes_accuracy": 0.53}
    assert words in advice(run, validation={**BEHIND, "baselines": few})


def test_rows_and_their_labels_decide(tmp_path, run):
    told = advice(run)
    assert "more rows: 2 labels with 24 training rows each (median)" in told
    assert not any(word in told for word in ("longer rows", "weight", "vocabulary"))
    settings = change(run.settings, max_length=8, label_loss_weight=0.5)
    told = advice(start_run(settings))
    assert "longer rows: " in told and "rows cut to 8 tokens lost" in told
    assert "more weight for the label: it weighs 0.5 (--label_loss_weight 10)" in told
    rows = replace(run.rows, lengths_N=run.rows.lengths_N * 40)
    assert "other tokens of a row (--label_loss_weight " in advice(replace(run, rows=rows))
    counts = replace(run.rows.counts, unknown_tokens=200)
    told = advice(replace(run, rows=replace(run.rows, counts=counts)))
    assert "a vocabulary that has the tokens: 200 of these rows are read as <UNK>" in told


@pytest.mark.parametrize("channels", [1, 3])
def test_images_decide_about_codes_and_variants(tmp_path, channels):
    images = np.repeat(SMALL[..., None], channels, axis=3)
    np.savez(tmp_path / "images.npz", images=images, labels=SMALL_LABELS)
    data = tmp_path / "data"
    flags = ("--output_dir", str(data), "--patch_size", "2", "--codebook_size", "400")
    flags += ("--augment", "0", "--color", "grey" if channels == 1 else "rgb")
    main(["images", "--input", str(tmp_path / "images.npz"), *flags])
    settings = plain_settings(
        data_path=str(data / "train.jsonl"),
        vocab_path=str(data / "vocab.json"),
        output_dir=str(tmp_path / "run"),
        n_layer=1, n_head=1, n_embd=8, device="cpu", precision="fp32",
    )  # fmt: skip
    run = start_run(settings)
    told, count = advice(run), len(run.rows)
    assert f"variants of the images: {count} are few (prepare_data.py ... --augment auto)" in told
    assert ("fewer image codes or grey images (--color grey): " in told) == (channels == 3)
    assert "fewer image codes" in told and "--codebook_size 16)" in told
    assert "more rows: 10 labels with 8 training rows each" in told
    # Every code often, and each row with a variant.
    rows = run.rows.subset(np.tile(np.arange(count), 200))
    rows = replace(rows, augmented_N=np.arange(count * 200) >= count)
    told = advice(replace(run, rows=rows))
    assert not any(words in told for words in ("image codes", "variants of", "more rows:"))


def test_run_at_chance_ends_with_advice(tmp_path):
    log = train(change(small_settings(tmp_path), learning_rate=1e-6)).folder.log.read_text()
    last = log.splitlines()[-1]
    assert "; what would help most: more epochs: the weights were updated 12 times only" in last
