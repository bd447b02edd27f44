"""What in the rows gives the label away: leaks, each with its evidence.

    findings, left_out = find_leaks(train, validation, names=("train.jsonl", "validation.jsonl"))

A leak makes a model look good that has learned nothing. Kinds:

- `label_in_body`: a label token `<CLS_k>` before the label tail, or tokens of the body that spell
  the label itself (`_label_names`);
- `token_gives_label`: a token that (nearly) only the rows of one label have, or only they lack;
- `position_gives_label`: the token at one place, counted from the start or from the end of the
  body, or the length of the body, decides the label, for all labels or for one;
- `group_across`: rows of one group (`--group_by`) among the training and the validation rows;
- `duplicate_across`: one body among both.

A leak and an honest strong feature differ in degree only, so there are limits. A sign (token,
lacking token, token at a place, length) of a label counts when

- it stands in at least 10 rows, among them 20 % of the label's rows (a text that is the label
  itself: 5 %): rare codes are nearly always pure by chance or by nature;
- the lower end of the 95 % Wilson interval of its share of that label closes at least 85 % (label
  text: 50 %) of the gap between the label's share of all rows and 1;
- chance does so with p <= 0.001 (binomial, times the number of signs looked at).

A place as a whole counts when a lookup table from one half of the rows closes at least 75 % of the
gap between the largest class and 1 in the other half (lower end, same p). And since the patch in
the middle honestly tells a 0 from a 1, a place counts only where naive Bayes on the rest of a row,
held out, errs in at least 2 % and three times as often; for a single label, where less than 60 % of
its rows have the sign, in at least 25 %. Rows that a token gives away are set aside before places
are looked at, so that one leak is told once.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np

from console import plural, printable, progress_bar, shorten
from dataset import TokenLabelDataset
from naive_bayes import NaiveBayes, class_counts
from rows import LABEL_BEFORE_TAIL
from text_tokenizer import TextTokenizer
from vocabulary import Vocabulary

MOST_ROWS, MOST_TOKENS = 100_000, 4_000_000  # looked at; more are sampled
MOST_FINDINGS = 10  # told of each kind
_EXAMPLES = 5
MIN_ROWS, MAX_P = 10, 0.001
MIN_COVERAGE, MIN_GAIN = 0.2, 0.85
MIN_COVERAGE_OF_LABEL_TEXT, MIN_GAIN_OF_LABEL_TEXT = 0.05, 0.5
MIN_GAIN_OF_PLACE = 0.75
MIN_REST_ERROR, TIMES_BETTER_THAN_REST = 0.02, 3
WIDE_COVERAGE, MIN_REST_ERROR_BELOW_IT = 0.6, 0.25
_LENGTH_BINS = 64
_MOST_SCORES = 200_000_000  # rows times labels of a place that all labels are told by
_MOST_SPELLINGS = 16  # of a label's name as tokens
_NAME_COLUMNS = 40  # of a token or a label in a message
_SEED = 0  # of the sample and the halves
_SMOOTHING = 0.1  # of naive Bayes on the rest of a row
THRESHOLDS = {
    "rows": MIN_ROWS,
    "of_label": MIN_COVERAGE,
    "gap_closed": MIN_GAIN,
    "gap_closed_by_place": MIN_GAIN_OF_PLACE,
    "of_label_for_label_text": MIN_COVERAGE_OF_LABEL_TEXT,
    "gap_closed_for_label_text": MIN_GAIN_OF_LABEL_TEXT,
    "p_value": MAX_P,
    "rest_error": MIN_REST_ERROR,
    "rest_error_where_below": [MIN_REST_ERROR_BELOW_IT, WIDE_COVERAGE],
    "times_better_than_rest": TIMES_BETTER_THAN_REST,
}


def find_leaks(
    train: TokenLabelDataset,
    validation: TokenLabelDataset,
    names: tuple[str, str],
    group_by: str | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Everything found that gives a label, or a validation row, away.

    Args:
        train, validation: the rows of a run, with the bad rows met in reading, if kept.
        names: the files they come from, for examples `file:line`.
        group_by: key of the groups, for the words only.

    Returns:
        leaks: at most 10 of each kind, the worst first, each `kind`, `message` and evidence.
        search: `rows` looked at, `of` how many labelled rows, `thresholds`, and `left_out`: how
            many more of each kind there are. `rest_of_row_rows`, where a place tells all labels
            and there are very many: of how many rows the rest was asked.
    """
    found = _label_tokens(train, validation, names)
    labelled = int((train.classes_N >= 0).sum() + (validation.classes_N >= 0).sum())
    bodies = _Bodies.of(train, validation, names)
    rows, asked = len(bodies.classes_N), None
    if len(np.unique(bodies.classes_N)) > 1:
        in_token, explained_N = _tokens(bodies)
        in_place, asked = _places(bodies.without(explained_N))
        found += in_token + in_place
    found += _across(train, validation, names, group_by)
    kept, left_out = [], {}
    for kind in dict.fromkeys(leak["kind"] for leak in found):
        of_kind = [leak for leak in found if leak["kind"] == kind]
        of_kind.sort(key=lambda leak: -leak["rows"])
        kept += of_kind[:MOST_FINDINGS]
        if len(of_kind) > MOST_FINDINGS:
            left_out[kind] = len(of_kind) - MOST_FINDINGS
    search = {"rows": rows, "of": labelled, "thresholds": THRESHOLDS, "left_out": left_out}
    if asked is not None:
        search["rest_of_row_rows"] = asked
    return kept, search


