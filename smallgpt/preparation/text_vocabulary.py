"""Vocabulary of prepared texts: pretrained tokenizer, or one learned from the training texts."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.options.preparation import InstructionsSettings, TextSettings
from smallgpt.tokens.labels import label_text, label_token
from smallgpt.tokens.text_tokenizer import SMALLEST_BPE, TextTokenizer
from smallgpt.tokens.vocabulary import CLS, EOS, PAD, UNK, Vocabulary

_SPECIAL = (PAD, UNK, CLS, EOS)
_LEARNED = ("chars", "bpe")
_DEFAULT_BPE_SIZE = 4096


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
) -> Vocabulary:
    """Tokens of a tokenizer, `pretrained` or learned from training texts, and a token per label.

    Raises:
        UserError: --vocab_size is too small, or the pretrained tokens are invalid in a vocabulary.
    """
    if pretrained is not None:
        tokenizer = pretrained
    elif settings.tokenizer == "chars":
        size = None
        if settings.vocab_size is not None:
            size = settings.vocab_size - len(labels)
            _check_size(settings.vocab_size, labels, 1, "character")
        tokenizer = TextTokenizer.learn_characters(texts, _SPECIAL, size)
    else:
        size = settings.vocab_size or _DEFAULT_BPE_SIZE
        _check_size(size, labels, SMALLEST_BPE, "byte")
        tokenizer = TextTokenizer.learn_bpe(texts, _SPECIAL, size - len(labels))
    tokenizer = tokenizer.with_special([label_token(label_text(label)) for label in labels])
    try:
        vocabulary = Vocabulary(tokenizer.tokens, tokenizer)
    except ValueError as error:
        raise UserError(f"the tokenizer {settings.tokenizer}: {error}") from None
    vocabulary.spell_labels(labels)
    return vocabulary


def _check_size(size: int, labels: Sequence[str], least: int, unit: str) -> None:
    """Refuse a --vocab_size with no room for the labels and the `least` units of a text."""
    needed = least + len(_SPECIAL) + len(labels)
    if size < needed:
        raise UserError(
            f"--vocab_size {size} is too small: {plural(least, unit)}, {len(_SPECIAL)} special "
            f"tokens and {plural(len(labels), 'label')} need {needed:,}"
        )
