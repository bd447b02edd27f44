"""Lengths of rows: percentiles, and the length that covers all but the few far longer ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from smallgpt.console import plural
from smallgpt.options.common import LEAST_LENGTH

_COVERED = 0.99
_FAR_BEYOND = 2


def length_figures(lengths_N: np.ndarray) -> dict[str, Any]:
    """Figures of row lengths in tokens, label tail included; p90 = nine rows in ten are no longer.

    Zeros where there is no row.
    """
    if not len(lengths_N):
        return {"shortest": 0, "median": 0.0, "mean": 0.0, "p90": 0, "p99": 0, "longest": 0}
    p90, p99 = np.quantile(lengths_N, [0.9, 0.99], method="inverted_cdf").tolist()
    return {
        "shortest": int(lengths_N.min()),
        "median": float(np.median(lengths_N)),
        "mean": float(lengths_N.mean()),
        "p90": int(p90),
        "p99": int(p99),
        "longest": int(lengths_N.max()),
    }


def describe_lengths(figures: dict[str, Any]) -> str:
    """`length_figures` in words; "" where all rows have one length."""
    if figures["shortest"] == figures["longest"]:
        return ""
    return (
        f"row lengths in tokens: median {figures['median']:,.10g}, 90 % up to {figures['p90']:,}, "
        f"99 % up to {figures['p99']:,}, longest {figures['longest']:,}"
    )


def covering_length(lengths_N: np.ndarray) -> int:
    """The least length that covers 99 % of the rows, and of fewer than 100 rows all but one.

    Where the longest row is less than twice as long, it is the longest: cutting gains little.
    """
    beyond = max(1, int(len(lengths_N) * (1 - _COVERED) + 1e-9))
    length = np.sort(lengths_N)[::-1][min(beyond, len(lengths_N) - 1)]
    longest = int(lengths_N.max())
    return longest if longest < _FAR_BEYOND * length else max(LEAST_LENGTH, int(length))


def describe_cut(lengths_N: np.ndarray, length: int) -> str:
    """What cutting rows to a length leaves out, as the end of a sentence."""
    cut_N = lengths_N[lengths_N > length] - length
    share = cut_N.sum() / lengths_N.sum()
    return (
        f"cuts {len(cut_N):,} of {plural(len(lengths_N), 'row')} and leaves out "
        f"{plural(int(cut_N.sum()), 'token')} ({share:.1%} of all)"
    )
