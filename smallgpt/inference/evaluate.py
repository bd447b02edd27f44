"""Evaluation: score a file of rows and write the metrics, predictions and pictures."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.console import printable_lines
from smallgpt.engines.trained import TrainedModel
from smallgpt.evaluation.abstention import abstain, abstention_figures
from smallgpt.evaluation.answers import answer_figures, generate_answers
from smallgpt.evaluation.folder import METRICS, ResultFolder
from smallgpt.evaluation.label_probabilities import MOST_LABELS_WHOLE
from smallgpt.evaluation.pictures import draw_evaluation
from smallgpt.evaluation.predictions import leave_out_failures, predictions_of
from smallgpt.evaluation.scoring import Scores, score_rows
from smallgpt.evaluation.text_bits import bit_figures, texts_read
from smallgpt.files.writing import write_json
from smallgpt.inference.classify import (
    classify_dataset,
    refuse_without_labels,
    say_uncalibrated,
)
from smallgpt.inference.columns import USUAL_COLUMNS, Columns
from smallgpt.inference.files import GivenRows, refuse_unusable
from smallgpt.inference.learned_rows import count_learned_rows
from smallgpt.inference.log_rows import read_given
from smallgpt.inference.prompts import check_arguments
from smallgpt.inference.results import hold_results, write_rows
from smallgpt.inference.unknown_tokens import with_unknown_token
from smallgpt.inputs.event_log import EventColumns
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.reading import dataset_from_records

_MOST_UNKNOWN = 20  # names in metrics.json, the most frequent


def evaluate_file(
    trained: TrainedModel,
    path: str | Path,
    output_dir: str | Path,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    overwrite: bool = False,
    unknown_token: str | None = None,
    columns: Columns | EventColumns = USUAL_COLUMNS,
    abstain_below: float | None = None,
) -> dict[str, Any]:
    """Score JSONL or a table, answer its instructions, write its evaluation; returns the metrics.

    predictions.jsonl has every row of the file, one that could not be scored with its reason; every
    metric can be recomputed from it. Of a table predictions.csv is written too. `unknown_token`:
    see `unknown_token_of`. `columns`:
    which columns or keys hold the rows; `EventColumns` those of a log of events. `abstain_below`:
    a row of lower confidence has the prediction None, with the reason; the metrics tell the share
    and the accuracy of the others under `answered`.

    Raises:
        SettingsError: a value that the command line would refuse, or rows that would be
            overwritten.
        UserError: files of others in output_dir or, without `overwrite`, another evaluation, no
            such file, not one row that can be scored, or `abstain_below` for a model without
            labels.
    """
    check_arguments(
        "evaluate",
        test_data=path,
        output_dir=output_dir,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        abstain_below=abstain_below,
    )
    trained = with_unknown_token(trained, unknown_token)
    rows = read_given(trained, path, columns)
    return evaluate_given(
        trained,
        rows,
        output_dir,
        batch_size,
        max_new_tokens,
        overwrite,
        abstain_below=abstain_below,
    )[0]


def evaluate_given(
    trained: TrainedModel,
    rows: GivenRows,
    output_dir: str | Path | None,
    batch_size: int,
    max_new_tokens: int | None,
    overwrite: bool,
    output_format: str | None = None,
    abstain_below: float | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]], ResultFolder]:
    """Evaluate rows that were read already, from wherever; otherwise as `evaluate_file`.

    `output_dir` None: a folder named after the source of the rows, beside the model folder.
    `output_format` "csv" writes predictions.csv too, None only of a table. Returns the metrics, the
    objects of predictions.jsonl, and where both were written.
    """
    with hold_results(
        trained,
        rows,
        "evaluate",
        output_dir,
        overwrite,
        abstain_below,
        max_new_tokens=max_new_tokens,
    ) as results:
        figures, predictions, dataset = score_given(
            trained, rows, batch_size, max_new_tokens, abstain_below
        )
        results.begin()
        told = abstain(predictions, abstain_below)
        write_rows(results, told, trained, rows, output_format)
        # With very many labels one line for each label, not for each of its metrics.
        many = len(figures.get("labels", ())) > MOST_LABELS_WHOLE
        write_json(results.path / METRICS, figures, most_levels=2 if many else None)
        # Last, so that a failure to draw loses no metrics.
        draw_evaluation(results.path, figures, predictions, dataset, trained.codebook)
    return figures, told, results


def score_given(
    trained: TrainedModel,
    rows: GivenRows,
    batch_size: int,
    max_new_tokens: int | None,
    abstain_below: float | None,
) -> tuple[dict[str, Any], list[dict[str, Any]], TokenLabelDataset]:
    """The metrics, the objects of predictions.jsonl, and the rows that could be scored.

    The objects have the predictions of all rows, also of those that only `abstain` withholds.

    Raises:
        UserError: not one row could be scored, or `abstain_below` for a model without labels.
    """
    if abstain_below is not None:
        refuse_without_labels(trained)
        say_uncalibrated(trained, abstain_below)
    dataset = rows.dataset
    for line in dataset.counts.codebook_lines():
        print(printable_lines(f"{rows.source}: {line}"), file=sys.stderr)
    engine = trained.engines.for_rows(int(dataset.lengths_N.sum()))
    scores = score_rows(
        engine,
        dataset,
        batch_size=batch_size,
        temperature=trained.temperature,
    )
    dataset, scores = leave_out_failures(dataset, scores)
    if not len(dataset):
        refuse_unusable(trained, replace(rows, dataset=dataset), "scored")
    ask_unlabelled(trained, dataset, scores, batch_size)
    answers = []
    if scores.of_tokens:
        answers = generate_answers(trained, dataset, batch_size, max_new_tokens)
    read = texts_read(dataset) if scores.tokens is not None else None
    answered = {index: answer for index, answer in enumerate(answers) if answer is not None}
    expected = [dataset.kept_records[index]["output"] for index in answered]
    figures = {
        "model": trained.name,
        "data": rows.source,
        "device": engine.device,
        "precision": engine.precision,
        "engine": engine.name,
        "records": len(dataset) + len(dataset.bad_rows),
        "unscored": len(dataset.bad_rows),
        "model_labels": len(trained.vocabulary.labels),
        "unlabelled": int((dataset.classes_N < 0).sum()),
        "rows_cut": dataset.counts.cut,
        "tokens_left_out": dataset.counts.cut_tokens,
        "unknown_tokens": dataset.counts.unknown_tokens,
        "unknown_names": dict(Counter(dataset.counts.unknown_names).most_common(_MOST_UNKNOWN)),
        "unknown_names_left_out": max(0, len(dataset.counts.unknown_names) - _MOST_UNKNOWN),
        "learned_unknown": trained.learned_unknown,
        "learned_rows": count_learned_rows(trained, dataset),
        "learned_from": trained.settings.data_path,
        **({"tokens": dataset.target_count} if scores.of_tokens else {}),
        **scores.figures(dataset, trained.temperature),
        **(bit_figures(scores.tokens.body_nll_sum_N, read) if scores.tokens and read else {}),
        **(answer_figures(expected, list(answered.values())) if answered else {}),
        "validation": trained.validation or None,
    }
    predictions = predictions_of(
        dataset, scores.label_probs, trained.temperature, scores, answers, read
    )
    return figures | abstention_figures(predictions, abstain_below), predictions, dataset


def ask_unlabelled(
    trained: TrainedModel, dataset: TokenLabelDataset, scores: Scores, batch_size: int
) -> None:
    """Classify the unlabelled rows, into `scores`, with the same results as `classify`.

    Their tokens were scored at full length; to classify, the body must leave room for a tail, so
    these rows are read again (`dataset` was read with keep_records). A label head has answered
    already where that cuts nothing more. Rows that cannot be classified, such as one with a label
    token in its body, have no probabilities.
    """
    unlabelled = np.flatnonzero(dataset.classes_N < 0)
    if not len(unlabelled) or not trained.vocabulary.labels or trained.vocabulary.cls_id is None:
        return
    questions = dataset_from_records(
        [dataset.kept_records[index] for index in unlabelled],
        trained.vocabulary,
        max_length=trained.max_length,
        on_bad_row="skip",
        unknown_token=trained.settings.unknown_token,
        for_label=True,
    )
    asked = unlabelled[questions.lines_N - 1]
    scores.label_probs.log_probs_NxK[np.setdiff1d(unlabelled, asked)] = np.nan
    if trained.is_classifier:
        cut = np.flatnonzero(questions.body_lengths_N < dataset.body_lengths_N[asked])
        questions, asked = questions.subset(cut), asked[cut]
    scores.label_probs.put_rows(asked, classify_dataset(trained, questions, batch_size))
