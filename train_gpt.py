"""Train a small GPT on rows of tokens, from scratch or from a pretrained model.

    python prepare_data.py digits                 # once: data/digits
    python train_gpt.py                           # options from config.yaml
    python train_gpt.py --data_path my.jsonl --vocab_path vocab.json --output_dir outputs/my
    python train_gpt.py --resume                  # go on after Ctrl-C or a crash
    python train_gpt.py --check_data              # look at the data only
    python train_gpt.py --init_from DIR_OR_NAME --lora_rank 8 ...

From Python:

    from settings import TrainSettings
    from train_gpt import train
    result = train(TrainSettings(data_path="my.jsonl", vocab_path="vocab.json"))
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from command_line import check_values, read_settings, to_yaml
from console import (
    EXIT_FAILED,
    EXIT_OK,
    UserError,
    command_hint,
    format_duration,
    plural,
    print_error,
    progress_bar,
    run_command,
    tell,
)
from event_files import EventFiles, check_tensorboard
from input_files import parse_json, read_text
from run_folder import (
    EVENT_FILES,
    RunFolder,
    RunLog,
    StopRequestedError,
    StopSignal,
    disk_error,
    read_metrics,
    write_atomically,
    write_json,
)
from settings import DEFAULT_CONFIG, LEAST_LENGTH, TrainSettings, load_train_settings

if TYPE_CHECKING:
    import numpy as np
    import torch

    from checkpoint import Checkpoint, LoopState
    from dataset import TokenLabelDataset
    from model import Precision
    from vocabulary import Vocabulary

MOST_LINES_SHOWN = 8
_MOST_REPORT_BYTES = 2**26  # of data_report.json, which grows with the kinds of tokens

# Updates without a single finite one after which `on_nonfinite skip` gives up within an epoch.
HOPELESS_STEPS = 20

TRAINED_LENGTH = "trained_length"  # in a checkpoint, beside the configuration of its model
# Of the validation figures, what is stored with the weights.
STORED_FIGURES = (
    "loss",
    "perplexity",
    "body_perplexity",
    "next_token_accuracy",
    "label_loss",
    "label_perplexity",
    "labelled_records",
    "accuracy",
    "accuracy_interval",
    "top2_accuracy",
    "macro_f1",
    "chance_accuracy",
    "above_chance",
    "not_above_chance",
    "too_few_rows",
    "calibration",
)


# Of lists of labels so many names are stored, and how many more there are.
_MOST_NAMES_STORED = 200


def stored_figures(validation: dict[str, Any]) -> dict[str, Any]:
    """What of the figures of an evaluation is kept with the weights.

    Of very many labels `not_above_chance` and `too_few_rows` have the first ones, and
    `names_left_out` counts the others: those not told from chance, those of too few rows.
    """
    stored = {name: validation[name] for name in STORED_FIGURES if name in validation}
    few = stored.get("too_few_rows", [])
    too_few = set(few)
    bad = [name for name in stored.get("not_above_chance", []) if name not in too_few]
    if max(len(bad), len(few)) > _MOST_NAMES_STORED:
        kept, kept_few = bad[:_MOST_NAMES_STORED], few[:_MOST_NAMES_STORED]
        stored |= {
            "not_above_chance": kept + kept_few,
            "too_few_rows": kept_few,
            "names_left_out": {
                "not_told": len(bad) - len(kept),
                "too_few_rows": len(few) - len(kept_few),
            },
        }
    return stored


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    settings = read_command_line(argv)
    return train(settings).exit_code


def read_command_line(argv: list[str]) -> TrainSettings:
    """Settings of config.yaml and flags; with --resume those stored in the run come first."""
    words = {
        "prog": "train_gpt.py",
        "description": "Train a small GPT on rows of tokens, from scratch or pretrained.",
        "epilog": "Without flags: the settings of config.yaml. See README.md for a tour.",
    }
    settings = read_settings(TrainSettings, argv, default_config=DEFAULT_CONFIG, **words)
    folder = RunFolder(settings.output_dir)
    if settings.resume and settings.config is None and folder.settings.exists():
        stored = read_settings(TrainSettings, argv, default_config=folder.settings, **words)
        # A run folder that was moved stores the name it had before.
        settings = replace(stored, output_dir=settings.output_dir)
    return settings


# ------------------------------------------------------------------------------- the run


class StepFigures(NamedTuple):
    """What an update gave, as tensors on the device.

    Attributes:
        step: number of the update, from 1.
        batches: its rows.
        nll: summed negative log likelihood of their tokens, nats.
        norm: of the gradient before it was scaled down.
    """

    step: int
    batches: list[np.ndarray]
    nll: torch.Tensor
    norm: torch.Tensor


@dataclass(frozen=True)
class TrainResult:
    """What training gives back.

    Attributes:
        exit_code: 0, or 130 / 143 / 129 when a signal stopped the run after saving; 1 where
            --check_data met bad rows.
        folder: the run's files.
        best_step: the update whose weights are in best_model.
        validation: figures of the last evaluation, {} if there was none in this call.
    """

    exit_code: int
    folder: RunFolder
    best_step: int
    validation: dict[str, Any]


def train(settings: TrainSettings) -> TrainResult:
    """Train as the settings say and write the run folder.

    The process is left as it was found: torch's random generators (a GPU's where it was in use
    before) and current GPU, signal handlers and all else of the caller's.

    Raises:
        SettingsError: wrong or contradicting settings.
        UserError: bad data, an existing or locked run folder, non-finite loss, no space.
    """
    settings = check_values(settings)
    folder = RunFolder(settings.output_dir)
    if settings.check_data:
        return check_data(settings, folder)
    if settings.tensorboard:
        check_tensorboard()
    folder.check_start(settings.overwrite)
    with folder.locked():
        found, passed_over = None, []
        clearing = settings.overwrite and folder.holds_run()
        if settings.resume:
            from checkpoint import check_places, find_run_to_resume, is_finished

            settings, found = find_run_to_resume(settings, folder, passed_over.append)
        elif folder.holds_run() and not clearing:
            raise UserError(
                f"{folder.root}: a run is here already; go on with --resume, start again with "
                f"--overwrite, or choose another --output_dir"
            )
        if clearing:
            folder.check_inputs(inputs_of(settings))
        if settings.init_from is not None and found is None:
            settings = checked_start(settings)
        if found and is_finished(settings, found.loop):
            tell(
                f"the run in {folder.root} is finished ({found.loop.finished}); "
                f"--num_epochs with more epochs goes on with it"
            )
            return TrainResult(EXIT_OK, folder, found.loop.best_step, {})
        if found:
            check_places(settings)
        train_rows, validation_rows = read_data(settings, tell)
        settings = replace(settings, task=task_of(settings, train_rows))
        with RunLog(folder, later=True) as log, torch_left_alone():
            for line in passed_over:
                log.say(line)
            report = None
            if found is None:
                report = report_and_say(settings, train_rows, validation_rows, log.say)
            config = found.config if found else None
            run = TrainingRun(settings, folder, log, train_rows, validation_rows, config)
            if found is None:
                if settings.resume:
                    log.say(f"nothing to go on with in {folder.root}: starting a new run")
                run.say_plan()
            # From here on files are written. What cannot start has cost no older run.
            try:
                for path in folder.clear() if clearing else ():
                    log.say(f"{path} is not the run's own and stays")
                folder.remove_leftovers()
                log.open()
                if found:
                    run.baselines = stored_baselines(folder)
                    run.go_on_from(found)
                else:
                    run.baselines = report["baselines"]
                    save_report(folder, report)
                write_atomically(folder.settings, to_yaml(settings))
                run.write_events(found.loop.step if found else None)
                return run.fit()
            except OSError as error:
                saved = run.saved_position
                raise disk_error(error, folder, saved and saved[0]) from None


@contextmanager
def torch_left_alone() -> Iterator[None]:
    """Put torch's generators, which a run seeds, and its current GPU back as they were."""
    import torch

    in_use = torch.cuda.is_initialized()
    current = torch.cuda.current_device() if in_use else 0
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if in_use else []):
        try:
            yield
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.set_device(current)


