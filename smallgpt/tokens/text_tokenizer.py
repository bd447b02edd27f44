"""Text tokenizers: learned from the user's own texts (characters, BPE), or pretrained.

    tokenizer = TextTokenizer.learn_characters(texts, special=("<PAD>", "<UNK>", "<CLS>", "<EOS>"))
    tokenizer = TextTokenizer.learn_bpe(texts, size=4096, special=...)
    tokenizer = TextTokenizer.pretrained("gpt2", special=...)      # a folder, or a name on the hub
    ids = tokenizer.encode("To be, or not")
    tokenizer.decode(ids)

It is stored beside its vocab.json as `tokenizer.json`, the file of the `tokenizers` library, and in
a model folder, where AutoTokenizer reads it. Special tokens are never found in a text: a review
that holds the letters `<CLS_1>` is a review with these letters. Only the tokenizer of pairs reads
`<SEP>` in a text, written between its two parts (`with_separator`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from smallgpt.errors import UserError
from smallgpt.files.hub import folder_of, hub_errors
from smallgpt.files.reading import (
    count_values,
    is_panic,
    open_input,
    read_text,
    rust_errors,
    shown,
    size_text,
)

TOKENIZER = "tokenizer.json"
SEP = "<SEP>"  # between the two texts of a pair
# In any vocabulary, of texts or of token rows; the largest in use have about 300,000. The limits
# of readers follow from it. Larger things are refused when they are made, so that whatever is
# written can be read.
MOST_TOKENS = 1_000_000
# In the tokenizer.json of a text tokenizer: a token and its merge take about 100 bytes.
MOST_BYTES = 2**27
# Such a file has a number and a pair for each token, and few objects. A value where the library
# expects another costs it up to 500 bytes of memory, an object far more.
_MOST_VALUES, _MOST_OBJECTS = 5 * MOST_TOKENS, 100_000
_EDGE_BYTES = 2**14  # more than a token takes, written with escapes
SMALLEST_BPE = 256  # bytes, each a token
_MOST_LETTERS = 1000  # in a learned token, as in a vocabulary
# Every tokenizer of transformers leaves at least one of these in its folder.
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model")
# Tokens of a vocabulary have no whitespace: these Unicode symbols for it replace it. A text that
# holds them itself reads as if it held the whitespace.
WHITESPACE_MARKS = {
    " ": "\N{SYMBOL FOR SPACE}",
    "\n": "\N{SYMBOL FOR LINE FEED}",
    "\t": "\N{SYMBOL FOR HORIZONTAL TABULATION}",
    "\r": "\N{SYMBOL FOR CARRIAGE RETURN}",
    "\v": "\N{SYMBOL FOR VERTICAL TABULATION}",
    "\f": "\N{SYMBOL FOR FORM FEED}",
}
# WordPiece tokenizers of Chinese put a space between any two characters.
_CJK = r"[\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef]"
# See `_is_of_token_rows`; the `tokenizers` library writes its keys in a fixed order.
_FIRST_TOKEN_OF_ROWS = re.compile(
    rb'"added_tokens":\s*\[\s*\{\s*"id":\s*0,\s*"content":\s*"(?:[^"\\]|\\.)*+",'
    rb'\s*"single_word":\s*false,\s*"lstrip":\s*true'
)
_END_OF_WORD_LEVEL = re.compile(rb'"unk_token":\s*"(?:[^"\\]|\\.)*+"\s*\}\s*\}\s*\Z')
_SPACE_IN_CJK = re.compile(rf"(?<={_CJK}) (?={_CJK})")
# Letters by which tokenizers of bytes write them: these as they are, every other one as a letter
# from U+0100 on.
_AS_THEY_ARE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_MOVED = [byte for byte in range(256) if byte not in _AS_THEY_ARE]
_BYTES = {chr(byte): byte for byte in _AS_THEY_ARE}
_BYTES |= {chr(256 + place): byte for place, byte in enumerate(_MOVED)}


def pair_text(first: str, second: str) -> str:
    """Two texts as one, in which `TextTokenizer.with_separator` finds both."""
    return f"{first.strip()} {SEP} {second.strip()}"


def shown_bytes(token: str) -> str:
    """A token that is half of a letter, byte by byte; the name of one not written in bytes."""
    found = [_BYTES.get(letter) for letter in token]
    if None in found or token.isascii():
        return token
    return "".join(f"<0x{byte:02X}>" for byte in found)


class TextTokenizer:
    """A text tokenizer.

    Attributes:
        tokens: the token of each id, 0..n-1, each once; whitespace in it is written as in
            `WHITESPACE_MARKS`. An id that the tokenizer leaves out, or whose spelling is taken,
            is `<unused_ID>`.
        ids_before: what the tokenizer puts before each text: `[CLS]`, `<s>`; empty for most.
        first_ids: the first of them as a set.
        count_after: how many ids it puts behind: `[SEP]`.
    """

    def __init__(
        self,
        backend: Tokenizer,
        as_it_is: bool = False,
        closes: bool = True,
        size: int | None = None,
    ):
        """Wrap a `tokenizers.Tokenizer`, which is changed.

        Args:
            as_it_is: special tokens that a text spells are read as such, as transformers does.
            closes: it puts its mark of an end behind a text, if it has one.
            size: the ids of its model, where it may have more.

        Raises:
            UserError: it has more ids than any vocabulary may, or cannot encode.
        """
        self.backend, self._closes, self._size = backend, closes, size
        backend.encode_special_tokens = not as_it_is  # else encoded as text
        backend.no_padding()
        backend.no_truncation()
        by_id = {index: token for token, index in backend.get_vocab(True).items()}
        size = max(by_id, default=-1) + 1
        if size > MOST_TOKENS:
            raise UserError(
                f"the tokenizer has an id of {size - 1:,}: no vocabulary is so large (at most "
                f"{MOST_TOKENS:,} tokens)"
            )
        marks = str.maketrans(WHITESPACE_MARKS)
        written: dict[str, None] = {}
        for index in range(size):
            token, more = by_id.get(index, "").translate(marks), ""
            while not token or token in written:
                token, more = f"<unused_{index}{more}>", more + "_"
            written[token] = None
        self.tokens = list(written)
        try:
            marked, plain = self._ids("a", True), self._ids("a", False)
        except ValueError as error:
            raise UserError(str(error)) from None
        if any(index >= size for index in marked):
            raise UserError("the tokenizer puts ids around a text that it does not have")
        places = range(len(marked) - len(plain) + 1)
        before = next((i for i in places if marked[i : i + len(plain)] == plain), 0)
        self.ids_before = marked[:before]
        self.first_ids = set(self.ids_before[:1])
        self.count_after = len(marked) - len(plain) - before if closes else 0

    # ---------------------------------------------------------------------------- making

    @classmethod
    def learn_characters(
        cls,
        texts: Iterable[str],
        special: Sequence[str],
        size: int | None = None,
    ) -> TextTokenizer:
        """One token a character; with a `size`, the most frequent ones, `special` counted in.

        `special` get the first ids; the second of them is for unknown characters.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        kept = counts.most_common(None if size is None else max(0, size - len(special)))
        letters = sorted({WHITESPACE_MARKS.get(letter, letter) for letter, _ in kept})
        ids = {token: index for index, token in enumerate([*special, *letters])}
        # BPE without merges: each character is a token.
        backend = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token=special[1]))
        marks = WHITESPACE_MARKS.items()
        backend.normalizer = normalizers.Sequence(
            [normalizers.Replace(space, mark) for space, mark in marks]
        )
        backend.decoder = decoders.Sequence(
            [*(decoders.Replace(mark, space) for space, mark in marks), decoders.Fuse()]
        )
        return cls(backend).with_special(special)

    @classmethod
    def learn_bpe(cls, texts: Iterable[str], special: Sequence[str], size: int) -> TextTokenizer:
        """Byte-level byte pair encoding (Sennrich et al., 2016; Radford et al., 2019).

        Every byte has a token, so no text is unknown to it. `special` get the first ids; they and
        the 256 bytes count for `size`.
        """
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=size,
                special_tokens=list(special),
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                show_progress=False,
                max_token_length=_MOST_LETTERS,
            ),
        )
        return cls(backend).with_special(special)

    @classmethod
    def pretrained(cls, name: str, special: Sequence[str]) -> TextTokenizer:
        """The tokenizer of a model folder, of a folder that prepare_data.py made, or of the hub.

        HF_TOKEN opens private names on the hub. Tokens of `special` that it lacks come at the end.

        Raises:
            UserError: none there, no network, one of token rows, or one that runs in Python only.
        """
        folder = folder_of(name, "tokenizer")
        path = folder / TOKENIZER
        if path.is_file():
            _refuse_token_rows(path, name)
            return cls.load(path).with_special(special)
        with _named(name):
            return cls(_backend_of(load_pretrained_tokenizer(name), name)).with_special(special)

    @classmethod
    def as_transformers_reads(cls, found: Any, name: str, closes: bool, size: int) -> TextTokenizer:
        """A tokenizer of `load_pretrained_tokenizer` as it is.

        Args:
            name: for messages.
            closes: it puts its mark of an end behind a text, if it has one.
            size: ids that its model has.

        Raises:
            UserError: it runs in Python only, or puts ids before a text that the model lacks.
        """
        with _named(name):
            return cls(_backend_of(found, name), True, closes, size)

    def with_special(self, special: Sequence[str]) -> TextTokenizer:
        """The same tokenizer; those of `special` that it lacks are added at the end."""
        self.backend.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in special]
        )
        return TextTokenizer(self.backend)

    def with_separator(self) -> TextTokenizer:
        """The same tokenizer, which reads `<SEP>` within a text, whitespace beside it aside.

        A plain added token is found by whatever reads the tokenizer.json; special ones are not.

        Raises:
            UserError: it has a special token of that name.
        """
        separator = AddedToken(SEP, lstrip=True, rstrip=True, normalized=False)
        self.backend.add_tokens([separator])
        if not self.reads_separator():
            raise UserError(f"the tokenizer has a special token {SEP}, which no text can hold")
        return TextTokenizer(self.backend)

    def reads_separator(self) -> bool:
        """Whether `<SEP>` within a text is one token."""
        index = self.backend.token_to_id(SEP)
        return index is not None and self.encode(SEP, marked=False) == [index]

    # ---------------------------------------------------------------------------- files

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Read a tokenizer.json.

        Raises:
            UserError: not one.
        """
        text = read_text(path, MOST_BYTES)
        _check_values(text, path)
        with rust_errors(path, "not a tokenizer"):
            try:
                return cls(Tokenizer.from_str(text))
            except Exception as error:  # the library raises bare Exceptions
                reason = shown(" ".join(str(error).split()))
                raise UserError(f"{path}: not a tokenizer ({reason})") from None

    @classmethod
    def beside(cls, vocab_path: Path, tokens: list[str]) -> TextTokenizer | None:
        """The text tokenizer in the folder of a vocab.json; None where rows are tokens.

        Models of token rows have a tokenizer.json as well, for transformers: see
        `_is_of_token_rows`.

        Raises:
            UserError: it cannot be read, or its tokens are not those of the vocabulary.
        """
        path = vocab_path.with_name(TOKENIZER)
        if not path.is_file() or _is_of_token_rows(path):
            return None
        found = cls.load(path)
        if found.tokens != tokens:
            raise UserError(
                f"{path} has other tokens than {vocab_path.name}: the files belong to different "
                f"vocabularies"
            )
        return found

    def to_json(self) -> str:
        """The text of a tokenizer.json.

        Raises:
            UserError: it would be larger than `load` allows.
        """
        text = self.backend.to_str() + "\n"
        if len(text.encode()) > MOST_BYTES:
            raise UserError(f"the tokenizer is larger than {size_text(MOST_BYTES)}")
        _check_values(text, TOKENIZER)
        return text

    def fingerprint(self) -> str:
        """SHA-256 of all that decides which ids a text has."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    # ---------------------------------------------------------------------------- using

    def encode(self, text: str, marked: bool = True) -> list[int]:
        """Ids of a text.

        `marked` adds what a pretrained tokenizer puts around it (`[CLS] ... [SEP]`).

        Raises:
            ValueError: the text has half of a surrogate pair, which is no character, or the
                tokenizer fails: a pattern without end, an unknown token that it lacks.
        """
        if marked and not self._closes:
            return [*self.ids_before, *self._ids(text, False)]
        return self._ids(text, marked)

    def _ids(self, text: str, marked: bool) -> list[int]:
        ids: list[int] = self._encoding(text, marked).ids
        if self._size is not None and max(ids, default=0) >= self._size:
            token = self.backend.id_to_token(max(ids))
            raise ValueError(f"the text has {shown(token)}, a token that the model lacks")
        return ids

    def _encoding(self, text: str, marked: bool) -> Any:
        """The library's `Encoding` of a text; raises as `encode`."""
        try:
            return self.backend.encode(text, add_special_tokens=marked)
        except (TypeError, UnicodeEncodeError):
            raise ValueError("the text has half of a surrogate pair: not valid Unicode") from None
        except BaseException as error:
            if type(error) is not Exception and not is_panic(error):
                raise
            reason = shown(" ".join(str(error).split()))
            raise ValueError(f"the tokenizer fails at this text: {reason}") from None

    def end_of(self, text: str, count: int) -> str:
        """The part of a text that its last `count` ids stand for, marks not counted.

        Raises:
            ValueError: as `encode`.
        """
        offsets = self._encoding(text, False).offsets
        return text if count >= len(offsets) else text[offsets[-count - 1][1] :]

    def count_unknown(self, ids: Sequence[int]) -> int:
        """How many of `ids` are the unknown token."""
        unknown = getattr(self.backend.model, "unk_token", None)
        unknown_id = self.backend.token_to_id(unknown) if unknown else None
        return 0 if unknown_id is None else list(ids).count(unknown_id)

    def unknown_letters(self, text: str, ids: Sequence[int]) -> list[str]:
        """A letter of the text for each unknown token among its `ids`, in their order.

        Where a tokenizer makes a whole word unknown, the letter may be the unknown token itself.
        """
        count = self.count_unknown(ids)
        if not count:
            return []
        unknown = {each for each in set(text) if self.count_unknown(self.encode(each))}
        letters = [each for each in text if each in unknown][:count]
        return letters + [self.backend.model.unk_token] * (count - len(letters))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        with rust_errors(TOKENIZER, "the tokenizer cannot write these tokens as text"):
            text = self.backend.decode(list(ids), skip_special_tokens=True)
        if type(self.backend.decoder).__name__ == "WordPiece":
            text = _SPACE_IN_CJK.sub("", text)
        return text


