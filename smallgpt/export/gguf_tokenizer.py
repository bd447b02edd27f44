"""A vocabulary as llama.cpp reads it: a tokenizer of its own that gives the same ids.

Three kinds of tokenizers have a counterpart there:

- token rows: `t5`, which takes the likeliest way to cut a text into tokens. Each token is written
  with a space before it, so that there is one way alone, and answers come with their spaces.
- texts as characters: the same, with no space in front.
- texts in byte-level BPE, as GPT-2 has it: `gpt2` with our merges.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smallgpt.errors import UserError
from smallgpt.tokens.text_tokenizer import WHITESPACE_MARKS, TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from gguf import GGUFWriter

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how a file writes a space within a token
_CUTTING, _MERGING = "t5", "gpt2"  # values of tokenizer.ggml.model
# A list must not be empty, and no text has this pair: letters are merged, not names of tokens.
_NO_MERGES = ["<PAD> <PAD>"]
_UNKNOWN = (
    "llama.cpp has no tokenizer that reads texts as this model's tokenizer.json does: GGUF files "
    "are written of token rows, of characters, and of byte-level BPE like GPT-2's"
)


@dataclass(frozen=True)
class GgufTokenizer:
    """The values under `tokenizer.ggml`.

    Attributes:
        model: which of llama.cpp's tokenizers.
        tokens: the spelling of each id.
        hidden: ids that no text has and no answer shows: special tokens of text models.
        spaced: whether a space before each text is implied.
        merges: of byte pairs; None for a tokenizer that has none.
    """

    model: str
    tokens: list[str]
    hidden: frozenset[int]
    spaced: bool
    merges: list[str] | None

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> GgufTokenizer:
        """The counterpart of a vocabulary.

        Raises:
            UserError: none would give the same ids.
        """
        tokenizer = vocabulary.tokenizer
        if tokenizer is None:
            tokens = [_SPACE + token for token in vocabulary.tokens]
            return cls(_CUTTING, _without_nul(tokens), frozenset(), True, None)
        state = json.loads(tokenizer.backend.to_str())
        by_id = {index: token for token, index in tokenizer.backend.get_vocab(True).items()}
        tokens = [by_id.get(index, name) for index, name in enumerate(vocabulary.tokens)]
        hidden = frozenset(each["id"] for each in state["added_tokens"])
        if tokenizer.encode("a") != tokenizer.encode("a", marked=False):
            raise UserError(_UNKNOWN)  # what stands around each text would be missing
        if _is_byte_level(state):
            pairs = [
                pair if isinstance(pair, str) else " ".join(pair)
                for pair in state["model"]["merges"]
            ]
            return cls(_MERGING, _without_nul(tokens), hidden, False, pairs or _NO_MERGES)
        if _is_of_characters(state) and _SPACE not in tokens:
            written = {mark: letter for letter, mark in WHITESPACE_MARKS.items()} | {
                WHITESPACE_MARKS[" "]: _SPACE
            }
            tokens = [written.get(token, token) for token in tokens]
            return cls(_CUTTING, _without_nul(tokens), hidden, False, None)
        raise UserError(_UNKNOWN)

    def write(self, writer: GGUFWriter, vocabulary: Vocabulary) -> None:
        """Write the values. Nothing is put before a text or after it."""
        from gguf import TokenType

        end = vocabulary.pad_id if vocabulary.eos_id is None else vocabulary.eos_id
        unknown = vocabulary.pad_id if vocabulary.unk_id is None else vocabulary.unk_id
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre("gpt-2" if self.model == _MERGING else "default")
        writer.add_token_list(self.tokens)
        writer.add_token_scores([0.0] * len(self.tokens))
        writer.add_token_types(
            [
                TokenType.CONTROL if index in self.hidden else TokenType.NORMAL
                for index in range(len(self.tokens))
            ]
        )
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        writer.add_bos_token_id(end)
        writer.add_eos_token_id(end)
        writer.add_unk_token_id(unknown)
        writer.add_pad_token_id(vocabulary.pad_id)
        writer.add_add_bos_token(False)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(self.spaced)
        writer.add_remove_extra_whitespaces(self.spaced)


def _without_nul(tokens: list[str]) -> list[str]:
    """The same tokens; one with a NUL, where llama.cpp would end it, is `<unused_ID>`."""
    return [f"<unused_{index}>" if "\0" in token else token for index, token in enumerate(tokens)]


def _is_byte_level(state: dict[str, Any]) -> bool:
    """Whether a tokenizer.json does what GPT-2's does."""
    model, before = state["model"], state["pre_tokenizer"]
    return (
        model["type"] == "BPE"
        and not any(
            model.get(name)
            for name in (
                "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
                "ignore_merges",
            )
        )
        and state["normalizer"] is None
        and before is not None
        and before["type"] == "ByteLevel"
        and not before["add_prefix_space"]
        and before["use_regex"]
    )  # fmt: skip


def _is_of_characters(state: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is one of `TextTokenizer.learn_characters`."""
    own = json.loads(
        TextTokenizer.learn_characters([], special=("<PAD>", "<UNK>")).backend.to_str()
    )
    return (
        all(state[name] == own[name] for name in ("normalizer", "pre_tokenizer"))
        and state["model"]["type"] == "BPE"
        and not state["model"]["merges"]
    )
