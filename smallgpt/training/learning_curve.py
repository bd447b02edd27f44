"""Learning curve of a run: its parts of the rows, their results, and what they tell of more rows.

    curve = LearningCurve(run_folder, settings, rows, validation_rows, say)
    total = curve.total_steps()                      # of the run on all rows, which is done
    for part in curve.missing(total):
        settings, checkpoint = curve.begin(part, total)
        ...                                          # train in part.folder
        curve.take(part, total)
    curve.finish(total)

The parts are nested: each is half of the next. A part of 1/k of the rows gets 1/sqrt(k) of the
updates of the whole run: with as many epochs as the whole it would have too few to learn anything,
and with as many updates it learns by heart and gets no better (docs/measurements.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from smallgpt.console import format_duration, format_table, plural
from smallgpt.errors import UserError
from smallgpt.evaluation.learning_curve import Continuation, continue_curve
from smallgpt.evaluation.metrics import perplexity
from smallgpt.evaluation.paired import group_numbers
from smallgpt.evaluation.statistics import ratio_interval, wilson_interval
from smallgpt.evaluation.verdicts import percent, span
from smallgpt.files.reading import parse_json, read_text
from smallgpt.files.writing import write_json
from smallgpt.options.option import AUTO
from smallgpt.options.training import TrainSettings
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.splitting import half_of
from smallgpt.training.checkpoint import (
    Checkpoint,
    check_belongs,
    evaluated_rows,
    find_checkpoint,
)
from smallgpt.training.pictures import draw_learning_curve
from smallgpt.training.resume import find_run_to_resume, result_settings
from smallgpt.training.run_folder import RunFolder

_DIVISORS = (2, 4, 8)
_FEWEST_ROWS, _FEWEST_OF_A_LABEL = 64, 8
_LITTLE_ACCURACY, _LITTLE_PERPLEXITY = 0.005, 0.01  # gains, as shares, that count as none
_LARGEST_RESULTS = 2**28  # bytes


@dataclass(frozen=True)
class Part:
    """A run on 1/divisor of the rows; the divisor 1 is the run itself."""

    divisor: int
    rows: TokenLabelDataset
    folder: RunFolder

    @property
    def name(self) -> str:
        """As people write it."""
        return "all" if self.divisor == 1 else f"1/{self.divisor}"

    @property
    def visited(self) -> int:
        """Rows of an epoch: variants of one source count as one."""
        return self.rows.visited_rows

    def updates(self, total: int) -> int:
        """Its updates, where the run on all rows has `total`."""
        return max(1, round(total / math.sqrt(self.divisor)))


class LearningCurve:
    """The parts of a run's rows and, once they are learned, their figures."""

    def __init__(
        self,
        folder: RunFolder,
        settings: TrainSettings,
        rows: TokenLabelDataset,
        validation_rows: TokenLabelDataset,
        say: Callable[[str], object],
    ):
        """Divide the rows; `say` prints which parts are too small.

        Raises:
            UserError: half of the rows are too few already.
        """
        self._folder, self._settings, self.say = folder, settings, say
        self._validation_rows = validation_rows
        self._of_labels = settings.task == "classify" and validation_rows.has_labels
        self._is_head = settings.classifier == "head"
        self.parts: list[Part] = []
        self._whole = Part(1, rows, folder)
        labels = len(np.unique(rows.classes_N)) if self._of_labels else 0
        fewest = max(_FEWEST_ROWS, _FEWEST_OF_A_LABEL * labels)
        part = self._whole
        for divisor in _DIVISORS:
            half = Part(divisor, half_of(part.rows, settings.seed), folder.part(divisor))
            if half.visited < fewest or half.visited == part.visited:
                too_few = (
                    f"{half.name} of the training rows would be {half.visited:,} rows, and a part "
                    f"has at least {fewest:,}"
                )
                if not self.parts:
                    raise UserError(f"--learning_curve: {too_few}; give more rows")
                say(f"learning curve: {too_few}; smaller parts are left out")
                break
            part = half
            self.parts.insert(0, part)

    def train_parts_as(self, settings: TrainSettings) -> None:
        """Give the parts what the run on all rows has, such as the choices of its recipe."""
        self._settings = settings

    @property
    def share_of_whole(self) -> float:
        """The share of all updates that the run on all rows has."""
        return 1 / (1 + sum(part.divisor**-0.5 for part in self.parts))

    def say_plan(self, total: int, left: int, seconds: float) -> None:
        """Say what is trained beside the run on all rows, and the time of all.

        That run has `total` updates, and `left` of them to go, of so many seconds each.
        """
        updates = left + sum(part.updates(total) for part in self.missing(total))
        parts = ", ".join(f"{part.name} ({part.visited:,})" for part in self.parts)
        self.say(
            f"learning curve: then trains on {parts} of the {self._whole.visited:,} training rows; "
            f"about {format_duration(updates * seconds)} in all"
        )

    def total_steps(self) -> int:
        """The updates planned for the run on all rows, which is done."""
        checkpoint = find_checkpoint(self._folder.checkpoints)
        assert checkpoint is not None
        return checkpoint.loop.total_steps

    # ---------------------------------------------------------------------------- the parts

    def missing(self, total: int) -> list[Part]:
        """The parts whose results are not here yet, where the whole run has `total` updates."""
        return [part for part in self.parts if self._stored(part, total) is None]

    def begin(self, part: Part, total: int) -> tuple[TrainSettings, Checkpoint | None]:
        """The settings of a part's run, and its checkpoint where it goes on."""
        updates = part.updates(total)
        self.say(
            f"learning curve: {part.name} of the training rows, {part.visited:,} of "
            f"{self._whole.visited:,}, {plural(updates, 'update')}"
        )
        asked = self._settings_of(part, total)
        with suppress(UserError):  # of other settings or rows, or damaged
            settings, checkpoint = find_run_to_resume(asked, part.folder)
            if checkpoint is not None:
                check_belongs(checkpoint, self._belongs_to(part))
                return settings, checkpoint
        part.folder.clear()
        return asked, None

    def take(self, part: Part, total: int) -> None:
        """Keep the results of a part that is done, and delete its run."""
        document = {"made_of": self._made_of(part, total), **self._results(part)}
        write_json(self._folder.part_results(part.divisor), document, most_levels=1)
        part.folder.clear()

    def check_whole(self, checkpoint: Checkpoint) -> None:
        """Raise UserError if the run on all rows, which is done, had other rows than these."""
        check_belongs(checkpoint, self._belongs_to(self._whole))

    # ---------------------------------------------------------------------------- the figures

    def finish(self, total: int) -> None:
        """Write learning_curve.json and its picture, and print what they tell."""
        parts = [*self.parts, self._whole]
        results = [self._stored(part, total) for part in self.parts]
        results.append(self._results(self._whole))
        counts_N, group_N = self._counts(), group_numbers(self._validation_rows.group_values())
        scored_N = counts_N > 0
        cost_KxN = np.array([each["cost"] for each in results if each is not None], float)
        figure = "accuracy" if self._of_labels else "perplexity"
        points = [
            {
                "part": part.name,
                "rows": part.visited,
                "updates": part.updates(total),
                "best_step": each["best_step"],
                **_figure(cost_N[scored_N], counts_N[scored_N], self._of_labels),
            }
            for part, each, cost_N in zip(parts, filter(None, results), cost_KxN, strict=True)
        ]
        curve = continue_curve(
            np.array([part.visited for part in parts]),
            cost_KxN[:, scored_N],
            counts_N[scored_N],
            np.unique(group_N[scored_N], return_inverse=True)[1],
            low_floor=self._of_labels,
        )
        found = {
            "figure": figure,
            "validation_rows": int(scored_N.sum()),
            "points": points,
            "continued": [_continued(each, self._whole.visited, self._of_labels) for each in curve],
        }
        found |= dict(zip(("verdict", "words"), verdict(found), strict=True))
        write_json(self._folder.learning_curve, found)
        draw_learning_curve(self._folder.learning_curve_picture, found)
        self.say(describe_curve(found))
        self.say(f"written: {self._folder.learning_curve}, {self._folder.learning_curve_picture}")

    def _counts(self) -> np.ndarray:
        """counts_N: of how many items each validation row has costs."""
        rows = self._validation_rows
        return (rows.classes_N >= 0).astype(int) if self._of_labels else rows.scored_counts

    def _results(self, part: Part) -> dict[str, Any]:
        """The best step of a run that is done, and the cost of each validation row."""
        checkpoint = find_checkpoint(part.folder.checkpoints)
        columns = evaluated_rows(checkpoint) if checkpoint else {}
        rows = self._validation_rows
        if checkpoint is None or not {"nll_sum_N", "top_two_Nx2"} & columns.keys():
            raise UserError(
                f"{part.folder.root}: the last checkpoint does not hold the results of its "
                f"validation rows; train again with --overwrite"
            )
        if self._of_labels:
            wrong_N = columns["top_two_Nx2"][:, 0] != rows.classes_N
            cost = (wrong_N & (rows.classes_N >= 0)).astype(int).tolist()
        else:
            cost = columns["nll_sum_N"].tolist()
        return {"best_step": checkpoint.loop.best_step, "cost": cost}

    def _stored(self, part: Part, total: int) -> dict[str, Any] | None:
        """The results of a part that is done; None where they are not here, or of other rows."""
        path = self._folder.part_results(part.divisor)
        try:
            found = parse_json(read_text(path, _LARGEST_RESULTS))
        except (UserError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("made_of") != self._made_of(part, total):
            return None
        cost = found.get("cost")
        if not isinstance(cost, list) or len(cost) != len(self._validation_rows):
            return None
        numbers = [found.get("best_step"), *cost]
        return found if all(type(number) in (int, float) for number in numbers) else None

    def _made_of(self, part: Part, total: int) -> dict[str, Any]:
        """What the results of a part depend on."""
        asked = self._settings_of(part, total)
        return {"settings": result_settings(asked), **self._belongs_to(part)}

    def _belongs_to(self, part: Part) -> dict[str, str]:
        rows, validation_rows = part.rows, self._validation_rows
        if self._is_head:
            rows, validation_rows = rows.without_tails(), validation_rows.without_tails()
        return {
            "the training data": rows.described_fingerprint(),
            "the validation data": validation_rows.described_fingerprint(),
        }

    def _settings_of(self, part: Part, total: int) -> TrainSettings:
        return replace(
            self._settings,
            output_dir=str(part.folder.root),
            max_minutes=None,
            num_epochs=AUTO,  # `steps` says how long
            steps=str(part.updates(total)),
            keep_checkpoints=1,
            tensorboard=False,
            learning_curve=False,
            resume=False,
            overwrite=False,
        )


def _figure(cost_N: np.ndarray, count_N: np.ndarray, of_labels: bool) -> dict[str, Any]:
    """The figure of a point with its 95 % interval."""
    if of_labels:
        rows, wrong = len(cost_N), int(cost_N.sum())
        ends = wilson_interval(rows - wrong, rows)
        return {"accuracy": 1 - wrong / rows, "interval": [*map(float, ends)]}
    loss, between = float(cost_N.sum() / count_N.sum()), ratio_interval(cost_N, count_N)
    return {
        "loss": loss,
        "perplexity": perplexity(loss),
        "interval": between and [perplexity(end) for end in between],
    }


def _continued(each: Continuation, rows: int, of_labels: bool) -> dict[str, Any]:
    """A point of the continuation; the gain is in accuracy, or the share of the perplexity."""
    low, high = each.error_interval
    if of_labels:
        value: dict[str, Any] = {
            "accuracy": _share(1 - each.error),
            "interval": [_share(1 - high), _share(1 - low)],
        }
        gains = [each.gain, *each.gain_interval]
    else:
        value = {
            "loss": each.error,
            "perplexity": perplexity(each.error),
            "interval": [perplexity(low), perplexity(high)],
        }
        gains = [1 - math.exp(-gain) for gain in (each.gain, *each.gain_interval)]
    gain, *gain_interval = gains
    about = {"factor": each.factor, "rows": each.factor * rows}
    return {**about, **value, "gain": gain, "gain_interval": gain_interval}


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


# ------------------------------------------------------------------------------- words


def verdict(found: dict[str, Any]) -> tuple[str, str]:
    """Whether more rows would help, of learning_curve.json: helps, flat or uncertain, in words."""
    figure, rows = found["figure"], plural(found["validation_rows"], "validation row")
    is_accuracy, now = figure == "accuracy", found["points"][-1][figure]
    if is_accuracy and now == 1:
        return "uncertain", f"all {rows} are right already, and cannot show a gain"
    twice, later = found["continued"]
    low, high = twice["gain_interval"]
    text = (
        f"twice as many training rows would bring {figure} from {_text(now, figure)} to about "
        f"{_text(twice[figure], figure)}, {_gain(twice, figure)}"
    )
    if high < (_LITTLE_ACCURACY if is_accuracy else _LITTLE_PERPLEXITY):
        return "flat", f"the curve is flat: {text}"
    if low <= 0:
        return "uncertain", f"too uncertain to say with {rows}: {text}"
    return "helps", (
        f"more rows would help: {text}; four times as many to about "
        f"{_text(later[figure], figure)}, {_gain(later, figure)}"
    )


def _gain(continued: dict[str, Any], figure: str) -> str:
    """The change of a figure with its interval: points of accuracy, or a share of perplexity."""
    gain, (low, high) = continued["gain"], continued["gain_interval"]
    if figure == "accuracy":
        return f"{100 * gain:+.1f} points ({100 * low:+.1f} .. {100 * high:+.1f})"
    return f"{-100 * gain:+.1f} % ({-100 * high:+.1f} .. {-100 * low:+.1f})"


def _text(value: float, figure: str) -> str:
    return percent(value) if figure == "accuracy" else f"{value:.2f}"


def _span(low: float, high: float, figure: str) -> str:
    return span(low, high) if figure == "accuracy" else f"{low:.2f} .. {high:.2f}"


def describe_curve(found: dict[str, Any]) -> str:
    """The points as a table, and the verdict."""
    figure, table = found["figure"], []
    for point in found["points"]:
        ends = point["interval"]
        table.append(
            [
                point["part"],
                f"{point['rows']:,}",
                f"{point['updates']:,}",
                _text(point[figure], figure),
                "" if ends is None else _span(ends[0], ends[1], figure),
            ]
        )
    kind = "Wilson" if figure == "accuracy" else "Student's t"  # of `_figure`
    heading = ("part", "training rows", "updates", figure, f"95 % interval ({kind})")
    rows = plural(found["validation_rows"], "validation row")
    return f"learning curve on {rows}\n{format_table(heading, table)}\n{found['words']}"
