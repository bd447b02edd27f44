"""Train a small GPT on rows of tokens, from scratch or from a pretrained model.

    python prepare_data.py digits                 # once: data/digits
    python train_gpt.py                           # options from config.yaml
    python train_gpt.py --data_path my.jsonl --vocab_path vocab.json --output_dir outputs/runs/my
    python train_gpt.py --resume                  # go on after Ctrl-C or a crash
    python train_gpt.py --check_data              # look at the data only
    python train_gpt.py --learning_curve          # would more rows help?
    python train_gpt.py --processes 4             # on more cores or GPUs; several: docs/scaling.md
    python train_gpt.py --init_from DIR_OR_NAME --lora_rank 8 ...

From Python:

    from train_gpt import TrainSettings, train
    result = train(TrainSettings(data_path="my.jsonl", vocab_path="vocab.json"))
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallgpt.command import run_command
from smallgpt.console import plural, print_error, progress_bar, say
from smallgpt.errors import UserError
from smallgpt.exit_codes import EXIT_FAILED, EXIT_OK
from smallgpt.files.writing import write_text
from smallgpt.options.config_file import to_yaml
from smallgpt.options.option import AUTO
from smallgpt.options.reader import check_settings, read_settings
from smallgpt.options.training import DEFAULT_CONFIG, TrainSettings
from smallgpt.processes import (
    ALONE,
    LostContactError,
    Processes,
    are_joined,
    check_count,
    joined,
)
from smallgpt.training.event_files import check_tensorboard
from smallgpt.training.launch import COMMAND, launch, write_result
from smallgpt.training.run_folder import RunFolder, disk_error
from smallgpt.training.run_log import RunLog
from smallgpt.training.stopping import StopRequestedError, StopSignal

if TYPE_CHECKING:  # they import torch; --help and wrong flags answer without
    from smallgpt.rows.dataset import TokenLabelDataset
    from smallgpt.training.best_model import BestModel
    from smallgpt.training.budget import Budget
    from smallgpt.training.checkpoint import Checkpoint, Checkpoints
    from smallgpt.training.journal import Journal
    from smallgpt.training.learning_curve import LearningCurve
    from smallgpt.training.loop_state import LoopState
    from smallgpt.training.run import Evaluation, Run
    from smallgpt.training.update import Updater


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


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    settings = read_command_line(argv)
    command = os.environ.get(COMMAND, shlex.join(["train_gpt.py", *argv]))
    return train(settings, command or None).exit_code


def read_command_line(argv: list[str]) -> TrainSettings:
    """Settings of config.yaml and flags; with --resume of the run's settings.yaml and flags."""
    words: dict[str, Any] = {
        "prog": "train_gpt.py",
        "description": "Train a small GPT on rows of tokens, from scratch or pretrained.",
        "epilog": "Without flags: the settings of config.yaml. See README.md for a tour.",
    }
    settings = read_settings(TrainSettings, argv, default_config=DEFAULT_CONFIG, **words)
    folder = RunFolder(settings.output_dir)
    if settings.resume and settings.config is None and folder.settings.exists():
        stored = read_settings(TrainSettings, argv, default_config=folder.settings, **words)
        # How many torchrun starts is its own matter, whatever the run had before.
        processes = settings.processes if "RANK" in os.environ else stored.processes
        # A run folder that was moved stores the name it had before.
        settings = replace(stored, output_dir=settings.output_dir, processes=processes)
    return settings


