"""Baseline accuracies and perplexities on the split of the run: what a GPT has to beat.

    figures, notes = measure_baselines(train, validation, codebook=None, done=lambda: None)

Fitted on the training rows, measured on the validation rows. Large data is sampled with a fixed
seed, and the notes give the counts. What the choices cost and reach: docs/measurements.md.

- majority class: always the most frequent training label.
- naive Bayes (multinomial) on tf-idf weights of token 1- and 2-grams or, where all bodies have one
  length, on pairs of place and token, whichever predicts more labels of a held-out fifth of the
  training rows (at most 10,000).
- linear n-gram: a linear support-vector machine on token 1- and 2-grams. It and the RBF machine
  have a weight for each label and feature, and are left out above 500 labels: the samples they
  could be fitted on would hold a row or less of each.
- nearest neighbour by cosine on the features of naive Bayes; on pairs of place and token that is
  the row with the most equal places.
- gradient-boosted trees on the token of each place, where all bodies have one length, no place has
  more than 255 tokens, there are at most 20 labels (each grows a tree 300 times) and no codebook.
- an RBF support-vector machine on the pixels that the codebook decodes the tokens to.
- unigram perplexity with add-one smoothing, and bigram perplexity interpolated with it after Witten
  and Bell (1991): P(w|v) = (c(v w) + t(v) P(w)) / (c(v) + t(v)), t(v) counting the distinct tokens
  seen after v. As for a model, every token but a row's first counts, the label tail included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from smallgpt.checks.sides import lookup, tokens_of
from smallgpt.evaluation.metrics import perplexity
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.codebook import Codebook

STEPS = 7  # how often `measure_baselines` calls `done`
_SEED = 0
_LANGUAGE_TOKENS = 20_000_000
_MOST_ROWS, _MOST_TOKENS = 60_000, 3_000_000
_LINEAR_WORK = 15_000_000  # tokens times labels
_MOST_MACHINE_LABELS = 500  # above it no support-vector machines; see the docstring
_NEIGHBOUR_ROWS, _NEIGHBOUR_TOKENS = 10_000, 1_000_000
_MOST_TREE_LABELS = 20
_TREE_WORK = 500_000  # rows times places times labels: some seconds
_PIXEL_ROWS, _PIXEL_VALUES = 6_000, 6_000_000
_ASKED_ROWS = 2_000  # that nearest neighbour and the RBF machine are measured on
_CHOICE_ROWS = 10_000  # that decide the features of naive Bayes


@dataclass
class _Found:
    """Figures by name, and for each a note on how it was measured."""

    figures: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        figure: float,
        with_what: str,
        fitted: tuple[TokenLabelDataset, TokenLabelDataset],
        measured: tuple[TokenLabelDataset, TokenLabelDataset],
    ) -> None:
        """Add a figure; `fitted` and `measured` are a sample and the rows it was drawn from."""
        counts = [
            f"{len(some):,}" + (f" of {len(rows):,}" if len(some) < len(rows) else "")
            for some, rows in (fitted, measured)
        ]
        self.figures[name] = figure
        self.notes[name] = f"{with_what}; fitted on {counts[0]} rows, measured on {counts[1]}"


def measure_baselines(
    train: TokenLabelDataset,
    validation: TokenLabelDataset,
    codebook: Path | None,
    done: Callable[[], object],
) -> tuple[dict[str, float], dict[str, str]]:
    """All baselines that the rows allow: without labels perplexities only, none if a side is empty.

    Args:
        codebook: codebook.npz of image rows, else None.
        done: called after each of STEPS parts, for a progress bar.

    Returns:
        Figures by name; notes by name: features and row counts, or why the figure was left out.

    Raises:
        UserError: the codebook is broken.
    """
    found = _Found()
    known, asked = (
        rows.subset(np.flatnonzero((rows.classes_N >= 0) & (rows.body_lengths_N > 0)))
        for rows in (train, validation)
    )
    if len(known) and len(asked):
        most = int(np.bincount(known.classes_N).argmax())
        share = float((asked.classes_N == most).mean())
        always = f"always {train.vocabulary.label_names[most]}"
        found.add("majority_class_accuracy", share, always, (known, known), (asked, asked))
    done()
    if len(asked) and _has_several_classes(known):
        _measure_classifiers(found, known, asked, codebook, done)
    if len(train) and validation.target_count > 0:
        some = train.sample(_LANGUAGE_TOKENS, _LANGUAGE_TOKENS, _SEED)
        few = validation.sample(_LANGUAGE_TOKENS, _LANGUAGE_TOKENS, _SEED)
        unigram, bigram = language_perplexities(some, few)
        samples = (some, train), (few, validation)
        found.add("unigram_perplexity", unigram, "add-one smoothing", *samples)
        found.add("bigram_perplexity", bigram, "Witten-Bell with the unigrams", *samples)
    done()
    return found.figures, found.notes


def _measure_classifiers(
    found: _Found,
    known: TokenLabelDataset,
    asked: TokenLabelDataset,
    codebook: Path | None,
    done: Callable[[], object],
) -> None:
    """Accuracies of classifiers fitted on the `known` rows and measured on the `asked` ones."""
    # Imported here: scikit-learn takes a second or two, which rows without labels do not need.
    from smallgpt.checks import classifiers

    some = known.sample(_MOST_ROWS, _MOST_TOKENS, _SEED)
    few = asked.sample(_MOST_ROWS, _MOST_TOKENS, _SEED)
    choice = known.sample(_CHOICE_ROWS, _NEIGHBOUR_TOKENS, _SEED)
    features = classifiers.RowFeatures(some, classifiers.by_place_is_better(choice))
    accuracy = classifiers.naive_bayes_accuracy(features, some, few)
    found.add("naive_bayes_accuracy", accuracy, features.name, (some, known), (few, asked))
    done()

    labels = len(np.unique(known.classes_N))
    few_labels = labels <= _MOST_MACHINE_LABELS
    if not few_labels:
        machines = ["linear_ngram_accuracy"] + ["svm_pixels_accuracy"] * (codebook is not None)
        found.notes |= dict.fromkeys(
            machines,
            f"left out: of {labels:,} labels, more than {_MOST_MACHINE_LABELS}, it could learn "
            f"from a row or less of each",
        )
    some = known.sample(_MOST_ROWS, min(_MOST_TOKENS, _LINEAR_WORK // labels), _SEED)
    if few_labels and _has_several_classes(some):
        ngrams = classifiers.RowFeatures(some, by_place=False)
        accuracy = classifiers.accuracy_of(classifiers.LINEAR_MACHINE, ngrams, some, few)
        found.add("linear_ngram_accuracy", accuracy, ngrams.name, (some, known), (few, asked))
    done()

    some = known.sample(_NEIGHBOUR_ROWS, _NEIGHBOUR_TOKENS, _SEED)
    few = asked.sample(_ASKED_ROWS, _NEIGHBOUR_TOKENS, _SEED)
    accuracy = classifiers.accuracy_of(classifiers.NEAREST_NEIGHBOUR, features, some, few)
    found.add("nearest_neighbour_accuracy", accuracy, features.name, (some, known), (few, asked))
    done()

    if codebook is None and labels <= _MOST_TREE_LABELS and classifiers.TokenOfPlace.suits(known):
        places = int(known.body_lengths_N[0])
        some = known.sample(max(1, _TREE_WORK // (places * labels)), _MOST_TOKENS, _SEED)
        few = asked.sample(_MOST_ROWS, _MOST_TOKENS, _SEED)
        if _has_several_classes(some):
            trees = classifiers.TokenOfPlace(known)
            accuracy = classifiers.accuracy_of(trees.new_model, trees, some, few)
            found.add("boosted_trees_accuracy", accuracy, trees.name, (some, known), (few, asked))
    done()

    if codebook is not None and few_labels:
        pixels = classifiers.PixelFeatures(Codebook.load(codebook), known.vocabulary)
        most_rows = min(_PIXEL_ROWS, max(1, _PIXEL_VALUES // pixels.count))
        some = known.sample(most_rows, _MOST_TOKENS, _SEED)
        few = asked.sample(_ASKED_ROWS, _MOST_TOKENS, _SEED)
        if _has_several_classes(some):  # a small sample of rare classes may hold one
            accuracy = classifiers.accuracy_of(classifiers.RBF_MACHINE, pixels, some, few)
            found.add("svm_pixels_accuracy", accuracy, pixels.name, (some, known), (few, asked))
    done()


def _has_several_classes(rows: TokenLabelDataset) -> bool:
    return len(np.unique(rows.classes_N)) > 1


def language_perplexities(
    train: TokenLabelDataset, validation: TokenLabelDataset
) -> tuple[float, float]:
    """Unigram and bigram perplexity of the validation rows; formulas: the module's docstring."""
    size = len(train.vocabulary)
    ids_M, row_M = tokens_of(train)
    chance_V = np.bincount(ids_M, minlength=size) + 1.0
    chance_V /= chance_V.sum()
    follows_M = np.flatnonzero(row_M[1:] == row_M[:-1]) + 1
    pairs_P, count_P = np.unique(ids_M[follows_M - 1] * size + ids_M[follows_M], return_counts=True)
    before_V = np.bincount(ids_M[follows_M - 1], minlength=size)
    kinds_V = np.bincount(pairs_P // size, minlength=size)

    ids_M, row_M = tokens_of(validation)
    follows_M = np.flatnonzero(row_M[1:] == row_M[:-1]) + 1
    follows_M = follows_M[validation.scored(np.arange(len(validation)))]
    last, token = ids_M[follows_M - 1], ids_M[follows_M]
    unigram = chance_V[token]
    seen = lookup(pairs_P, count_P, last * size + token)
    total = before_V[last] + kinds_V[last]
    # After a token that no training row continues there is only the unigram.
    bigram = np.where(total, (seen + kinds_V[last] * unigram) / np.maximum(total, 1), unigram)
    return perplexity(float(-np.log(unigram).mean())), perplexity(float(-np.log(bigram).mean()))
