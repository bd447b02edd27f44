"""The recipe: options that nobody gave, chosen by the rows that are there to learn from.

    settings, reasons = choose_recipe(settings, rows)

What it rests on was measured on several data sets (docs/measurements.md, "The recipe"); no rule
knows one of them. A flag or a value in the file overrides each choice, and the choices stand in the
settings.yaml of the run.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from smallgpt.console import plural
from smallgpt.options.option import AUTO
from smallgpt.options.training import SHAPE, TrainSettings
from smallgpt.rows.dataset import TokenLabelDataset

# Tokens of an epoch from which a shape is worth its time: layers, heads, width. In a given time a
# small model sees few rows far more often, and is ahead in labels and in perplexity.
_SHAPES = ((0, (4, 4, 128)), (500_000, (4, 4, 192)), (5_000_000, (6, 6, 384)))
# With --max_minutes: tokens that the run would visit with the second of these, from which a larger
# one is worth its time. Larger ones still were not measured with enough time.
_LARGER_FROM, _LARGER = 20_000_000, (4, 4, 256)
_VISITS_OF_LABELLED = 2  # for each to a row without a label
_HEAD_WIDTH = 32  # at least, where only the width was given
_ROWS_OF_AN_UPDATE = 32
_LEARNING_RATES = {"muon": 2e-3, "adamw": 1e-3}
_DROPOUT, _DROPOUT_OF_VARIANTS = 0.2, 0.1
# A run has so many updates, or as many as visit so many tokens; an epoch says little.
_UPDATES, _TOKENS = 4000, 6_000_000
_FEWEST_EPOCHS, _MOST_EPOCHS = 8, 400
_EPOCHS_OF_A_START = 16  # a pretrained model knows most already
# Seconds that a run may take without a flag, where an epoch has up to so many tokens; of texts with
# labels.
_SECONDS, _SECONDS_OF_TEXTS, _TOKENS_IN_THEM = 300, 600, 500_000
# Texts with labels: the weight of labels asked for early, the decay of the averages. The same words
# say much of a label in any order, so that two layers do, and few epochs.
_SHAPES_OF_TEXTS = ((0, (2, 4, 128)), (1_000_000, (2, 4, 256)), _SHAPES[-1])
_EARLY_LABEL_WEIGHT, _EMA_DECAY = 10.0, 0.998
_UPDATES_OF_TEXTS, _EPOCHS_OF_TEXTS = 1000, (5, 24)


class _Choice(NamedTuple):
    """Values of options, in words that name them, and why."""

    values: dict[str, Any]
    words: str
    reason: str


def choose_recipe(settings: TrainSettings, rows: TokenLabelDataset) -> tuple[TrainSettings, str]:
    """The settings with a value for each option that is `auto`, and why, in one paragraph.

    `rows`: the training rows. The paragraph is "" where nothing was left to choose. With
    max_minutes or steps, which say how long to train, num_epochs stays `auto`.
    """
    told = []
    for choose in (_visits, _shape, _optimizer, _dropout, _labels, _epochs):
        choice = choose(settings, rows)
        values = {k: v for k, v in choice.values.items() if getattr(settings, k) == AUTO}
        if values:
            settings = replace(settings, **values)
            if choice.words:
                told.append(f"{choice.words.format(**vars(settings))}, since {choice.reason}")
        rows = replace(rows, labelled_visits=settings.labelled_visits)
    return settings, "; ".join(told)


def usual_epochs(settings: TrainSettings, rows: TokenLabelDataset) -> int:
    """The epochs of the recipe for such rows, whatever time the settings allow.

    `settings`: as `choose_recipe` completed them.
    """
    epochs: int = _epochs(replace(settings, max_minutes=None, steps=None), rows).values[
        "num_epochs"
    ]
    return epochs


def epochs_in_time(
    settings: TrainSettings, rows: TokenLabelDataset, seconds_of_epoch: float
) -> int:
    """`num_epochs` halved until they fit into the time that such rows may take without a flag.

    Halved, not cut to fit: the same machine is to come to the same number again.
    """
    seconds = _SECONDS_OF_TEXTS if _are_texts_with_labels(settings, rows) else _SECONDS
    limit = seconds * max(1.0, _tokens_of_epoch(rows) / _TOKENS_IN_THEM)
    epochs: int = settings.num_epochs
    while epochs > 1 and epochs * seconds_of_epoch > limit:
        epochs = math.ceil(epochs / 2)
    return epochs


def larger_in_time(
    settings: TrainSettings, rows: TokenLabelDataset, tokens: float
) -> TrainSettings | None:
    """`settings` with a larger shape than that of the recipe, None where it is the best.

    `settings`: as they were given. `tokens`: that a run with the recipe's shape visits in its time.
    """
    asked = [shape for least, shape in _SHAPES if _tokens_of_epoch(rows) >= least][-1]
    if (
        asked != _SHAPES[1][1]
        or tokens < _LARGER_FROM
        or settings.init_from is not None
        or _are_texts_with_labels(settings, rows)
        or any(getattr(settings, name) != AUTO for name in SHAPE[:3])
    ):
        return None
    values: dict[str, Any] = dict(zip(SHAPE, _LARGER, strict=False))
    return replace(settings, **values)


def _tokens_of_epoch(rows: TokenLabelDataset) -> int:
    return round(float(rows.lengths_N @ rows.visits))


def _are_texts_with_labels(settings: TrainSettings, rows: TokenLabelDataset) -> bool:
    return (
        rows.vocabulary.tokenizer is not None
        and settings.task == "classify"
        and settings.classifier == "label_token"
        and settings.init_from is None
    )


def _visits(settings: TrainSettings, rows: TokenLabelDataset) -> _Choice:
    labelled = len(np.unique(rows.units[rows.classes_N >= 0]))
    others = rows.visited_rows - rows.labelled_visits * labelled
    visits = 1
    if settings.task == "classify" and labelled:
        visits = max(1, round(_VISITS_OF_LABELLED * others / labelled))
    if visits == 1:
        return _Choice({"labelled_visits": 1}, "", "")
    return _Choice(
        {"labelled_visits": visits},
        "{labelled_visits} visits an epoch to each row with a label",
        f"{others:,} of {labelled + others:,} have none",
    )


def _shape(settings: TrainSettings, rows: TokenLabelDataset) -> _Choice:
    tokens = _tokens_of_epoch(rows)
    shapes = _SHAPES_OF_TEXTS if _are_texts_with_labels(settings, rows) else _SHAPES
    layers, heads, width = [shape for least, shape in shapes if tokens >= least][-1]
    if settings.n_head != AUTO:  # it must divide the width
        width = settings.n_head * max(1, round(width / settings.n_head))
    if settings.n_embd != AUTO:
        most = max(1, settings.n_embd // _HEAD_WIDTH)
        heads = max(n for n in range(1, most + 1) if settings.n_embd % n == 0)
    return _Choice(
        dict(zip(SHAPE, (layers, heads, width), strict=False)),
        "{n_layer} layers, {n_head} heads, {n_embd} wide",
        f"an epoch has {plural(tokens, 'token')}",
    )


def _optimizer(settings: TrainSettings, rows: TokenLabelDataset) -> _Choice:
    pretrained = settings.init_from is not None
    name, reason = "muon", "it learns most in a given time"
    if settings.optimizer != AUTO:
        name, reason = settings.optimizer, "that suits it"
    elif pretrained:
        name, reason = "adamw", "the model is trained already"
    values = {
        "optimizer": name,
        "learning_rate": _LEARNING_RATES[name],
        "batch_size": _ROWS_OF_AN_UPDATE,
    }
    return _Choice(values, "{optimizer} at {learning_rate:g}, {batch_size} rows a batch", reason)


def _dropout(settings: TrainSettings, rows: TokenLabelDataset) -> _Choice:
    if _are_texts_with_labels(settings, rows):
        values = {"dropout": _DROPOUT, "token_dropout": _DROPOUT}
        reason = "single words are soon known by heart"
    elif rows.has_variants:
        values = {"dropout": _DROPOUT_OF_VARIANTS, "token_dropout": 0.0}
        reason = "a row comes in another variant each time"
    else:
        values = {"dropout": _DROPOUT, "token_dropout": _DROPOUT / 2}
        reason = "the same rows come again and again"
    if settings.dropout != AUTO:
        values["token_dropout"] = 0.0 if rows.has_variants else settings.dropout / 2
    share = "{token_dropout:g}" if settings.token_dropout is not None else "half of it"
    return _Choice(values, f"dropout {{dropout:g}}, of tokens {share}", reason)


def _labels(settings: TrainSettings, rows: TokenLabelDataset) -> _Choice:
    if not _are_texts_with_labels(settings, rows):
        return _Choice({"early_label_weight": 0.0, "ema_decay": 0.0}, "", "")
    return _Choice(
        {"early_label_weight": _EARLY_LABEL_WEIGHT, "ema_decay": _EMA_DECAY},
        "labels asked for at each place, weighing {early_label_weight:g}, weights averaged by "
        "{ema_decay:g}",
        "single words of a text tell of its label",
    )


def _epochs(settings: TrainSettings, rows: TokenLabelDataset) -> _Choice:
    if settings.max_minutes is not None or settings.steps is not None:
        return _Choice({}, "", "")
    an_update = settings.batch_size * settings.grad_accumulation_steps
    updates_of_epoch = math.ceil(rows.visited_rows / an_update)
    if settings.init_from is not None:
        epochs, reason = _EPOCHS_OF_A_START, "the model is trained already"
    else:
        updates, (fewest, most) = _UPDATES, (_FEWEST_EPOCHS, _MOST_EPOCHS)
        if _are_texts_with_labels(settings, rows):
            updates, (fewest, most) = _UPDATES_OF_TEXTS, _EPOCHS_OF_TEXTS
        epochs = round(min(updates / updates_of_epoch, _TOKENS / _tokens_of_epoch(rows)))
        epochs = min(most, max(fewest, epochs))
        reason = f"that makes {plural(epochs * updates_of_epoch, 'update')}"
    return _Choice({"num_epochs": epochs}, "{num_epochs} epochs", reason)
