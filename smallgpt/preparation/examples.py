"""Text and instruction examples, and reading them from several files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.options.preparation import InstructionsSettings, TextSettings
from smallgpt.rows.bad_rows import BadRows
from smallgpt.tokens.instruction_template import instruction_prompt
from smallgpt.tokens.text_tokenizer import SEP


@dataclass(frozen=True, slots=True)
class Text:
    """A text; `label` is spelled as in the file, None where no label column was asked for."""

    text: str  # never empty
    label: str | None
    place: str  # for messages: `data/reviews.tsv:17`
    source: str  # for the row's `meta`: the same with the name of the file in `source_names`
    others: dict[str, Any] = field(default_factory=dict)  # the other columns or keys

    @property
    def question(self) -> str:
        """The input of the model, which must not be on two sides of a split."""
        return self.text.strip()

    @property
    def kept_together(self) -> str:
        """Examples with the same are not put on two sides of a split: a pair in either order."""
        return SEP.join(sorted(self.parts))

    @property
    def parts(self) -> list[str]:
        """The two texts of a pair; of another text itself alone."""
        return [part.strip() for part in self.text.split(SEP)]

    @property
    def answer(self) -> str:
        """The target of the model."""
        return self.label or ""

    def row(self) -> dict[str, Any]:
        """The row of a labelled text; other texts are cut into rows by `document_rows`."""
        own = {"text": self.text, "label": self.label, "meta": {"source": self.source}}
        return own | self.others


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction, its input (may be empty) and output; `place` and `source` as in `Text`."""

    instruction: str
    input: str
    output: str
    place: str
    source: str
    label: ClassVar[None] = None

    @property
    def question(self) -> str:
        """The input of the model, which must not be on two sides of a split."""
        return instruction_prompt(self.instruction, self.input)

    @property
    def kept_together(self) -> str:
        """Examples with the same are not put on two sides of a split."""
        return self.question

    @property
    def answer(self) -> str:
        """The target of the model."""
        return self.output

    def row(self) -> dict[str, Any]:
        """The row of the instruction."""
        return {
            "instruction": self.instruction,
            "input": self.input,
            "output": self.output,
            "meta": {"source": self.source},
        }


Example = TypeVar("Example", bound=Text | Instruction)


def source_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A distinct name of each file for `source`: its name, with as many folders as that takes."""
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
    read: Callable[[Path, str, BadRows], Iterator[Example]],
    notes: list[str],
) -> tuple[list[Example], list[Example]]:
    """The usable records of --input and of --test_input.

    `read` takes a path, its name for `source`, and the collector of bad records; `notes` gets a
    line if any were skipped.

    Raises:
        UserError: unreadable file, bad records that are not to be skipped, or no usable record.
    """
    paths, test_paths = [*map(Path, settings.input)], [*map(Path, settings.test_input)]
    names = source_names([*paths, *test_paths])

    def read_all(some: list[Path]) -> list[Example]:
        bad = BadRows("record")
        good = [example for path in some for example in read(path, names[path], bad)]
        if bad.count and not good:
            counted = f"not one of {plural(bad.count, 'record')} can be used, the first: "
            raise UserError((counted if bad.count > 1 else "") + bad.first[0])
        if settings.on_bad_row == "error":
            bad.raise_if_any()
        if bad.count:
            notes.append(f"{plural(bad.count, 'bad record')} skipped, the first: {bad.first[0]}")
        return good

    return read_all(paths), read_all(test_paths)