def inputs_of(settings: TrainSettings) -> dict[str, str | Path | None]:
    """The files and folders that a run reads, by the flag that names them."""
    return {
        "--data_path": settings.data_path,
        "--val_data_path": settings.val_data_path,
        "--vocab_path": settings.vocab_path,
        "--init_from": settings.init_from,
        "the codebook": codebook_beside(settings.vocab_path),
    }


def checked_start(settings: TrainSettings) -> TrainSettings:
    """The settings with the shape of the checkpoint to start from.

    Raises:
        UserError: what can be told at once to be wrong with that checkpoint, or peft is missing.
    """
    from lora import require_peft
    from pretrained import with_checkpoint_shape

    if settings.lora_rank:
        require_peft()
    return with_checkpoint_shape(settings)


def check_data(settings: TrainSettings, folder: RunFolder) -> TrainResult:
    """Report what is in the data, bad rows included; no model is built.

    Returns:
        exit code 1 where there are bad rows that `on_bad_row` does not let pass, else 0.
    """
    from data_report import describe_errors
    from dataset import MOST_ERRORS_SHOWN

    folder.check_start(clearing=False)
    train_rows, validation_rows = read_data(settings, tell, keep_bad_rows=True)
    report = report_and_say(settings, train_rows, validation_rows, tell)
    listed_in = None
    if folder.holds_run():
        tell(f"data_report.json of the run in {folder.root} is left as it is")
    else:
        save_report(folder, report)
        listed_in = folder.data_report
        tell(f"written: {folder.data_report}, {folder.data_picture}")
    if report["errors"]["count"]:
        print_error(describe_errors(report, MOST_ERRORS_SHOWN, listed_in))
        return TrainResult(EXIT_FAILED, folder, 0, {})
    return TrainResult(EXIT_OK, folder, 0, {})


