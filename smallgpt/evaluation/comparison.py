"""Two evaluations of the same rows compared: the rows matched and checked, then tested in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from smallgpt.errors import UserError
from smallgpt.evaluation.paired import (
    accuracy_difference,
    group_numbers,
    holm,
    mean_difference,
    perplexity_ratio,
)
from smallgpt.evaluation.stored import Evaluated
from smallgpt.files.reading import shown
from smallgpt.rows.groups import group_value


def check_same_rows(first: Evaluated, other: Evaluated, names: Sequence[str]) -> None:
    """Check that two evaluations are of the same rows: lines, labels, and the user's own keys.

    `names` of both, for the message. What one of them could not score is compared by its line.

    Raises:
        UserError: names the first row that differs.
    """
    remedy = "compare evaluations of one file, or the models with --test_data FILE"
    for row, beside in zip(first.predictions, other.predictions, strict=False):
        line = min(row["line"], beside["line"])
        if row["line"] != beside["line"]:
            absent = names[0] if row["line"] > line else names[1]
            raise UserError(f"row {line} is not in {absent}: {remedy}")
        if not (_is_scored(row) and _is_scored(beside)):
            continue
        if _label(row) != _label(beside):
            raise UserError(
                f"row {line} has the label {shown(row.get('label'))} in {names[0]} and "
                f"{shown(beside.get('label'))} in {names[1]}: {remedy}"
            )
        if row["row"] != beside["row"]:
            raise UserError(
                f"row {line} has other keys in {names[0]} ({shown(row['row'])}) than in "
                f"{names[1]} ({shown(beside['row'])}): {remedy}"
            )
    counts = [len(each.predictions) for each in (first, other)]
    if counts[0] != counts[1]:
        longer = first if counts[0] > counts[1] else other
        line = longer.predictions[min(counts)]["line"]
        shorter = names[0] if counts[0] < counts[1] else names[1]
        raise UserError(f"row {line} is not in {shorter}: {remedy}")


def may_be_other_rows(first: Evaluated, other: Evaluated) -> bool:
    """Whether rows that look the same were not read as the same, by their digests.

    So it is with another version of a file, and with pictures in tokens of two codebooks. A digest
    covers rows that could not be scored, and then tells nothing.
    """
    if any(not _is_scored(row) for each in (first, other) for row in each.predictions):
        return False
    digests = {first.rows_digest, other.rows_digest}
    return None not in digests and len(digests) == 2


def compare_evaluations(
    first: Evaluated, other: Evaluated, group_by: str | None, other_tokens: str
) -> dict[str, Any]:
    """The paired tests of two evaluations of the same rows, of those that both scored.

    Args:
        group_by: key path, in the user's own keys, of what makes rows alike.
        other_tokens: why the two do not read a row as the same tokens, "" where they do.

    Returns:
        rows, left_out; groups (None where no two rows share one); labels: `rows`, `accuracy` and
        `label_loss`; tokens: `all` and `body`. What cannot be compared is None, and
        `no_labels`, `no_label_loss`, `no_tokens` say why.

    Raises:
        UserError: no row that both scored.
    """
    pairs = [
        pair
        for pair in zip(first.predictions, other.predictions, strict=True)
        if all(map(_is_scored, pair))
    ]
    if not pairs:
        raise UserError("not one row was scored by both: compare models of the same kind of rows")
    group_N = group_numbers([group_value(row["row"], group_by) for row, _ in pairs])
    groups = int(group_N.max()) + 1
    found: dict[str, Any] = {
        "rows": len(pairs),
        "left_out": len(first.predictions) - len(pairs),
        "groups": groups if groups < len(pairs) else None,
        "labels": None,
        "tokens": None,
    }
    labelled = [
        place
        for place, pair in enumerate(pairs)
        if all(row.get("label") is not None and row.get("prediction") is not None for row in pair)
    ]
    if not labelled:
        found["no_labels"] = "no row has a label that both models name"
    else:
        found |= _compare_labels([pairs[place] for place in labelled], group_N[labelled])
    found["no_tokens"] = other_tokens or _why_other_tokens(pairs)
    if not found["no_tokens"]:
        found["tokens"] = {
            name: perplexity_ratio(*_columns(pairs, losses), counts_N, group_N)
            for name, losses, counts in (
                ("all", "nll_sum", "token_count"),
                ("body", "body_nll_sum", "body_token_count"),
            )
            if (counts_N := _columns(pairs, counts)[0]).any()
        }
    return found


def _compare_labels(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]], group_N: np.ndarray
) -> dict[str, Any]:
    """`labels` of `compare_evaluations`, and `no_label_loss`."""
    group_N = np.unique(group_N, return_inverse=True)[1]
    right_Nx2 = np.array([[row["prediction"] == row["label"] for row in pair] for pair in pairs])
    labels: dict[str, Any] = {
        "rows": len(pairs),
        "accuracy": accuracy_difference(right_Nx2[:, 0], right_Nx2[:, 1], group_N),
        "label_loss": None,
    }
    reason = ""
    if any("label_nll" not in row for pair in pairs for row in pair):
        reason = "an evaluation of an older version has no label losses"
    elif len({"nll_sum" in row for row in pairs[0]}) == 2:
        reason = "one model names a label among labels alone, the other among all tokens"
    else:
        losses = _columns(pairs, "label_nll")
        labels["label_loss"] = mean_difference(*losses, np.ones(len(pairs)), group_N)
    return {"labels": labels, "no_label_loss": reason}


def _why_other_tokens(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Why losses of rows are not of the same tokens, "" where they are."""
    for pair in pairs:
        if any("nll_sum" not in row for row in pair):
            return "a model that names labels alone has no perplexity"
        counts = [(row["token_count"], row["body_token_count"]) for row in pair]
        if counts[0] != counts[1]:
            return (
                f"row {pair[0]['line']} was read as {counts[0][0]:,} tokens by one model and "
                f"{counts[1][0]:,} by the other (--max_length, or an end that one never learned)"
            )
    return ""


def correct_p_values(comparisons: list[dict[str, Any]]) -> None:
    """Put `corrected_p_value` beside the p values of several comparisons with one model (Holm)."""
    for part, name in (
        ("labels", "accuracy"),
        ("labels", "label_loss"),
        ("tokens", "all"),
        ("tokens", "body"),
    ):
        tests = [each[part][name] for each in comparisons if each[part] and each[part].get(name)]
        known = [test for test in tests if test["p_value"] is not None]
        for test, value in zip(known, holm([test["p_value"] for test in known]), strict=True):
            test["corrected_p_value"] = value


def _columns(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """An entry of the rows of both."""
    values_Nx2 = np.array([[row[name] for row in pair] for pair in pairs])
    return values_Nx2[:, 0], values_Nx2[:, 1]


def _is_scored(row: dict[str, Any]) -> bool:
    return "reason" not in row


def _label(row: dict[str, Any]) -> str | None:
    """The label as in its token: two models may spell it differently."""
    return None if row.get("label") is None else "_".join(row["label"].split())
