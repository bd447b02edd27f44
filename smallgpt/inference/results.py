"""Results of a file of rows: where they are written, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterable
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
from smallgpt.inference.files import GivenRows, RowForm, beside
from smallgpt.options.inference import InferenceSettings
from smallgpt.rows.bad_rows import BadRow
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
    digest = digest_of_rows(rows.dataset)
    made_from = made_from_of(trained, rows.source, digest, mode, abstain_below, **settings)
    return holding_results(
        folder_for(trained, rows.source, mode, output_dir),
        made_from,
        may_move=output_dir is None,
        overwrite=overwrite,
    )


def made_from_of(
    trained: TrainedModel,
    source: str,
    rows_digest: str,
    mode: str,
    abstain_below: float | None,
    **settings: Any,
) -> dict[str, Any]:
    """The content of made_from.json; see `holding_results`."""
    return {
        "mode": mode,
        "model": trained.name,
        "data": source,
        "rows": rows_digest,
        "weights": digest_of_folder(trained.folder),
        "settings": {
            **trained.engines.settings(),
            # Absent where they change nothing, as for versions that did not know them.
            **({"unknown_token": "unk"} if trained.settings.unknown_token == "unk" else {}),
            **({"abstain_below": abstain_below} if abstain_below is not None else {}),
            **settings,
        },
    }


def folder_for(
    trained: TrainedModel, source: str, mode: str, output_dir: str | Path | None
) -> Path:
    """The folder for the results of rows: without `output_dir` one beside the model folder."""
    if output_dir is not None:
        return Path(output_dir)
    # Beside the copy of a model on the hub nobody would find it.
    usual = Path(InferenceSettings().model_path[0])
    place = trained.folder if trained.hub_name is None else usual
    return beside(place, named_after(_KINDS[mode], source))


def write_rows(
    results: ResultFolder,
    predictions: Collection[dict[str, Any]],
    label_names: list[str],
    form: RowForm,
) -> None:
    """Write predictions.jsonl, and predictions.csv in the form of a table.

    Columns that had to take another name are told on standard error.
    """
    write_predictions(results.path / PREDICTIONS, predictions)
    if form.name == "csv":
        lines, notes = predictions_table(predictions, label_names, form.table, form.log)
        write_predictions_table(results.path / PREDICTIONS_TABLE, lines)
        for note in notes:
            print(printable_lines(note), file=sys.stderr)


class RowsDigest:
    """Digest of the rows of a file: their records, the user's own keys and bad rows included."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, line: int, record: dict[str, Any]) -> None:
        """Take the next row."""
        self._take(line, record)

    def finish(self, bad_rows: Iterable[BadRow]) -> str:
        """The digest, with the rows that could not be read."""
        self._take(-1, [[row.line, row.reason, row.record] for row in bad_rows])
        return self._digest.hexdigest()

    def _take(self, number: int, value: Any) -> None:
        self._digest.update(f"{number} {json.dumps(value)}\n".encode())


def digest_of_rows(dataset: TokenLabelDataset) -> str:
    """Digest of the rows of a dataset whose records were kept."""
    digest = RowsDigest()
    for line, record in zip(dataset.lines_N.tolist(), dataset.kept_records, strict=True):
        digest.add(line, record)
    return digest.finish(dataset.bad_rows)


def digest_of_folder(folder: Path) -> str:
    """Digest of the names and contents of the files of a model folder."""
    digest = hashlib.blake2b(digest_size=16)
    for path in contents(folder):
        if path.is_file():
            with open(path, "rb") as handle:
                content = hashlib.file_digest(handle, "blake2b").hexdigest()
            digest.update(f"{path.name!a} {content}\n".encode())
    return digest.hexdigest()