def read_data(
    settings: TrainSettings, say: Any, keep_bad_rows: bool = False
) -> tuple[TokenLabelDataset, TokenLabelDataset]:
    """Training and validation rows as the settings name them.

    Args:
        settings: names of the files, how to read and split them.
        say: called with each line for a person.
        keep_bad_rows: collect bad rows in `bad_rows` instead of failing, unless they are to be
            skipped; the validation rows may then be none.

    Raises:
        UserError: missing or bad files.
    """
    from dataset import TokenLabelDataset
    from prepared_folder import has_variants
    from vocabulary import Vocabulary

    if not Path(settings.data_path).exists():
        default = settings.data_path == TrainSettings.data_path
        remedy = (
            "make it with `python prepare_data.py digits`, or name your own rows with "
            "--data_path and --vocab_path"
            if default
            else "name your rows with --data_path (`python prepare_data.py --help` makes some)"
        )
        raise UserError(f"{settings.data_path}: no such file; {remedy}")
    vocabulary = Vocabulary.load(settings.vocab_path)
    skip = settings.on_bad_row == "skip"

    def read(path: str) -> TokenLabelDataset:
        rows = TokenLabelDataset.read(
            path,
            vocabulary,
            max_length=settings.max_length,
            on_bad_row="keep" if keep_bad_rows and not skip else settings.on_bad_row,
            unknown_token=settings.unknown_token,
            group_by=settings.group_by,
        )
        if rows.counts.plain_variants and has_variants(Path(path)):
            raise UserError(
                f"{path}: an older version of prepare_data.py marked its variants as "
                f"`meta.variant`, and an epoch would visit all of them: prepare the data again "
                f"(prepared.json beside it has the settings)"
            )
        for line in rows.counts.lines():
            say(f"{path}: {line}")
        return rows

    rows = read(settings.data_path)
    default_key = settings.group_by == TrainSettings.group_by
    if settings.group_by and not default_key and len(rows) and not (rows.groups_N >= 0).any():
        raise UserError(f"{settings.data_path}: no row has the key --group_by {settings.group_by}")
    if settings.val_data_path is not None:
        return rows, read(settings.val_data_path)
    try:
        return rows.split(settings.validation_fraction, settings.seed)
    except UserError:
        if not rows.bad_rows:
            raise
        return rows, rows.subset(slice(0, 0))  # the bad rows are to be told nonetheless


def task_of(settings: TrainSettings, rows: TokenLabelDataset) -> str:
    """The task: as asked for, else what the training rows are made for.

    Raises:
        UserError: the rows are not made for the task asked for.
    """
    unlabelled = int((rows.classes_N < 0).sum())
    if settings.classifier == "head" and unlabelled:
        raise UserError(
            f"{settings.data_path}: --classifier head needs a label in every training row, and "
            f"{unlabelled:,} of {plural(len(rows), 'row')} have none"
        )
    if settings.class_weights != "none" and not rows.has_labels:
        raise UserError(f"{settings.data_path}: --class_weights needs labels, and no row has one")
    if settings.task == "classify" and not rows.has_labels:
        raise UserError(f"{settings.data_path}: --task classify needs labels, and no row has one")
    if settings.task == "instruct" and not rows.has_prompts:
        raise UserError(
            f"{settings.data_path}: --task instruct needs rows of `instruction` and `output`: "
            f"`python prepare_data.py instructions`"
        )
    if settings.task != "auto":
        return settings.task
    if rows.has_prompts:
        return "instruct"
    return "classify" if rows.has_labels else "lm"


def trained_length(
    settings: TrainSettings,
    *parts: TokenLabelDataset,
    stored: int | None = None,
) -> int:
    """What a model is good for, in tokens: beyond its longest row it has never seen a position.

    A pretrained model knows more positions than the rows at hand show; one of ours says how many.

    Args:
        settings: of the run.
        parts: all its rows.
        stored: what the run's checkpoint says, since the model it began from may be gone.
    """
    if type(stored) is int and 0 < stored <= settings.max_length:
        return stored
    started = 0 if settings.init_from is None else length_of_start(settings)
    longest = max(int(rows.lengths_N.max()) for rows in parts if len(rows))
    return min(settings.max_length, max(longest, started, LEAST_LENGTH))


def length_of_start(settings: TrainSettings) -> int:
    """The trained length of the model of ours that a run begins from, max_length of a foreign one.

    Its settings.yaml tells it; a folder of another tool has none, or one that is not like ours.
    """
    from hub import folder_of
    from model_folder import SETTINGS

    try:
        stored = folder_of(settings.init_from, "model") / SETTINGS
        return load_train_settings(stored).max_length if stored.is_file() else settings.max_length
    except UserError:
        return settings.max_length


def codebook_beside(vocab_path: str) -> Path | None:
    """codebook.npz beside the vocabulary, None where there is none."""
    codebook = Path(vocab_path).with_name("codebook.npz")
    return codebook if codebook.exists() else None


def report_and_say(
    settings: TrainSettings,
    train_rows: TokenLabelDataset,
    validation_rows: TokenLabelDataset,
    say: Any,
) -> dict[str, Any]:
    """Make the data report and tell it."""
    from data_report import describe_baselines, describe_report, report_data

    codebook = codebook_beside(settings.vocab_path)
    report = report_data(train_rows, validation_rows, settings, codebook)
    for text in (describe_report(report), describe_baselines(report)):
        if text:
            say(text)
    return report


def save_report(folder: RunFolder, report: dict[str, Any]) -> None:
    """Write data_report.json and its picture."""
    from plots import draw_data_report

    write_json(folder.data_report, report)
    draw_data_report(folder.data_picture, report)


def stored_baselines(folder: RunFolder) -> dict[str, float]:
    """The baselines of the run's data report, {} where it is missing or damaged."""
    try:
        return parse_json(read_text(folder.data_report, _MOST_REPORT_BYTES))["baselines"]
    except (UserError, ValueError, KeyError, TypeError):
        return {}