def train(settings: TrainSettings, command: str | None = None) -> TrainResult:
    """Train as the settings say and write the run folder.

    Afterwards torch's random generators, current GPU and signal handlers are as before.

    Args:
        command: the command line, where there is one; it is noted in the model folders.

    Raises:
        SettingsError: wrong or contradicting settings.
        UserError: bad data, an existing or locked run folder, non-finite loss, no space.
    """
    settings = check_settings(settings)
    folder = RunFolder(settings.output_dir)
    if settings.check_data:
        return check_data(settings, folder)
    check_count(settings.processes)
    if settings.processes > 1 and not are_joined():
        check_before_launch(folder, settings)
        code, found = launch(settings, command)
        return TrainResult(code, folder, found.get("best_step", 0), found.get("validation", {}))
    with joined(settings.exchange_timeout) as processes, ExitStack() as stack:
        if processes.are_many:
            from smallgpt.training.resume import what_must_agree

            processes.check_same(what_must_agree(settings))
        processes.on_first(lambda: stack.enter_context(begun(folder, settings)))
        log = stack.enter_context(RunLog(folder, later=True, shown=processes.is_first))
        result = train_in(folder, settings, log, command, processes)
        if processes.is_first:
            write_result(result.best_step, result.validation)
        return result


@contextmanager
def begun(folder: RunFolder, settings: TrainSettings) -> Iterator[None]:
    """The run folder, checked and locked.

    Raises:
        UserError: a run or files of others are there, or another process trains there.
    """
    if settings.tensorboard:
        check_tensorboard()
    folder.check_start(settings.overwrite)
    # Before the data is read. It loads torch, for which a wrong path need not wait.
    if settings.device not in ("auto", "cpu") and Path(settings.data_path).exists():
        from smallgpt.model.hardware import check_device

        check_device(settings.device)
    with folder.locked():
        check_free(folder, settings)
        yield


def check_free(folder: RunFolder, settings: TrainSettings) -> None:
    """Raise UserError where a run is in the folder that is neither resumed nor replaced."""
    if folder.holds_run() and not (settings.resume or settings.overwrite):
        raise UserError(
            f"{folder.root}: a run is here already; go on with --resume, start again with "
            f"--overwrite, or choose another --output_dir"
        )


def check_before_launch(folder: RunFolder, settings: TrainSettings) -> None:
    """Raise UserError for what is wrong at first sight: processes take seconds to start."""
    from smallgpt.training.data import check_there

    folder.check_start(settings.overwrite)
    check_free(folder, settings)
    check_there(settings)


def train_in(
    folder: RunFolder,
    settings: TrainSettings,
    log: RunLog,
    command: str | None,
    processes: Processes,
) -> TrainResult:
    """`train`, once the run folder is locked."""
    # These load no torch, so that a wrong path is reported within a second.
    from smallgpt.training.data import codebook_beside, inputs_of, read_data, task_of

    # Settings: the stored ones where a run resumes; with --init_from the pretrained model's shape.
    def start() -> tuple[TrainSettings, Checkpoint | None, bool, bool]:
        clearing = settings.overwrite and folder.holds_run()
        if clearing:
            folder.check_inputs(inputs_of(settings))
        chosen, resumed, finished = settings_to_train(settings, folder, log)
        return chosen, resumed, finished, clearing

    chosen, resumed, finished, clearing = processes.on_first(start)
    if processes.are_many:
        from smallgpt.training.resume import with_own_places

        chosen = with_own_places(chosen, settings, resumed is not None)
    settings = chosen
    if resumed and finished and not settings.learning_curve:
        return TrainResult(EXIT_OK, folder, resumed.loop.best_step, {})

    # Data: the rows, and a report of what is in them.
    with processes.one_of_each_machine_first():
        train_rows, validation_rows = read_data(settings, say)
    settings = replace(settings, task=task_of(settings, train_rows))

    from smallgpt.checks.report import report_data
    from smallgpt.checks.report_words import say_report

    curve = None
    if settings.learning_curve:
        from smallgpt.training.learning_curve import LearningCurve

        curve = LearningCurve(folder, settings, train_rows, validation_rows, log.say)
    if resumed and finished and curve:
        curve.check_whole(resumed)
        log.open()
        done = resumed.loop
        curve.say_plan(done.total_steps, 0, done.seconds / max(1, done.step))
        result = TrainResult(EXIT_OK, folder, resumed.loop.best_step, {})
    else:
        report = None
        if resumed:
            for reason in resumed.passed_over:
                log.say(f"warning: {reason} and passed over")
        elif processes.is_first:
            codebook = codebook_beside(settings.vocabulary_file)
            report = report_data(train_rows, validation_rows, settings, codebook)
            say_report(report, log.say)
        rows = train_rows, validation_rows
        result = train_run(
            *(folder, settings, log, *rows, command, resumed, report, clearing, curve, processes)
        )
    if curve and result.exit_code == EXIT_OK:
        return replace(result, exit_code=train_on_parts(curve, validation_rows, command))
    return result


