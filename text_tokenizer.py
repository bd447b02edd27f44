"""Text to token ids and back: learned from the user's own texts, or a pretrained tokenizer.

    tokenizer = TextTokenizer.learn_characters(texts, special=("<PAD>", "<UNK>", "<CLS>", "<EOS>"))
    tokenizer = TextTokenizer.learn_bpe(texts, size=4096, special=...)
    tokenizer = TextTokenizer.pretrained("gpt2", special=...)      # a folder, or a name on the hub
    ids = tokenizer.encode("To be, or not")
    tokenizer.decode(ids)

It lies beside its vocab.json as `tokenizer.json`, the file of the `tokenizers` library, and in a
model folder where AutoTokenizer reads it. Special tokens are never found in a text: a review that
holds the letters `<CLS_1>` is a review with these letters.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console import UserError
from input_files import parse_json, read_text, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
MOST_BYTES = 2**26  # the largest public ones have 35 MB
SMALLEST_BPE = 256  # bytes, each a token
# Ids reach no further than this; the largest vocabularies in use have some 300,000 entries.
_MOST_IDS = 4_000_000
_MOST_LETTERS = 1000  # of a token learned here: a vocabulary takes no longer ones
# A token of a vocabulary has no whitespace in it: these pictures of it, which Unicode has for the
# purpose, stand for it. A text that holds them itself reads as if it held the whitespace.
# What any tokenizer of transformers leaves in its folder, one of them at least.
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model")
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
_SPACE_IN_CJK = re.compile(rf"(?<={_CJK}) (?={_CJK})")


class TextTokenizer:
    """A tokenizer of text.

    Attributes:
        backend: the `tokenizers.Tokenizer`.
        tokens: the token of each id, 0..n-1, each once; whitespace in a token is written as in
            `WHITESPACE_MARKS`, an id that the tokenizer leaves out, or whose token stands
            before in this spelling, is `<unused_ID>`.
        first_ids: what the tokenizer puts before each text: `[CLS]`, `<s>`; empty for most.
    """

    def __init__(self, backend: Tokenizer):
        """Take over a `tokenizers.Tokenizer`, which is changed.

        Raises:
            UserError: its ids reach further than those of any vocabulary.
        """
        self.backend = backend
        backend.encode_special_tokens = True  # as text: they have no meaning within one
        backend.no_padding()
        backend.no_truncation()
        by_id = {index: token for token, index in backend.get_vocab(True).items()}
        size = max(by_id, default=-1) + 1
        if size > _MOST_IDS:
            raise UserError(f"the tokenizer has an id of {size - 1:,}: no vocabulary is so large")
        marks = str.maketrans(WHITESPACE_MARKS)
        written: dict[str, None] = {}
        for index in range(size):
            token, more = by_id.get(index, "").translate(marks), ""
            while not token or token in written:
                token, more = f"<unused_{index}{more}>", more + "_"
            written[token] = None
        self.tokens = list(written)
        marked, plain = self.encode("a"), self.encode("a", marked=False)
        self.first_ids = set(marked[:1]) if marked[:1] != plain[:1] else set()

    # ---------------------------------------------------------------------------- making

    @classmethod
    def learn_characters(
        cls,
        texts: Iterable[str],
        special: Sequence[str],
        size: int | None = None,
    ) -> TextTokenizer:
        """One token a character.

        Args:
            texts: to learn from.
            special: tokens that get the first ids; the second is for unknown characters.
            size: entries at most, `special` among them: the most frequent characters stay.
        """
        from tokenizers import Tokenizer, decoders, models, normalizers

        counts = Counter()
        for text in texts:
            counts.update(text)
        kept = counts.most_common(None if size is None else max(0, size - len(special)))
        letters = sorted({WHITESPACE_MARKS.get(letter, letter) for letter, _ in kept})
        ids = {token: index for index, token in enumerate([*special, *letters])}
        # Byte pairs without a single pair to merge are characters.
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

        Every byte has a token, so no text is unknown to it.

        Args:
            texts: to learn from.
            special: tokens that get the first ids.
            size: entries at most, `special` and the 256 bytes among them.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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

        Args:
            name: a folder, or a name on the Hugging Face hub (HF_TOKEN opens private ones).
            special: tokens that get ids after its own where it lacks them.

        Raises:
            UserError: none there, no network, one of token rows, or one that the `tokenizers`
                library cannot run.
        """
        path = Path(name) / TOKENIZER
        if path.is_file():
            if _is_of_token_rows(path):
                raise UserError(f"{name}: its rows are tokens, not text: nothing to read text with")
            return cls.load(path).with_special(special)
        folder = Path(name)
        if folder.is_dir() and not any(any(folder.glob(known)) for known in _TOKENIZER_FILES):
            raise UserError(f"{name}: no tokenizer in this folder")
        found = load_pretrained_tokenizer(name)
        backend = getattr(found, "backend_tokenizer", None)
        if backend is None:
            raise UserError(
                f"{name}: its tokenizer ({type(found).__name__}) has no tokenizer.json and runs in "
                f"Python only; convert it to a fast one first"
            )
        return cls(backend).with_special(special)

    def with_special(self, special: Sequence[str]) -> TextTokenizer:
        """The same tokenizer, those of `special` that it lacks added at the end."""
        from tokenizers import AddedToken

        self.backend.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in special]
        )
        return TextTokenizer(self.backend)

    # ---------------------------------------------------------------------------- files

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Read a tokenizer.json.

        Raises:
            UserError: not one.
        """
        from tokenizers import Tokenizer

        text = read_text(path, MOST_BYTES)
        try:
            return cls(Tokenizer.from_str(text))
        except Exception as error:  # the library raises bare Exceptions
            reason = shown(" ".join(str(error).split()))
            raise UserError(f"{path}: not a tokenizer ({reason})") from None

    @classmethod
    def beside(cls, vocab_path: Path, tokens: list[str]) -> TextTokenizer | None:
        """The text tokenizer in the folder of a vocab.json; None where rows are tokens.

        A model of token rows has a tokenizer.json as well, for transformers: it splits at
        whitespace, and every entry of the vocabulary is an added token.

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
        """The text of a tokenizer.json."""
        return self.backend.to_str(pretty=True) + "\n"

    def fingerprint(self) -> str:
        """SHA-256 of all that decides which ids a text has."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    # ---------------------------------------------------------------------------- using

    def encode(self, text: str, marked: bool = True) -> list[int]:
        """Ids of a text.

        Args:
            text: any.
            marked: whether it gets the tokens that a pretrained tokenizer puts around a text
                (BERT's `[CLS] ... [SEP]`); a tokenizer learned here puts none.

        Raises:
            ValueError: the text has half of a surrogate pair, which is no character.
        """
        try:
            return self.backend.encode(text, add_special_tokens=marked).ids
        except (TypeError, UnicodeEncodeError):
            raise ValueError("the text has half of a surrogate pair: not valid Unicode") from None

    def count_unknown(self, ids: Sequence[int]) -> int:
        """How many of `ids` stand for something that the tokenizer does not know."""
        unknown = getattr(self.backend.model, "unk_token", None)
        return list(ids).count(self.backend.token_to_id(unknown)) if unknown else 0

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        text = self.backend.decode(list(ids), skip_special_tokens=True)
        if type(self.backend.decoder).__name__ == "WordPiece":
            text = _SPACE_IN_CJK.sub("", text)
        return text


def load_pretrained_tokenizer(name: str) -> Any:
    """The tokenizer of transformers that belongs to a model.

    Args:
        name: a folder, or a name on the Hugging Face hub.

    Raises:
        UserError: none there, or no network.
    """
    from hub import hub_errors

    with hub_errors(name, "tokenizer"):
        from transformers import AutoTokenizer, BertTokenizer

        folder = Path(name)
        if (folder / "vocab.txt").is_file() and not (folder / "tokenizer_config.json").is_file():
            # A Chinese GPT-2 often names its class nowhere; transformers would take GPT-2's, which
            # finds no tokens and does not complain.
            return BertTokenizer.from_pretrained(name)
        return AutoTokenizer.from_pretrained(name)


def _is_of_token_rows(path: Path) -> bool:
    """Whether a tokenizer.json is the one that `Vocabulary.save_tokenizer` writes for rows."""
    try:
        written = parse_json(read_text(path, MOST_BYTES))
        return (
            written["model"]["type"] == "WordLevel"
            and written["pre_tokenizer"] == {"type": "WhitespaceSplit"}
            and len(written["added_tokens"]) == len(written["model"]["vocab"])
        )
    except (ValueError, KeyError, TypeError):
        return False
