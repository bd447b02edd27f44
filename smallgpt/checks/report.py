"""The data report: sizes, labels, lengths, vocabulary use, duplicates, leaks, baselines.

    report = report_data(train, validation, settings, codebook=None)
    save_report(report, Path("run/data_report.json"), Path("run/data_report.png"))

Training writes it before the first step, `train_gpt.py --check_data` alone. For leaks and baselines
rows are sorted by content: the order of the file does not matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from smallgpt.checks.baselines import STEPS, measure_baselines
from smallgpt.checks.leaks import find_leaks
from smallgpt.checks.pictures import draw_data_report
from smallgpt.checks.sides import Sides
from smallgpt.console import plural, progress_bar
from smallgpt.errors import UserError
from smallgpt.files.reading import parse_json, read_text
from smallgpt.files.writing import write_json
from smallgpt.options.training import TrainSettings
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.lengths import length_figures
from smallgpt.rows.splitting import number_keys, split_rows

_MOST_BYTES = 2**26  # of data_report.json, which grows with the vocabulary
MOST_ERRORS_LISTED = 10_000  # in data_report.json: some 2 MB
_LENGTH_BINS = 40
_MOST_TOKENS_NAMED = 30  # of a small vocabulary
_FAR = 5  # times the length of nine rows in ten: from here on the bins of lengths grow
_EXAMPLES, _EXAMPLES_OF_BODY = 5, 10
_TOKENS_AT_ONCE = 4_000_000
# Fields of ReadCounts that the report repeats.
_COUNTS = (
    "cut", "cut_tokens", "repaired", "completed", "unknown_tokens", "padding_dropped", "skipped"
)  # fmt: skip


def report_data(
    train: TokenLabelDataset,
    validation: TokenLabelDataset,
    settings: TrainSettings,
    codebook: Path | None,
) -> dict[str, Any]:
    """Statistics of the rows of a run, ready for JSON; a side may be empty if every row is bad.

    Variants (`prepare_data.py --augment`) are counted and left out of all else. `codebook` is the
    codebook.npz of image rows, else None.

    Raises:
        UserError: the codebook is broken, or memory runs out.
    """
    try:
        return _report(train, validation, settings, codebook)
    except MemoryError:
        raise UserError(
            f"out of memory: the data report of {plural(len(train) + len(validation), 'row')} "
            f"needs more than there is; end other programs, give fewer rows or a lower --max_length"
        ) from None


def _report(
    train: TokenLabelDataset,
    validation: TokenLabelDataset,
    settings: TrainSettings,
    codebook: Path | None,
) -> dict[str, Any]:
    variants = int(train.augmented_N.sum())
    # Baselines, duplicates and leaks are those of the original rows, not of variants.
    train = train.subset(np.flatnonzero(~train.augmented_N))
    sides = Sides(train, validation, settings.data_path, settings.val_data_path)
    labels = train.vocabulary.label_names
    classes_N = sides.joined("classes_N").astype(np.int64)
    splits = {"train": _side(train), "validation": _side(validation)}
    # One thread: beside other programs several wait for one another, measured three times as slow.
    with (
        threadpool_limits(limits=1),
        progress_bar("data report", STEPS + 2, "part") as bar,
    ):
        keys = train.body_keys(), validation.body_keys()
        bodies_N = number_keys(keys[0] + keys[1])
        conflicts = _conflicts(bodies_N, classes_N)
        report = {
            "rows": len(classes_N),
            "variants": variants,
            "unlabelled": sum(side["unlabelled"] for side in splits.values()),
            "labels": {x: sum(side["labels"][x] for side in splits.values()) for x in labels},
            "splits": splits,
            "lengths": _lengths(sides.joined("lengths_N")),
            "vocabulary": {
                "file": settings.vocab_path,
                **_vocabulary(
                    train.vocabulary.tokens, _token_counts(train) + _token_counts(validation)
                ),
            },
            **{name: sum(getattr(x.counts, name) for _, x in sides.files()) for name in _COUNTS},
            "duplicates": {
                "within": len(bodies_N) - int(bodies_N.max(initial=-1) + 1),
                "across": _duplicates_across(sides, bodies_N, classes_N, settings),
            },
            "conflicting_labels": len(conflicts),
            "conflicting_labels_shown": [
                [
                    {"row": sides.place(row), "label": labels[classes_N[row]]}
                    for row in rows[:_EXAMPLES_OF_BODY]
                ]
                for rows in conflicts[:_EXAMPLES]
            ],
            "errors": _errors(sides),
        }
        bar.update()
        sides = sides.subset(_content_order(train, keys[0]), _content_order(validation, keys[1]))
        leaks, search = find_leaks(sides, settings.group_by)
        bar.update()
        figures, notes = measure_baselines(sides.train, sides.validation, codebook, bar.update)
    return report | {
        "leaks": leaks,
        "leaks_search": search,
        "baselines": figures,
        "baselines_note": notes,
    }


def save_report(report: dict[str, Any], path: Path, picture: Path) -> None:
    """Write a report as JSON to `path` and draw it to `picture` (PNG)."""
    write_json(path, report)
    draw_data_report(picture, report)


def stored_baselines(path: Path) -> dict[str, float]:
    """The baselines of a saved report; {} if it is missing or damaged."""
    try:
        return parse_json(read_text(path, _MOST_BYTES))["baselines"]
    except (UserError, ValueError, KeyError, TypeError):
        return {}


def _side(rows: TokenLabelDataset) -> dict[str, Any]:
    """Size and labels of one side of the split; `tokens` counts those that a model predicts."""
    labels = rows.vocabulary.label_names
    counts = np.bincount(rows.classes_N + 1, minlength=len(labels) + 1).tolist()
    return {
        "rows": len(rows),
        "tokens": rows.target_count,
        "labels": dict(zip(labels, counts[1:], strict=True)),
        "unlabelled": counts[0],
    }


def _lengths(lengths_N: np.ndarray) -> dict[str, Any]:
    """Row lengths in tokens, tail included; bin i holds edges[i] <= length < edges[i + 1].

    The bins grow where the longest row is far beyond the others, which would all be in one.
    """
    figures = length_figures(lengths_N)
    if not len(lengths_N):
        return figures | {"histogram": {"edges": [], "counts": []}}
    shortest, end = figures["shortest"], figures["longest"] + 1
    step = -(-(end - shortest) // _LENGTH_BINS)
    edges = np.arange(shortest, end + step, step)
    if end > _FAR * figures["p90"]:
        edges = np.unique(np.geomspace(shortest, end, _LENGTH_BINS + 1).round().astype(int))
    counts, _ = np.histogram(lengths_N, edges - 0.5)
    return figures | {"histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def _vocabulary(tokens: list[str], counts_V: np.ndarray) -> dict[str, Any]:
    most = int(counts_V.argmax())
    used = np.sort(counts_V[counts_V > 0])[::-1]
    # Ranks for a chart with a logarithmic axis: all of the first ones, then ever fewer.
    ranks = np.unique(np.geomspace(1, max(1, len(used)), 100).astype(int))[: len(used)]
    falling = np.argsort(-counts_V, kind="stable")[: len(used)].tolist()
    few = len(used) <= _MOST_TOKENS_NAMED
    return {
        "size": len(tokens),
        "never_used": int((counts_V == 0).sum()),
        "used_once": int((counts_V == 1).sum()),
        "most_frequent": tokens[most],
        "most_frequent_share": float(counts_V[most] / max(1, counts_V.sum())),
        "ranks": ranks.tolist(),
        "counts_of_ranks": used[ranks - 1].tolist(),
        # Of a vocabulary so small every token, by its name.
        "counts": {tokens[i]: int(counts_V[i]) for i in falling} if few else {},
    }


def _token_counts(rows: TokenLabelDataset) -> np.ndarray:
    counts_V = np.zeros(len(rows.vocabulary), np.int64)
    step = max(1, _TOKENS_AT_ONCE // int(rows.lengths_N.max(initial=1)))
    for start in range(0, len(rows), step):
        ids_N, _ = rows.gather(np.arange(start, min(start + step, len(rows))))
        counts_V += np.bincount(ids_N, minlength=len(counts_V))
    return counts_V


def _duplicates_across(
    sides: Sides, bodies_N: np.ndarray, classes_N: np.ndarray, settings: TrainSettings
) -> int:
    """Validation rows whose body is also in the training rows (`bodies_N`: number of each body).

    Our split of one file never allows any: there it is the count that a split stratified by label
    alone, of the same share and seed, would give.
    """
    border = len(sides.train)
    if not border or not len(sides.validation):
        return 0
    if sides.validation_file is not None:
        return int(np.isin(bodies_N[border:], bodies_N[:border]).sum())
    in_file = np.argsort(sides.lines, kind="stable")
    ungrouped_N = np.full(len(classes_N), -1)
    split = settings.validation_fraction, settings.seed
    kept, held_out = split_rows([ungrouped_N], classes_N[in_file], *split)
    bodies_N = bodies_N[in_file]
    return int(np.isin(bodies_N[held_out], bodies_N[kept]).sum())


def _conflicts(bodies_N: np.ndarray, classes_N: np.ndarray) -> list[list[int]]:
    """For each distinct body with several labels the first row of each label."""
    repeated_N = np.bincount(bodies_N)[bodies_N] > 1
    first: dict[int, dict[int, int]] = {}
    for row in np.flatnonzero(repeated_N & (classes_N >= 0)).tolist():
        first.setdefault(bodies_N[row], {}).setdefault(classes_N[row], row)
    return [list(first[body].values()) for body in sorted(first) if len(first[body]) > 1]


def _content_order(rows: TokenLabelDataset, keys: list[bytes]) -> np.ndarray:
    """An order by content, however the file is shuffled: samples, halves and ties stay the same."""
    key_Nx2 = np.frombuffer(b"".join(keys), np.uint64).reshape(len(keys), 2)
    return np.lexsort((rows.lengths_N, rows.classes_N, key_Nx2[:, 1], key_Nx2[:, 0]))


def _errors(sides: Sides) -> dict[str, Any]:
    bad = [(file, row) for file, rows in sides.files() for row in rows.bad_rows]
    return {
        "count": len(bad),
        "left_out": max(0, len(bad) - MOST_ERRORS_LISTED),
        "shown": [
            {"file": file, "line": row.line, "reason": row.reason}
            for file, row in bad[:MOST_ERRORS_LISTED]
        ],
    }
