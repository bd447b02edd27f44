"""Options of prepare_data.py, one class per command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from smallgpt.options.common import LARGEST_SEED, LEAST_LENGTH, ON_BAD_ROW
from smallgpt.options.option import AUTO, Mistakes, Option, option, options_of, shared

_CODEBOOK_SIZE = Option(
    AUTO,
    "Codes in the codebook, one token each. auto = as many as the patches of the training images "
    "carry, 16 to 256.",
    "Codebook",
    minimum=2,
    maximum=65_000,
    can_be_auto=True,
)
_TEST_FRACTION = Option(
    0.2, "Share of the rows for the test file, stratified.", "Split", above=0, below=1
)
_SEED = Option(42, "Seed of the split and the codebook.", "Split", minimum=0, maximum=LARGEST_SEED)
_TEST_INPUT = Option(
    (), "Test files of your own; training records that stand in them are left out."
)
_ON_BAD_RECORD = Option(
    "error",
    "A record without its text or label: stop and list the first 20, or skip and count.",
    choices=("error", "skip"),
)
_TOKENIZER = Option(
    "bpe",
    "chars: one token a character. bpe: byte pairs, learned from the training texts. Or a "
    "pretrained tokenizer: a folder, or a name on the Hugging Face hub.",
    "Tokens",
)
_VOCAB_SIZE = Option(
    None,
    "Most entries of a vocabulary learned here. none = every character that occurs, or "
    "4,096 byte pairs; of texts with labels 2,048, 1,024 or 512 where each would occur fewer than "
    "64 times on average.",
    minimum=8,
    maximum=1_000_000,
)
_OVERWRITE = Option(
    False,
    "Replace the preparation in output_dir, nothing else there. Without it, only the same "
    "preparation may go there again.",
    flag_only=True,
)
_IN_ORDER = Option(
    False, "Hold out the last records instead of random ones: first validation, then test."
)


_AUGMENT_IMAGES = Option(
    AUTO,
    "Write so many variants of each training image beside it, shifted, turned and scaled. An epoch "
    "of training visits each image once, in a variant drawn anew. auto = 100,000 lines of them, 4 "
    "to 100 of each image; 0 where turning or shifting an image changes its meaning.",
    "Variants",
    minimum=0,
    can_be_auto=True,
)


def _held_out(what: str, default: float) -> Any:
    return option(default, f"Share of the records for {what}.", group="Split", minimum=0, below=1)


@dataclass(frozen=True)
class DigitsSettings:
    """Settings of `prepare_data.py digits`."""

    output_dir: str = option("data/digits", "Folder for the prepared files.", group="Files")
    overwrite: bool = shared(_OVERWRITE)
    patch_size: int = option(
        2, "Side of a patch in pixels; the images are 8x8.", group="Codebook", minimum=1, maximum=8
    )
    codebook_size: int = option(
        500, "Codes in the codebook, one token each.", minimum=2, maximum=65_000
    )
    augment: int = shared(_AUGMENT_IMAGES)
    test_fraction: float = shared(_TEST_FRACTION)
    seed: int = shared(_SEED)

    def contradictions(self) -> Iterator[str]:
        return iter(())


# What a codebook was made with: with --codebook there is nothing to choose.
_OF_CODEBOOK = ("image_size", "color", "patch_size", "codebook_size", "codebook_images")


@dataclass(frozen=True)
class ImagesSettings:
    """Settings of `prepare_data.py images`."""

    input: str | None = option(
        None,
        "Images: an IDX file (plain or .gz), an .npz with `images` and `labels`, or a folder "
        "with one subfolder of pictures per class (without subfolders: pictures without labels).",
        group="Files",
    )
    labels: str | None = option(None, "Labels of an IDX file (IDX, plain or .gz).")
    test_input: str | None = option(None, "Test images of your own, in any of the same forms.")
    test_labels: str | None = option(None, "Labels of an IDX test file.")
    output_dir: str = option("data/images", "Folder for the prepared files.")
    overwrite: bool = shared(_OVERWRITE)
    image_size: int | None = option(
        None, "Resize pictures of a folder to this many pixels a side.", minimum=1
    )
    color: str = option(
        AUTO,
        "Read images as grey or rgb. auto = rgb if any image has colour, unless the colours say "
        "nothing of the labels.",
        choices=("grey", "rgb"),
        can_be_auto=True,
    )
    codebook: str | None = option(
        None,
        "Make rows for an existing model: its folder, its name on the hub, or a codebook.npz with "
        "the vocab.json beside it. The images get its size, colour, range of pixel values and "
        "patches.",
        group="Codebook",
    )
    patch_size: int = option(
        AUTO,
        "Side of a patch in pixels; 1 = one token per pixel. auto = the smallest that "
        "cuts an image into at most 64 patches.",
        minimum=1,
        can_be_auto=True,
    )
    codebook_size: int = shared(_CODEBOOK_SIZE)
    codebook_images: int = option(
        10_000, "Fit the codebook on at most this many training images, drawn at random.", minimum=1
    )
    augment: int = shared(_AUGMENT_IMAGES)
    test_fraction: float = shared(_TEST_FRACTION)
    test_last: int | None = option(
        None, "Hold out the last N images as the test set instead of a random share.", minimum=1
    )
    seed: int = shared(_SEED)

    @staticmethod
    def flag_contradictions(flags: Set[str], values: Mapping[str, Any]) -> Mistakes:
        """Flags of what an existing codebook decides."""
        given = [name for name in _OF_CODEBOOK if name in flags]
        if values.get("codebook") is None or not given:
            return []
        words = " ".join(f"--{name}" for name in given)
        return [(given[0], f"{words}: --codebook {values['codebook']} decides that: drop it")]

    def contradictions(self) -> Iterator[str]:
        if self.codebook is not None:
            for name in _OF_CODEBOOK:
                if getattr(self, name) != options_of(ImagesSettings)[name].default:
                    yield f"--{name} does not go with --codebook, which decides it"
        if self.input is None:
            yield "--input PATH is needed: the images to prepare"
        if self.test_input is not None and self.test_last is not None:
            yield "--test_input and --test_last both name the test set: give one of them"
        if self.test_labels is not None and self.test_input is None:
            yield "--test_labels needs --test_input"


@dataclass(frozen=True)
class TokensSettings:
    """Settings of `prepare_data.py tokens`."""

    input: tuple[str, ...] = option(
        (),
        "JSONL files with rows of tokens; or tables (CSV, TSV, JSONL, JSON) with the columns named "
        "below.",
        group="Files",
    )
    test_input: tuple[str, ...] = option(
        (),
        "Test files of your own, in the form of --input; training rows like theirs are left out.",
    )
    output_dir: str = option("data/tokens", "Folder for the prepared files.")
    overwrite: bool = shared(_OVERWRITE)
    tokens_column: str | None = option(
        None,
        "Of a table with one row of tokens a line: the column of the tokens, parted by spaces. A "
        "number counts the columns of a CSV or TSV file that has no heading.",
        group="Columns",
    )
    group_column: str | None = option(
        None,
        "Of a log with one event a line: the column whose equal values make one row, such as a "
        "session or a user.",
    )
    event_column: str | None = option(None, "Of a log: the column of the events, one token each.")
    time_column: str | None = option(
        None,
        "Of a log: the column of the times that order the events, numbers or ISO dates. none = "
        "they stand in order.",
    )
    label_column: str | None = option(
        None, "The column of the label, the same way. none = `label`, if there is such a column."
    )
    min_count: int | None = option(
        None,
        "Tokens seen less often than this in the training rows become <UNK>. none = 1, and 2 where "
        "so many tokens were seen only once that new rows are bound to bring new ones.",
        group="Vocabulary",
        minimum=1,
    )
    on_bad_row: str = shared(ON_BAD_ROW, group="Files")
    test_fraction: float = shared(_TEST_FRACTION)
    group_by: str | None = option(
        "meta.source",
        "Key whose equal values keep rows on one side of the split. none = no grouping.",
    )
    seed: int = shared(_SEED)

    def contradictions(self) -> Iterator[str]:
        if not self.input:
            yield "--input FILE... is needed: the rows to prepare"
        of_log = self.group_column is not None
        if of_log != (self.event_column is not None):
            yield "a log of events needs both --group_column and --event_column"
        if of_log and self.tokens_column is not None:
            yield "--tokens_column has a whole row in a line, --group_column one event: give one"
        if self.time_column is not None and not of_log:
            yield "--time_column needs --group_column and --event_column"
        if self.label_column is not None and not of_log and self.tokens_column is None:
            yield "--label_column needs --tokens_column or --group_column"


@dataclass(frozen=True)
class TextSettings:
    """Settings of `prepare_data.py text`."""

    input: tuple[str, ...] = option(
        (),
        "Text files: plain text, or records as JSONL, JSON, CSV or TSV. With the datasets library "
        "also Parquet, a folder of save_to_disk, hub:OWNER/NAME or hub:OWNER/NAME/SPLIT.",
        group="Files",
    )
    test_input: tuple[str, ...] = shared(_TEST_INPUT)
    text_column: str = option(
        "text",
        "Key or column of the text. A number counts the columns of a CSV or TSV file that has no "
        "heading.",
    )
    pair_column: str | None = option(
        None,
        "Key or column of a second text, the same way, where the label is one of two texts: both "
        "become one row, <SEP> between them.",
    )
    label_column: str | None = option(
        None, "Key or column of the label, the same way. none = texts to continue, not to classify."
    )
    on_bad_row: str = shared(_ON_BAD_RECORD)
    output_dir: str = option("data/text", "Folder for the prepared files.")
    overwrite: bool = shared(_OVERWRITE)
    tokenizer: str = shared(_TOKENIZER)
    vocab_size: int | None = shared(_VOCAB_SIZE)
    max_length: int = option(
        257,
        "Tokens of a row of texts without labels, the first of which is only read.",
        minimum=LEAST_LENGTH,
    )
    stride: int | None = option(
        None,
        "Tokens from the start of one row to the next. none = max_length - 1, so that every token "
        "is predicted once; less shows the same text from other starts, in training only.",
        minimum=1,
    )
    augment: int = option(
        AUTO,
        "Write so many variants of each training text with a label beside it, its clauses in "
        "another order and a fifth of them left out. An epoch of training visits each text with a "
        "label once, in a variant drawn anew. auto = 100,000 lines of them, 4 to 30 of each text; "
        "0 where the order of the clauses decides, and of pairs of texts.",
        group="Variants",
        minimum=0,
        can_be_auto=True,
    )
    validation_fraction: float = _held_out("validation", 0.1)
    test_fraction: float = _held_out("the test file", 0.1)
    in_order: bool = shared(_IN_ORDER)
    seed: int = shared(_SEED)

    def contradictions(self) -> Iterator[str]:
        yield from _text_contradictions(self)
        if self.augment not in (0, AUTO) and self.label_column is None:
            yield "--augment needs --label_column; running text has --stride"
        if self.pair_column is not None:
            if self.label_column is None:
                yield (
                    "--pair_column needs --label_column; a text that answers another is an "
                    "instruction: prepare_data.py instructions"
                )
            if self.pair_column in (self.text_column, self.label_column):
                yield f"--pair_column {self.pair_column}: another column is to be read there"
            if self.augment not in (0, AUTO):
                yield "--augment leaves clauses out, which may change what a pair is: drop one"
        if self.stride is not None and self.stride >= self.max_length:
            yield "--stride must be below --max_length, or tokens are left out"


@dataclass(frozen=True)
class InstructionsSettings:
    """Settings of `prepare_data.py instructions`."""

    input: tuple[str, ...] = option(
        (),
        "Records of `instruction`, `input` (may be empty) and `output`: JSON, JSONL, CSV or TSV. "
        "With the datasets library also Parquet, a folder of save_to_disk, hub:OWNER/NAME or "
        "hub:OWNER/NAME/SPLIT.",
        group="Files",
    )
    test_input: tuple[str, ...] = shared(_TEST_INPUT)
    on_bad_row: str = shared(_ON_BAD_RECORD)
    output_dir: str = option("data/instructions", "Folder for the prepared files.")
    overwrite: bool = shared(_OVERWRITE)
    tokenizer: str = shared(_TOKENIZER)
    vocab_size: int | None = shared(_VOCAB_SIZE)
    validation_fraction: float = _held_out("validation", 0.05)
    test_fraction: float = _held_out("the test file", 0.1)
    in_order: bool = shared(_IN_ORDER)
    seed: int = shared(_SEED)

    def contradictions(self) -> Iterator[str]:
        return _text_contradictions(self)


PreparationSettings = (
    DigitsSettings | ImagesSettings | TokensSettings | TextSettings | InstructionsSettings
)


def _text_contradictions(settings: TextSettings | InstructionsSettings) -> Iterator[str]:
    if not settings.input:
        yield "--input FILE... is needed: the texts to prepare"
    if settings.validation_fraction + settings.test_fraction >= 1:
        yield "validation_fraction and test_fraction leave nothing to learn from"
