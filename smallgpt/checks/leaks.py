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

from typing import Any

import numpy as np

from smallgpt.checks.bodies import _Bodies
from smallgpt.checks.files import _across
from smallgpt.checks.label_names import _label_tokens
from smallgpt.checks.places import _places
from smallgpt.checks.signs import _tokens
from smallgpt.checks.thresholds import MOST_FINDINGS, THRESHOLDS
from smallgpt.rows.dataset import TokenLabelDataset


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
