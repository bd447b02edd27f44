"""The row that the programs in the README.md of an export use, and what it says of pairs."""

from __future__ import annotations

import numpy as np

from smallgpt.engines.trained import TrainedModel
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.text_tokenizer import SEP
from smallgpt.tokens.vocabulary import Vocabulary

_MOST_TOKENS = 300  # of the example, which is to be read


def first_id(trained: TrainedModel) -> int:
    """The id that most training rows begin with, as far as that is known.

    Of texts one with a letter or digit: after a line break the likeliest is often another, and a
    page of blank lines shows nothing.
    """
    vocabulary = trained.vocabulary
    if vocabulary.img_id is not None:
        return vocabulary.img_id
    known = [vocabulary.ids[token] for token in trained.first_tokens if token in vocabulary.ids]
    if vocabulary.tokenizer is not None:
        texts = {index: vocabulary.tokenizer.decode([index]) for index in known}
        told = [index for index in known if any(map(str.isalnum, texts[index]))]
        known = told or known
    return known[0] if known else vocabulary.eos_id or 0


def example_of(trained: TrainedModel, labels: TokenLabelDataset | None) -> str:
    """The shortest row of `labels`, as people write it.

    Of texts, which may be private, the names of the labels.
    """
    if trained.vocabulary.tokenizer is not None:
        return " ".join(trained.label_names)[:_MOST_TOKENS]
    if labels is None:
        return trained.vocabulary.tokens[-1 - len(trained.vocabulary.labels)]
    bodies = labels.without_tails()
    ids_T = bodies.gather(np.array([int(np.argmin(bodies.lengths_N))]))[0][:_MOST_TOKENS]
    return trained.vocabulary.decode(ids_T.tolist())


def note_of_pairs(vocabulary: Vocabulary) -> str:
    """How a pair of texts is written, and how programs outside of the toolkit cut it; a paragraph.

    Their rule of one text is that of `row_rules`. "" for a model of other rows.
    """
    if vocabulary.separator_id is None:
        return ""
    return (
        f"\nThe model reads pairs: a text, ` {SEP} `, and another text. Of a pair that is too "
        f"long,\nthis cuts the first text, where the toolkit shortens the longer one: shorten such "
        f"texts before.\n"
    )
