"""Vocabulary: vocab.json <-> token ids <-> Hugging Face tokenizer.

    vocabulary = Vocabulary.load("data/digits/vocab.json")
    ids = vocabulary.encode("<IMG> <Z_190>")
    vocabulary.save_tokenizer("outputs/best_model")

Any vocabulary with `<PAD>` works. Its labels are its `<CLS_...>` tokens. Where a tokenizer.json of
`text_tokenizer` lies beside the file, rows may be text.
"""

from __future__ import annotations

import bisect
import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from smallgpt.errors import UserError
from smallgpt.files.reading import parse_json, read_text, shown, size_text
from smallgpt.tokens.labels import (
    MOST_LABELS,
    label_of_token,
    label_text,
    label_token,
    too_long,
)
from smallgpt.tokens.text_tokenizer import MOST_TOKENS, SEP, TOKENIZER, TextTokenizer

PAD, UNK, IMG, END_IMG, CLS, EOS = "<PAD>", "<UNK>", "<IMG>", "</IMG>", "<CLS>", "<EOS>"
# A million tokens of fifty letters. Parsing it takes up to 1 GB, whatever the content, since values
# are counted first.
MOST_BYTES = 2**26
_MANY_LETTERS = MOST_BYTES // 16  # above this the size of the file is computed
# An unknown token is compared with so many of those with the most similar start, and end; one
# longer than so many letters with none.
_MOST_LIKENED = 400
_LONGEST_LIKENED = 50


