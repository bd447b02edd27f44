"""Instructions to rows: prepare_data.py instructions."""

from __future__ import annotations

from typing import Any

from smallgpt.options.preparation import InstructionsSettings
from smallgpt.preparation.folder import TRAIN, check_output, holding_output
from smallgpt.preparation.texts import (
    _asked,
    _good_of,
    _learned,
    _paths,
    _pretrained,
    _publish,
    _split_records,
    _vocabulary,
)


@holding_output
def prepare_instructions(settings: InstructionsSettings) -> dict[str, Any]:
    """Prepare records of instruction, input and output.

    Returns:
        The summary, as written to prepared.json.

    Raises:
        UserError: as `prepare_text`.
    """
    from smallgpt.preparation.text_files import INSTRUCTION_KEYS, read_instructions, source_names

    paths, test_paths = _paths(settings.input), _paths(settings.test_input)
    check_output(settings.output_dir, [*paths, *test_paths])
    pretrained = _pretrained(settings.tokenizer)
    notes: list[str] = []
    names = source_names([*paths, *test_paths])
    items, own_test = (
        _good_of(
            (found for path in some for found in read_instructions(path, names[path])),
            settings.on_bad_row,
            notes,
        )
        for some in (paths, test_paths)
    )

    sides = _split_records(items, own_test, settings, notes)
    learned_from = [text for item in sides[TRAIN] for text in (_asked(item), _learned(item))]
    vocabulary = _vocabulary(settings, pretrained, learned_from, [])
    rows = {
        name: [
            {
                **{key: item.record.get(key) or "" for key in INSTRUCTION_KEYS},
                "meta": {"source": item.source},
            }
            for item in side
        ]
        for name, side in sides.items()
    }
    return _publish("instructions", settings, rows, vocabulary, notes)
