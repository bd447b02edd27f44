"""Train a small GPT on rows of tokens, from scratch or from a pretrained model.

    python prepare_data.py digits                 # once: data/digits
    python train_gpt.py                           # options from config.yaml
    python train_gpt.py --data_path my.jsonl --vocab_path vocab.json --output_dir outputs/my
    python train_gpt.py --resume                  # go on after Ctrl-C or a crash
    python train_gpt.py --check_data              # look at the data only
    python train_gpt.py --init_from DIR_OR_NAME --lora_rank 8 ...

From Python:

    from smallgpt.options.training import TrainSettings
    from train_gpt import train
    result = train(TrainSettings(data_path="my.jsonl", vocab_path="vocab.json"))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from smallgpt.command import run_command
from smallgpt.console import print_error, say
from smallgpt.errors import UserError
from smallgpt.exit_codes import EXIT_FAILED, EXIT_OK
from smallgpt.files.writing import write_text
from smallgpt.options.config_file import to_yaml
from smallgpt.options.reader import check_settings, read_settings
from smallgpt.options.training import DEFAULT_CONFIG, TrainSettings
from smallgpt.training.data import checked_start, codebook_beside, inputs_of, read_data, task_of
from smallgpt.training.event_files import check_tensorboard
from smallgpt.training.run import TrainingRun, TrainResult
from smallgpt.training.run_folder import RunFolder, disk_error
from smallgpt.training.run_log import RunLog


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


def train(settings: TrainSettings) -> TrainResult:
    """Train as the settings say and write the run folder.

    The process is left as it was found: torch's random generators (a GPU's where it was in use
    before) and current GPU, signal handlers and all else of the caller's.

    Raises:
        SettingsError: wrong or contradicting settings.
        UserError: bad data, an existing or locked run folder, non-finite loss, no space.
    """
    from smallgpt.checks.report import report_data, save_report, stored_baselines
    from smallgpt.checks.report_words import say_report

    settings = check_settings(settings)
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
            from smallgpt.training.resume import check_places, find_run_to_resume, is_finished

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
            say(
                f"the run in {folder.root} is finished ({found.loop.finished}); "
                f"--num_epochs with more epochs goes on with it"
            )
            return TrainResult(EXIT_OK, folder, found.loop.best_step, {})
        if found:
            check_places(settings)
        train_rows, validation_rows = read_data(settings, say)
        settings = replace(settings, task=task_of(settings, train_rows))
        with RunLog(folder, later=True) as log, torch_left_alone():
            for line in passed_over:
                log.say(line)
            report = None
            if found is None:
                codebook = codebook_beside(settings.vocab_path)
                report = report_data(train_rows, validation_rows, settings, codebook)
                say_report(report, log.say)
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
                    run.baselines = stored_baselines(folder.data_report)
                    run.go_on_from(found)
                else:
                    run.baselines = report["baselines"]
                    save_report(report, folder.data_report, folder.data_picture)
                write_text(folder.settings, to_yaml(settings))
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


def check_data(settings: TrainSettings, folder: RunFolder) -> TrainResult:
    """Report what is in the data, bad rows included; no model is built.

    Returns:
        exit code 1 where there are bad rows that `on_bad_row` does not let pass, else 0.
    """
    from smallgpt.checks.report import report_data, save_report
    from smallgpt.checks.report_words import describe_errors, say_report
    from smallgpt.rows.bad_rows import MOST_ERRORS_SHOWN

    folder.check_start(clearing=False)
    train_rows, validation_rows = read_data(settings, say, keep_bad_rows=True)
    report = report_data(
        train_rows, validation_rows, settings, codebook_beside(settings.vocab_path)
    )
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