class Vocabulary:
    """Tokens and their ids.

    Attributes:
        tokens, ids: token of each id, and the reverse.
        ids_by_bytes: ids by the token's UTF-8 bytes (rows are split as bytes, because only
            bytes.split() splits at ASCII whitespace alone).
        pad_id, unk_id, img_id, cls_id, eos_id: ids of the special tokens, None for a missing one
            (never pad_id); special_ids lists those there are.
        separator_id: id of `<SEP>`, which parts the two texts of a pair; None where the tokenizer
            does not read it in a text, or rows are tokens only.
        labels, label_ids: label and token id of each class, in the order of the ids; class_of_id is
            the inverse of label_ids, label_id_set the same ids as a set.
        label_names: the labels as people write them, `not good` for `not_good`; see `spell_labels`.
        first_ids: tokens that mark the start of a row: <IMG>, or what a pretrained tokenizer puts
            before each text.
        tokenizer: turns text into these ids; None where rows are tokens only.
        read: number of ids that a model of it reads, 0..read-1.
        keeps_start: a row that is too long loses its end, where others lose their start.
        reads_tail: whether the model has embeddings of the label tail.
    """

    keeps_start, reads_tail = False, True

    def __init__(self, tokens: Sequence[str], tokenizer: TextTokenizer | None = None):
        """`tokens` in the order of their ids.

        Raises:
            ValueError: empty or repeated tokens, too long ones, whitespace in one, no `<PAD>`, too
                many tokens or labels, or a vocab.json that would be too large.
        """
        if len(tokens) > MOST_TOKENS:
            raise ValueError(f"{len(tokens):,} tokens, at most {MOST_TOKENS:,}")
        self.tokens, self.tokenizer, self.read = list(tokens), tokenizer, len(tokens)
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            raise ValueError("a token stands twice")
        for token in self.tokens:
            try:
                single = token.encode().split() == [token.encode()]
            except UnicodeEncodeError:
                raise ValueError(f"token {shown(token)} is not valid Unicode") from None
            if not single:
                raise ValueError(f"token {shown(token)} is empty or has whitespace in it")
            if too_long(token):
                raise ValueError(too_long(token))
        if PAD not in self.ids:
            raise ValueError(f"{PAD} is missing")
        self.ids_by_bytes = {token.encode(): index for token, index in self.ids.items()}
        # Whatever is written must be readable. A letter takes at most six bytes.
        letters = sum(map(len, self.ids_by_bytes))
        if letters + 16 * len(self.tokens) > _MANY_LETTERS:
            size = len(self.to_json().encode())
            if size > MOST_BYTES:
                raise ValueError(
                    f"a vocab.json of {size:,} bytes, at most {size_text(MOST_BYTES)}: "
                    f"{len(self.tokens):,} tokens of {letters:,} bytes"
                )
        self.pad_id = self.ids[PAD]
        self.unk_id = self.ids.get(UNK)
        self.img_id = self.ids.get(IMG)
        self.cls_id = self.ids.get(CLS)
        self.eos_id = self.ids.get(EOS)
        special = (PAD, UNK, IMG, END_IMG, CLS, EOS)
        self.first_ids = set() if self.img_id is None else {self.img_id}
        if tokenizer is not None:
            self.first_ids |= tokenizer.first_ids
        self.special_ids = [self.ids[token] for token in special if token in self.ids]
        self.separator_id = None
        if tokenizer is not None and tokenizer.reads_separator():
            self.separator_id = self.ids[SEP]
            self.special_ids.append(self.separator_id)
        label_of_id = {
            index: label
            for token, index in self.ids.items()
            if (label := label_of_token(token)) is not None
        }
        self.labels, self.label_ids = list(label_of_id.values()), list(label_of_id)
        if len(self.labels) > MOST_LABELS:
            raise ValueError(f"{len(self.labels):,} labels (<CLS_...>), at most {MOST_LABELS:,}")
        self.class_of_id = {token_id: number for number, token_id in enumerate(self.label_ids)}
        self.label_id_set = frozenset(self.label_ids)
        self.label_names = list(self.labels)

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a row that is generated: <EOS>, and <CLS> of a text, whose tail is none."""
        ends = self.eos_id, self.cls_id if self.tokenizer is not None else None
        return frozenset(index for index in ends if index is not None)

    @property
    def never_ids(self) -> frozenset[int]:
        """Ids that are never generated: <PAD>, and <UNK> in a text."""
        unk_id = self.unk_id if self.tokenizer is not None else None
        return frozenset(index for index in (self.pad_id, unk_id) if index is not None)

    @classmethod
    def for_images(cls, codes: int, labels: Iterable[str]) -> Vocabulary:
        """The reference layout: special tokens, `<Z_000>`.. for each code, `<CLS_...>`.

        500 codes and the labels 0..9 give the reference vocabulary of 516 entries.
        """
        width, labels = max(3, len(str(codes - 1))), list(labels)
        vocabulary = cls(
            [PAD, UNK, IMG, END_IMG, CLS, EOS]
            + [f"<Z_{code:0{width}d}>" for code in range(codes)]
            + [label_token(label_text(label)) for label in labels]
        )
        vocabulary.spell_labels(labels)
        return vocabulary

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read and check a vocab.json, and the tokenizer.json of text beside it.

        Raises:
            UserError: no such file, not a flat object of token -> id, ids not 0..n-1, an invalid
                token, or a tokenizer of other tokens.
        """
        if not os.path.exists(path):
            raise UserError(f"{path}: no such file (the vocabulary, --vocab_path)")
        try:
            pairs = parse_json(read_text(path, MOST_BYTES), most_values=MOST_TOKENS + 1)
        except ValueError as error:
            raise UserError(f"{path}: not a valid vocabulary: {error}") from None
        if not isinstance(pairs, dict) or not pairs:
            raise UserError(f"{path}: expected one JSON object of token -> id")
        for token, index in pairs.items():
            if type(index) is not int:
                raise UserError(
                    f"{path}: the id of {shown(token)} is {shown(index)}, not a whole number"
                )
        by_id = sorted(pairs.items(), key=lambda pair: pair[1])
        for expected, (token, index) in enumerate(by_id):
            if index != expected:
                raise UserError(
                    f"{path}: ids must be 0..{len(by_id) - 1}, each once; id {expected} is "
                    f"{'missing' if index > expected else 'not possible'} "
                    f"(next is {shown(token)} with {shown(index)})"
                )
        tokens = [token for token, _ in by_id]
        try:
            return cls(tokens, TextTokenizer.beside(Path(path), tokens))
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None

    def to_json(self) -> str:
        """The text of a vocab.json."""
        return json.dumps(self.ids, ensure_ascii=False, indent=0) + "\n"

    def fingerprint(self) -> str:
        """SHA-256 of the tokens in the order of their ids, and of the text tokenizer."""
        text = self.to_json() + (self.tokenizer.fingerprint() if self.tokenizer else "")
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """A short hash of the tokens in the order of their ids, stored in rows of ids."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def encode(self, text: str) -> list[int]:
        """Ids of tokens separated by ASCII whitespace.

        Raises:
            KeyError: with the list of the unknown tokens.
        """
        words = text.encode(errors="replace").split()
        unknown = [word.decode() for word in words if word not in self.ids_by_bytes]
        if unknown:
            raise KeyError(unknown)
        return [self.ids_by_bytes[word] for word in words]

    def spell_labels(self, spellings: Iterable[Any]) -> None:
        """Take over how people write labels; a later spelling of one label beats an earlier one.

        What is no spelling of a label here is passed over.
        """
        for spelling in spellings:
            with suppress(ValueError):
                token_id = self.ids.get(label_token(label_text(spelling)))
                if token_id in self.class_of_id:
                    self.label_names[self.class_of_id[token_id]] = str(spelling)

    @cached_property
    def _in_order(self) -> tuple[list[str], list[str]]:
        """The tokens sorted, and the reversed tokens sorted."""
        return sorted(self.tokens), sorted(token[::-1] for token in self.tokens)

    def nearest(self, token: str) -> str | None:
        """The token most similar to an unknown one, None where none is similar.

        Comparing takes time: of many tokens only those with a similar start or end are tried.
        """
        if len(token) > _LONGEST_LIKENED:
            return None
        likened: Iterable[str] = self.tokens
        if len(self) > 2 * _MOST_LIKENED:
            found: dict[str, None] = {}  # an ordered set
            for backwards, tokens in enumerate(self._in_order):
                step = -1 if backwards else 1
                place = bisect.bisect(tokens, token[::step])
                around = tokens[max(0, place - _MOST_LIKENED // 2) : place + _MOST_LIKENED // 2]
                found |= dict.fromkeys(other[::step] for other in around)
            likened = found
        near = [other for other in likened if len(other) <= 2 * _LONGEST_LIKENED]
        return next(iter(difflib.get_close_matches(token, near, n=1)), None)

    def decode(self, ids: Iterable[int]) -> str:
        """Tokens of `ids`, separated by spaces."""
        return " ".join(self.tokens[index] for index in ids)

    def save_tokenizer(self, folder: str | Path, max_length: int | None = None) -> None:
        """Write vocab.json, tokenizer.json and tokenizer_config.json into `folder`.

        A text tokenizer loads through AutoTokenizer. That of token rows loads through AutoTokenizer
        and GPT2Tokenizer with the same ids for known, space-separated tokens: every entry is an
        added token with `lstrip`, since transformers 5 rebuilds a GPT2Tokenizer as byte-level BPE
        and would drop the others. transformers cuts texts to `max_length` if asked to; None: to no
        length.
        """
        from transformers import PreTrainedTokenizerFast  # slow, and needed only to write

        folder = Path(folder)
        unknown = UNK if self.unk_id is not None else PAD
        end = EOS if self.eos_id is not None else PAD
        if self.tokenizer is not None:
            PreTrainedTokenizerFast(
                tokenizer_object=self.tokenizer.backend,
                pad_token=PAD,
                unk_token=unknown,
                bos_token=end,
                eos_token=end,
                clean_up_tokenization_spaces=False,
                split_special_tokens=True,  # `<EOS>` in a text is just five letters
                model_max_length=max_length,
            ).save_pretrained(folder)
            (folder / TOKENIZER).write_text(self.tokenizer.to_json(), encoding="utf-8")
            (folder / "vocab.json").write_text(self.to_json(), encoding="utf-8")
            return
        backend = Tokenizer(models.WordLevel(self.ids, unk_token=unknown))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_tokens([AddedToken(t, lstrip=True, normalized=False) for t in self.tokens])
        # Without a bos token GPT2Tokenizer would add <|endoftext|>, outside the embedding. A
        # placeholder backend, since transformers needs ten seconds to write the tokenizer.json of a
        # large vocabulary, and tokenizer_config.json does not depend on it.
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({unknown: 0}, unk_token=unknown)),
            pad_token=AddedToken(PAD, lstrip=True, normalized=False),
            unk_token=AddedToken(unknown, lstrip=True, normalized=False),
            bos_token=AddedToken(end, lstrip=True, normalized=False),
            eos_token=AddedToken(end, lstrip=True, normalized=False),
            clean_up_tokenization_spaces=False,
            model_max_length=max_length,
        )
        tokenizer.save_pretrained(folder)
        (folder / TOKENIZER).write_text(backend.to_str() + "\n", encoding="utf-8")
        (folder / "vocab.json").write_text(self.to_json(), encoding="utf-8")
