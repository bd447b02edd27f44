"""Figures that need no GPT, on the split of the run: a yardstick for the model.

    figures, notes = measure_baselines(train, validation, codebook=None, done=lambda: None)

All learn from the training rows and are measured on the validation rows; scikit-learn does the
sums. Large data is sampled, always in the same way, and the notes say how many rows took part. What
the choices below cost and reach: docs/measurements.md.

- majority class: the label that most training rows have.
- naive Bayes (multinomial) on tf-idf weights of token 1- and 2-grams or, where all bodies have one
  length, on pairs of place and token, whichever tells more labels of a held-out fifth of the
  training rows (at most 10,000): in an image it matters where a patch stands.
- linear n-gram: a linear support-vector machine on the same 1- and 2-grams. It and the next machine
  but one have a weight for each label and feature, and are left out where there are more than 500
  labels: what they could be fitted on would hold a row or less of each.
- nearest neighbour: by cosine of what naive Bayes uses; on pairs of place and token that is the row
  with the most equal places.
- an RBF support-vector machine on the pixels that the codebook decodes the tokens to.
- unigram perplexity with add-one smoothing, and bigram perplexity interpolated with it after Witten
  and Bell (1991): P(w|v) = (c(v w) + t(v) P(w)) / (c(v) + t(v)), t(v) counting the distinct tokens
  seen after v. As for a model, every token but a row's first counts, the label tail included.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smallgpt.checks.naive_bayes import NaiveBayes
from smallgpt.evaluation.metrics import perplexity
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.codebook import Codebook

if TYPE_CHECKING:
    from scipy.sparse import csr_array


STEPS = 6  # how often `measure_baselines` calls `done`
_SEED = 0
_LANGUAGE_TOKENS = 20_000_000
_MOST_ROWS, _MOST_TOKENS = 60_000, 3_000_000
_LINEAR_WORK = 15_000_000  # tokens times labels
_MOST_MACHINE_LABELS = 500  # of support-vector machines; see above
_NEIGHBOUR_ROWS, _NEIGHBOUR_TOKENS = 10_000, 1_000_000
_PIXEL_ROWS, _PIXEL_VALUES = 6_000, 6_000_000
_ASKED_ROWS = 2_000  # of nearest neighbour and pixels
_CHOICE_ROWS = 10_000  # that decide what naive Bayes goes by
_SMOOTHING = 0.1  # of naive Bayes; 0.01 and 1 do worse or no better


def measure_baselines(
    train: TokenLabelDataset,
    validation: TokenLabelDataset,
    codebook: Path | None,
    done: Callable[[], object],
) -> tuple[dict[str, float], dict[str, str]]:
    """All baselines that the rows allow: without labels the perplexities only.

    Args:
        train, validation: the rows of a run; where one side is empty there are no figures.
        codebook: codebook.npz of image rows, None for others.
        done: called after each of STEPS parts, for a progress bar.

    Returns:
        figures: name -> figure.
        notes: name -> what it was measured with and on how many rows; or why there is no such
            figure.

    Raises:
        UserError: the codebook is broken.
    """
    figures: dict[str, float] = {}
    notes: dict[str, str] = {}

    def note(name: str, figure: float, words: str) -> None:
        figures[name], notes[name] = figure, words

    known = train.subset(np.flatnonzero((train.classes_N >= 0) & (train.body_lengths_N > 0)))
    asked = validation.subset(
        np.flatnonzero((validation.classes_N >= 0) & (validation.body_lengths_N > 0))
    )
    if len(known) and len(asked):
        most = int(np.bincount(known.classes_N).argmax())
        note(
            "majority_class_accuracy",
            float((asked.classes_N == most).mean()),
            f"always {train.vocabulary.labels[most]}; {_rows_said(known, known, asked, asked)}",
        )
    done()
    if len(asked) and _tells_apart(known):
        some = known.sample(_MOST_ROWS, _MOST_TOKENS, _SEED)
        few = asked.sample(_MOST_ROWS, _MOST_TOKENS, _SEED)
        view = _View(some, _goes_by_place(known.sample(_CHOICE_ROWS, _NEIGHBOUR_TOKENS, _SEED)))
        counts, tested = view.of(some), view.of(few)
        note(
            "naive_bayes_accuracy",
            _naive_bayes(counts, some.classes_N, tested, few.classes_N),
            f"on {view.name}; {_rows_said(some, known, few, asked)}",
        )
        done()
        labels = len(np.unique(known.classes_N))
        few_labels = labels <= _MOST_MACHINE_LABELS
        if not few_labels:
            machines = ["linear_ngram_accuracy"] + ["svm_pixels_accuracy"] * (codebook is not None)
            notes |= dict.fromkeys(
                machines,
                f"left out: of {labels:,} labels, more than {_MOST_MACHINE_LABELS}, it could learn "
                f"from a row or less of each",
            )
        some = known.sample(_MOST_ROWS, min(_MOST_TOKENS, _LINEAR_WORK // labels), _SEED)
        if few_labels and _tells_apart(some):
            ngrams = _View(some, by_place=False)
            note(
                "linear_ngram_accuracy",
                _linear(ngrams.of(some), some.classes_N, ngrams.of(few), few.classes_N),
                f"on {ngrams.name}; {_rows_said(some, known, few, asked)}",
            )
        done()
        some = known.sample(_NEIGHBOUR_ROWS, _NEIGHBOUR_TOKENS, _SEED)
        few = asked.sample(_ASKED_ROWS, _NEIGHBOUR_TOKENS, _SEED)
        note(
            "nearest_neighbour_accuracy",
            _nearest(view.of(some), some.classes_N, view.of(few), few.classes_N),
            f"on {view.name}; {_rows_said(some, known, few, asked)}",
        )
        done()
        if codebook is not None and few_labels:
            pixels = _Pixels(Codebook.load(codebook), train)
            most_rows = min(_PIXEL_ROWS, max(1, _PIXEL_VALUES // pixels.values))
            some = known.sample(most_rows, _MOST_TOKENS, _SEED)
            few = asked.sample(_ASKED_ROWS, _MOST_TOKENS, _SEED)
            if _tells_apart(some):
                note(
                    "svm_pixels_accuracy",
                    _svm(pixels.of(some), some.classes_N, pixels.of(few), few.classes_N),
                    f"on {pixels.values} decoded values; {_rows_said(some, known, few, asked)}",
                )
        done()
    if len(train) and validation.target_count > 0:
        some = train.sample(_LANGUAGE_TOKENS, _LANGUAGE_TOKENS, _SEED)
        few = validation.sample(_LANGUAGE_TOKENS, _LANGUAGE_TOKENS, _SEED)
        unigram, bigram = language_perplexities(some, few)
        said = _rows_said(some, train, few, validation)
        note("unigram_perplexity", unigram, f"add-one smoothing; {said}")
        note("bigram_perplexity", bigram, f"Witten-Bell with the unigrams; {said}")
    done()
    return figures, notes


def _tells_apart(rows: TokenLabelDataset) -> bool:
    """Whether there is more than one class to learn; a small sample of rare ones may hold one."""
    return len(np.unique(rows.classes_N)) > 1


def _rows_said(
    some: TokenLabelDataset,
    known: TokenLabelDataset,
    few: TokenLabelDataset,
    asked: TokenLabelDataset,
) -> str:
    """`fitted on 10,000 of 48,000 rows, measured on 2,000 of 12,000`."""
    fitted = f"fitted on {len(some):,}" + (f" of {len(known):,}" if len(some) < len(known) else "")
    measured = f"{len(few):,}" + (f" of {len(asked):,}" if len(few) < len(asked) else "")
    return f"{fitted} rows, measured on {measured}"


# ------------------------------------------------------------------------------- language


def language_perplexities(
    train: TokenLabelDataset, validation: TokenLabelDataset
) -> tuple[float, float]:
    """Unigram and bigram perplexity of the validation rows, as the module's docstring has them."""
    size = len(train.vocabulary)
    ids_M, row_M = _flat(train, train.lengths_N)
    chance_V = np.bincount(ids_M, minlength=size) + 1.0
    chance_V /= chance_V.sum()
    follows_M = np.flatnonzero(row_M[1:] == row_M[:-1]) + 1
    pairs_P, count_P = np.unique(ids_M[follows_M - 1] * size + ids_M[follows_M], return_counts=True)
    before_V = np.bincount(ids_M[follows_M - 1], minlength=size)
    kinds_V = np.bincount(pairs_P // size, minlength=size)

    ids_M, row_M = _flat(validation, validation.lengths_N)
    follows_M = np.flatnonzero(row_M[1:] == row_M[:-1]) + 1
    follows_M = follows_M[validation.scored(np.arange(len(validation)))]
    last, token = ids_M[follows_M - 1], ids_M[follows_M]
    unigram = chance_V[token]
    seen = _lookup(pairs_P, count_P, last * size + token)
    total = before_V[last] + kinds_V[last]
    # After a token that never stood before another there is only the unigram.
    bigram = np.where(total, (seen + kinds_V[last] * unigram) / np.maximum(total, 1), unigram)
    return perplexity(float(-np.log(unigram).mean())), perplexity(float(-np.log(bigram).mean()))


def _flat(rows: TokenLabelDataset, lengths_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first `lengths_N` tokens of all rows one after another: ids and row of each."""
    lengths_N = lengths_N.astype(np.int64)
    row_M = np.repeat(np.arange(len(rows)), lengths_N)
    place_M = np.arange(len(row_M)) - np.repeat(np.cumsum(lengths_N) - lengths_N, lengths_N)
    return rows.tokens[rows.starts_N[row_M] + place_M].astype(np.int64), row_M


def _lookup(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Value of each asked key among the sorted `keys`, 0 where it is none of them."""
    if not len(keys):
        return np.zeros(len(asked), np.int64)
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[at] == asked, values[at], 0)


# ------------------------------------------------------------------------------- labels


class _View:
    """What of a row a baseline sees: weights of n-grams, or which token stands at which place."""

    def __init__(self, rows: TokenLabelDataset, by_place: bool):
        """The features of training rows; a 2-gram that stands once tells nothing."""
        from sklearn.feature_extraction.text import TfidfTransformer

        self.by_place = by_place
        self.name = "pairs of place and token" if by_place else "token 1- and 2-grams"
        key_M, _ = self._features(rows)
        self.keys_F, count_F = np.unique(key_M, return_counts=True)
        if not by_place:
            self.keys_F = self.keys_F[(count_F > 1) | (self.keys_F < len(rows.vocabulary))]
        self.weights = None
        if not by_place:
            self.weights = TfidfTransformer(sublinear_tf=True).fit(self._counts(rows))

    def of(self, rows: TokenLabelDataset) -> csr_array:
        """Rows as a sparse matrix NxF; a feature that was not met in fitting is left out."""
        counts_NxF = self._counts(rows)
        return counts_NxF if self.weights is None else self.weights.transform(counts_NxF)

    def _features(self, rows: TokenLabelDataset) -> tuple[np.ndarray, np.ndarray]:
        """Features of all bodies: number and row of each."""
        ids_M, row_M = _flat(rows, rows.body_lengths_N)
        size = len(rows.vocabulary)
        if self.by_place:
            place_M = np.arange(len(row_M)) - np.searchsorted(row_M, row_M)
            return place_M * size + ids_M, row_M
        first_M = np.flatnonzero(row_M[1:] == row_M[:-1])
        pair_M = (ids_M[first_M] + 1) * size + ids_M[first_M + 1]
        return np.concatenate([ids_M, pair_M]), np.concatenate([row_M, row_M[first_M]])

    def _counts(self, rows: TokenLabelDataset) -> csr_array:
        from scipy.sparse import coo_array

        key_M, row_M = self._features(rows)
        column_M = _lookup(self.keys_F, np.arange(1, len(self.keys_F) + 1), key_M) - 1
        known_M = column_M >= 0
        places = row_M[known_M].astype(np.int32), column_M[known_M].astype(np.int32)
        shape = (len(rows), len(self.keys_F))
        counts_NxF = coo_array((np.ones(known_M.sum(), np.float32), places), shape=shape).tocsr()
        counts_NxF.sum_duplicates()
        # scikit-learn's linear models take 32-bit places only.
        counts_NxF.indices = counts_NxF.indices.astype(np.int32)
        counts_NxF.indptr = counts_NxF.indptr.astype(np.int32)
        return counts_NxF


def _goes_by_place(known: TokenLabelDataset) -> bool:
    """Whether naive Bayes tells more labels of a held-out fifth of training rows by place."""
    if len(np.unique(known.body_lengths_N)) > 1:
        return False
    order = np.random.default_rng(_SEED).permutation(len(known))
    held_out, rest = (known.subset(part) for part in np.split(order, [len(known) // 5]))
    if not len(held_out):
        return False
    reached = []
    for by_place in (False, True):
        view = _View(rest, by_place)
        data = view.of(rest), rest.classes_N, view.of(held_out), held_out.classes_N
        reached.append(_naive_bayes(*data))
    return reached[True] > reached[False]


def _naive_bayes(known_NxF: Any, known_N: Any, asked_MxF: Any, asked_M: Any) -> float:
    model = NaiveBayes.fit(known_NxF, known_N, _SMOOTHING)
    return float((model.predict(asked_MxF) == asked_M).mean())


def _linear(*data: Any) -> float:
    from sklearn.svm import LinearSVC

    return _score(LinearSVC(max_iter=30, random_state=_SEED), *data)


def _nearest(*data: Any) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    return _score(KNeighborsClassifier(1, metric="cosine", algorithm="brute"), *data)


def _svm(*data: Any) -> float:
    from sklearn.svm import SVC

    return _score(SVC(C=5.0), *data)


def _score(model: Any, known_NxF: Any, known_N: Any, asked_MxF: Any, asked_M: Any) -> float:
    """Accuracy on the asked rows of a scikit-learn model fitted on the known ones."""
    with warnings.catch_warnings():
        # A yardstick need not be fitted to the last digit, and labels of one row each are the
        # user's affair.
        warnings.filterwarnings("ignore", message="Liblinear failed to converge")
        warnings.filterwarnings("ignore", message="The number of unique classes")
        return float(model.fit(known_NxF, known_N).score(asked_MxF, asked_M))


# ------------------------------------------------------------------------------- pixels


class _Pixels:
    """Rows of image tokens as pixel values from 0 to 1."""

    def __init__(self, codebook: Codebook, rows: TokenLabelDataset):
        self.codebook = codebook
        self.values = codebook.height * codebook.width * codebook.channels
        codes = {token: code for code, token in enumerate(codebook.code_tokens)}
        tokens = rows.vocabulary.tokens
        self.code_V = np.array([codes.get(token, -1) for token in tokens])

    def of(self, rows: TokenLabelDataset) -> np.ndarray:
        """Pixels NxD; missing patches are the darkest one and surplus codes are left out."""
        ids_M, row_M = _flat(rows, rows.body_lengths_N)
        code_M = self.code_V[ids_M]
        code_M, row_M = code_M[code_M >= 0], row_M[code_M >= 0]
        place_M = np.arange(len(row_M)) - np.searchsorted(row_M, row_M)
        codes_NxP = np.zeros((len(rows), self.codebook.patches_per_image), np.int64)
        inside_M = place_M < codes_NxP.shape[1]
        codes_NxP[row_M[inside_M], place_M[inside_M]] = code_M[inside_M]
        low, high = self.codebook.low, self.codebook.high
        return (self.codebook.decode(codes_NxP).reshape(len(rows), -1) - low) / (high - low)