# ------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class _Bodies:
    """Bodies of labelled rows of both sides, one entry per token.

    Attributes:
        vocabulary: names of the token ids and of the classes.
        row_M, place_M, id_M: row, place from the start of the body, and id of each token.
        classes_N, lengths_N: class and body length of each row.
        side_N, lines_N: where each row stands: 0 or 1 for its file in `names`, and the line.
    """

    vocabulary: Vocabulary
    row_M: np.ndarray
    place_M: np.ndarray
    id_M: np.ndarray
    classes_N: np.ndarray
    lengths_N: np.ndarray
    names: tuple[str, str]
    side_N: np.ndarray
    lines_N: np.ndarray

    @classmethod
    def of(
        cls, train: TokenLabelDataset, validation: TokenLabelDataset, names: tuple[str, str]
    ) -> _Bodies:
        """Labelled rows with a body, sampled where they are too many."""
        sides = []
        for side, rows in enumerate((train, validation)):
            chosen = np.flatnonzero((rows.classes_N >= 0) & (rows.body_lengths_N > 0))
            sides.append(np.stack([np.full(len(chosen), side), chosen]))
        places_2xN = np.concatenate(sides, axis=1)
        lengths_N = np.concatenate(
            [train.body_lengths_N[sides[0][1]], validation.body_lengths_N[sides[1][1]]]
        ).astype(np.int64)
        most = min(
            MOST_ROWS, int(MOST_TOKENS / max(1.0, lengths_N.mean() if len(lengths_N) else 1))
        )
        if len(lengths_N) > most:
            random = np.random.default_rng(_SEED)
            kept = np.sort(random.choice(len(lengths_N), most, replace=False))
            places_2xN, lengths_N = places_2xN[:, kept], lengths_N[kept]
        row_M = np.repeat(np.arange(len(lengths_N)), lengths_N)
        place_M = np.arange(len(row_M)) - np.repeat(np.cumsum(lengths_N) - lengths_N, lengths_N)
        parts, classes, lines = [], [], []
        for side, rows in enumerate((train, validation)):
            chosen = places_2xN[1, places_2xN[0] == side]
            lengths = rows.body_lengths_N[chosen].astype(np.int64)
            starts_M = np.repeat(rows.starts_N[chosen], lengths)
            offset_M = np.arange(len(starts_M)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            parts.append(rows.tokens[starts_M + offset_M].astype(np.int64))
            classes.append(rows.classes_N[chosen].astype(np.int64))
            lines.append(rows.lines_N[chosen])
        return cls(
            train.vocabulary,
            row_M,
            place_M,
            np.concatenate(parts),
            np.concatenate(classes),
            lengths_N,
            names,
            places_2xN[0],
            np.concatenate(lines),
        )

    def without(self, left_out_N: np.ndarray) -> _Bodies:
        """The bodies less some rows."""
        if not left_out_N.any():
            return self
        stays_N = ~left_out_N
        stays_M = stays_N[self.row_M]
        return _Bodies(
            self.vocabulary,
            (np.cumsum(stays_N) - 1)[self.row_M[stays_M]],
            self.place_M[stays_M],
            self.id_M[stays_M],
            self.classes_N[stays_N],
            self.lengths_N[stays_N],
            self.names,
            self.side_N[stays_N],
            self.lines_N[stays_N],
        )

    @property
    def tokens(self) -> list[str]:
        return self.vocabulary.tokens

    def label(self, of_class: int) -> str:
        return self.vocabulary.labels[of_class]

    def examples(self, rows: np.ndarray) -> list[str]:
        """The first of some rows as `file:line`."""
        first = rows[np.lexsort((self.lines_N[rows], self.side_N[rows]))[:_EXAMPLES]]
        return [f"{self.names[self.side_N[i]]}:{self.lines_N[i]}" for i in first]


# ------------------------------------------------------------------------------- signs


@dataclass(frozen=True)
class _Signs:
    """Signs and one class each: how well the sign tells the class. Arrays over pairs.

    Attributes:
        sign_P, class_P: the pair.
        rows_P: rows with the sign; right_P: those of them that have the class.
        lower_P: lower end of the 95 % interval of right / rows.
        gain_P: share of the gap between the class's share of all rows and 1 that `lower_P` closes.
        coverage_P: share of the class's rows that have the sign.
        p_P: chance of so many right ones, times the number of pairs looked at; 1 where rows or gain
            are too little for any limit.
    """

    sign_P: np.ndarray
    class_P: np.ndarray
    rows_P: np.ndarray
    right_P: np.ndarray
    lower_P: np.ndarray
    gain_P: np.ndarray
    coverage_P: np.ndarray
    p_P: np.ndarray

    @classmethod
    def judge(
        cls, sign_P: np.ndarray, class_P: np.ndarray, rows_P: np.ndarray, right_P: np.ndarray,
        classes_N: np.ndarray,
    ) -> _Signs:  # fmt: skip
        of_class_L = np.bincount(classes_N, minlength=int(class_P.max(initial=0)) + 1)
        base_P = of_class_L[class_P] / len(classes_N)
        lower_P = _wilson_lower(right_P, rows_P)
        gain_P = (lower_P - base_P) / (1 - base_P)
        looked_at = max(1, int((rows_P >= MIN_ROWS).sum()))
        p_P = np.ones(len(sign_P))
        asked = np.flatnonzero((rows_P >= MIN_ROWS) & (gain_P >= MIN_GAIN_OF_LABEL_TEXT))
        chance = _chance(right_P[asked], rows_P[asked], base_P[asked])
        p_P[asked] = np.minimum(1, chance * looked_at)
        coverage_P = right_P / np.maximum(of_class_L[class_P], 1)
        return cls(sign_P, class_P, rows_P, right_P, lower_P, gain_P, coverage_P, p_P)

    @classmethod
    def present(cls, sign_M: np.ndarray, class_M: np.ndarray, classes_N: np.ndarray) -> _Signs:
        """Of signs that each row has at most once: `sign_M` in a row of class `class_M`."""
        classes = int(classes_N.max()) + 1
        pairs, right_P = np.unique(sign_M * classes + class_M, return_counts=True)
        sign_P, class_P = pairs // classes, pairs % classes
        _, place_P = np.unique(sign_P, return_inverse=True)
        rows_P = np.bincount(place_P, weights=right_P).astype(np.int64)[place_P]
        return cls.judge(sign_P, class_P, rows_P, right_P, classes_N)

    def leaking(self, coverage: float = MIN_COVERAGE, gain: float = MIN_GAIN) -> np.ndarray:
        """Numbers of the pairs beyond all limits, the widest first."""
        strong_P = (self.rows_P >= MIN_ROWS) & (self.coverage_P >= coverage)
        found = np.flatnonzero(strong_P & (self.gain_P >= gain) & (self.p_P <= MAX_P))
        return found[np.argsort(-self.right_P[found], kind="stable")]

    def by_class(self, pairs: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Some pairs, class by class in the order in which the classes stand first."""
        of_class = self.class_P[pairs]
        order = np.argsort(of_class, kind="stable")
        starts = np.flatnonzero(np.diff(of_class[order], prepend=-1))
        parts = np.split(pairs[order], starts[1:])
        for first in np.argsort(order[starts]):
            yield int(self.class_P[parts[first][0]]), parts[first]

    def evidence(self, pair: int) -> dict[str, Any]:
        return {
            "rows": int(self.rows_P[pair]),
            "share": float(self.right_P[pair] / self.rows_P[pair]),
            "lower_bound": float(self.lower_P[pair]),
            "gap_closed": float(self.gain_P[pair]),
            "of_label": float(self.coverage_P[pair]),
            "p_value": float(self.p_P[pair]),
        }


def _wilson_lower(right: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Lower end of `metrics.wilson_interval` for many shares at once."""
    z = 1.959963984540054
    share, spread = right / rows, z * z / rows
    margin = z * np.sqrt(share * (1 - share) / rows + spread / (4 * rows))
    return np.maximum(0, (share + spread / 2 - margin) / (1 + spread))


def _chance(right: np.ndarray, rows: np.ndarray, base: np.ndarray) -> np.ndarray:
    """P(at least `right` of `rows`) where each is right with probability `base`."""
    from scipy.special import bdtrc

    return np.where(right > 0, bdtrc(right - 1.0, rows, base), 1.0)


# ------------------------------------------------------------------------------- tokens


def _tokens(bodies: _Bodies) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Tokens that give a label, one finding a label; and which rows they give away."""
    size, classes_N = len(bodies.tokens), bodies.classes_N
    row_U, id_U = _once(bodies.row_M, bodies.id_M, size)
    found: list[dict[str, Any]] = []
    # A token is told once: of two labels one has it and the other lacks it.
    told_V = np.zeros(size, bool)
    explained_N = np.zeros(len(classes_N), bool)

    def tell(
        kind: str, signs: _Signs, pairs: np.ndarray, parts: Callable[[int], list[int]],
        rows_of: dict[int, np.ndarray], present: bool = True,
    ) -> None:  # fmt: skip
        """A finding for each class of the pairs: the widest is its evidence.

        Args:
            parts: token ids of a sign.
            rows_of: rows that have it.
        """
        for of_class, mine in signs.by_class(pairs):
            mine = [pair for pair in mine if not told_V[parts(signs.sign_P[pair])].all()]
            if not mine:
                continue
            texts = [" ".join(map(bodies.tokens.__getitem__, parts(signs.sign_P[p]))) for p in mine]
            given = []
            for pair in mine:
                told_V[parts(signs.sign_P[pair])] = True
                given_N = np.full(len(classes_N), not present)
                given_N[rows_of[signs.sign_P[pair]]] = present
                given.append(np.flatnonzero(given_N))
                explained_N[given[-1]] = True
            evidence = signs.evidence(mine[0])
            noun = "token" if len(parts(signs.sign_P[mine[0]])) == 1 else "tokens"
            who = f"rows {'with' if present else 'without'} the {noun} {short_name(texts[0])}"
            if len(mine) > 1:
                who += f" ({plural(len(mine) - 1, 'more token')} like it)"
            label = bodies.label(of_class)
            found.append(
                {
                    "kind": kind,
                    "message": f"{evidence['share']:.1%} of the {evidence['rows']:,} {who} have "
                    f"the label {short_name(label)}, {evidence['of_label']:.0%} of its rows are "
                    f"among them",
                    "label": label,
                    "tokens": texts[:MOST_FINDINGS],
                    "tokens_in_all": len(mine),
                    "present": present,
                    **evidence,
                    "examples": bodies.examples(given[0]),
                }
            )

    def itself(token: int) -> list[int]:
        return [token]

    names = _label_names(bodies)
    if len(names.row_H):
        row_H, name_H = _once(names.row_H, names.sign_H, len(names.parts))
        signs = _Signs.present(name_H, classes_N[row_H], classes_N)
        pairs = signs.leaking(MIN_COVERAGE_OF_LABEL_TEXT, MIN_GAIN_OF_LABEL_TEXT)
        own = [signs.class_P[pair] in names.classes[signs.sign_P[pair]] for pair in pairs]
        pairs = pairs[np.array(own, bool)]
        rows_of = _rows_with(signs.sign_P[pairs], name_H, row_H)
        tell("label_in_body", signs, pairs, names.parts.__getitem__, rows_of)
    present = _Signs.present(id_U, classes_N[row_U], classes_N)
    pairs = present.leaking()
    rows_of = _rows_with(present.sign_P[pairs], id_U, row_U)
    tell("token_gives_label", present, pairs, itself, rows_of)
    absent = _absent(present, classes_N)
    if absent is not None:
        pairs = absent.leaking()
        rows_of = _rows_with(absent.sign_P[pairs], id_U, row_U)
        tell("token_gives_label", absent, pairs, itself, rows_of, present=False)
    return found, explained_N


def _once(row_M: np.ndarray, sign_M: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and sign, each pair once, by row."""
    # Not np.unique, whose hash table takes 50 times as long as sorting keys that nearly are sorted.
    key_M = np.sort(row_M * size + sign_M)
    once = key_M[np.diff(key_M, prepend=-1) > 0]
    return once // size, once % size


def _rows_with(wanted: np.ndarray, sign_M: np.ndarray, row_M: np.ndarray) -> dict[int, np.ndarray]:
    """The rows that have each of the wanted signs."""
    wanted = np.unique(wanted)
    if not len(wanted):
        return {}
    at_M = np.minimum(np.searchsorted(wanted, sign_M), len(wanted) - 1)
    hit = np.flatnonzero(wanted[at_M] == sign_M)
    order = hit[np.argsort(at_M[hit], kind="stable")]
    parts = np.split(row_M[order], np.searchsorted(at_M[order], np.arange(1, len(wanted))))
    return {sign: np.unique(rows) for sign, rows in zip(wanted.tolist(), parts, strict=True)}


def short_name(name: str) -> str:
    """A token, a label or a group for a message: short and printable whatever it holds."""
    return shorten(printable(name), _NAME_COLUMNS)


def _absent(present: _Signs, classes_N: np.ndarray) -> _Signs | None:
    """Lacking a token, for tokens that so many rows have that one class may explain the others.

    Args:
        present: having a token, of each class that has rows with it.
    """
    of_class_L = np.bincount(classes_N)
    lacking_P = len(classes_N) - present.rows_P
    asked_P = (lacking_P >= MIN_ROWS) & (lacking_P <= 1.2 * of_class_L.max())
    if not asked_P.any():
        return None
    token_P, class_P = present.sign_P[asked_P], present.class_P[asked_P]
    right_P, lacking_P = of_class_L[class_P] - present.right_P[asked_P], lacking_P[asked_P]
    # Of the classes that never have a token the largest is the best: the first place in the order
    # of sizes that none of those which have it takes.
    by_size_L = np.argsort(-of_class_L, kind="stable")
    rank_L = np.argsort(by_size_L)
    order = np.lexsort((rank_L[class_P], token_P))
    first = np.flatnonzero(np.diff(token_P[order], prepend=-1))
    ends = np.append(first[1:], len(order))
    counted = np.arange(len(order)) - np.repeat(first, ends - first)
    gap_P = np.where(rank_L[class_P][order] != counted, counted, len(of_class_L))
    free_K = np.minimum(np.minimum.reduceat(gap_P, first), ends - first)
    tokens_K, some = token_P[order][first], free_K < len(of_class_L)
    free_class = by_size_L[free_K[some]]
    token_P = np.concatenate([token_P, tokens_K[some]])
    class_P = np.concatenate([class_P, free_class])
    right_P = np.concatenate([right_P, of_class_L[free_class]])
    lacking_P = np.concatenate([lacking_P, lacking_P[order][first][some]])
    best = np.lexsort((class_P, -right_P, token_P))
    best = best[np.diff(token_P[best], prepend=-1) > 0]
    return _Signs.judge(token_P[best], class_P[best], lacking_P[best], right_P[best], classes_N)


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


def _files(
    train: TokenLabelDataset, validation: TokenLabelDataset, names: tuple[str, str]
) -> list[tuple[TokenLabelDataset, str]]:
    """Each file once: two sides of one file share what its reading met."""
    both = [(train, names[0]), (validation, names[1])]
    return both[:1] if validation.counts is train.counts else both


# ------------------------------------------------------------------------------- places


def _places(bodies: _Bodies) -> tuple[list[dict[str, Any]], int | None]:
    """The place, or else per label the token at a place, that gives the label.

    Returns:
        findings, and of how many rows the rest was asked if not of all.
    """
    classes_N, rows = bodies.classes_N, len(bodies.classes_N)
    if rows < 2 * MIN_ROWS or len(np.unique(classes_N)) < 2:
        return [], None
    longest = int(bodies.lengths_N.max())
    edges = np.unique(np.quantile(bodies.lengths_N, np.linspace(0, 1, _LENGTH_BINS + 1)[1:-1]))
    exact = len(np.unique(bodies.lengths_N)) <= _LENGTH_BINS
    bin_N = bodies.lengths_N if exact else np.searchsorted(edges, bodies.lengths_N, side="left")
    size = max(len(bodies.tokens), int(bin_N.max()) + 1)
    one_length = bool((bodies.lengths_N == longest).all())
    # Places 0.. from the start, `longest`.. from the end, and last the length.
    place_M, id_M, row_M = [bodies.place_M], [bodies.id_M], [bodies.row_M]
    if not one_length:
        place_M += [longest + bodies.lengths_N[bodies.row_M] - 1 - bodies.place_M]
        place_M += [np.full(rows, 2 * longest)]
        id_M += [bodies.id_M, bin_N]
        row_M += [bodies.row_M, np.arange(rows)]
    sign_M = np.concatenate(place_M) * size + np.concatenate(id_M)
    row_M = np.concatenate(row_M)

    def words(place: int) -> dict[str, Any]:
        if place == 2 * longest:
            return {"place": "length"}
        if place >= longest:
            return {"place": place - longest, "counted_from": "end"}
        return {"place": place, "counted_from": "start"}

    def said(place: int) -> str:
        if place == 2 * longest:
            return "the length of the body"
        if place >= longest:
            return f"the token {place - longest + 1} from the end of the body"
        return f"the token at place {place} of the body (counted from 0)"

    table = _lookups(sign_M, row_M, size, bodies, None if one_length else longest)
    decide = np.flatnonzero((table.gain_P >= MIN_GAIN_OF_PLACE) & (table.p_P <= MAX_P))
    if len(decide):
        best = int(decide[table.right_P[decide].argmax()])
        # Whether a row reaches a place tells as much as its length, which is the plainer word.
        of_length = 2 * longest
        if of_length in decide and table.right_P[of_length] >= 0.98 * table.right_P[best]:
            best = of_length
        share = float(table.right_P[best] / table.rows_P[best])
        asked, sampled = np.arange(rows), None
        most = max(MIN_ROWS, _MOST_SCORES // len(np.unique(classes_N)))
        if rows > most:
            asked = np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False))
            sampled = most
        rest = 1 - float(_RestOfRow(bodies).right(asked, decide).mean())
        if rest < max(MIN_REST_ERROR, TIMES_BETTER_THAN_REST * (1 - share)):
            return [], sampled
        leak = {
            "kind": "position_gives_label",
            "message": f"{said(best)} alone tells {share:.1%} of the labels, in rows that the "
            f"lookup has not seen; the rest of the row tells {1 - rest:.1%}",
            "label": None,
            **words(best),
            "places_in_all": len(decide),
            "rows": int(table.rows_P[best]),
            "share": share,
            "lower_bound": float(table.lower_P[best]),
            "gap_closed": float(table.gain_P[best]),
            "majority_class": float(np.bincount(classes_N).max() / rows),
            "rest_of_row": 1 - rest,
            "p_value": float(table.p_P[best]),
            "examples": bodies.examples(np.arange(rows)),
        }
        return [leak], sampled
    signs = _Signs.present(sign_M, classes_N[row_M], classes_N)
    widest = list(signs.by_class(signs.leaking()))
    rows_of = _rows_with(signs.sign_P[[pairs[0] for _, pairs in widest]], sign_M, row_M)
    rest_of_row = _RestOfRow(bodies) if widest else None
    found = []
    with progress_bar("places against the rest of the row", len(widest), "label") as bar:
        for of_class, mine in widest:
            bar.update()
            places = np.unique(signs.sign_P[mine] // size)
            best, evidence = mine[0], signs.evidence(mine[0])
            has = rows_of[signs.sign_P[best]]
            rest = 1 - float(rest_of_row.right(has, places).mean())
            wide = evidence["of_label"] >= WIDE_COVERAGE
            needed = MIN_REST_ERROR if wide else MIN_REST_ERROR_BELOW_IT
            if rest < max(needed, TIMES_BETTER_THAN_REST * (1 - evidence["share"])):
                continue
            place, value = divmod(int(signs.sign_P[best]), size)
            what = str(value if exact else "in one range")
            if place < 2 * longest:
                what = bodies.tokens[value]
            label = bodies.label(of_class)
            found.append(
                {
                    "kind": "position_gives_label",
                    "message": f"where {said(place)} is {short_name(what)}, "
                    f"{evidence['share']:.1%} of {evidence['rows']:,} rows have the label "
                    f"{short_name(label)}, "
                    f"{evidence['of_label']:.0%} of its rows are among them; the rest of these "
                    f"rows tells {1 - rest:.1%}",
                    "label": label,
                    **words(place),
                    "value": what,
                    "places_in_all": len(places),
                    "rest_of_row": 1 - rest,
                    **evidence,
                    "examples": bodies.examples(has),
                }
            )
    return found, None


def _halves(rows: int) -> np.ndarray:
    """True for one half of the rows, drawn at random."""
    return np.random.default_rng(_SEED).permutation(rows) < rows // 2


def _lookups(
    sign_M: np.ndarray, row_M: np.ndarray, size: int, bodies: _Bodies, longest: int | None
) -> _Signs:
    """How well each place alone tells the class: a table from one half, asked on the other.

    A row too short for the place counts as if it held one more token there.

    Args:
        longest: the number of places from one end; None where all rows have them all.

    Returns:
        a pair per place; its sign is the place, its base the most frequent class.
    """
    classes_N = bodies.classes_N
    classes = int(classes_N.max()) + 1
    places = int(sign_M.max()) // size + 1
    known_N = _halves(len(classes_N))
    known_M = known_N[row_M]
    most_frequent = int(np.bincount(classes_N).argmax())
    pairs, count = np.unique(
        sign_M[known_M] * classes + classes_N[row_M[known_M]], return_counts=True
    )
    order = np.lexsort((count, pairs // classes))
    sign, of_class = pairs[order] // classes, pairs[order] % classes
    last = np.append(sign[1:] != sign[:-1], True)
    sign, of_class = sign[last], of_class[last]
    asked, truth = sign_M[~known_M], classes_N[row_M[~known_M]]
    at = np.minimum(np.searchsorted(sign, asked), len(sign) - 1)
    answer = np.where(sign[at] == asked, of_class[at], most_frequent)
    right_P = np.bincount(asked // size, weights=answer == truth, minlength=places)
    if longest is not None:
        right = _right_of_too_short(bodies, known_N, longest, most_frequent)
        right_P[:longest] += right
        right_P[longest : 2 * longest] += right
    rows_P = np.full(places, int((~known_N).sum()))
    return _Signs.judge(
        np.arange(places), np.full(places, most_frequent), rows_P, right_P, classes_N
    )


def _right_of_too_short(
    bodies: _Bodies, known_N: np.ndarray, longest: int, most_frequent: int
) -> np.ndarray:
    """Of the rows too short for each place, how many have the commonest class of the known ones.

    Args:
        known_N: the rows that tell which class is the commonest; the others are counted.
        most_frequent: the class where no known row is too short.

    Returns:
        counts for the places 0..longest-1.
    """
    classes = int(bodies.classes_N.max()) + 1
    known = np.flatnonzero(known_N)
    known = known[np.argsort(bodies.lengths_N[known], kind="stable")]
    lengths, classes_K = bodies.lengths_N[known], bodies.classes_N[known]
    # How many rows of its class stand before each row in the order of lengths.
    order = np.argsort(classes_K, kind="stable")
    starts = np.flatnonzero(np.diff(classes_K[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    nth_K = np.empty(len(order), np.int64)
    nth_K[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    # The commonest so far, of equal ones the first class: the largest of these keys.
    best_K = np.maximum.accumulate((nth_K + 1) * classes + classes - 1 - classes_K)
    reached = np.searchsorted(lengths, np.arange(longest), side="right")
    best_P = np.where(
        reached > 0, classes - 1 - best_K[np.maximum(reached, 1) - 1] % classes, most_frequent
    )
    asked = ~known_N
    key = np.sort(bodies.classes_N[asked] * (longest + 1) + bodies.lengths_N[asked])
    upto = np.searchsorted(key, best_P * (longest + 1) + np.arange(longest), side="right")
    return upto - np.searchsorted(key, best_P * (longest + 1))


class _RestOfRow:
    """Whether naive Bayes on a row less some places tells its class, held out.

    On tokens at their places where all bodies have one length, else on the bag of tokens. Each half
    of the rows is told by what the other half teaches. What whole rows teach is counted once; for
    each question only what stands at its places is taken off.
    """

    def __init__(self, bodies: _Bodies):
        from scipy.sparse import csr_array

        self.bodies = bodies
        longest = int(bodies.lengths_N.max())
        self.classes = int(bodies.classes_N.max()) + 1
        sign_M = bodies.id_M
        if (bodies.lengths_N == longest).all():
            sign_M = sign_M + bodies.place_M * len(bodies.tokens)
        signs, self.column_M = np.unique(sign_M, return_inverse=True)
        self.rows_V = np.bincount(self.column_M, minlength=len(signs))
        self.starts_N = np.append(0, np.cumsum(bodies.lengths_N))
        shape = len(bodies.classes_N), len(signs)
        ones = np.ones(len(self.column_M), np.float32)
        counts_NxF = csr_array((ones, self.column_M, self.starts_N), shape=shape)
        half_N = _halves(len(bodies.classes_N))
        self.halves = []
        for known_N in (half_N, ~half_N):
            classes_N = bodies.classes_N[known_N]
            counts_FxL = class_counts(counts_NxF[known_N], classes_N, self.classes)
            rows_L = np.bincount(classes_N, minlength=self.classes)
            total_L = np.asarray(counts_FxL.sum(axis=0)).ravel()
            self.halves.append((known_N, counts_FxL, rows_L, total_L))
        # The tokens of each place, counted from either end.
        ends_M = np.repeat(bodies.lengths_N, bodies.lengths_N) - 1 - bodies.place_M
        self.places_M = bodies.place_M, longest + ends_M
        self.orders = [np.argsort(places, kind="stable") for places in self.places_M]
        at = np.arange(longest + 1)
        self.bounds = [
            np.searchsorted(places[order], first + at)
            for places, order, first in zip(self.places_M, self.orders, (0, longest), strict=True)
        ]
        self.longest = longest

    def right(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Whether each of some rows is told rightly by what is left of it.

        Args:
            places: those left out, numbered as in `_places`.

        Returns:
            right_B: bool.
        """
        from scipy.sparse import coo_array, csr_array

        longest = self.longest
        left_out = np.zeros(2 * longest + 1, bool)
        left_out[places] = True
        ends = []
        for first, order, bounds in zip((0, longest), self.orders, self.bounds, strict=True):
            here = places[(places >= first) & (places < first + longest)] - first
            parts = [order[bounds[place] : bounds[place + 1]] for place in here]
            ends.append(np.concatenate([np.zeros(0, np.int64), *parts]))
        from_start, from_end = ends
        # A token that is left out from both ends counts once. (np.unique would take half the time.)
        gone = np.concatenate([from_start, from_end[~left_out[self.places_M[0][from_end]]]])
        left_V = self.rows_V - np.bincount(self.column_M[gone], minlength=len(self.rows_V))
        features = max(1, int((left_V > 0).sum()))
        gone_row = self.bodies.row_M[gone]
        gone_class = self.bodies.classes_N[gone_row]

        lengths = self.bodies.lengths_N[rows]
        row_M = np.repeat(np.arange(len(rows)), lengths)
        token_M = np.repeat(self.starts_N[rows] - (np.cumsum(lengths) - lengths), lengths)
        token_M += np.arange(len(row_M))
        stays_M = ~(left_out[self.places_M[0][token_M]] | left_out[self.places_M[1][token_M]])
        columns, column_M = np.unique(self.column_M[token_M[stays_M]], return_inverse=True)
        asked_BxF = coo_array(
            (np.ones(len(column_M)), (row_M[stays_M], column_M)), shape=(len(rows), len(columns))
        ).tocsr()
        position_V = np.full(len(self.rows_V), -1)
        position_V[columns] = np.arange(len(columns))

        right_B = np.zeros(len(rows), bool)
        for known_N, counts_FxL, rows_L, total_L in self.halves:
            asked = np.flatnonzero(~known_N[rows])
            mine = known_N[gone_row]
            of_class, at = gone_class[mine], position_V[self.column_M[gone[mine]]]
            shape = len(columns), self.classes
            inside = at >= 0
            gone_FxL = csr_array(
                coo_array((np.ones(inside.sum()), (at[inside], of_class[inside])), shape=shape)
            )
            model = NaiveBayes(
                (counts_FxL[columns] - gone_FxL).tocsr(),
                total_L - np.bincount(of_class, minlength=self.classes),
                rows_L,
                features,
                _SMOOTHING,
            )
            told = model.predict(asked_BxF[asked])
            right_B[asked] = told == self.bodies.classes_N[rows[asked]]
        return right_B


# ------------------------------------------------------------------------------- across


def _across(
    train: TokenLabelDataset,
    validation: TokenLabelDataset,
    names: tuple[str, str],
    group_by: str | None,
) -> list[dict[str, Any]]:
    """Groups and bodies that stand on both sides; a split of one file never has any."""
    # In the order of their files, so that the first ones are told.
    train, validation = (
        rows.subset(np.argsort(rows.lines_N, kind="stable")) for rows in (train, validation)
    )
    found = []
    train_lines = _first_lines(train.group_values())
    held_out = validation.group_values()
    shared = [i for i, value in enumerate(held_out) if value is not None and value in train_lines]
    if shared:
        groups = list(dict.fromkeys(held_out[i] for i in shared))
        first = short_name(groups[0])
        found.append(
            {
                "kind": "group_across",
                "message": f"{group_by} of {plural(len(shared), 'validation row')} is that of "
                f"training rows ({plural(len(groups), 'value')}, the first: {first})",
                "group_by": group_by,
                "rows": len(shared),
                "groups": groups[:MOST_FINDINGS],
                "groups_in_all": len(groups),
                "examples": _pairs_of_lines(
                    train, validation, names, train_lines, held_out, shared
                ),
            }
        )
    train_lines = _first_lines(train.body_keys())
    held_out = validation.body_keys()
    shared = [i for i, key in enumerate(held_out) if key in train_lines]
    if shared:
        found.append(
            {
                "kind": "duplicate_across",
                "message": f"{len(shared):,} of {plural(len(validation), 'validation row')} have "
                f"the body of a training row: the validation figures flatter",
                "rows": len(shared),
                "share": len(shared) / len(validation),
                "examples": _pairs_of_lines(
                    train, validation, names, train_lines, held_out, shared
                ),
            }
        )
    return found


def _first_lines(keys: list[Any]) -> dict[Any, int]:
    """Row number at which each key stands first."""
    first: dict[Any, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return first


def _pairs_of_lines(
    train: TokenLabelDataset,
    validation: TokenLabelDataset,
    names: tuple[str, str],
    first: dict[Any, int],
    held_out: list[Any],
    shared: list[int],
) -> list[str]:
    return [
        f"{names[1]}:{validation.lines_N[i]} and {names[0]}:{train.lines_N[first[held_out[i]]]}"
        for i in shared[:_EXAMPLES]
    ]
