"""inference.py --mode classify."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallgpt.console import printable_lines
from smallgpt.errors import UserError
from smallgpt.evaluation.folder import PREDICTIONS, refuse_overwriting, remove_earlier
from smallgpt.inference.files import read_rows
from smallgpt.inference.prompts import (
    _NOT_FINITE,
    _refuse_unusable,
    check_arguments,
    is_labels_only,
    prompt_ids,
)

if TYPE_CHECKING:
    from smallgpt.evaluation.label_probabilities import LabelProbabilities
    from smallgpt.model.folder import TrainedModel
    from smallgpt.rows.dataset import TokenLabelDataset


def class_shares(
    trained: TrainedModel, rows: Sequence[Sequence[int]], batch_size: int = 64
) -> LabelProbabilities:
    """The label shares of rows (ids without a tail)."""
    from smallgpt.rows.reading import dataset_from_records

    records = [{"input_ids": list(row)} for row in rows]
    dataset = dataset_from_records(
        records, trained.vocabulary, max_length=trained.max_length, for_label=True
    )
    return classify_dataset(trained, dataset, batch_size)


def classify_dataset(
    trained: TrainedModel, dataset: TokenLabelDataset, batch_size: int
) -> LabelProbabilities:
    """The label shares of rows read with `for_label`, each asked after its body.

    Raises:
        UserError: the vocabulary has no labels.
    """
    from smallgpt.evaluation.scoring import classify_rows

    vocabulary = trained.vocabulary
    if not is_labels_only(trained) and (not vocabulary.labels or vocabulary.cls_id is None):
        raise UserError("this model has no label tokens (<CLS_...>): it cannot classify")
    return classify_rows(
        trained.model,
        dataset,
        trained.precision,
        batch_size=batch_size,
        temperature=trained.temperature,
    )


def classify(trained: TrainedModel, prompt: str) -> tuple[str, dict[str, float]]:
    """The label of a row and the calibrated share of every label, the largest first.

    Of more than 200 labels those of the 50 likeliest.

    Raises:
        UserError: unknown tokens, or a model without labels.
    """
    answer = classify_prompt(trained, prompt)
    return answer["prediction"], answer["probabilities"]


def classify_prompt(trained: TrainedModel, prompt: str) -> dict[str, Any]:
    """What predictions.jsonl would say of a row's label, the largest probability first, and
    how many tokens did not fit.

    Raises:
        UserError: unknown tokens, or a model without labels.
    """
    from smallgpt.evaluation.predictions import predictions_of
    from smallgpt.rows.reading import dataset_from_records

    if trained.vocabulary.tokenizer is not None:
        record: dict[str, Any] = {"text": prompt}
    else:
        record = {"input_ids": prompt_ids(trained, prompt)}
    dataset = dataset_from_records(
        [record], trained.vocabulary, max_length=trained.max_length, for_label=True
    )
    shares = classify_dataset(trained, dataset, 1)
    answer = predictions_of(dataset, shares, trained.temperature)[0]
    if answer["prediction"] is None:
        raise UserError(_NOT_FINITE.format(trained.folder))
    by_share = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
    left_out = dataset.counts.cut_tokens
    return {**answer, "probabilities": dict(by_share), "tokens_left_out": left_out}


def classify_file(
    trained: TrainedModel, path: str | Path, output_dir: str | Path, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Label every row of a JSONL file and write `predictions.jsonl`.

    What reading changed, such as rows that were cut, is told on standard error.

    Returns:
        The written objects, one a row in input order.

    Raises:
        SettingsError: a value that the command line would refuse, or rows that would be
            overwritten.
        UserError: files of others in output_dir, no such file, not one row that can be classified,
            or a model without labels.
    """
    from smallgpt.evaluation.predictions import predictions_of, write_predictions

    check_arguments("classify", test_data=path, output_dir=output_dir, batch_size=batch_size)
    refuse_overwriting(path, output_dir)
    dataset = read_rows(trained, path, for_label=True)
    if not len(dataset):
        _refuse_unusable(dataset, path, "classified")
    for line in dataset.counts.lines():
        print(printable_lines(f"{path}: {line}"), file=sys.stderr)
    shares = classify_dataset(trained, dataset, batch_size)
    predictions = predictions_of(dataset, shares, trained.temperature)
    remove_earlier(output_dir)
    write_predictions(Path(output_dir) / PREDICTIONS, predictions)
    return predictions
