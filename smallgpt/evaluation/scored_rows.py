"""What the figures of an evaluation are computed from: of each row that was scored a few numbers.

    figures = evaluation_figures(about, scored, predictions, bad_rows=2, learned_rows=0)

The rows may have been scored together or in parts: `ScoredRows.joined` puts parts together, so that
the figures come from the same numbers in the same order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smallgpt.evaluation.abstention import abstention_figures
from smallgpt.evaluation.answers import answer_figures
from smallgpt.evaluation.label_probabilities import LabelAnswers
from smallgpt.evaluation.row_results import RowResults, TokenResults
from smallgpt.evaluation.text_bits import TextsRead, bit_figures
from smallgpt.rows.dataset import TokenLabelDataset

# What metrics.json tells of model, file and reading, in its order; the rest comes from the rows.
_OF_WORK = ("model", "data", "device", "precision", "engine")
_OF_READING = (
    *("rows_cut", "tokens_left_out", "unknown_tokens", "unknown_names", "unknown_names_left_out"),
    "learned_unknown",
)


@dataclass(frozen=True)
class ScoredRows:
    """The results of N rows, in the order of their lines.

    Attributes:
        lines_N: their lines in the file.
        classes_N, scored_counts, scored_body_counts: as of a `TokenLabelDataset`.
        label_names: of the model.
        read: how much of texts was scored; None where some row of the file is no text.
    """

    lines_N: np.ndarray
    classes_N: np.ndarray
    scored_counts: np.ndarray
    scored_body_counts: np.ndarray
    label_names: list[str]
    results: RowResults
    read: TextsRead | None

    @classmethod
    def of(
        cls, dataset: TokenLabelDataset, results: RowResults, read: TextsRead | None
    ) -> ScoredRows:
        """The results of the rows of a dataset."""
        return cls(
            dataset.lines_N,
            dataset.classes_N,
            dataset.scored_counts,
            dataset.scored_body_counts,
            dataset.label_names,
            results,
            read,
        )

    def __len__(self) -> int:
        return len(self.lines_N)

    # ------------------------------------------------------------------- as arrays

    def arrays(self) -> dict[str, np.ndarray]:
        """All numbers by name, for `joined`; those that no row has are left out."""
        found = {
            "lines": self.lines_N,
            "classes": self.classes_N,
            "scored_counts": self.scored_counts,
            "scored_body_counts": self.scored_body_counts,
            "label_nll": self.results.label_nll_N,
        }
        for values in (self.results.tokens, self.results.answers):
            found |= vars(values) if values is not None else {}
        if self.read is not None:
            found |= self.read._asdict()
        return found

    @classmethod
    def joined(
        cls,
        parts: Sequence[Mapping[str, np.ndarray]],
        label_names: list[str],
        temperature: float,
    ) -> ScoredRows:
        """The rows of all parts, from the `arrays` of each, at least one row in all.

        Parts without any labelled row have no answers to join: theirs are never asked for.
        """
        parts = [part for part in parts if len(part["lines"])]
        order_N = np.argsort(np.concatenate([part["lines"] for part in parts]), kind="stable")

        def column(name: str) -> np.ndarray:
            one = next(part[name] for part in parts if name in part)
            columns = [
                part.get(name, np.zeros((len(part["lines"]), *one.shape[1:]), one.dtype))
                for part in parts
            ]
            joined: np.ndarray = np.concatenate(columns)[order_N]
            return joined

        names = {name for part in parts for name in part}
        tokens, answers, read = (
            kind(*map(column, kind_names)) if names.issuperset(kind_names) else None
            for kind, kind_names in _KINDS
        )
        results = RowResults(tokens, column("label_nll"), answers, temperature)
        return cls(
            column("lines"),
            column("classes"),
            column("scored_counts"),
            column("scored_body_counts"),
            label_names,
            results,
            read,
        )


_KINDS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (TokenResults, tuple(TokenResults.__annotations__)),
    (LabelAnswers, tuple(LabelAnswers.__annotations__)),
    (TextsRead, TextsRead._fields),
)


def evaluation_figures(
    about: Mapping[str, Any],
    scored: ScoredRows,
    predictions: Collection[dict[str, Any]],
    bad_rows: int,
    learned_rows: int | None,
    abstain_below: float | None,
) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        about: what it tells of model, file and reading (`_OF_WORK`, `_OF_READING` and the other
            names below).
        predictions: the objects of predictions.jsonl, with answers that `abstain` will withhold.
        bad_rows: how many rows could not be scored.
        learned_rows: how many the model has learned; None where that is not known.
    """
    results, read = scored.results, scored.read
    expected, given = [], []
    if about["has_instructions"]:
        for row in predictions:
            if row.get("answer") is not None:
                expected.append(row["row"]["output"])
                given.append(row["answer"])
    figures = {
        **{name: about[name] for name in _OF_WORK},
        "records": len(scored) + bad_rows,
        "unscored": bad_rows,
        "model_labels": len(scored.label_names),
        "unlabelled": int((scored.classes_N < 0).sum()),
        **{name: about[name] for name in _OF_READING},
        "learned_rows": learned_rows,
        "learned_from": about["learned_from"],
        **({"tokens": int(scored.scored_counts.sum())} if results.tokens is not None else {}),
        **results.figures(scored),
        **(bit_figures(results.tokens.body_nll_sum_N, read) if results.tokens and read else {}),
        **(answer_figures(expected, given) if given else {}),
        "validation": about["validation"] or None,
    }
    return figures | abstention_figures(predictions, abstain_below)
