"""What is in the data: sizes, labels, lengths, vocabulary use, duplicates.

Training writes it to `data_report.json` before the first step;
`python train_gpt.py --check_data` makes it alone.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from console import format_table, plural
from dataset import TokenLabelDataset, number_keys
from metrics import perplexity


def report_data(train: TokenLabelDataset, validation: TokenLabelDataset) -> dict[str, Any]:
    """Everything countable about the rows of a run, ready for JSON."""
    vocabulary = train.vocabulary
    train_keys, validation_keys = train.body_keys(), validation.body_keys()
    bodies = number_keys(train_keys + validation_keys)
    classes = np.concatenate([train.classes_N, validation.classes_N])
    in_train, in_validation = set(train_keys), set(validation_keys)
    used_V = _token_counts(train) + _token_counts(validation)
    lengths = np.concatenate([train.lengths_N, validation.lengths_N])
    return {
        "rows": {"train": len(train), "validation": len(validation)},
        "tokens": {"train": train.target_count, "validation": validation.target_count},
        "labels": {
            label: {
                "train": int((train.classes_N == index).sum()),
                "validation": int((validation.classes_N == index).sum()),
            }
            for index, label in enumerate(vocabulary.labels)
        },
        "unlabelled": int((classes < 0).sum()),
        "lengths": {
            "shortest": int(lengths.min()),
            "median": float(np.median(lengths)),
            "longest": int(lengths.max()),
        },
        "vocabulary": {
            "size": len(vocabulary),
            "never_used": int((used_V == 0).sum()),
            "used_once": int((used_V == 1).sum()),
            "most_frequent": vocabulary.tokens[int(used_V.argmax())],
            "most_frequent_share": float(used_V.max() / used_V.sum()),
        },
        "reading": {
            "train": asdict(train.counts),
            **(
                {"validation": asdict(validation.counts)}
                if validation.counts is not train.counts
                else {}
            ),
        },
        "duplicates": {
            "within_train": len(train_keys) - len(in_train),
            "within_validation": len(validation_keys) - len(in_validation),
            "across": sum(key in in_train for key in validation_keys),
        },
        "conflicting_labels": _conflicts(bodies, classes),
        "baselines": _baselines(train, validation),
    }


def describe_report(report: dict[str, Any]) -> str:
    """The report in a few lines for a person."""
    rows, lengths, words = report["rows"], report["lengths"], report["vocabulary"]
    span = f"{lengths['shortest']} to {lengths['longest']}"
    if lengths["shortest"] == lengths["longest"]:
        span = str(lengths["longest"])
    lines = [
        f"data: {rows['train']:,} training and {rows['validation']:,} validation rows of "
        f"{span} tokens; "
        f"{words['size'] - words['never_used']} of {words['size']} vocabulary tokens used"
    ]
    used = {name: count for name, count in report["labels"].items() if count["train"]}
    if used:
        smallest = min(used, key=lambda name: used[name]["train"])
        largest = max(used, key=lambda name: used[name]["train"])
        lines.append(
            f"labels: {len(used)}, from {used[smallest]['train']} training rows ({smallest}) to "
            f"{used[largest]['train']} ({largest})"
        )
        if report["unlabelled"]:
            lines.append(f"{plural(report['unlabelled'], 'row')} without a label")
    duplicates = report["duplicates"]
    if duplicates["within_train"] or duplicates["within_validation"]:
        lines.append(
            f"{plural(duplicates['within_train'], 'duplicate body', 'duplicate bodies')} among "
            f"the training rows, {duplicates['within_validation']} among the validation rows; "
            f"the split keeps them on one side"
        )
    if duplicates["across"]:
        lines.append(
            f"warning: {plural(duplicates['across'], 'validation row')} stand among the training "
            f"rows as well: the validation figures flatter"
        )
    if report["conflicting_labels"]:
        conflicting = plural(report["conflicting_labels"], "body", "bodies")
        lines.append(f"warning: {conflicting} with more than one label")
    return "\n".join(lines)


def describe_baselines(report: dict[str, Any]) -> str:
    """The yardsticks as a small table."""
    rows = [[name.replace("_", " "), f"{value:.4g}"] for name, value in report["baselines"].items()]
    return format_table(["baseline on the same split", ""], rows)


def _token_counts(dataset: TokenLabelDataset) -> np.ndarray:
    """How often each vocabulary entry stands in the rows."""
    counts_V = np.zeros(len(dataset.vocabulary), np.int64)
    for start in range(0, len(dataset), 10_000):
        ids_BxT, lengths_B = dataset.gather(np.arange(start, min(start + 10_000, len(dataset))))
        real_BxT = np.arange(ids_BxT.shape[1]) < lengths_B[:, None]
        counts_V += np.bincount(ids_BxT[real_BxT], minlength=len(counts_V))
    return counts_V


def _conflicts(bodies_N: np.ndarray, classes_N: np.ndarray) -> int:
    """How many distinct bodies carry more than one label."""
    labelled = classes_N >= 0
    pairs = np.unique(np.stack([bodies_N[labelled], classes_N[labelled]]), axis=1)
    return int((np.bincount(pairs[0]) > 1).sum()) if pairs.size else 0


def _baselines(train: TokenLabelDataset, validation: TokenLabelDataset) -> dict[str, float]:
    """Figures that need no model, as a yardstick for one."""
    # Add-one smoothing, so that a token met only in validation costs something finite.
    counts_V = _token_counts(train) + 1
    nll_V = -np.log(counts_V / counts_V.sum())
    # A row's first token is predicted from nothing, so it counts for no model's perplexity.
    firsts_N = validation.tokens[validation.starts_N]
    seen_V = _token_counts(validation) - np.bincount(firsts_N, minlength=len(counts_V))
    figures = {"unigram_perplexity": perplexity(float((seen_V * nll_V).sum() / seen_V.sum()))}
    known = train.classes_N[train.classes_N >= 0]
    asked = validation.classes_N[validation.classes_N >= 0]
    if len(known) and len(asked):
        figures["majority_class_accuracy"] = float((asked == np.bincount(known).argmax()).mean())
    return figures
