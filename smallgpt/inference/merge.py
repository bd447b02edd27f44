"""The parts of all shards joined: the very results that the whole file would have.

    merged = merge_parts(folder, output_dir=None, overwrite=False, output_format=None)

Nothing is computed by a model here, and neither it nor the file of the rows need be at hand.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallgpt.console import printable_lines
from smallgpt.evaluation.folder import ResultFolder, holding_results
from smallgpt.evaluation.parts import JoinedPredictions, JoinedTable, Part, read_parts
from smallgpt.evaluation.pictures import Mistakes
from smallgpt.evaluation.scored_rows import ScoredRows, evaluation_figures
from smallgpt.inference.evaluate import write_figures
from smallgpt.inference.files import RowForm, unusable_error
from smallgpt.inference.results import write_rows
from smallgpt.inputs.tables import Table


@dataclass(frozen=True)
class Merged:
    """Results that were joined.

    Attributes:
        figures: the metrics; None of a classification.
        predictions: the objects of predictions.jsonl, read anew whenever they are asked for.
        validation: what training measured.
        unk_helps: as for `unusable_error`.
    """

    results: ResultFolder
    figures: dict[str, Any] | None
    predictions: Collection[dict[str, Any]]
    validation: dict[str, Any]
    unk_helps: bool


def merge_parts(
    folder: Path, output_dir: str | None, overwrite: bool, output_format: str | None
) -> Merged:
    """Join the parts in a folder and write the results, there or to `output_dir`.

    Raises:
        UserError: as `read_parts` and `holding_results`, or not one row could be scored.
    """
    parts = read_parts(folder)
    head = parts[0].head
    _say_processors(parts)
    abstain_below = head["made_from"]["settings"].get("abstain_below")
    told = JoinedPredictions(parts, abstain_below)
    form = _form_of(head["form"], parts).asked(output_format)
    place = Path(output_dir) if output_dir is not None else folder
    with holding_results(place, head["made_from"], may_move=False, overwrite=overwrite) as results:
        figures = None
        if head["made_from"]["mode"] == "evaluate":
            predictions = JoinedPredictions(parts)
            figures = _figures(parts, predictions, abstain_below)
        results.begin()
        write_rows(results, told, head["label_names"], form)
        if figures is not None:
            has_images = "mistakes" in head
            mistakes = (lambda: _mistakes(parts)) if has_images else None
            write_figures(results, figures, predictions, mistakes)
    return Merged(results, figures, told, head["validation"], head["unk_helps"])


def _figures(
    parts: list[Part], predictions: JoinedPredictions, abstain_below: float | None
) -> dict[str, Any]:
    """The metrics of all rows."""
    head = parts[0].head
    arrays = [part.arrays for part in parts]
    scored = sum(len(each["lines"]) for each in arrays)
    if not scored:
        bad = [(row["line"], row["reason"]) for row in predictions]
        raise unusable_error(head["made_from"]["data"], bad, "scored", head["unk_helps"])
    learned = [part.head["learned_rows"] for part in parts]
    return evaluation_figures(
        head["about"],
        ScoredRows.joined(arrays, head["label_names"], head["temperature"]),
        predictions,
        len(predictions) - scored,
        None if None in learned else sum(learned),
        abstain_below,
    )


def _mistakes(parts: list[Part]) -> Mistakes:
    """The most confident mistakes in rows of images."""
    return Mistakes.joined(
        [
            Mistakes(images=[*part.arrays.get("mistakes", ())], **part.head["mistakes"])
            for part in parts
        ]
    )


def _form_of(form: dict[str, Any], parts: list[Part]) -> RowForm:
    """The form of the rows, from what a part tells of it."""
    table, log = form["table"], form["log"]
    return RowForm(
        form["name"],
        None if table is None else JoinedTable(**table, parts=parts),
        None if log is None else Table(**log),
    )


def _say_processors(parts: list[Part]) -> None:
    """Say on standard error where parts were not all computed by the same kind of processor."""
    kinds = sorted({part.head["computed_on"] for part in parts})
    if len(kinds) > 1:
        line = (
            f"the parts were computed by {len(kinds)} kinds of processors, which may round "
            f"otherwise: {'; '.join(kinds)}"
        )
        print(printable_lines(line), file=sys.stderr)
