"""Use a trained model: predict the next token, continue a row, name its label, score a file.

    python inference.py                                            # interactive prompt
    python inference.py --prompt "<IMG> <Z_190>"                   # one answer
    python inference.py --mode generate --num_return_sequences 9 --image digits.png
    python inference.py --mode classify --prompt "<IMG> ... </IMG>"
    python inference.py --test_data data/digits/test.jsonl         # evaluation folder
    python inference.py --images pictures/                         # labels of your own pictures
    python inference.py --mode classify --test_data new.csv        # the table with labels beside
    python inference.py --mode compare --model_path A B --test_data test.jsonl   # which is better
    python inference.py --test_data large.jsonl --shard 2/8        # one of eight parts of a file
    python inference.py --merge outputs/evaluation_large           # all parts, joined

From Python:

    from inference import classify, embeddings, generate, load_trained_model, next_tokens
    trained = load_trained_model("outputs/best_model")
    next_tokens(trained, "<IMG> <Z_190>")                          # [(token, probability), ...]
    classify(trained, [{"tokens": "<IMG> ... </IMG>"}, ...])       # of many rows a list
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from smallgpt.command import run_command
from smallgpt.console import can_show_blocks, command_hint, json_text, plural, printable_lines
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation.folder import (
    COMPARISON,
    COMPARISON_PNG,
    METRICS,
    PICTURES,
    PREDICTIONS,
    PREDICTIONS_TABLE,
)
from smallgpt.exit_codes import EXIT_FAILED, EXIT_OK
from smallgpt.files.reading import same_file
from smallgpt.model.place import find_model_folder
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.reader import read_settings

if TYPE_CHECKING:
    from collections.abc import Collection

    from smallgpt.engines.trained import TrainedModel
    from smallgpt.evaluation.folder import ResultFolder
    from smallgpt.inference.columns import Columns
    from smallgpt.inference.files import GivenRows
    from smallgpt.inputs.event_log import EventColumns

# Public functions and their modules, loaded on first use. Each mode too imports what it needs when
# it begins: importing torch takes seconds, --help must not.
_PUBLIC = {
    "load_trained_model": "smallgpt.engines.trained",
    "next_tokens": "smallgpt.inference.next_tokens",
    "generate": "smallgpt.inference.generate",
    "classify": "smallgpt.inference.classify",
    "embeddings": "smallgpt.inference.embeddings",
    "classify_file": "smallgpt.inference.classify",
    "evaluate_file": "smallgpt.inference.evaluate",
    "Columns": "smallgpt.inference.columns",
    "EventColumns": "smallgpt.inputs.event_log",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    settings = read_settings(
        InferenceSettings,
        argv,
        prog="inference.py",
        description="Use a trained model.",
        epilog="Without flags: an interactive next-token prompt for outputs/best_model.",
    )
    if settings.merge is not None:
        return merge_shards(settings, Path(settings.merge))
    mode = settings.resolved_mode()
    if mode == "compare":
        return compare_models(settings)
    (model_path,) = settings.model_path
    find_model_folder(model_path)  # a wrong name need not wait for torch
    from smallgpt.engines.trained import load_trained_model

    trained = load_trained_model(
        model_path, settings.device, settings.precision, settings.vocab_path, settings.engine
    )
    from smallgpt.inference.unknown_tokens import with_unknown_token

    trained = with_unknown_token(trained, settings.unknown_token)
    if mode == "interactive":
        return answer_prompts(trained, settings)
    if mode == "generate":
        return generate_rows(trained, settings)
    if settings.prompt is not None:
        return name_label(trained, settings.prompt, settings.json, settings.abstain_below)
    if settings.shard is not None:
        return score_shard(trained, settings)
    mode, rows = read_input(trained, settings)
    if mode == "evaluate":
        return score_rows(trained, settings, rows)
    return (name_labels if settings.keeps_results() else print_labels)(trained, settings, rows)


def answer_prompts(trained: TrainedModel, settings: InferenceSettings) -> int:
    """Answer one prompt, or each prompt that is typed."""
    from smallgpt.inference.interactive import run_interactive

    code = run_interactive(trained, settings.prompt, settings.json)
    if settings.prompt is not None:
        make_ready(trained)
    return code


def make_ready(trained: TrainedModel) -> None:
    """Let the next prompt start faster: once the answer is out, its graphs are made."""
    sys.stdout.flush()
    trained.engines.make_graphs()


def generate_rows(trained: TrainedModel, settings: InferenceSettings) -> int:
    """Print generated rows; draw them with --image."""
    from smallgpt.inference.generate import Generated, generate
    from smallgpt.inference.prompts import row_text

    if settings.image is not None:
        from smallgpt.inference.pictures import draw_rows  # and with it matplotlib

        replaced = check_image(trained, settings, settings.image)
    prompt, kept = settings.prompt, ""
    if settings.images is not None and settings.keep is not None:  # given together or not at all
        from smallgpt.inference.images import beginning_of

        prompt, kept = beginning_of(trained, settings.images, settings.keep)
    seed = settings.seed if settings.seed is not None else int.from_bytes(os.urandom(4), "big")
    result = generate(
        trained,
        prompt,
        count=settings.num_return_sequences,
        max_new_tokens=settings.max_new_tokens,
        greedy=settings.greedy,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=seed,
        label=settings.label,
        free=settings.free,
        batch_size=settings.batch_size,
    )
    assert isinstance(result, Generated)  # of one prompt
    if settings.image is not None:
        draw_rows(trained, result.sequences, Path(settings.image))
    rows = [row_text(trained, ids) for ids in result.sequences]
    if settings.json:
        answer = {
            "sequences": rows,
            "seed": None if settings.greedy else seed,
            "tried": result.tried,
            "image": settings.image,
            "note": "; ".join(filter(None, [kept, result.note])) or None,
        }
        print(json_text(answer))
        return 0
    for row in rows:
        print(printable_lines(row))
    notes = [kept, result.note, "" if settings.greedy else f"--seed {seed} gives the same again"]
    if settings.image is not None:
        notes.append(f"drawn: {settings.image}{', in place of another' if replaced else ''}")
    for note in filter(None, notes):
        print(printable_lines(note), file=sys.stderr)
    return 0


def check_image(trained: TrainedModel, settings: InferenceSettings, image: str) -> bool:
    """Refuse to draw rows that are no images, or to overwrite a file that is no drawing of ours.

    Returns:
        whether there is an earlier drawing, which is replaced.
    """
    from smallgpt.charts import is_own_chart

    if trained.codebook is None:
        raise UserError(
            f"--image: {trained.name} holds no codebook.npz; only rows made of images by "
            f"prepare_data.py can be drawn"
        )
    inputs: list[str | Path] = [*trained.folder.iterdir(), *filter(None, [settings.vocab_path])]
    if any(same_file(path, image) for path in inputs):
        raise SettingsError([f"--image {image} would overwrite a file of the model"])
    if settings.images is not None and same_file(settings.images, image):
        raise SettingsError([f"--image {image} would overwrite the picture of --images"])
    is_there = os.path.exists(image)
    if is_there and not settings.overwrite and not is_own_chart(image):
        raise UserError(
            f"{image} is there already and was not drawn by this command: give another "
            f"--image, or replace it with --overwrite"
        )
    return is_there


def name_label(
    trained: TrainedModel, prompt: str, as_json: bool, abstain_below: float | None
) -> int:
    """Print the label of a prompt."""
    from smallgpt.evaluation.verdicts import describe_confidence
    from smallgpt.inference.classify import say_label

    say_label(trained, prompt, as_json, abstain_below)
    if not as_json:
        print(describe_confidence(trained.validation), file=sys.stderr)
    make_ready(trained)
    return 0


def read_input(trained: TrainedModel, settings: InferenceSettings) -> tuple[str, GivenRows]:
    """The rows of --test_data or --images, and whether to classify or to evaluate them."""
    from smallgpt.inference.log_rows import read_given

    if settings.images is not None:
        return read_images(trained, settings, settings.images)
    mode, path = settings.resolved_mode(), settings.test_data
    assert path is not None  # without pictures and a prompt, its absence is a contradiction
    return mode, read_given(trained, path, columns_of(settings), mode == "classify")


def columns_of(settings: InferenceSettings) -> Columns | EventColumns:
    """The columns of --test_data that hold its rows."""
    from smallgpt.inference.columns import Columns
    from smallgpt.inputs.event_log import EventColumns

    group, event = settings.group_column, settings.event_column
    if group is not None and event is not None:  # given together or not at all
        return EventColumns(group, event, settings.time_column, settings.label_column)
    return Columns(
        settings.text_column, settings.tokens_column, settings.label_column, settings.pair_column
    )


def read_images(
    trained: TrainedModel, settings: InferenceSettings, images: str
) -> tuple[str, GivenRows]:
    """The rows of --images, and whether to classify or to evaluate them."""
    from smallgpt.inference.files import given_rows
    from smallgpt.inference.images import read_pictures, without_unknown_labels

    mode = settings.resolved_mode()
    pictures = read_pictures(trained, images, settings.labels)
    if settings.mode is None and not pictures.labelled and trained.vocabulary.labels:
        mode = "classify"
    found = pictures.found
    if mode == "classify":
        found = without_unknown_labels(trained, found)
    return mode, given_rows(trained, found, pictures.source, mode == "classify", made_here=True)


def name_labels(trained: TrainedModel, settings: InferenceSettings, rows: GivenRows) -> int:
    """Label rows; print the label of each of the first, and how many have each label."""
    from smallgpt.inference.classify import classify_given
    from smallgpt.inference.files import has_unk

    predictions, results = classify_given(
        trained,
        rows,
        settings.output_dir,
        settings.batch_size,
        settings.overwrite,
        settings.output_format,
        settings.abstain_below,
    )
    return say_labels(settings, predictions, trained.validation, has_unk(trained), results)


def say_labels(
    settings: InferenceSettings,
    predictions: Collection[dict[str, Any]],
    validation: dict[str, Any],
    unk_helps: bool,
    results: ResultFolder,
) -> int:
    """Print labels that were written; see `name_labels`."""
    from smallgpt.evaluation.verdicts import describe_confidence
    from smallgpt.inference.classify import say_first_labels, say_label_counts
    from smallgpt.inference.files import say_bad_rows

    stream = sys.stderr if settings.json else sys.stdout
    failed = say_bad_rows(predictions, "classified", stream, unk_helps) and settings.strict
    if settings.json:
        for row in predictions:
            print(json_text(row))
    else:
        say_first_labels(predictions, settings.images is not None)
        say_label_counts(predictions)
        print(describe_confidence(validation))
    say_written(results, stream)
    return EXIT_FAILED if failed else EXIT_OK


def print_labels(trained: TrainedModel, settings: InferenceSettings, rows: GivenRows) -> int:
    """Label rows of standard input; print the predictions alone on standard output."""
    from smallgpt.evaluation.predictions_table import predictions_table
    from smallgpt.inference.classify import label_given
    from smallgpt.inference.files import has_unk, say_bad_rows

    predictions = label_given(trained, rows, settings.batch_size, settings.abstain_below)
    form = rows.form.asked(settings.output_format)
    if not settings.json and form.name == "csv":
        labels = trained.vocabulary.label_names
        lines, notes = predictions_table(predictions, labels, form.table, form.log)
        for line in lines:
            sys.stdout.write(line)
        for note in notes:
            print(printable_lines(note), file=sys.stderr)
    else:
        for row in predictions:
            print(json_text(row))
    failed = (
        say_bad_rows(predictions, "classified", sys.stderr, has_unk(trained)) and settings.strict
    )
    return EXIT_FAILED if failed else EXIT_OK


def score_rows(trained: TrainedModel, settings: InferenceSettings, rows: GivenRows) -> int:
    """Score rows, print the report; write the evaluation folder, if rows have one."""
    from smallgpt.inference.evaluate import evaluate_given, score_given
    from smallgpt.inference.files import has_unk

    results = None
    if settings.keeps_results():
        figures, predictions, results = evaluate_given(
            trained,
            rows,
            settings.output_dir,
            settings.batch_size,
            settings.max_new_tokens,
            settings.overwrite,
            settings.output_format,
            settings.abstain_below,
        )
    else:
        figures, predictions, _ = score_given(
            trained, rows, settings.batch_size, settings.max_new_tokens, settings.abstain_below
        )
    return say_figures(settings, figures, predictions, has_unk(trained), results)


def say_figures(
    settings: InferenceSettings,
    figures: dict[str, Any],
    predictions: Collection[dict[str, Any]],
    unk_helps: bool,
    results: ResultFolder | None,
) -> int:
    """Print the report of an evaluation."""
    from smallgpt.evaluation.answers import describe_examples
    from smallgpt.evaluation.report import describe_figures
    from smallgpt.inference.files import say_bad_rows

    stream = sys.stderr if settings.json else sys.stdout
    failed = say_bad_rows(predictions, "scored", stream, unk_helps) and settings.strict
    if settings.json:
        print(json_text(figures))
    else:
        print(describe_figures(figures, can_show_blocks(sys.stdout)), end="\n\n")
        if "answers" in figures:
            print(describe_examples(predictions), end="\n\n")
    say_written(results, stream)
    return EXIT_FAILED if failed else EXIT_OK


def score_shard(trained: TrainedModel, settings: InferenceSettings) -> int:
    """Evaluate or classify one shard of a file; say where its part is, and how parts are joined."""
    from smallgpt.inference.log_rows import open_given
    from smallgpt.inference.shards import compute_shard

    assert settings.test_data is not None  # its absence is a contradiction
    source = open_given(trained, settings.test_data, columns_of(settings))
    done = compute_shard(trained, source, settings)
    command = command_hint("inference.py", "--merge", done.path.parent)
    print(
        printable_lines(
            f"shard {settings.shard}: {done.rows:,} of {plural(done.all_rows, 'row')}, written to "
            f"{done.path}\nwhen all parts are there: {command}"
        )
    )
    return EXIT_OK


def merge_shards(settings: InferenceSettings, folder: Path) -> int:
    """Join the parts of all shards; print what the evaluation or classification of all would."""
    from smallgpt.inference.merge import merge_parts

    merged = merge_parts(folder, settings.output_dir, settings.overwrite, settings.output_format)
    if merged.figures is None:
        return say_labels(
            settings, merged.predictions, merged.validation, merged.unk_helps, merged.results
        )
    return say_figures(
        settings, merged.figures, merged.predictions, merged.unk_helps, merged.results
    )


def compare_models(settings: InferenceSettings) -> int:
    """Compare models, or evaluations, with the first of them; or list the runs of a folder."""
    folder = Path(settings.model_path[0])
    from smallgpt.inference.run_table import describe_runs, is_folder_of_runs, table_of_runs

    if len(settings.model_path) == 1 and is_folder_of_runs(folder):
        if settings.test_data is not None or settings.output_dir is not None:
            raise UserError(
                f"{folder} holds runs, which are listed and not tested: drop --test_data and "
                f"--output_dir, or name two models"
            )
        runs = table_of_runs(folder)
        print(json_text({"runs": runs}) if settings.json else describe_runs(folder, runs))
        return EXIT_OK
    from smallgpt.evaluation.comparison_report import describe_comparison
    from smallgpt.inference.compare import compare

    found, results = compare(settings, columns_of(settings))
    stream = sys.stderr if settings.json else sys.stdout
    if settings.json:
        print(json_text(found))
    else:
        print(describe_comparison(found), end="\n\n")
    say_written(results, stream)
    return EXIT_OK


def say_written(results: ResultFolder | None, stream: TextIO) -> None:
    """Print where results are, and why they are not where they usually are."""
    if results is None:
        print("nothing was written: --output_dir FOLDER keeps the predictions", file=stream)
        return
    names = (METRICS, PREDICTIONS, PREDICTIONS_TABLE, *PICTURES, COMPARISON, COMPARISON_PNG)
    written = [name for name in names if (results.path / name).exists()]
    line = f"written to {results.path}: {', '.join(written)}"
    print(printable_lines("\n".join(filter(None, [results.instead, line]))), file=stream)


if __name__ == "__main__":
    run_command(main)
