"""Make rows of tokens and their vocabulary from raw data.

    python prepare_data.py digits
    python prepare_data.py images --input train-images-idx3-ubyte.gz \
        --labels train-labels-idx1-ubyte.gz --test_last 10000 --output_dir data/mnist
    python prepare_data.py images --input pictures/ --image_size 32 --output_dir data/pictures
    python prepare_data.py tokens --input rows.jsonl --min_count 2 --output_dir data/rows
    python prepare_data.py text --input book.txt --output_dir data/book
    python prepare_data.py text --input reviews.csv --text_column text --label_column label
    python prepare_data.py instructions --input alpaca.json

Every command writes train.jsonl, test.jsonl, vocab.json and prepared.json (what was done) into
--output_dir; for images also codebook.npz, codebook.png and reconstructions.png; for texts also
tokenizer.json and val.jsonl. The same input, settings and seed give the same files, byte for byte.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smallgpt.command import run_command
from smallgpt.console import command_hint, format_duration, format_table, plural, printable_lines
from smallgpt.errors import SettingsError
from smallgpt.options.preparation import (
    DigitsSettings,
    ImagesSettings,
    InstructionsSettings,
    TextSettings,
    TokensSettings,
)
from smallgpt.options.reader import read_settings
from smallgpt.options.training import TrainSettings
from smallgpt.preparation.digits import prepare_digits
from smallgpt.preparation.folder import TEST, TRAIN, VALIDATION
from smallgpt.preparation.images import prepare_images
from smallgpt.preparation.instructions import prepare_instructions
from smallgpt.preparation.texts import prepare_text
from smallgpt.preparation.token_rows import prepare_tokens
from smallgpt.rows.prepared_summary import VOCABULARY
from smallgpt.tokens.vocabulary import UNK

# ------------------------------------------------------------------------------- command


COMMANDS: dict[str, tuple[type, Callable[[Any], dict[str, Any]], str]] = {
    "digits": (
        DigitsSettings,
        prepare_digits,
        "Prepare scikit-learn's 1,797 handwritten digits: no download, a few seconds.",
    ),
    "images": (
        ImagesSettings,
        prepare_images,
        "Prepare images of your own: IDX, .npz, or a folder with one subfolder per class.",
    ),
    "tokens": (
        TokensSettings,
        prepare_tokens,
        "Make a vocabulary for rows of tokens (JSONL), complete their label tails, split.",
    ),
    "text": (
        TextSettings,
        prepare_text,
        "Learn a tokenizer for texts of your own, with labels or without, and split them.",
    ),
    "instructions": (
        InstructionsSettings,
        prepare_instructions,
        "Learn a tokenizer for records of instruction, input and output, and split them.",
    ),
}


def main(argv: list[str]) -> int:
    """Run one command; see `python prepare_data.py --help`."""
    if argv and argv[0] in ("-h", "--help"):
        print("\n".join(_help_lines()))
        return 0
    if not argv or argv[0] not in COMMANDS:
        raise SettingsError([_command_mistake(argv)])
    settings_class, prepare, description = COMMANDS[argv[0]]
    settings = read_settings(
        settings_class, argv[1:], prog=f"prepare_data.py {argv[0]}", description=description
    )
    start = time.monotonic()
    summary = prepare(settings)
    print(printable_lines("\n".join(_report_lines(summary, time.monotonic() - start))))
    return 0


def _help_lines() -> list[str]:
    return [
        "usage: prepare_data.py COMMAND [--option value ...]",
        "",
        __doc__.strip(),
        "",
        "commands:",
        *[f"  {name}   {description}" for name, (_, _, description) in COMMANDS.items()],
        "",
        "python prepare_data.py COMMAND --help lists the options of a command.",
    ]


def _command_mistake(argv: Sequence[str]) -> str:
    known = ", ".join(COMMANDS)
    if not argv:
        return f"no command given; choose one of {known} (see prepare_data.py --help)"
    if argv[0].startswith("-"):
        return f"the command comes before {argv[0]}; choose one of {known}"
    near = difflib.get_close_matches(argv[0], COMMANDS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {known}"
    return f"unknown command {argv[0]!r}; {hint}"


def _report_lines(summary: dict[str, Any], seconds: float) -> list[str]:
    """What was done, and the next command to type."""
    of_images = "codebook" in summary
    sides = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
    table, facts = [], []
    for name, key in sides.items():
        side = summary.get(key)
        if not side or not side["rows"]:
            continue
        cells = [name, f"{side['rows']:,}", f"{side['labelled']:,}"]
        if of_images:
            psnr = side["psnr_db"]
            cells += [f"{side['rmse']:.2%}", "exact" if psnr is None else f"{psnr:.1f} dB"]
        else:
            cells += [f"{side['tokens']:,}", f"{side['unknown_tokens']:,}"]
        table.append(cells)
    header = ["", "rows", "labelled", *(["RMSE", "PSNR"] if of_images else ["tokens", UNK])]
    if of_images:
        book = summary["codebook"]
        size, used = book["patch_size"], book["codes_in_training_rows"]
        facts.append(
            f"{plural(book['size'], 'code')} for patches of {size}x{size} pixels, {used:,} of them "
            f"in training rows"
        )
    if summary["train"].get("variants"):
        kind = "image" if of_images else "text"
        facts.append(
            f"{plural(summary['train']['variants'], 'variant')} of the training {kind}s beside "
            f"them in {TRAIN}; an epoch visits each {kind} once, in a variant drawn anew"
        )
    facts.append(
        f"{plural(summary['vocabulary_size'], 'token')} in the vocabulary, "
        f"{plural(len(summary['labels']), 'label')}; {'every' if of_images else 'longest'} row: "
        f"{plural(summary['longest_row'], 'token')}"
    )
    folder = Path(summary["settings"]["output_dir"])
    return [
        format_table(header, table),
        *facts,
        *summary["notes"],
        f"written to {folder} in {format_duration(seconds)}; next:",
        f"  {_next_command(summary, folder)}",
    ]


def _next_command(summary: dict[str, Any], folder: Path) -> str:
    """The training command for the prepared rows."""
    # The digits are the first example: their model goes where inference.py looks by default.
    run = "outputs" if summary["command"] == "digits" else f"outputs/{folder.resolve().name}"
    words: list[str | Path] = ["--data_path", folder / TRAIN]
    if summary.get("validation", {}).get("rows"):
        words += ["--val_data_path", folder / VALIDATION]
    words += ["--vocab_path", folder / VOCABULARY, "--output_dir", run]
    # Whoever took a pretrained model's tokens goes on from that model.
    base = summary["settings"].get("tokenizer", "chars")
    if base not in ("chars", "bpe") and (
        not Path(base).is_dir() or (Path(base) / "config.json").is_file()
    ):
        words += ["--init_from", base]
    # A few long texts are better cut than a model of many positions.
    of_text = "validation" in summary
    if not of_text and summary["longest_row"] > min(
        TrainSettings.max_length, TrainSettings.n_positions
    ):
        length = str(summary["longest_row"])
        words += ["--max_length", length, "--n_positions", length]
    return command_hint("train_gpt.py", *words)


if __name__ == "__main__":
    run_command(main)
