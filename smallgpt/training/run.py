"""A training run: its parts and its loop."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from smallgpt.console import command_hint, format_duration, plural, progress_bar
from smallgpt.errors import UserError
from smallgpt.exit_codes import EXIT_OK
from smallgpt.options.training import TrainSettings
from smallgpt.training.best_model import stored_figures
from smallgpt.training.data import codebook_beside, trained_length
from smallgpt.training.event_files import EventFiles
from smallgpt.training.journal import EpochTable, mean_or_none
from smallgpt.training.metrics_file import read_metrics
from smallgpt.training.optimizers import make_optimizers
from smallgpt.training.run_folder import EVENT_FILES, RunFolder
from smallgpt.training.run_log import RunLog
from smallgpt.training.schedule import learning_rate_at
from smallgpt.training.stopping import StopRequestedError, StopSignal

if TYPE_CHECKING:
    import numpy as np
    import torch

    from smallgpt.model.hardware import Precision
    from smallgpt.rows.dataset import TokenLabelDataset
    from smallgpt.tokens.vocabulary import Vocabulary
    from smallgpt.training.checkpoint import Checkpoint


MOST_LINES_SHOWN = 8

# Updates without a single finite one after which `on_nonfinite skip` gives up within an epoch.
HOPELESS_STEPS = 20

TRAINED_LENGTH = "trained_length"  # in a checkpoint, beside the configuration of its model


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

        from smallgpt.model.build import count_parameters, starting_model
        from smallgpt.model.hardware import choose_device, choose_precision
        from smallgpt.training.gradients import make_step
        from smallgpt.training.loop_state import LoopState
        from smallgpt.training.resume import fingerprints

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
        from smallgpt.tokens.codebook import Codebook

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
        from smallgpt.training.resume import way_of_computing

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
        from smallgpt.training.checkpoint import load_checkpoint
        from smallgpt.training.resume import what_changed

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
        from smallgpt.model.weights_file import read_validation

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
        from smallgpt.training.checkpoint import save_checkpoint

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
        from smallgpt.model.folder import save_model_folder
        from smallgpt.model.lora import found_from_anywhere

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
        from smallgpt.training.weight_average import averaged

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
        from smallgpt.rows.batching import epoch_batches

        settings = self.settings
        size = settings.batch_size
        updates = epoch_batches(
            self.rows, size * settings.grad_accumulation_steps, settings.seed, epoch
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
                from smallgpt.training.weight_average import update_average

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
        from smallgpt.evaluation.scoring import score_rows

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

        from smallgpt.model.hardware import random_states, set_random_states
        from smallgpt.training.muon import Muon, by_shape, orthogonalize

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
        from smallgpt.training.pictures import draw_training_curves

        draw_training_curves(self.folder.plots, read_metrics(self.folder.metrics))

    def say_result(self) -> None:
        """Say how the run ended, what its best model is worth and what to type next."""
        from smallgpt.evaluation.report import describe_validation
        from smallgpt.model.weights_file import read_validation

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
