"""Instructions to rows: prepare_data.py instructions."""

from __future__ import annotations

from typing import Any

from smallgpt.options.preparation import InstructionsSettings
from smallgpt.preparation.examples import read_examples
from smallgpt.preparation.folder import TRAIN, check_output, holding_output
from smallgpt.preparation.text_files import read_instructions
from smallgpt.preparation.text_rows import write_rows
from smallgpt.preparation.text_splits import split_examples
from smallgpt.preparation.text_vocabulary import make_vocabulary, pretrained_tokenizer


@holding_output
def prepare_instructions(settings: InstructionsSettings) -> dict[str, Any]:
    """Prepare records of instruction, input and output; returns the summary, as in prepared.json.

    Each is one row of text, encoded when it is read; the tokenizer is learned from training rows.

    Raises:
        UserError: as `prepare_text`.
    """
    check_output("instructions", settings, [*settings.input, *settings.test_input])
    pretrained = pretrained_tokenizer(settings.tokenizer)
    notes: list[str] = []
    examples, own_test = read_examples(settings, read_instructions, notes)
    sides = split_examples(examples, own_test, settings, notes)
    learned_from = [text for example in sides[TRAIN] for text in (example.question, example.answer)]
    vocabulary = make_vocabulary(settings, pretrained, learned_from, [], notes)
    rows = {name: [example.row() for example in side] for name, side in sides.items()}
    return write_rows("instructions", settings, rows, vocabulary, notes)
