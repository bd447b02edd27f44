"""The rows that the README.md of an export shows."""

from types import SimpleNamespace

from smallgpt.export.example_rows import first_id
from smallgpt.tokens.vocabulary import Vocabulary


def test_a_text_begins_with_something_that_is_seen(text_vocabulary, vocabulary):
    tokens, ids = text_vocabulary.tokens, text_vocabulary.ids
    line = next(token for token in tokens if text_vocabulary.tokenizer.decode([ids[token]]) == "\n")

    def begins(first: dict[str, int], vocabulary: Vocabulary = text_vocabulary) -> str:
        trained = SimpleNamespace(vocabulary=vocabulary, first_tokens=first)
        return vocabulary.tokens[first_id(trained)]

    assert begins({line: 9, ",": 5, "gone": 4, "T": 3, "a": 2}) == "T"
    assert begins({line: 9, ",": 5}) == line  # nothing else is known
    assert begins({}) == "<EOS>"
    assert begins({"A": 2}, vocabulary) == "<IMG>"