def settings_to_train(
    settings: TrainSettings, folder: RunFolder, log: RunLog
) -> tuple[TrainSettings, Checkpoint | None, bool]:
    """The settings to train with; the checkpoint to go on from, if any; whether it is the end.

    Raises:
        UserError: the run cannot go on, or the checkpoint of --init_from is unusable.
    """
    resumed, finished = None, False
    if settings.resume:
        from smallgpt.training.resume import check_places, find_run_to_resume, is_finished

        settings, resumed = find_run_to_resume(settings, folder)
        finished = resumed is not None and is_finished(settings, resumed)
        if resumed and finished:
            say(
                f"the run in {folder.root} is finished ({resumed.loop.finished}); "
                f"more {'--max_minutes' if settings.max_minutes else '--num_epochs'} go on with it"
            )
            if not settings.learning_curve:
                return settings, resumed, finished
        if resumed:
            check_places(settings)
        else:
            near = folder.nearest_run()
            hint = f" (did you mean {near}?)" if near else ""
            log.say(f"no run in {folder.root}: a new one begins{hint}")
    if settings.init_from is not None and not resumed:
        from smallgpt.training.setup import with_shape_of_start

        settings = with_shape_of_start(settings)
    return settings, resumed, finished


def train_run(
    folder: RunFolder,
    settings: TrainSettings,
    log: RunLog,
    rows: TokenLabelDataset,
    validation_rows: TokenLabelDataset,
    command: str | None,
    resumed: Checkpoint | None,
    report: dict[str, Any] | None = None,
    clearing: bool = False,
    curve: LearningCurve | None = None,
    processes: Processes = ALONE,
) -> TrainResult:
    """Build a run and train it.

    Args:
        resumed: goes on from here.
        report: on the data, of a new run; a part of a learning curve has none.
        clearing: delete the run that is in the folder.
        curve: has other runs in the time of --max_minutes.
        processes: that train it.
    """
    from smallgpt.checks.report import save_report, stored_baselines
    from smallgpt.training.alike import share_weights
    from smallgpt.training.best_model import BestModel
    from smallgpt.training.budget import Budget
    from smallgpt.training.checkpoint import Checkpoints
    from smallgpt.training.journal import Journal
    from smallgpt.training.recipe import larger_in_time
    from smallgpt.training.resume import go_on
    from smallgpt.training.schedule import (
        measured_seconds,
        planned_seconds,
        say_exchange,
        say_plan,
        tokens_in_time,
        within_usual_time,
    )
    from smallgpt.training.setup import build_run, torch_state_restored
    from smallgpt.training.update import Updater

    baselines = report["baselines"] if report else stored_baselines(folder.data_report)
    with torch_state_restored():
        # The run: model, optimizers, gradients, and what writes its files.
        parts = folder, log, rows, validation_rows, baselines, resumed, command, processes
        run = build_run(settings, *parts)
        processes.check_same(run.belongs_to)
        if settings.num_epochs == AUTO and not resumed:
            run = within_usual_time(run)
        seconds = measured_seconds(run)
        share = curve.share_of_whole if curve else 1.0
        if run.is_timed and not resumed:
            tokens = tokens_in_time(run, seconds[0], share)
            larger = larger_in_time(settings, run.rows, tokens)
            if larger:
                log.say(f"a larger model, since the time is enough for {tokens:,.0f} tokens:")
                run = build_run(larger, *parts)
                seconds = measured_seconds(run)
        if processes.are_many:
            say_exchange(run, seconds)
        updater, best, journal = Updater(run), BestModel(run), Journal(run)
        checkpoints = Checkpoints(run, updater, resumed)
        budget = Budget(run, seconds, share) if run.is_timed else None

        def open_files() -> None:
            for path in folder.evaluations() if clearing else ():
                log.say(f"{path} is of the run that --overwrite replaces, and deleted with it")
            for path in folder.clear() if clearing else ():
                log.say(f"{path} is not the run's own and stays")
            folder.remove_leftovers()
            log.open()
            if resumed:
                go_on(run, resumed, best, seconds)
            if report:
                save_report(report, folder.data_report, folder.data_picture)
            write_text(folder.settings, to_yaml(run.settings_with_plan))
            if settings.tensorboard:
                journal.open_events(run.state.step if resumed else None)
            if curve:
                curve.train_parts_as(run.settings)
                left = run.total_steps - run.state.step
                curve.say_plan(run.total_steps, left, planned_seconds(run, seconds, 1))

        if not resumed:
            say_plan(run, seconds)
        # From here on files are written. Had anything above failed, an older run would be intact.
        try:
            processes.on_first(open_files)
            share_weights(run)
            return train_epochs(run, updater, best, journal, checkpoints, budget)
        except OSError as error:
            raise disk_error(error, folder, checkpoints.last_step) from None