class TrainingRun:
    """One run: model, optimizer, data and position; `fit` is the training loop."""

    def __init__(
        self,
        settings: TrainSettings,
        folder: RunFolder,
        log: RunLog,
        train_rows: TokenLabelDataset,
        validation_rows: TokenLabelDataset,
        stored_config: dict[str, Any] | None = None,
    ):
        """
        Args:
            settings: of the run.
            folder: where its files lie.
            log: what it says goes there.
            train_rows, validation_rows: what it learns from and is measured on.
            stored_config: the model's configuration from the checkpoint that the run will go on
                from, None for a new run.
        """
        import numpy as np
        import torch

        from checkpoint import LoopState, fingerprints
        from model import (
            choose_device,
            choose_precision,
            count_parameters,
            starting_model,
        )
        from training_step import make_step

        stored_length = None
        if stored_config is not None:
            stored_config = dict(stored_config)
            stored_length = stored_config.pop(TRAINED_LENGTH, None)
        self.settings, self.folder, self.log = settings, folder, log
        self.by_head = settings.classifier == "head"
        self.trained_length = trained_length(
            settings, train_rows, validation_rows, stored=stored_length
        )
        if self.by_head:
            if not validation_rows.has_labels:
                raise UserError("--classifier head needs labelled validation rows")
            train_rows, validation_rows = (
                rows.without_tails() for rows in (train_rows, validation_rows)
            )
        # Of each row: what the losses are means over, and the tokens that the speed is told by.
        self.counts_N = np.ones(len(train_rows), int) if self.by_head else train_rows.scored_counts
        self.read_N = train_rows.lengths_N - (0 if self.by_head else 1)
        self.rows, self.validation_rows = train_rows, validation_rows
        self.vocabulary: Vocabulary = train_rows.vocabulary
        self.state = LoopState()
        self.saved_position: tuple[int, int, str] | None = None  # of the last checkpoint
        self.baselines: dict[str, float] = {}  # of the data report

        self.device: torch.device = choose_device(settings.device)
        self.precision: Precision = choose_precision(settings.precision, self.device)
        self.codebook = codebook_beside(settings.vocab_path)
        start = starting_model(
            settings, self.vocabulary, self.code_embeddings, stored_config, log.say
        )
        self.model, self.adapter = start.model.to(self.device), start.adapter
        self.optimizers = make_optimizers(self.model, settings, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision.name == "fp16")
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        log.say(
            f"model: {settings.n_layer} layers, {settings.n_head} heads, {settings.n_embd} wide, "
            f"{settings.n_positions} positions, {count_parameters(self.model):,} parameters"
            + (f", {trained:,} of them trained" if settings.freeze_backbone else "")
            + (
                f"; its head names {plural(len(self.vocabulary.labels), 'label')} and it predicts "
                f"no tokens"
                if self.by_head
                else ""
            )
        )
        log.say(
            f"device: {self.device} ({torch.get_num_threads()} threads); "
            f"precision: {self.precision.name}: {self.precision.reason}"
        )
        self.gradients = make_step(
            self.model, train_rows, settings, self.precision, self.scaler, log.say
        )
        self.waiting: list[StepFigures] = []
        rows_an_epoch = round(len(train_rows) * train_rows.epoch_share)
        rows_an_update = settings.batch_size * settings.grad_accumulation_steps
        self.steps_per_epoch = math.ceil(rows_an_epoch / rows_an_update)
        self.total_steps = self.steps_per_epoch * settings.num_epochs
        self.best_metric = settings.best_metric
        if self.by_head and self.best_metric == "loss":
            self.best_metric = "label_loss"  # the one loss that there is
        if self.best_metric == "auto":
            by_label = validation_rows.has_labels and settings.task != "lm"
            self.best_metric = "label_loss" if by_label else "loss"
        elif self.best_metric != "loss" and not validation_rows.has_labels:
            raise UserError(f"--best_metric {self.best_metric} needs labelled validation rows")
        label_accuracy = self.best_metric == "label_accuracy"
        self.best_figure = "accuracy" if label_accuracy else self.best_metric  # its stored name
        self.belongs_to = (
            fingerprints(
                {"the training data": self.rows, "the validation data": self.validation_rows},
                self.vocabulary,
                self.codebook,
            )
            | start.belongs_to
        )

    def code_embeddings(self) -> dict[str, np.ndarray]:
        """Starting embeddings of image codes: like patches start with like vectors."""
        if self.codebook is None:
            return {}
        from image_tokens import Codebook

        codebook = Codebook.load(self.codebook)
        vectors = codebook.embeddings(self.settings.n_embd, self.settings.seed)
        pairs = zip(codebook.code_tokens, vectors, strict=True)
        known = {token: vector for token, vector in pairs if token in self.vocabulary.ids}
        if known:
            self.log.say(f"{len(known)} code embeddings start from the patches of {self.codebook}")
        return known

    # ---------------------------------------------------------------------- begin, go on

    def computed_by(self) -> dict[str, Any]:
        """What else the last bits of the result depend on, by name."""
        from checkpoint import way_of_computing

        settings = self.settings
        found = way_of_computing(self.device, self.precision.name, self.gradients.compiled)
        if settings.grad_accumulation_steps > 1 or settings.class_weights != "none":
            # Checkpoints of older versions, which did both otherwise, do not have it.
            found["an update"] = "of rows drawn together, class weights not divided by their sum"
        return found

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint back.

        Raises:
            UserError: it was made with other data or another vocabulary.
        """
        from checkpoint import load_checkpoint, what_changed

        load_checkpoint(checkpoint, self.model, self.optimizers, self.scaler, self.belongs_to)
        self.state, self.saved_position = checkpoint.loop, checkpoint.loop.position
        self.state.finished = ""
        self.log.keep_rows(self.state.metrics_rows)
        self.log.say(f"going on from step {self.state.step:,} ({checkpoint.path})")
        self.say_plan()  # its first step shows whether compiling works
        lines, exact = what_changed(checkpoint, self.settings, self.computed_by(), self.total_steps)
        for line in lines:
            self.log.say(line)
        self.look_at_best_model(exact)

    def write_events(self, resumed_at: int | None = None) -> None:
        """Have the figures written for TensorBoard as well; a file begun late gets them all."""
        if not self.settings.tensorboard:
            return
        is_first = not any(self.folder.root.glob(EVENT_FILES))
        self.log.events = EventFiles(self.folder.root, resumed_at)
        for row in read_metrics(self.folder.metrics) if is_first else ():
            self.log.events.record(row)

    def look_at_best_model(self, exact: bool) -> None:
        """Take account of a best_model that is not the one the checkpoint knows of.

        Args:
            exact: this run repeats what came after the checkpoint, its best model included.
        """
        from model_folder import read_validation

        state, folder = self.state, self.folder.best_model
        if state.best_value is None and not folder.exists():
            return
        try:
            stored = read_validation(folder)
        except UserError as error:
            self.log.say(f"warning: {error}; the next evaluation counts as the best so far")
            state.best_value, state.best_step = None, 0
            return
        step, value = stored.get("step"), stored.get(self.best_figure)
        if not exact and isinstance(step, int) and step > state.step and isinstance(value, float):
            state.best_value, state.best_step = value, step
            self.log.say(
                f"{folder} was saved after the checkpoint, at step {step:,}; it stays until a "
                f"better one comes"
            )

    def save_checkpoint(self) -> None:
        """Save everything this run needs to go on, unless it is saved already."""
        from checkpoint import save_checkpoint

        self.collect_figures()
        if self.state.position == self.saved_position:
            return
        self.log.sync()  # the rows that the checkpoint counts
        save_checkpoint(
            self.folder.checkpoints,
            self.model,
            self.optimizers,
            self.scaler,
            self.state,
            {
                "settings": asdict(self.settings),
                "belongs_to": self.belongs_to,
                "computed_by": self.computed_by(),
                "config": {
                    **json.loads(self.model.config.to_json_string()),
                    TRAINED_LENGTH: self.trained_length,
                },
            },
            keep=self.settings.keep_checkpoints,
        )
        self.saved_position = self.state.position

    def save_model(self, folder: Path, validation: dict[str, Any]) -> None:
        """Write the current weights as a model folder, their validation figures inside."""
        from lora import found_from_anywhere
        from model_folder import save_model_folder

        model, adapter = self.model, self.adapter
        if adapter is not None and self.settings.merge_lora:
            model, adapter = adapter.merged(), None
        settings = replace(self.settings, max_length=self.trained_length)
        if adapter is not None:
            settings = replace(settings, init_from=found_from_anywhere(settings.init_from))
        save_model_folder(
            model,
            folder,
            self.vocabulary,
            settings,
            self.codebook,
            {
                "measured_on": "the validation rows of the training run",
                "step": self.state.step,
                "rows": len(self.validation_rows),
                **stored_figures(validation),
                "baselines": self.baselines,
            },
            adapter,
        )

    # ---------------------------------------------------------------------- the loop

    def fit(self) -> TrainResult:
        """Train to the end, to early stopping, or until a signal asks to stop."""
        from weight_average import averaged

        settings, state = self.settings, self.state
        self.model.train()
        validation: dict[str, Any] = {}
        finished = f"{settings.num_epochs} epochs"
        saved_at = time.monotonic()
        self.clock_zero = saved_at - state.seconds
        table = EpochTable(self.log, self.validation_rows.has_labels)
        with StopSignal() as stop:
            try:
                if self.saved_position is None:
                    self.save_checkpoint()  # from now on there is one to go on from
                while state.epoch < settings.num_epochs:
                    steps = self.epoch_steps(state.epoch)
                    with progress_bar(
                        f"epoch {state.epoch + 1}/{settings.num_epochs}",
                        len(steps),
                        "step",
                        state.epoch_step,
                    ) as bar:
                        for batches in steps[state.epoch_step :]:
                            stop.raise_if_requested()
                            self.update(batches)
                            if self.checkpoint_is_due(saved_at):
                                self.save_checkpoint()
                                saved_at = time.monotonic()
                            bar.update()
                    self.collect_figures()
                    if state.epoch_tokens == 0:
                        raise UserError(
                            f"no step of epoch {state.epoch + 1} had a finite loss and gradient: "
                            f"lower --learning_rate"
                        )
                    with averaged(self.optimizers):
                        validation = self.validate(stop)
                        state.seconds = time.monotonic() - self.clock_zero
                        is_best = self.note_progress(validation)
                    self.record_evaluation(validation)
                    table.add(state, validation, is_best)
                    state.epoch, state.epoch_step = state.epoch + 1, 0
                    state.epoch_nll, state.epoch_tokens = 0.0, 0
                    patience = settings.early_stopping_patience
                    if 0 < patience <= state.evaluations_without_progress:
                        finished = "early stopping"
                        self.log.say(
                            f"early stopping: {self.best_metric} has not improved for "
                            f"{plural(patience, 'evaluation')}"
                        )
                        break
                if not validation:  # resumed with nothing left to do
                    with averaged(self.optimizers):
                        validation = self.validate(stop)
                        if state.best_value is None:
                            self.note_progress(validation)
            except StopRequestedError:
                self.save_checkpoint()
                hint = command_hint("train_gpt.py", "--resume", "--output_dir", self.folder.root)
                self.log.say(
                    f"stopped at step {state.step:,} of {self.total_steps:,} and saved; go on "
                    f"with: {hint}"
                )
                return TrainResult(
                    stop.exit_code or EXIT_OK, self.folder, state.best_step, validation
                )
            with averaged(self.optimizers):
                self.save_model(self.folder.final_model, validation)
            self.draw_curves()
            # Last: whatever is missing after a crash, --resume makes.
            state.finished = finished
            self.save_checkpoint()
        self.say_result()
        return TrainResult(EXIT_OK, self.folder, state.best_step, validation)

    def epoch_steps(self, epoch: int) -> list[list[np.ndarray]]:
        """The batches of each update of an epoch: row numbers, follow from seed and epoch.

        The rows of an update are chosen first and then divided, so that a smaller batch_size with
        as much more accumulation learns from the same rows in the same order of updates.
        """
        settings = self.settings
        size = settings.batch_size
        updates = self.rows.epoch_batches(
            size * settings.grad_accumulation_steps, settings.seed, epoch
        )
        return [[rows[i : i + size] for i in range(0, len(rows), size)] for rows in updates]

    def update(self, batches: list[np.ndarray]) -> None:
        """One optimizer step on the rows of `batches`, and its share of figures and averages.

        Where loss or gradient is not a finite number, weights and optimizers stay what they are.

        Raises:
            UserError: so it was, and `on_nonfinite` says to stop. On a GPU, where the host does
                not wait for each figure, some steps later.
        """
        import torch

        settings, state = self.settings, self.state
        learning_rate = learning_rate_at(state.step, self.total_steps, settings)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
        nll = self.gradients.add_gradients(batches)
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
        self.waiting.append(StepFigures(state.step + 1, batches, nll, norm))
        # The norm is of all gradients together, so that one optimizer never moves without the
        # other. (GradScaler.step would ask each about its own gradients only.)
        is_finite = torch.isfinite(norm) & torch.isfinite(nll)
        if self.device.type == "cuda":  # the host does not wait to know
            for optimizer in self.optimizers:
                optimizer.found_inf = (~is_finite).float()  # where 1, they pass over the step
        else:
            self.collect_figures()
        state.step += 1
        state.epoch_step += 1
        if self.device.type == "cuda" or is_finite:
            for optimizer in self.optimizers:
                optimizer.step()
            if settings.ema_decay:
                from weight_average import update_average

                update_average(self.optimizers, settings.ema_decay, state.step)
        self.scaler.update()
        self.gradients.clear_gradients()
        if state.step % settings.log_steps == 0:
            self.collect_figures()
            state.seconds = time.monotonic() - self.clock_zero
            self.record_training(learning_rate, float(norm))
        state.seconds = time.monotonic() - self.clock_zero

    def collect_figures(self) -> None:
        """Add the figures of the last updates to the sums.

        Raises:
            UserError: one was not, and `on_nonfinite` says to stop.
        """
        import numpy as np
        import torch

        state, waiting, self.waiting = self.state, self.waiting, []
        if not waiting:
            return
        pairs = torch.stack([torch.stack((each.nll, each.norm)) for each in waiting]).tolist()
        for each, (nll, norm) in zip(waiting, pairs, strict=True):
            # In fp16 a gradient that overflows is ordinary: the scaler passes over it.
            if math.isfinite(nll) and (math.isfinite(norm) or self.scaler.is_enabled()):
                rows = np.concatenate(each.batches)
                count = int(self.counts_N[rows].sum())
                state.window_nll += nll
                state.window_tokens += count
                state.window_read += int(self.read_N[rows].sum())
                state.epoch_nll += nll
                state.epoch_tokens += count
            else:
                self.note_nonfinite(each, nll)

    def note_nonfinite(self, step: StepFigures, nll: float) -> None:
        """Say which step was passed over and what it was fed.

        Raises:
            UserError: `on_nonfinite` says to stop, or no step of the epoch was finite so far.
        """
        import numpy as np

        lines = np.sort(self.rows.lines_N[np.concatenate(step.batches)]).tolist()
        shown = ", ".join(f"{line}" for line in lines[:MOST_LINES_SHOWN])
        if len(lines) > MOST_LINES_SHOWN:
            shown += f" and {len(lines) - MOST_LINES_SHOWN} more"
        what = (
            f"the gradient is no longer finite at step {step.step:,} (loss {nll:.4g}; lines "
            f"{shown} of {self.settings.data_path}); nothing was updated by it"
        )
        nothing_learned = self.state.epoch_tokens == 0 and self.state.epoch_step >= HOPELESS_STEPS
        if self.settings.on_nonfinite == "stop" or nothing_learned:
            raise UserError(
                f"{what}. Lower --learning_rate"
                + (", or use --precision fp32" if self.precision.name != "fp32" else "")
                + ("" if nothing_learned else ", or pass over such steps: --on_nonfinite skip")
            )
        self.log.say(f"warning: {what}")

    def checkpoint_is_due(self, saved_at: float) -> bool:
        """Whether it is time for a checkpoint, by steps or by minutes."""
        every, minutes = self.settings.checkpoint_steps, self.settings.checkpoint_minutes
        return (every > 0 and self.state.step % every == 0) or (
            minutes > 0 and time.monotonic() - saved_at > 60 * minutes
        )

    # ---------------------------------------------------------------------- evaluation

    def validate(self, stop: StopSignal) -> dict[str, Any]:
        """Figures of the current weights on the validation rows."""
        from evaluation import score_rows

        scores = score_rows(
            self.model,
            self.validation_rows,
            self.precision,
            batch_size=max(64, self.settings.batch_size),
            each_batch=stop.raise_if_requested,
            description="validating",
            to_calibrate=self.validation_rows.has_labels,
        )
        if not scores.is_finite.all():
            raise UserError(f"the validation {self.best_metric} is no longer finite")
        figures = scores.figures(self.validation_rows)
        if self.validation_rows.has_labels:
            figures["calibration"] = asdict(scores.calibration(self.validation_rows))
        return figures

    def note_progress(self, validation: dict[str, Any]) -> bool:
        """Keep the weights as best_model if they are; count evaluations without progress."""
        state = self.state
        value = float(validation[self.best_figure])
        if not math.isfinite(value):
            raise UserError(f"the validation {self.best_metric} is no longer finite")
        better = state.best_value is None or (
            value > state.best_value if self.best_figure == "accuracy" else value < state.best_value
        )
        if better:
            state.best_value, state.best_step = value, state.step
            state.evaluations_without_progress = 0
            self.save_model(self.folder.best_model, validation)
        else:
            state.evaluations_without_progress += 1
        return better

    # ---------------------------------------------------------------------- telling

    def say_plan(self) -> None:
        """Say what is ahead, and how long it will take by the time of real batches."""
        left = self.total_steps - self.state.step
        tokens = round(float(self.read_N @ self.rows.visits))
        rows = self.settings.batch_size * self.settings.grad_accumulation_steps
        if left > 0:
            self.log.say(
                f"plan: {plural(self.settings.num_epochs, 'epoch')} of "
                f"{plural(self.steps_per_epoch, 'step')} ({rows} rows each), {left:,} steps to "
                f"go, {tokens:,} tokens an epoch; about "
                f"{format_duration(left * self.seconds_per_step())} without early stopping"
            )

    def seconds_per_step(self) -> float:
        """Seconds of one update, evaluation's share included; measured, nothing is changed."""
        import torch

        from model import random_states, set_random_states
        from muon import Muon, by_shape, orthogonalize

        muon = [optimizer for optimizer in self.optimizers if isinstance(optimizer, Muon)]
        matrices = [p for optimizer in muon for p in optimizer.param_groups[0]["params"]]
        steps = self.epoch_steps(self.state.epoch)
        tokens = [sum(int(self.rows.lengths_N[b].sum()) for b in batches) for batches in steps]
        mean = sum(tokens) / len(tokens)
        typical = min(zip(tokens, steps, strict=True), key=lambda pair: abs(pair[0] - mean))[1]
        self.model.train()
        times = []
        # Dropout draws random numbers, which the run itself must find untouched.
        states = random_states(self.device)
        settling = self.gradients.settling_runs
        for _ in range(settling + 2):
            began = time.perf_counter()
            float(self.gradients.add_gradients(typical))
            for alike in by_shape(matrix.grad for matrix in matrices).values():
                orthogonalize(torch.stack(alike))
            getattr(torch, self.device.type).synchronize()
            times.append(time.perf_counter() - began)
            self.gradients.clear_gradients()
        set_random_states(states, self.device)
        # A forward pass is a third of a step's arithmetic.
        an_epoch = float(self.read_N @ self.rows.visits)
        evaluation = int(self.validation_rows.lengths_N.sum()) / (3 * an_epoch)
        return min(times[settling:]) * (1.1 + evaluation)

    def record_training(self, learning_rate: float, norm: float) -> None:
        """Write a training row to metrics.jsonl."""
        state = self.state
        elapsed = state.seconds - state.window_began
        self.record(
            {
                "kind": "train",
                "step": state.step,
                "epoch": state.epoch + state.epoch_step / self.steps_per_epoch,
                "seconds": round(state.seconds, 3),
                "loss": mean_or_none(state.window_nll, state.window_tokens),
                "learning_rate": learning_rate,
                "grad_norm": norm if math.isfinite(norm) else None,
                "tokens_per_second": round(state.window_read / max(elapsed, 1e-9), 1),
            }
        )
        state.window_nll, state.window_tokens, state.window_read = 0.0, 0, 0
        state.window_began = state.seconds

    def record_evaluation(self, validation: dict[str, Any]) -> None:
        """Write a validation row to metrics.jsonl."""
        state = self.state
        row = {
            "kind": "validation",
            "step": state.step,
            "epoch": state.epoch + 1,
            "seconds": round(state.seconds, 3),
            "train_loss": mean_or_none(state.epoch_nll, state.epoch_tokens),
        }
        # A model that only names labels has no figures of tokens.
        of_tokens = ("loss", "perplexity", "body_perplexity", "next_token_accuracy")
        labels = ("label_loss", "label_perplexity")
        row |= {name: validation[name] for name in of_tokens + labels if name in validation}
        if "label_loss" in validation:
            row |= {
                "label_accuracy": validation["accuracy"],
                "raw_ece": validation["calibration"]["raw_ece"],
                "ece": validation["calibration"]["ece"],
            }
            if validation["calibration"]["rows"] < validation["labelled_records"]:
                row["calibration_rows"] = validation["calibration"]["rows"]  # of a sample
        self.record(row)

    def record(self, row: dict[str, Any]) -> None:
        """Append to metrics.jsonl what a checkpoint counts."""
        self.log.record(row)
        self.state.metrics_rows += 1

    def draw_curves(self) -> None:
        """Draw the pictures of metrics.jsonl."""
        from plots import draw_training_curves

        draw_training_curves(self.folder.plots, read_metrics(self.folder.metrics))

    def say_result(self) -> None:
        """Say how the run ended, what its best model is worth and what to type next."""
        from evaluation_report import describe_validation
        from model_folder import read_validation

        state, folder = self.state, self.folder
        self.log.say(
            f"done in {format_duration(state.seconds)}: best {self.best_metric} "
            f"{state.best_value:.4f} at step {state.best_step:,}; model in {folder.best_model}, "
            f"curves in {folder.plots}"
        )
        stored = read_validation(folder.best_model)
        if stored:  # a run of an older version may have nothing better since it goes on
            self.log.say(describe_validation(stored))
        test_file = Path(self.settings.data_path).with_name("test.jsonl")
        use = ["--test_data", test_file] if test_file.exists() else ["--help"]
        hint = command_hint("inference.py", "--model_path", folder.best_model, *use)
        self.log.say(f"next: {hint}")


