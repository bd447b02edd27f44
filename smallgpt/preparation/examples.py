"""Texts and instructions to learn from, and reading them from several files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.options.preparation import InstructionsSettings, TextSettings
from smallgpt.preparation.records import BadRecordError
from smallgpt.tokens.instruction_template import instruction_prompt

_MOST_BAD_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Text:
    """A text, perhaps with a label.

    Attributes:
        text: never empty.
        label: as it is spelled; None where no label column was asked for.
        place: file and line for a message, `data/reviews.tsv:17`.
        source: the same for the row's `meta`, by the name of the file in `source_names`.
    """

    text: str
    label: str | None
    place: str
    source: str

    @property
    def question(self) -> str:
        """What must not stand on two sides of a split."""
        return self.text.strip()

    @property
    def answer(self) -> str:
        """What is to be learned of it."""
        return self.label or ""

    def row(self) -> dict[str, Any]:
        """Its row; rows of texts without labels are cut by `document_rows`."""
        return {"text": self.text, "label": self.label, "meta": {"source": self.source}}


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction, its input, which may be empty, and the answer; the rest as of `Text`."""

    instruction: str
    input: str
    output: str
    place: str
    source: str
    label: ClassVar[None] = None

    @property
    def question(self) -> str:
        """What must not stand on two sides of a split."""
        return instruction_prompt(self.instruction, self.input)

    @property
    def answer(self) -> str:
        """What is to be learned of it."""
        return self.output

    def row(self) -> dict[str, Any]:
        """Its row."""
        return {
            "instruction": self.instruction,
            "input": self.input,
            "output": self.output,
            "meta": {"source": self.source},
        }


Example = TypeVar("Example", Text, Instruction)


def source_names(paths: Sequence[Path]) -> dict[Path, str]:
    """What each of several files is called in the `source` of its rows: no two alike.

    That is its name, with as many of its folders as tell it from the others: `a/data.csv` and
    `b/data.csv` beside `more.csv`.
    """
    names: dict[Path, str] = {}
    waiting, length = set(paths), 1
    while waiting:
        ends = Counter(path.parts[-length:] for path in waiting)
        alone = {path for path in waiting if ends[path.parts[-length:]] == 1}
        names |= {path: str(Path(*path.parts[-length:])) for path in alone}
        waiting -= alone
        length += 1
    return names


def read_examples(
    settings: TextSettings | InstructionsSettings,
    read: Callable[[Path, str], Iterator[Example | BadRecordError]],
    notes: list[str],
) -> tuple[list[Example], list[Example]]:
    """The usable records of --input, and those of --test_input.

    Args:
        settings: names the files, and says what to do about bad records.
        read: reads the file at a path, under its name for `source`.
        notes: gets a line if bad records were skipped.

    Raises:
        UserError: a file cannot be read; bad records, unless they are to be skipped.
    """
    paths, test_paths = [*map(Path, settings.input)], [*map(Path, settings.test_input)]
    names = source_names([*paths, *test_paths])
    examples, own_test = (
        _usable((e for path in some for e in read(path, names[path])), settings.on_bad_row, notes)
        for some in (paths, test_paths)
    )
    return examples, own_test


def _usable(
    found: Iterable[Example | BadRecordError], on_bad_row: str, notes: list[str]
) -> list[Example]:
    """The records that can be used.

    Raises:
        UserError: the first 20 that cannot, unless they are to be skipped; only the first where
            no record can.
    """
    good: list[Example] = []
    first_bad: list[str] = []
    bad = 0
    for each in found:
        if not isinstance(each, BadRecordError):
            good.append(each)
            continue
        bad += 1
        if len(first_bad) < _MOST_BAD_SHOWN:
            first_bad.append(str(each))
    if bad and not good:
        counted = f"not one of {plural(bad, 'record')} can be used, the first: "
        raise UserError((counted if bad > 1 else "") + first_bad[0])
    if bad and on_bad_row == "error":
        if bad > len(first_bad):
            first_bad.append(f"... and {plural(bad - len(first_bad), 'more bad record')}")
        remedy = "correct them, or leave them out with --on_bad_row skip"
        raise UserError("\n".join([*first_bad, remedy]))
    if bad:
        notes.append(f"{plural(bad, 'bad record')} skipped, the first: {first_bad[0]}")
    return good
