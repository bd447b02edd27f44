"""Results of a file of rows: where they are written, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from smallgpt.console import printable_lines
from smallgpt.engines.trained import TrainedModel
from smallgpt.evaluation.folder import (
    PREDICTIONS,
    PREDICTIONS_TABLE,
    ResultFolder,
    holding_results,
    named_after,
)
from smallgpt.evaluation.predictions import write_predictions
from smallgpt.evaluation.predictions_table import predictions_table, write_predictions_table
from smallgpt.files.reading import contents
from smallgpt.inference.files import GivenRows, beside
from smallgpt.options.inference import InferenceSettings
from smallgpt.rows.dataset import TokenLabelDataset

_KINDS = {"evaluate": "evaluation", "classify": "classification"}


def hold_results(
    trained: TrainedModel,
    rows: GivenRows,
    mode: str,
    output_dir: str | Path | None,
    overwrite: bool,
    abstain_below: float | None,
    **settings: Any,
) -> AbstractContextManager[ResultFolder]:
    """Lock the folder for the results of rows: without `output_dir` one beside the model folder.

    Args:
        mode: "evaluate" or "classify".
        settings: what figures depend on besides rows and model.

    Raises:
        UserError: as `holding_results`.
    """
    made_from = {
        "mode": mode,
        "model": trained.name,
        "data": rows.source,
        "rows": digest_of_rows(rows.dataset),
        "weights": digest_of_folder(trained.folder),
        "settings": {
            **trained.engines.settings(),
            # Absent where they change nothing, as for versions that did not know them.
            **({"unknown_token": "unk"} if trained.settings.unknown_token == "unk" else {}),
            **({"abstain_below": abstain_below} if abstain_below is not None else {}),
            **settings,
        },
    }
    if output_dir is None:
        # Beside the copy of a model on the hub nobody would find it.
        usual = Path(InferenceSettings().model_path[0])
        place = trained.folder if trained.hub_name is None else usual
        folder = beside(place, named_after(_KINDS[mode], rows.source))
    else:
        folder = Path(output_dir)
    return holding_results(folder, made_from, may_move=output_dir is None, overwrite=overwrite)


def write_rows(
    results: ResultFolder,
    predictions: list[dict[str, Any]],
    trained: TrainedModel,
    rows: GivenRows,
    output_format: str | None,
) -> None:
    """Write predictions.jsonl, and predictions.csv where that was asked for or rows are a table's.

    Columns that had to take another name are told on standard error.
    """
    write_predictions(results.path / PREDICTIONS, predictions)
    if (output_format or rows.form) == "csv":
        labels = trained.vocabulary.label_names
        lines, notes = predictions_table(predictions, labels, rows.table, rows.log)
        write_predictions_table(results.path / PREDICTIONS_TABLE, lines)
        for note in notes:
            print(printable_lines(note), file=sys.stderr)


def digest_of_rows(dataset: TokenLabelDataset) -> str:
    """Digest of records that were kept, the user's own keys and bad rows included."""
    digest = hashlib.blake2b(digest_size=16)
    bad = [[row.line, row.reason, row.record] for row in dataset.bad_rows]
    for number, value in zip(
        [*dataset.lines_N.tolist(), -1], [*dataset.kept_records, bad], strict=True
    ):
        digest.update(f"{number} {json.dumps(value)}\n".encode())
    return digest.hexdigest()


def digest_of_folder(folder: Path) -> str:
    """Digest of the names and contents of the files of a model folder."""
    digest = hashlib.blake2b(digest_size=16)
    for path in contents(folder):
        if path.is_file():
            with open(path, "rb") as handle:
                content = hashlib.file_digest(handle, "blake2b").hexdigest()
            digest.update(f"{path.name!a} {content}\n".encode())
    return digest.hexdigest()
