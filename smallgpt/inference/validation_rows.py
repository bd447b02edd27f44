"""The validation rows of trained models, found again where several were validated on the same."""

from __future__ import annotations

import os
from collections.abc import Sequence

from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.files.reading import same_file
from smallgpt.inference.files import GivenRows
from smallgpt.inference.model_facts import VALIDATION_DATA, ModelFacts
from smallgpt.rows.reading import read_dataset
from smallgpt.rows.splitting import split_dataset


def share_validation_rows(models: Sequence[ModelFacts]) -> bool:
    """Whether models were validated on the same rows, by their fingerprint, which are still there.

    Rows of another vocabulary have another fingerprint.
    """
    first = models[0]
    return VALIDATION_DATA in first.data and all(
        each.data.get(VALIDATION_DATA) == first.data[VALIDATION_DATA]
        and same_file(_source(each), _source(first))
        for each in models
    )


def read_validation_rows(trained: TrainedModel, facts: ModelFacts) -> GivenRows | None:
    """The validation rows of a model; None where its files no longer give them."""
    settings, source = facts.settings, _source(facts)
    if not os.path.isfile(source):
        return None
    try:
        rows = read_dataset(
            source,
            trained.vocabulary,
            max_length=settings.max_length,
            on_bad_row=settings.on_bad_row,
            unknown_token=settings.unknown_token,
            group_by=settings.group_by,
            keep_records=True,  # and then without the cache, which writes beside the file
        )
        if settings.val_data_path is None:
            _, rows = split_dataset(rows, settings.validation_fraction, settings.seed)
    except UserError:
        return None
    # A label head was validated on the bodies alone.
    validated = rows.without_tails() if settings.classifier == "head" else rows
    if validated.described_fingerprint() != facts.data[VALIDATION_DATA]:
        return None
    return GivenRows(rows, f"{source} (the validation rows)")


def _source(facts: ModelFacts) -> str:
    """The file that validation rows come from: their own, or that of training."""
    return facts.settings.val_data_path or facts.settings.data_path
