"""Evaluation: score a file of rows and write the metrics, predictions and pictures."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smallgpt.console import printable_lines
from smallgpt.engines.trained import TrainedModel
from smallgpt.evaluation.abstention import abstain
from smallgpt.evaluation.answers import generate_answers, is_instruction, most_new_tokens
from smallgpt.evaluation.folder import METRICS, ResultFolder
from smallgpt.evaluation.label_probabilities import MOST_LABELS_WHOLE
from smallgpt.evaluation.pictures import Mistakes, draw_evaluation
from smallgpt.evaluation.predictions import leave_out_failures, predictions_of
from smallgpt.evaluation.scored_rows import ScoredRows, evaluation_figures
from smallgpt.evaluation.scoring import Scores, classify_rows, score_rows, scoring_batches
from smallgpt.evaluation.text_bits import is_text, texts_read
from smallgpt.files.writing import write_json
from smallgpt.inference.classify import check_abstention
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
from smallgpt.tokens.codebook import Codebook

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
        write_rows(results, told, trained.label_names, rows.form.asked(output_format))
        codebook = trained.codebook

        def mistakes() -> Mistakes:
            assert codebook is not None  # they are asked for with one alone
            return Mistakes.of(predictions, dataset, Codebook.load(codebook))

        write_figures(results, figures, predictions, mistakes if codebook is not None else None)
    return figures, told, results


def write_figures(
    results: ResultFolder,
    figures: dict[str, Any],
    predictions: Collection[dict[str, Any]],
    mistakes: Callable[[], Mistakes] | None,
) -> None:
    """Write metrics.json and the pictures; see `draw_evaluation`.

    `predictions` have the answers that `abstain` withholds.
    """
    # With very many labels one line for each label, not for each of its metrics.
    many = len(figures.get("labels", ())) > MOST_LABELS_WHOLE
    write_json(results.path / METRICS, figures, most_levels=2 if many else None)
    # Last, so that a failure to draw loses no metrics.
    draw_evaluation(results.path, figures, predictions, mistakes)


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
    check_abstention(trained, abstain_below)
    file = WholeFile.of(rows.dataset, max_new_tokens)
    evaluated = evaluate_rows(trained, rows, batch_size, file)
    if not len(evaluated.dataset):
        refuse_unusable(trained, replace(rows, dataset=evaluated.dataset), "scored")
    figures = evaluation_figures(
        evaluated.about,
        evaluated.scored,
        evaluated.predictions,
        len(evaluated.dataset.bad_rows),
        evaluated.learned_rows,
        abstain_below,
    )
    return figures, evaluated.predictions, evaluated.dataset


@dataclass(frozen=True)
class WholeFile:
    """What the evaluation of any part of a file takes from all of its rows.

    Attributes:
        most_new_tokens: of an answer to an instruction; None where there is none.
    """

    are_texts: bool
    has_instructions: bool
    most_new_tokens: int | None

    @classmethod
    def of(cls, dataset: TokenLabelDataset, max_new_tokens: int | None) -> WholeFile:
        """Of a file whose rows are all there, read with keep_records."""
        records = dataset.kept_records
        return cls(
            all(map(is_text, records)),
            any(map(is_instruction, records)),
            most_new_tokens(dataset) if max_new_tokens is None else max_new_tokens,
        )


@dataclass(frozen=True)
class EvaluatedRows:
    """What an evaluation found out about rows, from which its figures are computed.

    Attributes:
        about: of model, file and reading; see `evaluation_figures`.
        scored: those that could be scored.
        predictions: the objects of predictions.jsonl, with answers that `abstain` will withhold.
        dataset: the rows that could be scored, the others as its bad rows.
        learned_rows: how many of them the model has learned; None where that is not known.
    """

    about: dict[str, Any]
    scored: ScoredRows
    predictions: list[dict[str, Any]]
    dataset: TokenLabelDataset
    learned_rows: int | None


def evaluate_rows(
    trained: TrainedModel, rows: GivenRows, batch_size: int, file: WholeFile
) -> EvaluatedRows:
    """Score rows, all of a file or whole batches of it, label and answer them."""
    dataset = rows.dataset
    counts = dataset.counts
    for line in counts.codebook_lines():
        print(printable_lines(f"{rows.source}: {line}"), file=sys.stderr)
    engine = trained.engines.for_rows(int(dataset.lengths_N.sum()))
    scores = score_rows(
        engine,
        dataset,
        batch_size=batch_size,
        temperature=trained.temperature,
    )
    batches = list(scoring_batches(dataset, batch_size, scores.of_tokens))
    finite_N = scores.is_finite
    dataset, scores = leave_out_failures(dataset, scores)
    place_N = np.cumsum(finite_N) - 1
    together = [place_N[indices_B[finite_N[indices_B]]] for indices_B in batches]
    ask_unlabelled(trained, dataset, scores, batch_size, together)
    answers = []
    if scores.of_tokens:
        answers = generate_answers(trained, dataset, batch_size, file.most_new_tokens, together)
    read = texts_read(dataset) if scores.of_tokens and file.are_texts else None
    about = {
        "model": trained.name,
        "data": rows.source,
        "device": engine.device,
        "precision": engine.precision,
        "engine": engine.name,
        "rows_cut": counts.cut,
        "tokens_left_out": counts.cut_tokens,
        "unknown_tokens": counts.unknown_tokens,
        "unknown_names": dict(Counter(counts.unknown_names).most_common(_MOST_UNKNOWN)),
        "unknown_names_left_out": max(0, len(counts.unknown_names) - _MOST_UNKNOWN),
        "learned_unknown": trained.learned_unknown,
        "learned_from": trained.settings.data_path,
        "has_instructions": file.has_instructions,
        "validation": trained.validation,
    }
    return EvaluatedRows(
        about,
        ScoredRows.of(dataset, scores.results(dataset, trained.temperature), read),
        predictions_of(dataset, scores.label_probs, trained.temperature, scores, answers, read),
        dataset,
        count_learned_rows(trained, dataset),
    )


def ask_unlabelled(
    trained: TrainedModel,
    dataset: TokenLabelDataset,
    scores: Scores,
    batch_size: int,
    together: Iterable[np.ndarray] | None = None,
) -> None:
    """Classify the unlabelled rows, into `scores`, with the same results as `classify`.

    Their tokens were scored at full length; to classify, the body must leave room for a tail, so
    these rows are read again (`dataset` was read with keep_records). A label head has answered
    already where that cuts nothing more. Rows that cannot be classified, such as one with a label
    token in its body, have no probabilities. `together`: as for `generate_answers`.
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
    if together is None:
        together = scoring_batches(dataset, batch_size, scores.of_tokens)
    question_N = np.full(len(dataset), -1)
    question_N[asked] = np.arange(len(asked))
    batches = (question_N[indices_B] for indices_B in together)
    answers = classify_rows(
        trained.engines.for_rows(0),  # the one that scored them: it was chosen then
        questions,
        temperature=trained.temperature,
        together=[places_B[places_B >= 0] for places_B in batches if (places_B >= 0).any()],
    )
    scores.label_probs.put_rows(asked, answers)
