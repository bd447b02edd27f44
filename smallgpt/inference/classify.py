"""Classification of rows given from Python, of a prompt, or of every row of a file."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any

from smallgpt.console import format_table, json_text, plural, printable, printable_lines
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.evaluation.abstention import abstain, is_unusable
from smallgpt.evaluation.folder import PREDICTIONS, ResultFolder
from smallgpt.evaluation.label_probabilities import LabelProbabilities
from smallgpt.evaluation.predictions import predictions_of
from smallgpt.evaluation.scoring import classify_rows
from smallgpt.evaluation.verdicts import why_not_calibrated
from smallgpt.inference.columns import USUAL_COLUMNS, Columns
from smallgpt.inference.files import GivenRows, refuse_unusable
from smallgpt.inference.log_rows import read_given
from smallgpt.inference.prompts import check_arguments, not_finite
from smallgpt.inference.python_rows import python_rows, rows_to_classify
from smallgpt.inference.results import hold_results, write_rows
from smallgpt.inference.unknown_tokens import say_unknown, with_unknown_token
from smallgpt.inputs.event_log import EventColumns
from smallgpt.rows.dataset import TokenLabelDataset

MOST_LABELS_SHOWN = 30  # in a table; one line sums up the others
MOST_ROWS_SHOWN = 10  # whose labels are printed one by one


Labels = tuple[str | None, dict[str, float]]


def classify(
    trained: TrainedModel,
    rows: Any,
    *,
    batch_size: int = 64,
    unknown_token: str | None = None,
    abstain_below: float | None = None,
) -> Labels | list[Labels]:
    """The predicted label and calibrated probabilities, descending; above 200 labels the top 50.

    `rows`: one row or many, see `python_rows`; many give a list in their order. `unknown_token`
    "unk" reads unknown tokens as <UNK>, "error" refuses them; None: as in training. The label of a
    row whose confidence is below `abstain_below` is None. What reading changed, such as rows that
    were cut, is printed on standard error.

    Raises:
        SettingsError: a value that the command line would refuse.
        UserError: no rows, a row that breaks the format, or a model without labels.
    """
    check_arguments("classify", prompt="rows", batch_size=batch_size, abstain_below=abstain_below)
    refuse_without_labels(trained)
    given = python_rows(trained, rows)
    dataset = rows_to_classify(trained, given, unknown_token)
    for line in dataset.counts.lines(trained.learned_unknown):
        print(printable_lines(line), file=sys.stderr)
    told = label_answers(trained, dataset, batch_size, abstain_below)
    return given.answer([(each["prediction"], each["probabilities"]) for each in told])


def label_answers(
    trained: TrainedModel,
    dataset: TokenLabelDataset,
    batch_size: int,
    abstain_below: float | None = None,
) -> list[dict[str, Any]]:
    """Label entries of predictions.jsonl of each row, probabilities descending.

    Raises:
        UserError: the model gives a row no finite number.
    """
    answers = answers_by(trained, dataset, classify_dataset(trained, dataset, batch_size))
    say_uncalibrated(trained, abstain_below)
    return abstain(answers, abstain_below)


def answers_by(
    trained: TrainedModel, dataset: TokenLabelDataset, probs: LabelProbabilities
) -> list[dict[str, Any]]:
    """As `label_answers`, of rows whose labels were computed."""
    answers = predictions_of(dataset, probs, trained.temperature)
    for answer in answers:
        if answer["prediction"] is None:
            raise not_finite(trained)
        falling = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
        answer["probabilities"] = dict(falling)
    return answers


def classify_file(
    trained: TrainedModel,
    path: str | Path,
    output_dir: str | Path,
    batch_size: int = 64,
    overwrite: bool = False,
    unknown_token: str | None = None,
    columns: Columns | EventColumns = USUAL_COLUMNS,
    abstain_below: float | None = None,
) -> list[dict[str, Any]]:
    """Label every row of a JSONL file or table; write and return the objects of predictions.jsonl.

    Of a table predictions.csv is written too. What reading changed, such as rows that were cut, is
    printed on standard error. `unknown_token`: see `unknown_token_of`. `columns`:
    which columns or keys hold the rows; `EventColumns` those of a log of events. `abstain_below`:
    a row of lower confidence has the prediction None, with the reason.

    Raises:
        SettingsError: a value that the command line would refuse, or rows that would be
            overwritten.
        UserError: files of others in output_dir or, without `overwrite`, results of another
            classification, no such file, not one row that can be classified, or a model without
            labels.
    """
    check_arguments(
        "classify",
        test_data=path,
        output_dir=output_dir,
        batch_size=batch_size,
        abstain_below=abstain_below,
    )
    trained = with_unknown_token(trained, unknown_token)
    rows = read_given(trained, path, columns, for_label=True)
    return classify_given(
        trained, rows, output_dir, batch_size, overwrite, abstain_below=abstain_below
    )[0]


def classify_given(
    trained: TrainedModel,
    rows: GivenRows,
    output_dir: str | Path | None,
    batch_size: int,
    overwrite: bool,
    output_format: str | None = None,
    abstain_below: float | None = None,
) -> tuple[list[dict[str, Any]], ResultFolder]:
    """Label rows that were read with `for_label`, from wherever; otherwise as `classify_file`.

    `output_dir` None: a folder named after the source of the rows, beside the model folder.
    `output_format` "csv" writes predictions.csv too, None only of a table.
    """
    with hold_results(trained, rows, "classify", output_dir, overwrite, abstain_below) as results:
        predictions = label_given(trained, rows, batch_size, abstain_below)
        results.begin()
        write_rows(results, predictions, trained.label_names, rows.form.asked(output_format))
    return predictions, results


def label_given(
    trained: TrainedModel, rows: GivenRows, batch_size: int, abstain_below: float | None
) -> list[dict[str, Any]]:
    """The objects of predictions.jsonl of rows that were read with `for_label`; writes nothing.

    Raises:
        UserError: not one row can be classified, or a model without labels.
    """
    dataset = rows.dataset
    if not len(dataset):
        refuse_unusable(trained, rows, "classified")
    for line in dataset.counts.lines(trained.learned_unknown):
        print(printable_lines(f"{rows.source}: {line}"), file=sys.stderr)
    probs = classify_dataset(trained, dataset, batch_size)
    say_uncalibrated(trained, abstain_below)
    return abstain(predictions_of(dataset, probs, trained.temperature), abstain_below)


def classify_dataset(
    trained: TrainedModel, dataset: TokenLabelDataset, batch_size: int
) -> LabelProbabilities:
    """Label probabilities of rows read with `for_label`, each computed after its body.

    Raises:
        UserError: the vocabulary has no labels.
    """
    refuse_without_labels(trained)
    engine = trained.engines.for_row()
    if len(dataset) > 1:
        engine = trained.engines.for_rows(int(dataset.lengths_N.sum()))
    return classify_rows(
        engine,
        dataset,
        batch_size=batch_size,
        temperature=trained.temperature,
    )


def refuse_without_labels(trained: TrainedModel) -> None:
    """Refuse a model that has no labels, by a UserError."""
    vocabulary = trained.vocabulary
    if not vocabulary.labels or (vocabulary.cls_id is None and not trained.is_classifier):
        lacks = "labels" if trained.is_pretrained else "label tokens (<CLS_...>)"
        raise UserError(f"this model has no {lacks}: it cannot classify")


# ------------------------------------------------------------------------------- printing


def check_abstention(trained: TrainedModel, abstain_below: float | None) -> None:
    """Refuse to withhold answers of a model that gives none; say what decides it; see below."""
    if abstain_below is not None:
        refuse_without_labels(trained)
        say_uncalibrated(trained, abstain_below)


def say_uncalibrated(trained: TrainedModel, abstain_below: float | None) -> None:
    """Say, where answers are withheld, that the confidence that decides it is not calibrated."""
    reason = why_not_calibrated(trained.validation)
    if abstain_below is not None and reason:
        print(
            f"answers are withheld by a confidence that is not calibrated: {reason}",
            file=sys.stderr,
        )


def say_label(
    trained: TrainedModel, prompt: str, as_json: bool, abstain_below: float | None = None
) -> None:
    """Print the label probabilities of a prompt."""
    refuse_without_labels(trained)
    given = python_rows(trained, prompt)
    dataset = rows_to_classify(trained, given)
    (answer,) = label_answers(trained, dataset, 1, abstain_below)
    say_unknown(trained, dataset.counts.unknown_names)
    left_out = dataset.counts.cut_tokens
    if left_out:
        print(
            f"{plural(left_out, 'token')} left out of the body: the model reads rows of at most "
            f"{trained.longest_read}",
            file=sys.stderr,
        )
    if as_json:
        names = (
            "reason", "confidence", "raw_confidence", "probabilities", "probabilities_left_out"
        )  # fmt: skip
        figures = {name: answer[name] for name in names if name in answer}
        print(json_text({"label": answer["prediction"], **figures}))
        return
    if answer["prediction"] is None:
        print(f"no answer: {answer['reason']}\n")
    shown = [*answer["probabilities"].items()][:MOST_LABELS_SHOWN]
    rows = [[name, f"{probability:.4f}"] for name, probability in shown]
    print(format_table(["label", "probability"], rows))
    others = len(trained.vocabulary.labels) - len(shown)
    if others:
        rest = max(0.0, 1 - sum(probability for _, probability in shown))
        print(f"the other {plural(others, 'label')} together {rest:.4f}")


def say_first_labels(predictions: Collection[dict[str, Any]], are_pictures: bool) -> None:
    """Print the labels of the first rows, each with its line or file and its confidence."""
    shown = [row for row in islice(predictions, MOST_ROWS_SHOWN) if not is_unusable(row)]
    cells = [
        [
            printable(str(row["row"].get("file", row["line"]) if are_pictures else row["line"])),
            printable(row["prediction"] or row["reason"]),
            f"{row['confidence']:.4f}",
        ]
        for row in shown
    ]
    what = "picture" if are_pictures else "line"
    print(format_table([what, "label", "confidence"], cells, left=(0, 1)))
    if len(predictions) > MOST_ROWS_SHOWN:
        print(
            f"the first {MOST_ROWS_SHOWN} of {len(predictions):,} rows; all of them: {PREDICTIONS}"
        )
    print()


def say_label_counts(predictions: Collection[dict[str, Any]]) -> None:
    """Print the number of rows with each predicted label; of many labels the most frequent."""
    counts = Counter(
        "could not be classified" if is_unusable(row) else row["prediction"] or row["reason"]
        for row in predictions
    )
    names = sorted(counts)
    if len(names) > MOST_LABELS_SHOWN:
        names = sorted(names, key=lambda name: -counts[name])[:MOST_LABELS_SHOWN]
    print(format_table(["predicted label", "rows"], [[n, f"{counts[n]:,}"] for n in names]))
    if len(counts) > len(names):
        rest = plural(counts.total() - sum(counts[name] for name in names), "row")
        print(f"and {plural(len(counts) - len(names), 'more label')} of {rest}")
