"""Advice for a run that is behind a baseline or no better than guesses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from smallgpt.console import plural
from smallgpt.evaluation.statistics import difference_interval
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.codebook import Codebook
from smallgpt.training.recipe import usual_epochs
from smallgpt.training.run import Run

# Thresholds: of a change of the training loss that is more than noise, of rows and tokens that are
# worth a word, of updates and rows that are few by experience with the digits and the reviews.
_CHANGE, _SHARE = 0.01, 0.05
_FEW_UPDATES, _FEW_ROWS_OF_A_LABEL, _FEW_IMAGES = 300, 50, 10_000
_RARE_CODE, _SMALLEST_CODEBOOK = 5, 16
# A run with less than this share of the recipe's epochs lacks time before all else.
_CUT_SHORT = 0.8


def what_may_help(
    run: Run, validation: dict[str, Any], evaluations: list[dict[str, Any]]
) -> list[str]:
    """What usually helps, a line each, first what helps most; never empty.

    Only what the data and the course of the run suggest. `validation`: the figures stored with the
    best model; `evaluations`: rows of metrics.jsonl.
    """
    minutes = _minutes(run, evaluations)
    found = [
        minutes,
        _no_baseline_tells_labels(validation),
        *_images(run),
        *_tokens(run),
        *_course(run, evaluations, bool(minutes)),
        _label_weight(run),
        _rows(run),
        _pretrained_start(run),
    ]
    more = "more rows (--learning_curve tells whether they would), or a longer run (--max_minutes)"
    return [line for line in found if line] or [more]


def _minutes(run: Run, evaluations: list[dict[str, Any]]) -> str:
    """More time, where --max_minutes left the run fewer epochs than the recipe has."""
    settings, state = run.settings, run.state
    ended_itself = state.step < run.total_steps
    if not run.is_timed or ended_itself or _learned_by_heart(run, evaluations):
        return ""
    assert settings.max_minutes is not None
    usual, had = usual_epochs(settings, run.rows), state.step / run.steps_per_epoch
    if had >= _CUT_SHORT * usual:
        return ""
    minutes = math.ceil(settings.max_minutes * usual / had)
    return (
        f"more time: it was enough for {had:.3g} of the {plural(usual, 'epoch')} that the recipe "
        f"has for these rows (--max_minutes {minutes})"
    )


def _learned_by_heart(run: Run, evaluations: list[dict[str, Any]]) -> bool:
    """Whether the training loss went on falling long after the best model."""
    losses = _losses(evaluations)
    early = run.state.best_step < run.state.step / 2
    return early and bool(losses) and losses[-1] < losses[0] * (1 - _SHARE)


def _losses(evaluations: list[dict[str, Any]]) -> list[float]:
    return [row["train_loss"] for row in evaluations if row["train_loss"] is not None]


def _no_baseline_tells_labels(validation: dict[str, Any]) -> str:
    baselines, rows = validation["baselines"], validation.get("labelled_records", 0)
    majority = baselines.get("majority_class_accuracy")
    others = [
        value
        for name, value in baselines.items()
        if name.endswith("_accuracy") and name != "majority_class_accuracy"
    ]
    if not rows or majority is None or not others:
        return ""
    if difference_interval(max(others) * rows, rows, majority * rows, rows)[0] > 0:
        return ""
    return "no baseline tells the labels either: perhaps these tokens do not hold them"


def _course(run: Run, evaluations: list[dict[str, Any]], lacks_time: bool) -> list[str]:
    """What the losses of the run suggest about epochs and the learning rate."""
    settings, state, found = run.settings, run.state, []
    losses = _losses(evaluations)
    if not losses:
        return []
    ended_itself = state.step < run.total_steps
    before = losses[-1 - max(1, len(losses) // 4)] if len(losses) > 1 else None
    by_heart = _learned_by_heart(run, evaluations)
    may_go_on = not ended_itself and not lacks_time  # of time that it lacks is told elsewhere
    if state.step < _FEW_UPDATES and may_go_on:
        found.append(
            f"more epochs: the weights were updated {plural(state.step, 'time')} only "
            f"({_longer(run, _more_epochs(run))})"
        )
    elif may_go_on and not (before is None or by_heart) and losses[-1] < before * (1 - _CHANGE):
        found.append(
            f"more epochs: the training loss still fell at the end, from {before:.3f} to "
            f"{losses[-1]:.3f} ({_longer(run, 2 * round(run.total_steps / run.steps_per_epoch))})"
        )
    if len(losses) > 2 and min(losses) > losses[0] * (1 - _CHANGE):
        found.append(
            f"another learning rate: the training loss hardly fell, from {losses[0]:.3f} to "
            f"{losses[-1]:.3f} (--learning_rate is {settings.learning_rate:g})"
        )
    if by_heart:
        best, last = (round(step / run.steps_per_epoch) for step in (state.best_step, state.step))
        found.append(
            f"less learning by heart: after epoch {best} of {last} the training "
            f"loss fell and the validation rows got no better (more rows or variants, a smaller "
            f"model, --dropout above {settings.dropout:g})"
        )
    return found


def _longer(run: Run, epochs: int) -> str:
    """The flag that makes a run longer: that of time where it was given."""
    if run.settings.max_minutes is not None:
        return f"--max_minutes {2 * run.settings.max_minutes:g}"
    return f"--num_epochs {epochs}"


def _more_epochs(run: Run) -> int:
    return -(-_FEW_UPDATES * 2 // run.steps_per_epoch)


def _tokens(run: Run) -> list[str]:
    """What cut rows and unknown tokens suggest."""
    counts, settings, found = run.rows.counts, run.settings, []
    if counts.cut > _SHARE * len(run.rows):
        found.append(
            f"longer rows: {plural(counts.cut, 'row')} cut to {settings.max_length} tokens lost "
            f"{counts.cut_tokens / counts.cut:.0f} on average (--max_length, --n_positions)"
        )
    if counts.unknown_tokens > _SHARE * run.rows.target_count:
        found.append(
            f"a vocabulary that has the tokens: {counts.unknown_tokens:,} of these rows are read "
            f"as <UNK>"
        )
    return found


def _label_weight(run: Run) -> str:
    settings = run.settings
    if settings.task != "classify" or settings.classifier == "head":
        return ""
    others = run.rows.target_count / len(run.rows) - 1
    if settings.label_loss_weight < TrainSettings.label_loss_weight:
        return (
            f"more weight for the label: it weighs {settings.label_loss_weight:g} "
            f"(--label_loss_weight {TrainSettings.label_loss_weight:g})"
        )
    if others > 10 * settings.label_loss_weight:
        return (
            f"more weight for the label: it weighs {settings.label_loss_weight:g} beside "
            f"{others:.0f} other tokens of a row (--label_loss_weight {others / 5:.0f}, or "
            f"--classifier head)"
        )
    return ""


def _images(run: Run) -> list[str]:
    """What the use of the image codes and missing variants suggest."""
    if run.codebook is None:
        return []
    found, codebook, vocabulary = [], Codebook.load(run.codebook), run.rows.vocabulary
    known = [vocabulary.ids[token] for token in codebook.code_tokens if token in vocabulary.ids]
    ids_N, _ = run.rows.gather(np.arange(len(run.rows)))
    counts = np.bincount(ids_N, minlength=len(vocabulary))[known]
    rare, well = int((counts < _RARE_CODE).sum()), int((counts >= 4 * _RARE_CODE).sum())
    if rare > len(known) / 4:
        size = max(_SMALLEST_CODEBOOK, 2 ** int(np.log2(max(1, well))))
        grey = " or grey images (--color grey)" if codebook.channels == 3 else ""
        found.append(
            f"fewer image codes{grey}: {rare:,} of {len(known):,} occur less than {_RARE_CODE} "
            f"times in the training rows (prepare_data.py ... --codebook_size {size})"
        )
    if not run.rows.has_variants and len(run.rows) < _FEW_IMAGES:
        found.insert(
            0,
            f"variants of the images: {len(run.rows):,} are few "
            f"(prepare_data.py ... --augment auto)",
        )
    return found


def _rows(run: Run) -> str:
    if not run.rows.has_labels or run.settings.task == "lm":
        return ""
    used = np.unique(run.rows.classes_N[run.rows.classes_N >= 0], return_counts=True)[1]
    if np.median(used) >= _FEW_ROWS_OF_A_LABEL:
        return ""
    return (
        f"more rows: {plural(len(used), 'label')} with {np.median(used):.0f} training rows each "
        f"(median)"
    )


def _pretrained_start(run: Run) -> str:
    if run.rows.vocabulary.tokenizer is None or run.settings.init_from is not None:
        return ""
    return (
        "a pretrained model to start from: here the language is learned from these texts alone "
        "(--init_from, docs/texts.md)"
    )