def train_on_parts(
    curve: LearningCurve, validation_rows: TokenLabelDataset, command: str | None
) -> int:
    """Train on the parts of the rows that a learning curve lacks, and tell it; the exit code."""
    from smallgpt.training.resume import is_finished

    total = curve.total_steps()
    try:
        for part in curve.missing(total):
            settings, resumed = curve.begin(part, total)
            if not (resumed and is_finished(settings, resumed)):
                with RunLog(part.folder, later=True, shown=False) as log:
                    rows = part.rows, validation_rows
                    result = train_run(part.folder, settings, log, *rows, command, resumed)
                if result.exit_code != EXIT_OK:
                    curve.say(f"stopped and saved; go on with: {part.folder.go_on_hint()}")
                    return result.exit_code
            curve.take(part, total)
        curve.finish(total)
    except OSError as error:  # not of a run, which tells its own
        raise disk_error(error, curve.parts[0].folder, total) from None
    return EXIT_OK


def train_epochs(
    run: Run,
    updater: Updater,
    best: BestModel,
    journal: Journal,
    checkpoints: Checkpoints,
    budget: Budget | None = None,
) -> TrainResult:
    """The training loop: to the last update, to early stopping, or until a signal asks to stop.

    Args:
        run: its model is trained; its state says where the loop stands.
        updater: learning rate, gradients, optimizers.
        best: keeps the best weights.
        journal: writes metrics.jsonl, the table and the curves.
        checkpoints: saves what is needed to resume.
        budget: keeps the plan within --max_minutes, where there is one.
    """
    from smallgpt.training.alike import keep_alike

    settings, state, folder, processes = run.settings, run.state, run.folder, run.processes
    evaluation: Evaluation | None = None
    finished = ""

    def end_epoch(evaluation: Evaluation, began: float) -> tuple[LoopState, bool]:
        """Keep the best model, tell the figures; the state, and whether patience is at its end."""
        is_best = best.consider(evaluation)
        journal.record_evaluation(evaluation.figures, is_best)
        state.begin_epoch()
        if budget:
            state.read_clock()
            budget.note_evaluation(state.seconds - began)
        if best.is_out_of_patience():
            run.log.say(
                f"early stopping: {run.best_metric} has not improved for "
                f"{plural(settings.early_stopping_patience, 'evaluation')}"
            )
        return state, best.is_out_of_patience()

    def plan_anew(budget: Budget) -> list[list[int]]:
        if budget.plan_anew():
            write_text(folder.settings, to_yaml(run.settings_with_plan))
        return state.plan

    state.start_clock()
    with StopSignal(processes) as stop:
        try:
            if processes.is_first and checkpoints.last_step is None:
                checkpoints.save()  # from now on there is one to resume from
            while state.step < run.total_steps or state.epoch_step:
                updates = run.updates_of_epoch(state.epoch)
                name = f"epoch {state.epoch + 1}/{math.ceil(run.total_steps / run.steps_per_epoch)}"
                with progress_bar(name, len(updates), "step", state.epoch_step) as bar:
                    for batches in updates[state.epoch_step :]:
                        stop.raise_if_requested()
                        if state.step >= run.total_steps:  # a plan may end within an epoch
                            break
                        updater.set_learning_rate()
                        updater.compute_gradients(batches)
                        updater.step_optimizers()
                        journal.record_training(updater)
                        if budget and processes.highest(processes.is_first and budget.is_due()):
                            state.plan[:] = processes.on_first(partial(plan_anew, budget))
                        if processes.is_first:
                            checkpoints.save_if_due()
                        bar.update()
                updater.end_epoch()
                if not run.is_evaluated_now():
                    state.begin_epoch()
                    continue
                began = state.seconds
                with run.averaged_weights():
                    evaluation = run.validate(stop)
                    state.read_clock()
                    work = partial(end_epoch, evaluation, began)
                    decided, is_out_of_patience = processes.on_first(work)
                state.take_over(decided)
                keep_alike(run)
                if is_out_of_patience:
                    finished = "early stopping"
                    break
            if evaluation is None:  # resumed with nothing left to do
                with run.averaged_weights():
                    evaluation = run.validate(stop)
                    if processes.is_first and state.best_value is None:
                        best.consider(evaluation)
        except StopRequestedError:
            figures = evaluation.figures if evaluation else {}
            if processes.is_first:
                checkpoints.save()
                journal.say_stopped()
            return TrainResult(stop.exit_code or EXIT_OK, folder, state.best_step, figures)
        except LostContactError as error:
            if processes.is_first:
                checkpoints.save()
            raise type(error)(
                f"{error} at step {state.step:,}; all updates before are saved, go on with: "
                f"{folder.go_on_hint()}"
            ) from None
        if processes.is_first:
            with run.averaged_weights():
                # The last weights are there whatever they are worth: nothing was chosen.
                run.save_model(folder.final_model, {**evaluation.figures, "chosen_among": 1})
            best.tell()
            journal.draw_curves()
            # Saved last: after a crash before this, --resume makes what is missing.
            state.finished = finished or plural(state.step, "step")
            checkpoints.save()
    if processes.is_first:
        journal.say_result()
    return TrainResult(EXIT_OK, folder, state.best_step, evaluation.figures)


