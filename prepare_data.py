"""Make rows of tokens and their vocabulary from raw data.

    python prepare_data.py digits
    python prepare_data.py images --input train-images-idx3-ubyte.gz \\
        --labels train-labels-idx1-ubyte.gz --test_last 10000 --output_dir data/mnist
    python prepare_data.py images --input pictures/ --image_size 32 --output_dir data/pictures
    python prepare_data.py tokens --input rows.jsonl --output_dir data/rows
    python prepare_data.py tokens --input events.csv --group_column session \\
        --event_column event --time_column at --output_dir data/events
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
from typing import Any

from smallgpt.command import run_command
from smallgpt.console import printable_lines
from smallgpt.distribution import VERSION
from smallgpt.errors import SettingsError
from smallgpt.options.preparation import (
    DigitsSettings,
    ImagesSettings,
    InstructionsSettings,
    PreparationSettings,
    TextSettings,
    TokensSettings,
)
from smallgpt.options.reader import read_settings

# Options and description of each command.
COMMANDS: dict[str, tuple[type[PreparationSettings], str]] = {
    "digits": (
        DigitsSettings,
        "Prepare scikit-learn's 1,797 handwritten digits: no download, a few seconds.",
    ),
    "images": (
        ImagesSettings,
        "Prepare images of your own: IDX, .npz, or a folder with one subfolder per class.",
    ),
    "tokens": (
        TokensSettings,
        "Make a vocabulary for rows of tokens (JSONL, tables, logs of events) and split them.",
    ),
    "text": (
        TextSettings,
        "Learn a tokenizer for texts of your own, with labels or without, and split them.",
    ),
    "instructions": (
        InstructionsSettings,
        "Learn a tokenizer for records of instruction, input and output, and split them.",
    ),
}


def main(argv: list[str]) -> int:
    """Run one command; see `python prepare_data.py --help`."""
    if argv and argv[0] in ("-h", "--help"):
        print("\n".join(_help_lines()))
        return 0
    if argv and argv[0] == "--version":
        print(f"smallgpt {VERSION}")
        return 0
    if not argv or argv[0] not in COMMANDS:
        raise SettingsError([_command_mistake(argv)])
    command, *flags = argv
    settings_class, description = COMMANDS[command]
    settings = read_settings(
        settings_class, flags, prog=f"prepare_data.py {command}", description=description
    )
    prepare, report_lines = _load(command)
    start = time.monotonic()
    summary = prepare(settings)
    print(printable_lines("\n".join(report_lines(summary, time.monotonic() - start))))
    return 0


def _load(
    command: str,
) -> tuple[Callable[[Any], dict[str, Any]], Callable[[dict[str, Any], float], list[str]]]:
    """The functions that run and report a command; imported late, so that --help answers at once
    and texts do not wait for scikit-learn.
    """
    match command:
        case "digits":
            from smallgpt.preparation.images import prepare_digits as prepare
        case "images":
            from smallgpt.preparation.images import prepare_images as prepare
        case "tokens":
            from smallgpt.preparation.token_rows import prepare_tokens as prepare
        case "text":
            from smallgpt.preparation.texts import prepare_text as prepare
        case "instructions":
            from smallgpt.preparation.instructions import prepare_instructions as prepare
    from smallgpt.preparation.report import report_lines

    return prepare, report_lines


def _help_lines() -> list[str]:
    return [
        "usage: prepare_data.py COMMAND [--option value ...]",
        "",
        __doc__.strip(),
        "",
        "commands:",
        *[f"  {name}   {description}" for name, (_, description) in COMMANDS.items()],
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


if __name__ == "__main__":
    run_command(main)
