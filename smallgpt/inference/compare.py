"""Comparison of trained models, or of their evaluations, with the first of them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smallgpt.console import printable_lines
from smallgpt.engines.trained import load_trained_model, refuse_export
from smallgpt.errors import UserError
from smallgpt.evaluation.comparison import (
    check_same_rows,
    compare_evaluations,
    correct_p_values,
    may_be_other_rows,
)
from smallgpt.evaluation.comparison_picture import draw_comparison
from smallgpt.evaluation.comparison_report import verdict
from smallgpt.evaluation.folder import (
    COMPARISON,
    COMPARISON_PNG,
    ResultFolder,
    holding_results,
    named_after,
)
from smallgpt.evaluation.stored import Evaluated, is_evaluation, read_evaluation
from smallgpt.files.writing import write_json
from smallgpt.inference.columns import Columns
from smallgpt.inference.evaluate import score_given
from smallgpt.inference.files import beside
from smallgpt.inference.log_rows import read_given
from smallgpt.inference.model_facts import ModelFacts, differing_settings
from smallgpt.inference.results import digest_of_folder, digest_of_rows
from smallgpt.inference.unknown_tokens import with_unknown_token
from smallgpt.inference.validation_rows import read_validation_rows, share_validation_rows
from smallgpt.inputs.event_log import EventColumns
from smallgpt.model.own_config import is_number
from smallgpt.model.place import CONFIG, is_adapter_folder
from smallgpt.model.weights_file import CODEBOOK, is_ours
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.vocabulary import Vocabulary

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Of the figures of an evaluation, those that stand side by side.
_FIGURES = (
    *("records", "unscored", "labelled_records", "accuracy", "label_loss", "ece"),
    *("perplexity", "body_perplexity", "label_perplexity"),
    *("exact_match", "token_f1", "learned_rows"),
)
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Contender:
    """One of the models compared; `facts` is None of an evaluation whose model is gone."""

    letter: str
    path: Path  # of the model folder, or of the evaluation
    facts: ModelFacts | None
    evaluated: Evaluated | None = None  # None where no rows are compared


def compare(
    settings: InferenceSettings, columns: Columns | EventColumns
) -> tuple[dict[str, Any], ResultFolder]:
    """Compare the models or evaluations of `model_path`, and write compare.json and compare.png.

    Without `test_data` models are compared on their validation rows, where these are the same for
    all and still there, else by their settings and validation figures alone.

    Raises:
        UserError: too few or many of them, one that cannot be read, or rows that differ.
    """
    paths = settings.model_path
    if not 2 <= len(paths) <= len(LETTERS):
        raise UserError(
            f"{paths[0]}: --mode compare needs two models or more, {len(LETTERS)} at most "
            f"(--model_path A --model_path B), as many evaluation folders, or a folder of runs"
        )
    contenders = [
        _contender(letter, Path(path), settings.test_data)
        for letter, path in zip(LETTERS, paths, strict=False)
    ]
    if len({each.evaluated is None for each in contenders}) == 2:
        raise UserError(
            f"{' and '.join(str(each.path) for each in contenders[:2])}: compare models with "
            f"models, or evaluation folders with evaluation folders"
        )
    facts = [each.facts for each in contenders if each.facts is not None]
    chose = settings.test_data is None and contenders[0].evaluated is None
    if settings.test_data is not None or (chose and share_validation_rows(facts)):
        scored = [_scored(each, settings, columns) for each in contenders]
        if all(each.evaluated is not None for each in scored):
            contenders = scored
    first = contenders[0]
    data = str(first.evaluated.figures.get("data", first.path)) if first.evaluated else None
    found = _found(contenders, data)
    if chose and data is not None:
        found["notes"].append(
            f"compared on {data}, which chose the models too: expect less on new rows "
            f"(--test_data FILE)"
        )
    with _hold(contenders, data, settings) as results:
        results.begin()
        write_json(results.path / COMPARISON, found)
        if found["comparisons"]:
            draw_comparison(results.path / COMPARISON_PNG, found)
    return found, results


def _contender(letter: str, path: Path, test_data: str | None) -> Contender:
    """What is named by --model_path: a model, a run, which stands for its best model, or results.

    Raises:
        UserError: neither of them, or results although rows are given.
    """
    if is_evaluation(path):
        if test_data is not None:
            raise UserError(
                f"{path} is an evaluation folder: name its model to compare on --test_data, or "
                f"leave --test_data out"
            )
        evaluated = read_evaluation(path)
        facts, model = None, evaluated.figures.get("model")
        if isinstance(model, str) and _is_model(Path(model)) and is_ours(Path(model)):
            facts = ModelFacts.of(Path(model))
        return Contender(letter, path, facts, evaluated)
    remedy = "evaluate it and the other (--test_data FILE), and compare the evaluation folders"
    refuse_export(path, remedy)
    if _is_model(path) and not is_ours(path):
        raise UserError(f"{path} is a model that training did not write: {remedy}")
    if not _is_model(path) and _is_model(path / "best_model"):
        path = path / "best_model"
    return Contender(letter, path, ModelFacts.of(path))


def _is_model(folder: Path) -> bool:
    return is_adapter_folder(folder) or (folder / CONFIG).is_file()


def _scored(
    contender: Contender, settings: InferenceSettings, columns: Columns | EventColumns
) -> Contender:
    """A contender with the evaluation of rows by its model: `test_data`, or its validation rows.

    Without one where its validation rows are no longer there.
    """
    assert contender.facts is not None  # of a model, not an evaluation
    print(printable_lines(f"{contender.letter}: {contender.path}"), file=sys.stderr)
    # Not the fastest engine of each, but the same one for all.
    engine = (
        "torch" if settings.engine == "auto" and settings.precision != "int8" else settings.engine
    )
    trained = load_trained_model(
        contender.path, settings.device, settings.precision, settings.vocab_path, engine
    )
    trained = with_unknown_token(trained, settings.unknown_token)
    if settings.test_data is not None:
        rows = read_given(trained, settings.test_data, columns)
    else:
        found = read_validation_rows(trained, contender.facts)
        if found is None:
            return contender
        rows = found
    digest = digest_of_rows(rows.dataset)
    figures, predictions, _ = score_given(
        trained, rows, settings.batch_size, settings.max_new_tokens, abstain_below=None
    )
    if settings.test_data is None:  # they may stand in the training file, and were not learned
        figures["learned_rows"] = None
    return replace(contender, evaluated=Evaluated(figures, predictions, digest))


# ------------------------------------------------------------------------------- what was found


def _found(contenders: Sequence[Contender], data: str | None) -> dict[str, Any]:
    """The content of compare.json.

    Raises:
        UserError: the evaluations are of other rows.
    """
    first = contenders[0]
    group_by = (first.facts.settings if first.facts else TrainSettings()).group_by
    comparisons, notes = [], []
    for other in contenders[1:]:
        if first.evaluated is None or other.evaluated is None:
            continue
        names = (str(first.path), str(other.path))
        check_same_rows(first.evaluated, other.evaluated, names)
        if may_be_other_rows(first.evaluated, other.evaluated):
            notes.append(
                f"{first.letter} and {other.letter}: the rows have the same lines and labels, but "
                f"were not read as the same: another version of the file, or another codebook"
            )
        why = _why_other_vocabulary(first, other)
        tests = compare_evaluations(first.evaluated, other.evaluated, group_by, why)
        comparisons.append({"model": other.letter, "against": first.letter, **tests})
    correct_p_values(comparisons)
    for each in comparisons:
        each["verdict"] = verdict(each)
    facts = [each.facts for each in contenders]
    return {
        "compared": [_side(each) for each in contenders],
        "data": data,
        "group_by": group_by,
        "settings": differing_settings(facts),
        "comparisons": comparisons,
        "notes": notes,
    }


def _side(contender: Contender) -> dict[str, Any]:
    """What is told of one model: where it comes from, and its figures."""
    facts, evaluated = contender.facts, contender.evaluated
    validation = dict(facts.validation) if facts else {}
    if validation:  # training stores them by other names
        validation["records"] = validation["rows"]
        validation["ece"] = validation.get("calibration", {}).get("ece")
    figures = evaluated.figures if evaluated else validation
    kept = {name: figures[name] for name in _FIGURES if is_number(figures.get(name), 0, _LARGEST)}
    ends = figures.get("accuracy_interval")
    ends = ends if isinstance(ends, list) else []
    if "accuracy" in kept and len(ends) == 2 and all(is_number(end, 0, 1) for end in ends):
        kept["accuracy_interval"] = ends
    return {
        "letter": contender.letter,
        "path": str(contender.path),
        "model": str(facts.folder) if facts else None,
        "version": facts and facts.version,
        "command": facts and facts.command,
        "data": facts.data if facts else {},
        "training_seconds": facts and facts.seconds,
        "measured_on": "the rows compared" if evaluated else "validation rows of training",
        "figures": kept,
    }


def _why_other_vocabulary(first: Contender, other: Contender) -> str:
    """Why two models do not read rows as the same tokens, "" where they do."""
    parts = []
    for each in (first, other):
        if each.facts is None:
            return f"the model of {each.path} is gone, and its vocabulary with it"
        folder = each.facts.folder
        codebook = folder / CODEBOOK
        parts.append(
            (
                Vocabulary.load(folder / "vocab.json").fingerprint(),
                hashlib.sha256(codebook.read_bytes()).digest() if codebook.is_file() else b"",
            )
        )
    if parts[0][0] != parts[1][0]:
        return "the models have different vocabularies"
    return "" if parts[0] == parts[1] else "the models have different codebooks"


# ------------------------------------------------------------------------------- where it goes


def _hold(
    contenders: Sequence[Contender], data: str | None, settings: InferenceSettings
) -> AbstractContextManager[ResultFolder]:
    """Lock the folder for a comparison: without --output_dir one beside the first model."""
    digests = [
        each.evaluated.rows_digest or digest_of_folder(each.path) if each.evaluated else None
        for each in contenders
    ]
    made_from = {
        "mode": "compare",
        "model": ", ".join(str(each.path) for each in contenders),
        "data": data or "validation figures",
        "rows": digests,
        "weights": [digest_of_folder(each.path) for each in contenders],
        "settings": {"device": settings.device, "precision": settings.precision},
    }
    name = named_after("comparison", data) if data is not None else "comparison"
    folder = Path(settings.output_dir or beside(contenders[0].path, name))
    return holding_results(
        folder,
        made_from,
        may_move=settings.output_dir is None,
        overwrite=settings.overwrite,
    )