def check_data(settings: TrainSettings, folder: RunFolder) -> TrainResult:
    """Report what is in the data, bad rows included; no model is built.

    Returns:
        exit code 1 where there are bad rows that `on_bad_row` does not let pass, else 0.
    """
    from smallgpt.checks.report import report_data, save_report
    from smallgpt.checks.report_words import describe_errors, say_report
    from smallgpt.rows.bad_rows import MOST_ERRORS_SHOWN
    from smallgpt.training.data import codebook_beside, read_data

    folder.check_start(clearing=False)
    rows = read_data(settings, say, keep_bad_rows=True)
    report = report_data(*rows, settings, codebook_beside(settings.vocabulary_file))
    say_report(report, say)
    listed_in = None
    if folder.holds_run():
        say(f"data_report.json of the run in {folder.root} is left as it is")
    else:
        save_report(report, folder.data_report, folder.data_picture)
        listed_in = folder.data_report
        say(f"written: {folder.data_report}, {folder.data_picture}")
    if report["errors"]["count"]:
        print_error(describe_errors(report, MOST_ERRORS_SHOWN, listed_in))
        return TrainResult(EXIT_FAILED, folder, 0, {})
    return TrainResult(EXIT_OK, folder, 0, {})


if __name__ == "__main__":
    run_command(main)
