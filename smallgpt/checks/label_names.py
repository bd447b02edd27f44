"""Names of labels that stand in the rows."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np

from smallgpt.checks.bodies import _Bodies, _files
from smallgpt.checks.thresholds import _EXAMPLES
from smallgpt.console import plural
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.label_tail import LABEL_BEFORE_TAIL
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary

_MOST_SPELLINGS = 16  # of a label's name as tokens


@dataclass(frozen=True)
class _Names:
    """Where the names of labels stand in bodies.

    Attributes:
        parts: token ids of each spelling; classes: the classes that it names.
        row_H, sign_H: row and spelling of each place where one stands.
    """

    parts: list[list[int]]
    classes: list[set[int]]
    row_H: np.ndarray
    sign_H: np.ndarray


def _label_names(bodies: _Bodies) -> _Names:
    """Bodies that hold a label's name, in large or small letters, with or without marks around it.

    In rows of tokens it is one token, or a token for each part of `new_york`. In texts it is what
    the tokenizer makes of the name or decodes to it, not as a part of a longer word; Chinese,
    Japanese and Korean words have no such borders.
    """
    vocabulary = bodies.vocabulary
    spelled: dict[tuple[int, ...], set[int]] = {}
    ids_of: dict[str, list[int]] = {}
    for token in np.flatnonzero(np.bincount(bodies.id_M)).tolist():
        ids_of.setdefault(_plain(_text_of(vocabulary, [token])), []).append(token)
    for of_class in np.unique(bodies.classes_N).tolist():
        name = vocabulary.labels[of_class]
        for spelling in _spellings(name, ids_of, vocabulary.tokenizer):
            spelled.setdefault(spelling, set()).add(of_class)
    parts = [list(spelling) for spelling in spelled]
    row_H, sign_H, start_H = _find_sequences(parts, bodies)
    if vocabulary.tokenizer is not None:
        whole = _stands_alone(parts, sign_H, start_H, bodies)
        row_H, sign_H = row_H[whole], sign_H[whole]
    return _Names(parts, list(spelled.values()), row_H, sign_H)


def _text_of(vocabulary: Vocabulary, ids: list[int]) -> str:
    """What tokens say: as decoded, or, in rows of tokens, their names."""
    if vocabulary.tokenizer is None:
        return vocabulary.decode(ids)
    return vocabulary.tokenizer.decode(ids)


def _plain(text: str) -> str:
    return text.strip("<>[](){}\"'#_: \t\n").casefold()


def _spellings(
    name: str, ids_of: dict[str, list[int]], tokenizer: TextTokenizer | None
) -> set[tuple[int, ...]]:
    """How a label's name may stand in a row, as token ids.

    Args:
        ids_of: tokens by their plain text.
    """
    found = {(token,) for token in ids_of.get(name.casefold(), [])}
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
            except ValueError:  # what it cannot read stands in no row
                continue
            if ids and not tokenizer.count_unknown(ids):
                found.add(tuple(ids))
    return found


_CASES = (str, str.lower, str.capitalize, str.title, str.upper)


def _find_sequences(
    parts: list[list[int]], bodies: _Bodies
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each place where one of some sequences of ids stands in a body.

    All sequences are followed at once, through the tree of their beginnings.

    Returns:
        row_H, sign_H, start_H: row, number of the sequence, and place of its first token among
            all tokens.
    """
    size = len(bodies.tokens)
    edges: dict[int, int] = {}
    ends: dict[int, int] = {}
    for number, ids in enumerate(parts):
        node = 0
        for token in ids:
            node = edges.setdefault(node * size + token, len(edges) + 1)
        ends[node] = number
    if not edges:
        return (np.zeros(0, np.int64),) * 3
    key_E = np.fromiter(edges, np.int64, len(edges))
    node_E = np.fromiter(edges.values(), np.int64, len(edges))
    node_E = node_E[np.argsort(key_E)]
    key_E = np.sort(key_E)
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
    start_H, sign_H = (np.concatenate(part) for part in zip(*found, strict=True))
    return bodies.row_M[start_H], sign_H, start_H


def _stands_alone(
    parts: list[list[int]], sign_H: np.ndarray, start_H: np.ndarray, bodies: _Bodies
) -> np.ndarray:
    """Whether each sequence found in a text is no part of a longer word, by decoding around it."""
    decode = bodies.vocabulary.tokenizer.decode
    lengths = np.array([len(ids) for ids in parts], np.int64)
    cores = [decode(ids).strip() for ids in parts]
    last = len(bodies.id_M) - 1
    alone_H = np.ones(len(sign_H), bool)
    for side, neighbour in (("before", start_H - 1), ("after", start_H + lengths[sign_H])):
        at = np.clip(neighbour, 0, last)
        within = (neighbour == at) & (bodies.row_M[at] == bodies.row_M[start_H])
        key = sign_H * len(bodies.tokens) + bodies.id_M[at]
        pairs, pair_H = np.unique(key, return_inverse=True)
        alone = np.ones(len(pairs), bool)
        for number, pair in enumerate(pairs.tolist()):
            sign, token = divmod(pair, len(bodies.tokens))
            core = cores[sign]
            if side == "before":
                text = decode([token, *parts[sign]]).rstrip()
                rest = text.removesuffix(core)[-1:] if text.endswith(core) else ""
                alone[number] = not _joined(rest, core[:1])
            else:
                text = decode([*parts[sign], token]).lstrip()
                rest = text.removeprefix(core)[:1] if text.startswith(core) else ""
                alone[number] = not _joined(core[-1:], rest)
        alone_H &= alone[pair_H] | ~within
    return alone_H


def _joined(left: str, right: str) -> bool:
    """Whether two letters side by side belong to one word."""
    return bool(left and right) and all(
        letter.isalnum() and unicodedata.east_asian_width(letter) not in "WF"
        for letter in (left, right)
    )


def _label_tokens(
    train: TokenLabelDataset, validation: TokenLabelDataset, names: tuple[str, str]
) -> list[dict[str, Any]]:
    """Label tokens before the tail: rows that reading refused for it."""
    refused = [
        f"{name}:{bad.line}"
        for rows, name in _files(train, validation, names)
        for bad in rows.bad_rows
        if bad.reason == LABEL_BEFORE_TAIL
    ]
    if not refused:
        return []
    return [
        {
            "kind": "label_in_body",
            "message": f"a label token before the label tail in {plural(len(refused), 'row')}",
            "rows": len(refused),
            "examples": refused[:_EXAMPLES],
        }
    ]