def load_pretrained_tokenizer(name: str) -> Any:
    """The transformers tokenizer of a folder, or of a name on the Hugging Face hub.

    Raises:
        UserError: none there, no network, or it needs code of its own, which is never run.
    """
    folder = folder_of(name, "tokenizer")
    path = folder / TOKENIZER
    if path.is_file():
        _refuse_token_rows(path, name)
        _check_values(read_text(path, MOST_BYTES), path)
    elif not any(any(folder.glob(known)) for known in _TOKENIZER_FILES):
        raise UserError(f"{name}: no tokenizer in this folder")
    with hub_errors(name, "tokenizer"), rust_errors(name, "no tokenizer that works"):
        from transformers import AutoTokenizer, BertTokenizer  # slow, and rarely needed

        if (folder / "vocab.txt").is_file() and not (folder / "tokenizer_config.json").is_file():
            # Chinese GPT-2 models often do not name their tokenizer class; transformers would
            # take GPT-2's, which silently finds no tokens.
            return BertTokenizer.from_pretrained(folder, trust_remote_code=False)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _backend_of(found: Any, name: str) -> Tokenizer:
    """What computes a tokenizer of transformers."""
    backend = getattr(found, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(
            f"{name}: its tokenizer ({type(found).__name__}) has no tokenizer.json and runs in "
            f"Python only; convert it to a fast one first"
        )
    return backend


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Begin the message of an error with the name of a tokenizer."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None


def _refuse_token_rows(path: Path, name: str) -> None:
    if _is_of_token_rows(path):
        raise UserError(f"{name}: its rows are tokens, not text: nothing to read text with")


def _check_values(text: str, path: str | Path) -> None:
    """Refuse a tokenizer.json that would take the library far more memory than any real one."""
    if len(text) < _MOST_OBJECTS:
        return
    if count_values(text) > _MOST_VALUES or count_values(text, "{") > _MOST_OBJECTS:
        raise UserError(
            f"{path}: not a tokenizer of texts (more than {MOST_TOKENS:,} tokens or "
            f"{_MOST_OBJECTS:,} special ones)"
        )


def _is_of_token_rows(path: Path) -> bool:
    """Whether a tokenizer.json was written by `Vocabulary.save_tokenizer` for token rows.

    Its first added token has id 0 and strips the space before it, and its model is WordLevel. Both
    stand at the ends of the file, which for a large vocabulary has 200 MB.
    """
    with open_input(path) as handle:
        begin = handle.read(_EDGE_BYTES)
        handle.seek(max(0, os.fstat(handle.fileno()).st_size - _EDGE_BYTES))
        end = handle.read(_EDGE_BYTES)
    return bool(_FIRST_TOKEN_OF_ROWS.search(begin) and _END_OF_WORD_LEVEL.search(end))
