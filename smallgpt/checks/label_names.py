"""Search for label names in the bodies of rows, as tokens or as words of a text."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import islice, product

import numpy as np

from smallgpt.checks.leak_state import Bodies
from smallgpt.checks.signs import SignsInRows
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary

_MOST_SPELLINGS = 16  # of a label's name as tokens
_CASES = (str, str.lower, str.capitalize, str.title, str.upper)


@dataclass(frozen=True)
class LabelNames:
    """Spellings of label names as token ids, the classes each one names, and the rows with it."""

    spellings: list[list[int]]
    classes: list[set[int]]
    rows: SignsInRows


def find_label_names(bodies: Bodies) -> LabelNames:
    """Bodies that hold a label's name, in any case, with or without punctuation around it.

    In rows of tokens a name is one token, or one for each part of `new_york`. In texts it is what
    the tokenizer encodes the name to or decodes to it, and only as a whole word; Chinese, Japanese
    and Korean words have no borders, so there any occurrence counts.
    """
    vocabulary = bodies.vocabulary
    spelled: dict[tuple[int, ...], set[int]] = {}
    ids_of: dict[str, list[int]] = {}
    for token in np.flatnonzero(np.bincount(bodies.id_M)).tolist():
        ids_of.setdefault(_plain(_text_of(vocabulary, token)), []).append(token)
    for of_class in np.unique(bodies.classes_N).tolist():
        name = vocabulary.labels[of_class]
        for spelling in _spellings(name, ids_of, vocabulary.tokenizer):
            spelled.setdefault(spelling, set()).add(of_class)
    spellings = [list(spelling) for spelling in spelled]
    start_H, spelling_H = _find_sequences(spellings, bodies)
    if vocabulary.tokenizer is not None:
        whole_H = _stands_alone(vocabulary.tokenizer, spellings, spelling_H, start_H, bodies)
        start_H, spelling_H = start_H[whole_H], spelling_H[whole_H]
    rows = SignsInRows.once(bodies.row_M[start_H], spelling_H)
    return LabelNames(spellings, list(spelled.values()), rows)


def _text_of(vocabulary: Vocabulary, token: int) -> str:
    if vocabulary.tokenizer is None:
        return vocabulary.tokens[token]
    return vocabulary.tokenizer.decode([token])


def _plain(text: str) -> str:
    return text.strip("<>[](){}\"'#_: \t\n").casefold()


def _spellings(
    name: str, ids_of: dict[str, list[int]], tokenizer: TextTokenizer | None
) -> set[tuple[int, ...]]:
    """Token sequences that spell a label's name; `ids_of` maps plain texts to tokens."""
    found: set[tuple[int, ...]] = {(token,) for token in ids_of.get(name.casefold(), [])}
    spaced = " ".join(name.split("_"))
    found |= {(token,) for token in ids_of.get(spaced.casefold(), [])}
    if tokenizer is None:
        words = [ids_of.get(word.casefold(), []) for word in spaced.split()]
        found |= set(islice(product(*words), _MOST_SPELLINGS)) if words else set()
        return found
    for text in dict.fromkeys(f(x) for x in (name, spaced) for f in _CASES):
        for before in ("", " "):
            try:
                ids = tokenizer.encode(before + text, marked=False)
            except ValueError:  # what it cannot encode is in no row
                continue
            if ids and not tokenizer.count_unknown(ids):
                found.add(tuple(ids))
    return found


def _find_sequences(sequences: list[list[int]], bodies: Bodies) -> tuple[np.ndarray, np.ndarray]:
    """Start among all tokens and number of each occurrence of a sequence, matched in a trie."""
    size = len(bodies.vocabulary)
    edges: dict[int, int] = {}
    ends: dict[int, int] = {}
    for number, ids in enumerate(sequences):
        node = 0
        for token in ids:
            node = edges.setdefault(node * size + token, len(edges) + 1)
        ends[node] = number
    if not edges:
        return (np.zeros(0, np.int64),) * 2
    key_E, node_E = np.array(sorted(edges.items()), np.int64).T
    end_T = np.full(len(edges) + 1, -1)
    end_T[list(ends)] = list(ends.values())
    root_V = np.zeros(size, np.int64)
    root_V[key_E[key_E < size]] = node_E[key_E < size]
    start_H = np.flatnonzero(root_V[bodies.id_M])
    node_H = root_V[bodies.id_M[start_H]]
    found = [(np.zeros(0, np.int64),) * 2]
    depth = 1
    while len(start_H):
        hit = end_T[node_H] >= 0
        found.append((start_H[hit], end_T[node_H[hit]]))
        inside = start_H + depth < len(bodies.id_M)
        start_H, node_H = start_H[inside], node_H[inside]
        same = bodies.row_M[start_H] == bodies.row_M[start_H + depth]
        start_H, node_H = start_H[same], node_H[same]
        key = node_H * size + bodies.id_M[start_H + depth]
        at = np.minimum(np.searchsorted(key_E, key), len(key_E) - 1)
        goes_on = key_E[at] == key
        start_H, node_H = start_H[goes_on], node_E[at[goes_on]]
        depth += 1
    starts, numbers = zip(*found, strict=True)
    return np.concatenate(starts), np.concatenate(numbers)


def _stands_alone(
    tokenizer: TextTokenizer,
    spellings: list[list[int]],
    spelling_H: np.ndarray,
    start_H: np.ndarray,
    bodies: Bodies,
) -> np.ndarray:
    """Whether each spelling found in a text is a whole word, by decoding it with its neighbours."""
    decode, size = tokenizer.decode, len(bodies.vocabulary)
    lengths = np.array([len(ids) for ids in spellings], np.int64)
    words = [decode(ids).strip() for ids in spellings]
    last = len(bodies.id_M) - 1
    alone_H = np.ones(len(spelling_H), bool)
    for side, neighbour in (("before", start_H - 1), ("after", start_H + lengths[spelling_H])):
        at = np.clip(neighbour, 0, last)
        within = (neighbour == at) & (bodies.row_M[at] == bodies.row_M[start_H])
        pairs, pair_H = np.unique(spelling_H * size + bodies.id_M[at], return_inverse=True)
        alone = np.ones(len(pairs), bool)
        for number, pair in enumerate(pairs.tolist()):
            spelling, token = divmod(pair, size)
            word = words[spelling]
            if side == "before":
                text = decode([token, *spellings[spelling]]).rstrip()
                rest = text.removesuffix(word)[-1:] if text.endswith(word) else ""
                alone[number] = not _joined(rest, word[:1])
            else:
                text = decode([*spellings[spelling], token]).lstrip()
                rest = text.removeprefix(word)[:1] if text.startswith(word) else ""
                alone[number] = not _joined(word[-1:], rest)
        alone_H &= alone[pair_H] | ~within
    return alone_H


def _joined(left: str, right: str) -> bool:
    """Whether two adjacent letters belong to one word."""
    return bool(left and right) and all(
        letter.isalnum() and unicodedata.east_asian_width(letter) not in "WF"
        for letter in (left, right)
    )
