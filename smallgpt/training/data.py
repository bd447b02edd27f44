"""Training and validation rows of a run, and its task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from smallgpt.console import command_hint, plural
from smallgpt.errors import UserError
from smallgpt.files.hub import folder_of
from smallgpt.files.reading import contents
from smallgpt.options.option import nearest
from smallgpt.options.training import DIGITS_ROWS, TrainSettings
from smallgpt.rows.codebook_of_rows import KnownCodebook
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.prepared_summary import VOCABULARY, has_variants
from smallgpt.rows.reading import read_dataset
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.vocabulary import Vocabulary


def inputs_of(settings: TrainSettings) -> dict[str, str | Path | None]:
    """The files and folders that a run reads, by their flag."""
    return {
        "--data_path": settings.data_path,
        "--val_data_path": settings.val_data_path,
        "--vocab_path": settings.vocab_path,
        "--init_from": settings.init_from,
        "the codebook": codebook_beside(settings.vocabulary_file),
    }


def read_data(
    settings: TrainSettings, say: Callable[[str], object], keep_bad_rows: bool = False
) -> tuple[TokenLabelDataset, TokenLabelDataset]:
    """Training and validation rows; `say` prints notes on them.

    `keep_bad_rows` collects bad rows in `bad_rows` instead of failing, unless they are to be
    skipped; the validation rows may then be empty.

    Raises:
        UserError: missing or bad files.
    """
    check_there(settings)
    vocabulary = Vocabulary.load(settings.vocabulary_file)
    codebook = _known_codebook(settings)
    skip = settings.on_bad_row == "skip"

    def read(path: str) -> TokenLabelDataset:
        rows = read_dataset(
            path,
            vocabulary,
            max_length=settings.max_length,
            on_bad_row="keep" if keep_bad_rows and not skip else settings.on_bad_row,
            unknown_token=settings.unknown_token,
            group_by=settings.group_by,
            codebook=codebook,
        )
        if rows.counts.plain_variants and has_variants(Path(path)):
            raise UserError(
                f"{path}: an older version of prepare_data.py marked its variants as "
                f"`meta.variant`, and an epoch would visit all of them: prepare the data again "
                f"with --overwrite (prepared.json beside it has the settings)"
            )
        for line in rows.counts.lines():
            say(f"{path}: {line}")
        return rows

    rows = read(settings.data_path)
    default_key = settings.group_by == TrainSettings.group_by
    if settings.group_by and not default_key and len(rows) and not (rows.groups_N >= 0).any():
        raise UserError(f"{settings.data_path}: no row has the key --group_by {settings.group_by}")
    validation = None if settings.val_data_path is None else read(settings.val_data_path)
    # The training rows decide how a label is spelled.
    for some in filter(None, (validation, rows)):
        vocabulary.spell_labels(some.label_spellings)
    if validation is not None:
        return rows, validation
    try:
        return split_dataset(rows, settings.validation_fraction, settings.seed)
    except UserError:
        if not rows.bad_rows:
            raise
        return rows, rows.subset(slice(0, 0))  # the bad rows are reported nonetheless


def check_there(settings: TrainSettings) -> None:
    """Raise UserError where the rows or their vocabulary are missing."""
    if not Path(settings.data_path).exists():
        default = settings.data_path == TrainSettings.data_path
        make = command_hint("prepare_data.py", "digits" if default else "--help")
        remedy = (
            f"make it with `{make}`, or name your own rows with --data_path"
            if default
            else f"name your rows with --data_path (`{make}` makes some)"
        )
        raise UserError(f"{settings.data_path}: no such file; {remedy}")
    if not Path(settings.vocabulary_file).exists():
        raise _no_vocabulary(settings)


def _no_vocabulary(settings: TrainSettings) -> UserError:
    """The error of a vocabulary that is not there, with the nearest one."""
    path, rows = Path(settings.vocabulary_file), Path(settings.data_path)
    beside = rows.with_name(VOCABULARY)
    near = nearest(path.name, [x.name for x in contents(path.parent) if x.suffix == ".json"])
    if near or beside.exists():
        found = path.with_name(near) if near else beside
        return UserError(f"{path}: no such file (the vocabulary); did you mean {found}?")
    missing = f"{path}: no such file (the vocabulary)"
    if path in (beside, Path(DIGITS_ROWS).with_name(VOCABULARY)):  # none was named
        missing = f"no {VOCABULARY} beside {rows}"
    make = command_hint("prepare_data.py", "tokens", "--input", rows)
    return UserError(f"{missing}: make one with `{make}`, or name it with --vocab_path")


def _known_codebook(settings: TrainSettings) -> KnownCodebook | None:
    """The codebook of the rows: beside the vocabulary, else that of the model to start from.

    Raises:
        UserError: a broken codebook, or the two differ.
    """
    own = KnownCodebook.at(codebook_beside(settings.vocabulary_file))
    start = None
    if settings.init_from is not None:
        start = KnownCodebook.at(codebook_beside(str(_folder_of_start(settings) / VOCABULARY)))
    if own and start and own.digest != start.digest:
        raise UserError(
            f"{own.path} is codebook {own.digest}, and {start.path} of --init_from is "
            f"{start.digest}: the same tokens stand for other patches\n"
            f"prepare the pictures with `prepare_data.py images --codebook {settings.init_from}`"
        )
    return own or start


def _folder_of_start(settings: TrainSettings) -> Path:
    """The folder of the model to start from, whether it is there or not."""
    assert settings.init_from is not None
    try:
        return folder_of(settings.init_from, "model")
    except UserError:  # told where it is loaded; a run that is resumed does not need it
        return Path(settings.init_from)


def task_of(settings: TrainSettings, rows: TokenLabelDataset) -> str:
    """The task asked for, else the one that the training rows are made for.

    Raises:
        UserError: the rows do not suit the task asked for.
    """
    unlabelled = int((rows.classes_N < 0).sum())
    if settings.classifier == "head" and unlabelled:
        raise UserError(
            f"{settings.data_path}: --classifier head needs a label in every training row, and "
            f"{unlabelled:,} of {plural(len(rows), 'row')} have none"
        )
    if settings.class_weights != "none" and not rows.has_labels:
        raise UserError(f"{settings.data_path}: --class_weights needs labels, and no row has one")
    if settings.label_first_share and (rows.has_prompts or not rows.has_labels):
        found = "no row has one" if not rows.has_labels else "some rows are instructions"
        raise UserError(f"{settings.data_path}: --label_first_share needs labels, and {found}")
    if settings.task == "classify" and not rows.has_labels:
        raise UserError(f"{settings.data_path}: --task classify needs labels, and no row has one")
    if settings.task == "instruct" and not rows.has_prompts:
        raise UserError(
            f"{settings.data_path}: --task instruct needs rows of `instruction` and `output`: "
            f"`{command_hint('prepare_data.py', 'instructions')}`"
        )
    if settings.task != "auto":
        return settings.task
    if rows.has_prompts:
        return "instruct"
    return "classify" if rows.has_labels else "lm"


def codebook_beside(vocab_path: str) -> Path | None:
    """codebook.npz beside the vocabulary, None where there is none."""
    codebook = Path(vocab_path).with_name("codebook.npz")
    return codebook if codebook.exists() else None
