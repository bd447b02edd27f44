"""Vocabulary of prepared texts: pretrained tokenizer, or one learned from the training texts."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.options.preparation import InstructionsSettings, TextSettings
from smallgpt.tokens.labels import label_text, label_token
from smallgpt.tokens.text_tokenizer import SEP, SMALLEST_BPE, TextTokenizer
from smallgpt.tokens.vocabulary import CLS, EOS, PAD, UNK, Vocabulary

_SPECIAL = (PAD, UNK, CLS, EOS)
_LEARNED = ("chars", "bpe")
# Byte pairs where --vocab_size leaves it open. A model has to meet a token some times to learn what
# it says of a label; a language gains nothing by fewer (docs/measurements.md).
_BPE_SIZES, _TIMES_EACH = (4096, 2048, 1024, 512), 64


def pretrained_tokenizer(name: str) -> TextTokenizer | None:
    """The pretrained tokenizer of --tokenizer, None if one is to be learned.

    Raises:
        UserError: as `TextTokenizer.pretrained`.
    """
    if name in _LEARNED:
        return None
    try:
        return TextTokenizer.pretrained(name, _SPECIAL)
    except UserError as error:
        near = difflib.get_close_matches(name, _LEARNED, n=1)
        raise UserError(f"{error}{f'; did you mean {near[0]}?' if near else ''}") from None


def make_vocabulary(
    settings: TextSettings | InstructionsSettings,
    pretrained: TextTokenizer | None,
    texts: Sequence[str],
    labels: Sequence[str],
    notes: list[str],
    of_pairs: bool = False,
) -> Vocabulary:
    """Tokens of a tokenizer, `pretrained` or learned from training texts, and a token per label.

    `of_pairs`: and <SEP>, if the tokenizer lacks it. What was chosen by the texts is told in
    `notes`.

    Raises:
        UserError: --vocab_size is too small, or the pretrained tokens are invalid in a vocabulary.
    """
    special = (*_SPECIAL, SEP) if of_pairs else _SPECIAL
    more = len(labels) + len(special) - len(_SPECIAL)
    if pretrained is not None:
        tokenizer = pretrained
    elif settings.tokenizer == "chars":
        size = None
        if settings.vocab_size is not None:
            size = settings.vocab_size - more
            _check_size(settings.vocab_size, special, labels, 1, "character")
        tokenizer = TextTokenizer.learn_characters(texts, _SPECIAL, size)
    else:
        if settings.vocab_size is not None:
            _check_size(settings.vocab_size, special, labels, SMALLEST_BPE, "byte")
        tokenizer = _learn_byte_pairs(texts, settings.vocab_size, more, notes)
    if of_pairs:
        tokenizer = tokenizer.with_separator()
    tokenizer = tokenizer.with_special([label_token(label_text(label)) for label in labels])
    try:
        vocabulary = Vocabulary(tokenizer.tokens, tokenizer)
    except ValueError as error:
        raise UserError(f"the tokenizer {settings.tokenizer}: {error}") from None
    vocabulary.spell_labels(labels)
    return vocabulary


def _learn_byte_pairs(
    texts: Sequence[str], size: int | None, more: int, notes: list[str]
) -> TextTokenizer:
    """Byte pairs for `size` entries with `more` added, or as many as the texts have a use for."""
    least = SMALLEST_BPE + len(_SPECIAL) + more
    sizes = [max(each, least) for each in _BPE_SIZES]
    if size or not more:
        sizes = [size or sizes[0]]
    for entries in sizes:
        tokenizer = TextTokenizer.learn_bpe(texts, _SPECIAL, entries - more)
        if entries == sizes[-1] or _is_as_long(texts, tokenizer, _TIMES_EACH * entries):
            break
    if entries != sizes[0]:
        notes.append(
            f"recipe: at most {entries:,} tokens in the vocabulary, since the training texts are "
            f"few (--vocab_size {_BPE_SIZES[0]} takes more)"
        )
    return tokenizer


def _is_as_long(texts: Sequence[str], tokenizer: TextTokenizer, tokens: int) -> bool:
    """Whether texts have so many tokens together."""
    for text in texts:
        tokens -= len(tokenizer.encode(text))
        if tokens <= 0:
            return True
    return False


def _check_size(
    size: int, special: Sequence[str], labels: Sequence[str], least: int, unit: str
) -> None:
    """Refuse a --vocab_size with no room for the labels and the `least` units of a text."""
    needed = least + len(special) + len(labels)
    if size < needed:
        raise UserError(
            f"--vocab_size {size} is too small: {plural(least, unit)}, {len(special)} special "
            f"tokens and {plural(len(labels), 'label')} need {needed:,}"
        )
