"""Classification of a prompt, or of every row of a file."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from smallgpt.console import format_table, json_text, plural, printable_lines
from smallgpt.errors import UserError
from smallgpt.evaluation.folder import PREDICTIONS, ResultFolder
from smallgpt.evaluation.label_probabilities import LabelProbabilities
from smallgpt.evaluation.predictions import predictions_of, write_predictions
from smallgpt.evaluation.scoring import classify_rows
from smallgpt.inference.files import GivenRows, read_rows, refuse_unusable
from smallgpt.inference.prompts import check_arguments, not_finite, prompt_ids, say_unknown
from smallgpt.inference.results import hold_results
from smallgpt.model.folder import TrainedModel
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.reading import dataset_from_records

MOST_LABELS_SHOWN = 30  # in a table; one line sums up the others


def classify(trained: TrainedModel, prompt: str) -> tuple[str, dict[str, float]]:
    """The predicted label and calibrated probabilities, descending; above 200 labels the top 50.

    Raises:
        UserError: unknown tokens, or a model without labels.
    """
    answer = classify_prompt(trained, prompt)
    return answer["prediction"], answer["probabilities"]


def classify_prompt(trained: TrainedModel, prompt: str) -> dict[str, Any]:
    """Label entries of predictions.jsonl, probabilities descending; `tokens_left_out` did not fit.

    Raises:
        UserError: unknown tokens, or a model without labels.
    """
    if trained.vocabulary.tokenizer is not None:
        record: dict[str, Any] = {"text": prompt}
    else:
        record = {"input_ids": prompt_ids(trained, prompt)}
    dataset = dataset_from_records(
        [record], trained.vocabulary, max_length=trained.max_length, for_label=True
    )
    probs = classify_dataset(trained, dataset, 1)
    answer = predictions_of(dataset, probs, trained.temperature)[0]
    if answer["prediction"] is None:
        raise not_finite(trained)
    falling = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
    left_out = dataset.counts.cut_tokens
    return {**answer, "probabilities": dict(falling), "tokens_left_out": left_out}


def classify_file(
    trained: TrainedModel,
    path: str | Path,
    output_dir: str | Path,
    batch_size: int = 64,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Label every row of a JSONL file; write and return the objects of predictions.jsonl.

    What reading changed, such as rows that were cut, is printed on standard error.

    Raises:
        SettingsError: a value that the command line would refuse, or rows that would be
            overwritten.
        UserError: files of others in output_dir or, without `overwrite`, results of another
            classification, no such file, not one row that can be classified, or a model without
            labels.
    """
    check_arguments("classify", test_data=path, output_dir=output_dir, batch_size=batch_size)
    rows = read_rows(trained, path, for_label=True)
    return classify_given(trained, rows, output_dir, batch_size, overwrite)[0]


def classify_given(
    trained: TrainedModel,
    rows: GivenRows,
    output_dir: str | Path | None,
    batch_size: int,
    overwrite: bool,
) -> tuple[list[dict[str, Any]], ResultFolder]:
    """Label rows that were read with `for_label`, from wherever; otherwise as `classify_file`.

    `output_dir` None: a folder named after the source of the rows, beside the model folder.
    """
    dataset = rows.dataset
    with hold_results(trained, rows, "classify", output_dir, overwrite) as results:
        if not len(dataset):
            refuse_unusable(dataset, rows.source, "classified")
        for line in dataset.counts.lines():
            print(printable_lines(f"{rows.source}: {line}"), file=sys.stderr)
        probs = classify_dataset(trained, dataset, batch_size)
        predictions = predictions_of(dataset, probs, trained.temperature)
        results.begin()
        write_predictions(results.path / PREDICTIONS, predictions)
    return predictions, results


def classify_dataset(
    trained: TrainedModel, dataset: TokenLabelDataset, batch_size: int
) -> LabelProbabilities:
    """Label probabilities of rows read with `for_label`, each computed after its body.

    Raises:
        UserError: the vocabulary has no labels.
    """
    vocabulary = trained.vocabulary
    if not vocabulary.labels or (vocabulary.cls_id is None and not trained.is_classifier):
        raise UserError("this model has no label tokens (<CLS_...>): it cannot classify")
    return classify_rows(
        trained.model,
        dataset,
        trained.precision,
        batch_size=batch_size,
        temperature=trained.temperature,
    )


# ------------------------------------------------------------------------------- printing


def say_label(trained: TrainedModel, prompt: str, as_json: bool) -> None:
    """Print the label probabilities of a prompt."""
    answer = classify_prompt(trained, prompt)
    say_unknown(trained, prompt)
    if answer["tokens_left_out"]:
        print(
            f"{plural(answer['tokens_left_out'], 'token')} left out of the body: the model reads "
            f"rows of at most {trained.max_length}",
            file=sys.stderr,
        )
    if as_json:
        names = ("confidence", "raw_confidence", "probabilities", "probabilities_left_out")
        given = {name: answer[name] for name in names if name in answer}
        print(json_text({"label": answer["prediction"], **given}))
        return
    shown = [*answer["probabilities"].items()][:MOST_LABELS_SHOWN]
    rows = [[name, f"{probability:.4f}"] for name, probability in shown]
    print(format_table(["label", "probability"], rows))
    others = len(trained.vocabulary.labels) - len(shown)
    if others:
        rest = max(0.0, 1 - sum(probability for _, probability in shown))
        print(f"the other {plural(others, 'label')} together {rest:.4f}")


def say_label_counts(predictions: list[dict[str, Any]]) -> None:
    """Print the number of rows with each predicted label; of many labels the most frequent."""
    counts = Counter(row["prediction"] or "could not be classified" for row in predictions)
    names = sorted(counts)
    if len(names) > MOST_LABELS_SHOWN:
        names = sorted(names, key=lambda name: -counts[name])[:MOST_LABELS_SHOWN]
    print(format_table(["predicted label", "rows"], [[n, f"{counts[n]:,}"] for n in names]))
    if len(counts) > len(names):
        rest = plural(counts.total() - sum(counts[name] for name in names), "row")
        print(f"and {plural(len(counts) - len(names), 'more label')} of {rest}")