def mean_or_none(total: float, count: int) -> float | None:
    """The mean, None of nothing."""
    return total / count if count else None


class EpochTable:
    """One printed row per epoch, the heading before the first."""

    def __init__(self, log: RunLog, labelled: bool):
        self.log, self.labelled, self.headed = log, labelled, False

    def add(self, state: LoopState, validation: dict[str, Any], is_best: bool) -> None:
        """Print the row of the epoch just evaluated; `*` marks the best so far."""
        cells = {
            "epoch": f"{state.epoch + 1}",
            "step": f"{state.step:,}",
            "train loss": f"{state.epoch_nll / state.epoch_tokens:.4f}",
        }
        if "loss" in validation:  # else a model that only names labels
            cells["val loss"] = f"{validation['loss']:.4f}"
            cells["perplexity"] = f"{validation['perplexity']:.2f}"
            cells["token acc"] = f"{validation['next_token_accuracy']:.4f}"
        if self.labelled:
            cells["label loss"] = f"{validation['label_loss']:.4f}"
            cells["label acc"] = f"{validation['accuracy']:.4f}"
        cells["time"] = format_duration(state.seconds)
        widths = {name: max(len(name), 9) for name in cells}
        if not self.headed:
            self.log.say("  ".join(name.rjust(widths[name]) for name in cells))
            self.headed = True
        row = "  ".join(cell.rjust(widths[name]) for name, cell in cells.items())
        self.log.say(row + ("  *" if is_best else ""))


