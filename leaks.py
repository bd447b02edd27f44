"""What in the rows gives the label away: leaks, each with its evidence.

    findings, left_out = find_leaks(train, validation, names=("train.jsonl", "validation.jsonl"))

A leak makes a model look good that has learned nothing. Kinds:

- `label_in_body`: a label token `<CLS_k>` before the label tail, or a body token whose text is
  the label itself;
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

from dataclasses import dataclass
from typing import Any

import numpy as np

from console import plural
from dataset import TokenLabelDataset
from rows import LABEL_BEFORE_TAIL

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
_SEED = 0  # of the sample and the halves
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
            many more of each kind there are.
    """
    found = _label_tokens(train, validation, names)
    labelled = int((train.classes_N >= 0).sum() + (validation.classes_N >= 0).sum())
    bodies = _Bodies.of(train, validation, names)
    rows = len(bodies.classes_N)
    if len(np.unique(bodies.classes_N)) > 1:
        in_token, explained_N = _tokens(bodies)
        found += in_token + _places(bodies.without(explained_N))
    found += _across(train, validation, names, group_by)
    kept, left_out = [], {}
    for kind in dict.fromkeys(leak["kind"] for leak in found):
        of_kind = [leak for leak in found if leak["kind"] == kind]
        of_kind.sort(key=lambda leak: -leak["rows"])
        kept += of_kind[:MOST_FINDINGS]
        if len(of_kind) > MOST_FINDINGS:
            left_out[kind] = len(of_kind) - MOST_FINDINGS
    search = {"rows": rows, "of": labelled, "thresholds": THRESHOLDS, "left_out": left_out}
    return kept, search


# ------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class _Bodies:
    """Bodies of labelled rows of both sides, one entry per token.

    Attributes:
        tokens: names of the token ids; labels: names of the classes.
        row_M, place_M, id_M: row, place from the start of the body, and id of each token.
        classes_N, lengths_N: class and body length of each row.
        side_N, lines_N: where each row stands: 0 or 1 for its file in `names`, and the line.
    """

    tokens: list[str]
    labels: list[str]
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
            train.vocabulary.tokens,
            train.vocabulary.labels,
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
            self.tokens,
            self.labels,
            (np.cumsum(stays_N) - 1)[self.row_M[stays_M]],
            self.place_M[stays_M],
            self.id_M[stays_M],
            self.classes_N[stays_N],
            self.lengths_N[stays_N],
            self.names,
            self.side_N[stays_N],
            self.lines_N[stays_N],
        )

    def examples(self, rows: np.ndarray) -> list[str]:
        """The first of some rows as `file:line`."""
        first = np.sort(rows)[:_EXAMPLES]
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
        p_P: chance of so many right ones, times the number of pairs looked at.
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
        looked_at = max(1, int((rows_P >= MIN_ROWS).sum()))
        return cls(
            sign_P,
            class_P,
            rows_P,
            right_P,
            lower_P,
            (lower_P - base_P) / (1 - base_P),
            right_P / np.maximum(of_class_L[class_P], 1),
            np.minimum(1, _chance(right_P, rows_P, base_P) * looked_at),
        )

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
    # Not np.unique, whose hash table takes 50 times as long as sorting keys that nearly are sorted.
    key_M = np.sort(bodies.row_M * size + bodies.id_M)
    once = key_M[np.diff(key_M, prepend=-1) > 0]
    row_U, id_U = once // size, once % size
    found: list[dict[str, Any]] = []
    # A token is told once: of two labels one has it and the other lacks it.
    told_V = np.zeros(size, bool)
    explained_N = np.zeros(len(classes_N), bool)

    present = _Signs.present(id_U, classes_N[row_U], classes_N)
    texts = [token.strip("<>[](){}\"'#_:").casefold() for token in bodies.tokens]
    is_text_P = np.array(
        [
            texts[sign] == bodies.labels[of_class].casefold()
            for sign, of_class in zip(
                present.sign_P.tolist(), present.class_P.tolist(), strict=True
            )
        ],
        bool,
    )

    def tell(kind: str, signs: _Signs, pairs: np.ndarray, present: bool) -> None:
        """One finding of the pairs of one label: the widest is its evidence."""
        label = bodies.labels[signs.class_P[pairs[0]]]
        ids = signs.sign_P[pairs]
        has_N = np.zeros(len(classes_N), bool)
        has_N[row_U[id_U == ids[0]]] = True
        given_N = has_N if present else ~has_N
        told_V[ids] = True
        explained_N[given_N] = True
        for other in ids[1:]:
            others_N = np.zeros(len(classes_N), bool)
            others_N[row_U[id_U == other]] = True
            explained_N[others_N if present else ~others_N] = True
        token = bodies.tokens[ids[0]]
        evidence = signs.evidence(pairs[0])
        who = f"rows with the token {token}" if present else f"rows without the token {token}"
        if len(ids) > 1:
            who += f" ({plural(len(ids) - 1, 'more token')} like it)"
        found.append(
            {
                "kind": kind,
                "message": f"{evidence['share']:.1%} of the {evidence['rows']:,} {who} have the "
                f"label {label}, {evidence['of_label']:.0%} of its rows are among them",
                "label": label,
                "tokens": [bodies.tokens[index] for index in ids[:MOST_FINDINGS]],
                "tokens_in_all": len(ids),
                "present": present,
                **evidence,
                "examples": bodies.examples(np.flatnonzero(given_N)),
            }
        )

    def tell_each_label(kind: str, signs: _Signs, pairs: np.ndarray, present: bool) -> None:
        for of_class in dict.fromkeys(signs.class_P[pairs].tolist()):
            mine = pairs[signs.class_P[pairs] == of_class]
            mine = mine[~told_V[signs.sign_P[mine]]]
            if len(mine):
                tell(kind, signs, mine, present)

    looser = present.leaking(MIN_COVERAGE_OF_LABEL_TEXT, MIN_GAIN_OF_LABEL_TEXT)
    tell_each_label("label_in_body", present, looser[is_text_P[looser]], True)
    tell_each_label("token_gives_label", present, present.leaking(), True)
    absent = _absent(id_U, classes_N[row_U], classes_N)
    if absent is not None:
        tell_each_label("token_gives_label", absent, absent.leaking(), False)
    return found, explained_N


