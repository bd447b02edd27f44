"""Vocabulary of a pretrained model as it is: its tokenizer's tokens, under their own names.

    vocabulary = PretrainedVocabulary(tokenizer, SpecialIds(...), size=50257)
    vocabulary.tokens[vocabulary.eos_id]          # <|endoftext|>, [SEP], </s>

Rows have a few tokens of ours, for padding and for labels. Their ids stand behind those of the
model, which never reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.tokens.labels import label_of_token, label_text, label_token
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import CLS, END_IMG, EOS, IMG, PAD, UNK, Vocabulary

_OURS = (PAD, UNK, IMG, END_IMG, CLS, EOS)


@dataclass(frozen=True)
class SpecialIds:
    """What some ids of a pretrained tokenizer mean; None where no token has the role."""

    pad_id: int | None
    unk_id: int | None
    eos_id: int | None
    stop_ids: frozenset[int]  # end a text that is generated: eos_id and others


class PretrainedVocabulary(Vocabulary):
    """Tokens of a pretrained model, and behind them ours."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        special: SpecialIds,
        size: int,
        labels: Sequence[str] = (),
        keeps_start: bool = False,
    ):
        """`size`: rows of the model's embedding; `labels` of a model that only names labels.

        Raises:
            UserError: two labels of one spelling, or tokens that no vocabulary may have.
        """
        try:
            spelled: dict[str, str] = {}
            for label in labels:
                first = spelled.setdefault(label_token(label_text(label)), label)
                if first is not label:
                    raise ValueError(f"its labels {shown(first)} and {shown(label)} are one here")
            names = list(spelled)
            behind = [PAD, CLS, EOS, *names] if names else [PAD]
            super().__init__([*_tokens(tokenizer, size), *behind], tokenizer)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.read, self.keeps_start = size, keeps_start
        self.ids_by_bytes = {k: index for k, index in self.ids_by_bytes.items() if index < size}
        self.reads_tail = not names
        self.spell_labels(labels)
        self.unk_id = special.unk_id
        if special.pad_id is not None:
            self.pad_id = special.pad_id
        if not names:  # else it closes the label tail, which is ours
            self.eos_id = special.eos_id
        self._stop_ids = special.stop_ids
        known = set(tokenizer.backend.get_vocab(True).values())
        roles = {special.pad_id, special.unk_id} - special.stop_ids
        self._never_ids = frozenset(i for i in range(size) if i not in known or i in roles)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text that is generated."""
        return self._stop_ids

    @property
    def never_ids(self) -> frozenset[int]:
        """Ids that are never generated: padding, the unknown token, rows without a token."""
        return self._never_ids


def _tokens(tokenizer: TextTokenizer, size: int) -> Iterator[str]:
    """A name for each row of an embedding; a token spelled as one of ours gets a mark behind."""
    taken = set(tokenizer.tokens)
    for index in range(size):
        is_token = index < len(tokenizer.tokens)
        token = tokenizer.tokens[index] if is_token else f"<unused_{index}>"
        ours = token in _OURS or label_of_token(token) is not None
        if ours or not is_token:
            token += "_" if ours else ""
            while token in taken:
                token += "_"
            taken.add(token)
        yield token
