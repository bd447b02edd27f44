"""Use a trained model: predict the next token, continue a row, name its label, score a file.

    python inference.py                                            # interactive prompt
    python inference.py --prompt "<IMG> <Z_190>"                   # one answer
    python inference.py --mode generate --num_return_sequences 9 --image digits.png
    python inference.py --mode classify --prompt "<IMG> ... </IMG>"
    python inference.py --test_data data/digits/test.jsonl         # evaluation folder

From Python:

    from smallgpt.inference.classify import classify
from smallgpt.inference.evaluate import evaluate_file
from smallgpt.inference.generate import generate
from smallgpt.model.folder import load_trained_model
from smallgpt.inference.next_tokens import next_tokens
    trained = load_trained_model("outputs/best_model")
    next_tokens(trained, "<IMG> <Z_190>")                          # [(token, probability), ...]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from smallgpt.command import run_command
from smallgpt.console import (
    can_show_blocks,
    format_table,
    json_text,
    plural,
    printable,
    printable_lines,
)
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation.folder import METRICS, PICTURES, PREDICTIONS
from smallgpt.files.reading import same_file
from smallgpt.inference.classify import classify_file
from smallgpt.inference.evaluate import evaluate_file
from smallgpt.inference.files import say_bad_rows
from smallgpt.inference.generate import beside, draw_rows, generate
from smallgpt.inference.interactive import run_interactive, show_label
from smallgpt.inference.prompts import (
    MOST_LABELS_SHOWN,
    say_unknown,
    shown_row,
)
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.reader import read_settings

if TYPE_CHECKING:
    from smallgpt.model.folder import TrainedModel


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    settings = read_settings(
        InferenceSettings,
        argv,
        prog="inference.py",
        description="Use a trained model.",
        epilog="Without flags: an interactive next-token prompt for outputs/best_model.",
    )
    from smallgpt.model.folder import load_trained_model

    trained = load_trained_model(
        settings.model_path, settings.device, settings.precision, settings.vocab_path
    )
    mode = settings.resolved_mode()
    if mode == "interactive":
        return run_interactive(trained, settings)
    if mode == "generate":
        run_generate(trained, settings)
    elif mode == "classify":
        run_classify(trained, settings)
    else:
        run_evaluate(trained, settings)
    return 0


def run_generate(trained: TrainedModel, settings: InferenceSettings) -> None:
    """Print generated rows and draw them where asked to."""
    if settings.image is not None and trained.codebook is None:
        raise UserError(
            f"--image: {trained.folder} holds no codebook.npz; only rows made of images by "
            f"prepare_data.py can be drawn"
        )
    if settings.image is not None:
        inputs = [*trained.folder.iterdir(), *filter(None, [settings.vocab_path])]
        if any(same_file(path, settings.image) for path in inputs):
            raise SettingsError([f"--image {settings.image} would overwrite a file of the model"])
    seed = settings.seed if settings.seed is not None else int.from_bytes(os.urandom(4), "big")
    result = generate(
        trained,
        settings.prompt,
        count=settings.num_return_sequences,
        max_new_tokens=settings.max_new_tokens,
        greedy=settings.greedy,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=seed,
        label=settings.label,
        batch_size=settings.batch_size,
    )
    if settings.prompt is not None:
        say_unknown(trained, settings.prompt)
    rows = [shown_row(trained, sequence) for sequence in result.sequences]
    if settings.image is not None:
        draw_rows(trained, rows, Path(settings.image))
    if settings.json:
        answer = {
            "sequences": rows,
            "seed": None if settings.greedy else seed,
            "tried": result.tried,
            "image": settings.image,
            "note": result.note or None,
        }
        print(json_text(answer))
        return
    for row in rows:
        print(printable_lines(row))
    notes = [result.note, "" if settings.greedy else f"--seed {seed} gives the same again"]
    if settings.image is not None:
        notes.append(f"drawn: {settings.image}")
    for note in filter(None, notes):
        print(printable_lines(note), file=sys.stderr)


def run_classify(trained: TrainedModel, settings: InferenceSettings) -> None:
    """Name the label of a prompt, or of every row of a file."""
    from smallgpt.evaluation.report import describe_confidence

    if settings.prompt is not None:
        show_label(trained, settings.prompt, settings.json)
        if settings.json:
            return
        print(describe_confidence(trained.validation), file=sys.stderr)
        return
    folder = settings.output_dir or beside(trained.folder, "classification")
    predictions = classify_file(trained, settings.test_data, folder, settings.batch_size)
    if settings.json:
        for row in predictions:
            print(json_text(row))
        return
    counts: dict[str, int] = {}
    for row in predictions:
        name = row["prediction"] if row["prediction"] is not None else "could not be classified"
        counts[name] = counts.get(name, 0) + 1
    names = sorted(counts)
    if len(names) > MOST_LABELS_SHOWN:
        names = sorted(names, key=lambda name: -counts[name])[:MOST_LABELS_SHOWN]
    print(format_table(["predicted label", "rows"], [[n, f"{counts[n]:,}"] for n in names]))
    if len(counts) > len(names):
        rest = plural(sum(counts.values()) - sum(counts[name] for name in names), "row")
        print(f"and {plural(len(counts) - len(names), 'more label')} of {rest}")
    say_bad_rows(predictions)
    print(describe_confidence(trained.validation))
    print(f"written: {printable(str(Path(folder) / PREDICTIONS))}")


def run_evaluate(trained: TrainedModel, settings: InferenceSettings) -> None:
    """Score a file, write the evaluation folder and tell the figures."""
    from smallgpt.evaluation.answers import describe_examples
    from smallgpt.evaluation.report import describe_figures

    folder = Path(settings.output_dir or beside(trained.folder, "evaluation"))
    figures = evaluate_file(
        trained, settings.test_data, folder, settings.batch_size, settings.max_new_tokens
    )
    if settings.json:
        print(json_text(figures))
        return
    print(describe_figures(figures, can_show_blocks(sys.stdout)), end="\n\n")
    if figures["unscored"] or "answers" in figures:
        with open(folder / PREDICTIONS, encoding="utf-8") as handle:
            read = map(json.loads, handle)
            predictions = [row for row in read if "reason" in row or "answer" in row]
        if "answers" in figures:
            print(describe_examples(predictions), end="\n\n")
        say_bad_rows(predictions)
    drawn = [name for name in PICTURES if (folder / name).exists()]
    files = ", ".join([METRICS, PREDICTIONS, *drawn])
    print(f"written to {printable(str(folder))}: {files}")


if __name__ == "__main__":
    run_command(main)
