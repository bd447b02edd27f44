"""Vocabulary of token rows: which tokens stay, which are written as <UNK>, and their order."""

from __future__ import annotations

import numpy as np

from smallgpt.console import plural
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.labels import label_token, sorted_labels
from smallgpt.tokens.vocabulary import CLS, END_IMG, EOS, IMG, PAD, UNK, Vocabulary

SPECIAL = (PAD, UNK, IMG, END_IMG, CLS, EOS)
# A vocabulary is closed where so many new rows are expected to have less than one new token.
_ROWS_WITH_A_NEW_TOKEN = 100


def least_count(rows: TokenLabelDataset, train: np.ndarray) -> tuple[int, str]:
    """How often a token must stand in training rows to stay, and why it is more than once.

    The chance that the next token is one never seen is about the share of tokens seen once (Good,
    1953, after Turing): a new row has as many new tokens as there are tokens seen once per row.
    Where that is more than next to none, they are written as <UNK>, so that training meets <UNK>
    where and about as often as new rows will have it. Rows that have <UNK> of their own are left
    as they are.
    """
    vocabulary, counts_V = rows.vocabulary, _training_counts(rows, train)
    if counts_V[vocabulary.unk_id]:
        return 1, ""
    counts_V[[*vocabulary.special_ids, *vocabulary.label_ids]] = 0
    once = int((counts_V == 1).sum())
    if not once or once * _ROWS_WITH_A_NEW_TOKEN < len(train):
        return 1, ""
    expected = max(1, round(100 * once / len(train)))
    return 2, (
        f", so that the model learns what to make of {UNK}: 100 new rows will have about "
        f"{plural(expected, 'new token')} (Good-Turing); --min_count 1 keeps them"
    )


def final_vocabulary(rows: TokenLabelDataset, train: np.ndarray, min_count: int) -> Vocabulary:
    """Special tokens, then tokens by falling frequency in training rows, then labels."""
    seen = rows.vocabulary
    counts = _training_counts(rows, train).tolist()
    anywhere = np.bincount(rows.tokens, minlength=len(seen)).tolist()
    uses_images = anywhere[seen.img_id] or anywhere[seen.ids[END_IMG]]
    special = [PAD, UNK, *([IMG, END_IMG] if uses_images else [])]
    special += [CLS, EOS] if anywhere[seen.cls_id] else [EOS]
    ordinary = [
        token
        for token, number in seen.ids.items()
        if counts[number] >= min_count and number not in seen.label_id_set and token not in SPECIAL
    ]
    ordinary.sort(key=lambda token: (-counts[seen.ids[token]], token))
    # Labels of both splits: a model must be able to predict those of test rows alone.
    labels = sorted_labels(seen.labels[seen.class_of_id[i]] for i in seen.label_ids if anywhere[i])
    return Vocabulary([*special, *ordinary, *map(label_token, labels)])


def _training_counts(rows: TokenLabelDataset, train: np.ndarray) -> np.ndarray:
    """How often each token stands in the training rows."""
    is_train_N = np.zeros(len(rows), bool)
    is_train_N[train] = True
    in_training = rows.tokens[np.repeat(is_train_N, rows.lengths_N)]
    return np.bincount(in_training, minlength=len(rows.vocabulary))
