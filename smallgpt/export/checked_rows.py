"""The rows on which an export is checked against its model."""

from __future__ import annotations

import sys

from smallgpt.console import plural, printable_lines
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.inference.columns import Columns
from smallgpt.inference.files import GivenRows, read_rows, refuse_unusable
from smallgpt.inference.model_facts import VALIDATION_DATA, ModelFacts
from smallgpt.inference.validation_rows import read_validation_rows
from smallgpt.options.export import ExportSettings
from smallgpt.rows.dataset import TokenLabelDataset


def rows_to_check(
    trained: TrainedModel, settings: ExportSettings
) -> tuple[TokenLabelDataset | None, TokenLabelDataset | None, str]:
    """The rows to classify and the rows whose tokens to predict, None where the model does not.

    Raises:
        UserError: not one usable row, or neither test nor validation rows.
    """
    if settings.test_data is not None:
        columns = Columns(
            settings.text_column,
            settings.tokens_column,
            settings.label_column,
            settings.pair_column,
        )
        found = [
            _usable(trained, read_rows(trained, settings.test_data, for_label, columns))
            if needed
            else None
            for for_label, needed in ((True, bool(trained.vocabulary.labels)),
                                      (False, not trained.is_classifier))
        ]  # fmt: skip
        return found[0], found[1], settings.test_data
    facts = ModelFacts.of(trained.folder)
    rows = read_validation_rows(trained, facts) if VALIDATION_DATA in facts.data else None
    if rows is None:
        raise UserError(
            f"the validation rows of {trained.folder} are not where training found them: name rows "
            f"to check the export on with --test_data FILE"
        )
    dataset = rows.dataset
    labelled = None
    if trained.vocabulary.labels:
        # Rows without a label may fill all of max_length and have no room for <CLS>.
        labelled = dataset.subset((dataset.classes_N >= 0).nonzero()[0])
        labelled = labelled if len(labelled) else None
    return labelled, None if trained.is_classifier else dataset, rows.source


def _usable(trained: TrainedModel, rows: GivenRows) -> TokenLabelDataset:
    """The rows that can be used; how many cannot is told."""
    if not len(rows.dataset):
        refuse_unusable(trained, rows, "used", has_unknown_token=False)
    bad = rows.dataset.bad_rows
    if bad:
        print(
            printable_lines(
                f"{rows.source}: {plural(len(bad), 'row')} could not be used, the first in line "
                f"{bad[0].line}: {bad[0].reason}"
            ),
            file=sys.stderr,
        )
    return rows.dataset