def _absent(id_U: np.ndarray, class_U: np.ndarray, classes_N: np.ndarray) -> _Signs | None:
    """Lacking a token, for tokens that so many rows have that one class may explain the others."""
    of_class_L = np.bincount(classes_N)
    rows_V = np.bincount(id_U)
    lacking_V = len(classes_N) - rows_V
    tokens = np.flatnonzero((lacking_V >= MIN_ROWS) & (lacking_V <= 1.2 * of_class_L.max()))
    if not len(tokens):
        return None
    place_V = np.full(len(rows_V), -1)
    place_V[tokens] = np.arange(len(tokens))
    kept_U = place_V[id_U] >= 0
    classes = len(of_class_L)
    having_KxL = np.bincount(
        place_V[id_U[kept_U]] * classes + class_U[kept_U], minlength=len(tokens) * classes
    ).reshape(len(tokens), classes)
    right_KxL = of_class_L - having_KxL
    best_K = right_KxL.argmax(axis=1)
    right_K = right_KxL[np.arange(len(tokens)), best_K]
    return _Signs.judge(tokens, best_K, lacking_V[tokens], right_K, classes_N)


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


def _places(bodies: _Bodies) -> list[dict[str, Any]]:
    """The place, or else per label the token at a place, that gives the label."""
    classes_N, rows = bodies.classes_N, len(bodies.classes_N)
    if rows < 2 * MIN_ROWS or len(np.unique(classes_N)) < 2:
        return []
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

    table = _lookups(sign_M, row_M, size, classes_N)
    decide = np.flatnonzero((table.gain_P >= MIN_GAIN_OF_PLACE) & (table.p_P <= MAX_P))
    if len(decide):
        best = int(decide[table.right_P[decide].argmax()])
        # Whether a row reaches a place tells as much as its length, which is the plainer word.
        of_length = 2 * longest
        if of_length in decide and table.right_P[of_length] >= 0.98 * table.right_P[best]:
            best = of_length
        share = float(table.right_P[best] / table.rows_P[best])
        rest = 1 - float(_right_by_rest(bodies, decide, longest).mean())
        if rest < max(MIN_REST_ERROR, TIMES_BETTER_THAN_REST * (1 - share)):
            return []
        return [
            {
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
        ]
    signs = _Signs.present(sign_M, classes_N[row_M], classes_N)
    pairs = signs.leaking()
    found = []
    for of_class in dict.fromkeys(signs.class_P[pairs].tolist()):
        mine = pairs[signs.class_P[pairs] == of_class]
        places = np.unique(signs.sign_P[mine] // size)
        best, evidence = mine[0], signs.evidence(mine[0])
        has = np.unique(row_M[sign_M == signs.sign_P[best]])
        rest = 1 - float(_right_by_rest(bodies, places, longest)[has].mean())
        wide = evidence["of_label"] >= WIDE_COVERAGE
        needed = MIN_REST_ERROR if wide else MIN_REST_ERROR_BELOW_IT
        if rest < max(needed, TIMES_BETTER_THAN_REST * (1 - evidence["share"])):
            continue
        place, value = divmod(int(signs.sign_P[best]), size)
        what = str(value if exact else "in one range")
        if place < 2 * longest:
            what = bodies.tokens[value]
        label = bodies.labels[of_class]
        found.append(
            {
                "kind": "position_gives_label",
                "message": f"where {said(place)} is {what}, {evidence['share']:.1%} of "
                f"{evidence['rows']:,} rows have the label {label}, "
                f"{evidence['of_label']:.0%} of its rows are among them; the rest of these rows "
                f"tells {1 - rest:.1%}",
                "label": label,
                **words(place),
                "value": what,
                "places_in_all": len(places),
                "rest_of_row": 1 - rest,
                **evidence,
                "examples": bodies.examples(has),
            }
        )
    return found


def _halves(rows: int) -> np.ndarray:
    """True for one half of the rows, drawn at random."""
    return np.random.default_rng(_SEED).permutation(rows) < rows // 2


def _lookups(sign_M: np.ndarray, row_M: np.ndarray, size: int, classes_N: np.ndarray) -> _Signs:
    """How well each place alone tells the class: a table from one half, asked on the other.

    A row too short for the place counts as if it held one more token there.

    Returns:
        a pair per place; its sign is the place, its base the most frequent class.
    """
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

    def too_short(side_N: np.ndarray) -> np.ndarray:
        """Rows of each class that are too short for each place, PxL."""
        mine_M = side_N[row_M]
        key = sign_M[mine_M] // size * classes + classes_N[row_M[mine_M]]
        held = np.bincount(key, minlength=places * classes).reshape(places, classes)
        return np.bincount(classes_N[side_N], minlength=classes) - held

    short = too_short(~known_N)
    right_P += short[np.arange(places), too_short(known_N).argmax(axis=1)]
    rows_P = np.full(places, int((~known_N).sum()))
    return _Signs.judge(
        np.arange(places), np.full(places, most_frequent), rows_P, right_P, classes_N
    )


def _right_by_rest(bodies: _Bodies, places: np.ndarray, longest: int) -> np.ndarray:
    """Whether naive Bayes on the row less some places tells each row's class, held out.

    On tokens at their places where all bodies have one length, else on the bag of tokens. Each half
    of the rows is told by what the other half teaches.

    Args:
        places: those left out, numbered as in `_places`.

    Returns:
        right_N: bool.
    """
    from scipy.sparse import coo_array
    from sklearn.naive_bayes import MultinomialNB

    rows = len(bodies.classes_N)
    from_end_M = longest + bodies.lengths_N[bodies.row_M] - 1 - bodies.place_M
    stays_M = ~(np.isin(bodies.place_M, places) | np.isin(from_end_M, places))
    sign_M = bodies.id_M[stays_M]
    if (bodies.lengths_N == longest).all():
        sign_M = sign_M + bodies.place_M[stays_M] * len(bodies.tokens)
    signs, column_M = np.unique(sign_M, return_inverse=True)
    shape = (rows, max(1, len(signs)))
    ones = np.ones(len(column_M))
    counts_NxS = coo_array((ones, (bodies.row_M[stays_M], column_M)), shape=shape).tocsr()
    right_N, half_N = np.zeros(rows, bool), _halves(rows)
    for known_N in (half_N, ~half_N):
        model = MultinomialNB(alpha=0.1).fit(counts_NxS[known_N], bodies.classes_N[known_N])
        right_N[~known_N] = model.predict(counts_NxS[~known_N]) == bodies.classes_N[~known_N]
    return right_N


# ------------------------------------------------------------------------------- across


def _across(
    train: TokenLabelDataset,
    validation: TokenLabelDataset,
    names: tuple[str, str],
    group_by: str | None,
) -> list[dict[str, Any]]:
    """Groups and bodies that stand on both sides; a split of one file never has any."""
    found = []
    train_lines = _first_lines(train.group_values())
    held_out = validation.group_values()
    shared = [i for i, value in enumerate(held_out) if value is not None and value in train_lines]
    if shared:
        groups = list(dict.fromkeys(held_out[i] for i in shared))
        found.append(
            {
                "kind": "group_across",
                "message": f"{group_by} of {plural(len(shared), 'validation row')} is that of "
                f"training rows ({plural(len(groups), 'value')}, the first: {groups[0]})",
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