# ------------------------------------------------------------------------------- optimizer


def make_optimizers(
    model: torch.nn.Module, settings: TrainSettings, device: torch.device
) -> list[torch.optim.Optimizer]:
    """AdamW (Loshchilov and Hutter, 2019), fused; with `optimizer muon` Muon for the blocks.

    Only matrices decay. Embeddings, the head tied to them, norms and biases are always AdamW's.
    """
    import torch

    from classifier_head import head_name, is_classifier
    from muon import Muon

    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() >= 2]
    others = [p for p in trained if p.dim() < 2]
    optimizers: list[torch.optim.Optimizer] = []
    if settings.optimizer == "muon":
        outside = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        by_head = is_classifier(model)
        head = getattr(model, head_name(model)) if by_head else model.get_output_embeddings()
        outside += [model.get_input_embeddings(), head]
        of_tokens = {id(p) for module in outside for p in module.parameters()}
        in_blocks = [p for p in matrices if p.dim() == 2 and id(p) not in of_tokens]
        optimizers.append(Muon(in_blocks, weight_decay=settings.weight_decay))
        taken = set(map(id, in_blocks))
        matrices = [p for p in matrices if id(p) not in taken]
    adamw = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        fused=device.type in ("cpu", "cuda", "mps"),
    )
    return [*optimizers, adamw]


def learning_rate_at(step: int, total_steps: int, settings: TrainSettings) -> float:
    """Learning rate of update `step` (from 0): linear warm-up, then half a cosine."""
    warmup = round(settings.warmup_fraction * total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    lowest = settings.final_lr_fraction
    return settings.learning_rate * (lowest + (1 - lowest) * cosine)


if __name__ == "__main__":
    run_command(main)
