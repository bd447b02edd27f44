"""Records of a run: rows of metrics.jsonl, printed table, training curves, final summary."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from smallgpt.console import command_hint, format_duration
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.evaluation.report import describe_validation
from smallgpt.evaluation.row_results import label_loss_name
from smallgpt.evaluation.verdicts import baseline_ahead
from smallgpt.model.weights_file import read_validation
from smallgpt.training.advice import what_may_help
from smallgpt.training.event_files import EventFiles
from smallgpt.training.pictures import draw_training_curves
from smallgpt.training.run import Run
from smallgpt.training.run_folder import EVENT_FILES
from smallgpt.training.update import Updater

# Of the figures of an evaluation, those in its row of metrics.jsonl: of tokens, which a model that
# only names labels has none of, then of labels.
_FIGURES = (
    *("loss", "perplexity", "body_perplexity", "next_token_accuracy"),
    *("label_loss", "calibrated_label_loss", "label_perplexity"),
)


class Journal:
    """Records how a run goes."""

    def __init__(self, run: Run):
        self._run, self._has_heading = run, False

    def open_events(self, resumed_at: int | None) -> None:
        """Write for TensorBoard as well, from the first row; `resumed_at`: None for a new run."""
        folder, log = self._run.folder, self._run.log
        is_first = not any(folder.root.glob(EVENT_FILES))
        log.events = EventFiles(folder.root, resumed_at)
        for row in read_metrics(folder.metrics) if is_first else ():
            log.events.record(row)

    def record_training(self, updater: Updater) -> None:
        """Append a row to metrics.jsonl, every `log_steps` updates."""
        run, state = self._run, self._run.state
        if state.step % run.settings.log_steps:
            return
        updater.collect_figures()
        if not run.processes.is_first:
            return
        state.read_clock()
        norm, seconds = float(updater.norm), state.seconds - state.window_began
        self._record(
            {
                "kind": "train",
                "step": state.step,
                "epoch": state.epoch + state.epoch_step / run.steps_per_epoch,
                "seconds": round(state.seconds, 3),
                "loss": _mean(state.window_nll, state.window_tokens),
                "learning_rate": updater.learning_rate,
                "grad_norm": norm if math.isfinite(norm) else None,
                "tokens_per_second": round(state.window_read / max(seconds, 1e-9), 1),
            }
        )
        state.begin_window()

    def record_evaluation(self, validation: dict[str, Any], is_best: bool) -> None:
        """Append the evaluation after an epoch to metrics.jsonl, and print its table row."""
        state = self._run.state
        row = {
            "kind": "validation",
            "step": state.step,
            "epoch": state.epoch + 1,
            "seconds": round(state.seconds, 3),
            "train_loss": _mean(state.epoch_nll, state.epoch_tokens),
            **{name: validation[name] for name in _FIGURES if name in validation},
        }
        if "label_loss" in row:
            calibration = validation["calibration"]
            row |= {
                "label_accuracy": validation["accuracy"],
                "raw_ece": calibration["raw_ece"],
                "ece": calibration["ece"],
            }
            if calibration["rows"] < validation["labelled_records"]:
                row["calibration_rows"] = calibration["rows"]  # of a sample
        self._record(row)
        self.print_row(validation, is_best)

    def print_row(self, validation: dict[str, Any], is_best: bool) -> None:
        """Print the table row of the epoch just evaluated; `*` marks the best so far."""
        state, say = self._run.state, self._run.log.say
        cells = {
            "epoch": f"{state.epoch + 1}",
            "step": f"{state.step:,}",
            "train loss": f"{state.epoch_nll / state.epoch_tokens:.4f}",
        }
        if "loss" in validation:  # else a model that only names labels
            cells["val loss"] = f"{validation['loss']:.4f}"
            cells["perplexity"] = f"{validation['perplexity']:.2f}"
            cells["token acc"] = f"{validation['next_token_accuracy']:.4f}"
        if "label_loss" in validation:
            cells["label loss"] = f"{validation[label_loss_name(validation)]:.4f}"
            cells["label acc"] = f"{validation['accuracy']:.4f}"
        cells["time"] = format_duration(state.seconds)
        widths = {name: max(len(name), 9) for name in cells}
        if not self._has_heading:
            say("  ".join(name.rjust(widths[name]) for name in cells))
            self._has_heading = True
        row = "  ".join(cell.rjust(widths[name]) for name, cell in cells.items())
        say(row + ("  *" if is_best else ""))

    def draw_curves(self) -> None:
        """Draw the training curves from metrics.jsonl."""
        draw_training_curves(self._run.folder.plots, read_metrics(self._run.folder.metrics))

    def say_stopped(self) -> None:
        """Print how far a run came that was stopped, and how to go on with it."""
        run, state = self._run, self._run.state
        hint = run.folder.go_on_hint(run.settings.learning_curve)
        run.log.say(
            f"stopped at step {state.step:,} of {run.total_steps:,} and saved; go on with: {hint}"
        )

    def say_result(self) -> None:
        """Print how the run ended, its best model's validation metrics, and the next command."""
        run, state, folder = self._run, self._run.state, self._run.folder
        run.log.say(
            f"done in {format_duration(state.seconds)}: best {run.best_metric.replace('_', ' ')} "
            f"{state.best_value:.4f} at step {state.best_step:,}; model in {folder.best_model}, "
            f"curves in {folder.plots}"
        )
        stored = read_validation(folder.best_model)
        if stored:  # a run of an older version may have nothing better since it goes on
            run.log.say(describe_validation(stored))
        test_file = Path(run.settings.data_path).with_name("test.jsonl")
        use = ["--test_data", test_file] if test_file.exists() else ["--help"]
        hint = command_hint("inference.py", "--model_path", folder.best_model, *use)
        run.log.say(f"next: {hint}")
        ahead = baseline_ahead(stored) if stored else ""
        if ahead or (stored and stored.get("above_chance") is False):
            rows = read_metrics(folder.metrics)
            evaluations = [row for row in rows if row["kind"] == "validation"]
            most, *others = what_may_help(run, stored, evaluations)
            for number, line in enumerate(others):
                run.log.say(f"{'may help too:' if not number else '':13} {line}")
            run.log.say(f"{ahead or 'no better than guesses'}; what would help most: {most}")

    def _record(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl; checkpoints store their number."""
        self._run.log.record(row)
        self._run.state.metrics_rows += 1


def _mean(total: float, count: int) -> float | None:
    """The mean; None without terms."""
    return total / count if count else None
