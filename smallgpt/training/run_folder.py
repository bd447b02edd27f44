"""The folder of a training run: its layout, refusal to touch other files, deletion, lock.

    outputs/
      settings.yaml  data_report.json  data_report.png  metrics.jsonl  train.log
      events.out.tfevents.*.smallgpt  (--tensorboard)
      plots/  checkpoints/  best_model/  final_model/  evaluation_*/
      learning_curve.json  learning_curve/part_8.json  learning_curve/part_8/  (--learning_curve)

A learning curve trains on parts of the rows. Each part has a run folder of its own until it is
done, then a file of its validation results.
settings.yaml holds the resolved settings, and each model folder has a copy, so that whoever uses a
model cuts rows exactly as training did. All other files in these folders belong to somebody else: a
run neither writes nor deletes them.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from smallgpt.console import command_hint
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation.folder import (
    EVALUATION_FILES,
    MADE_FROM,
    METRICS,
    PREDICTIONS,
    check_evaluation_folder,
)
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.files.locks import hold_folder
from smallgpt.files.reading import contents, first_bytes
from smallgpt.files.writing import remove, remove_leftovers
from smallgpt.rows.prepared_summary import read_summary

EVENT_FILES = "events.out.tfevents.*"  # of any program
EVENT_SUFFIX = ".smallgpt"  # of ours

# Names of a run's own files, by folder, but for evaluations; "" is its root.
CHECKPOINT_NAME = re.compile(r"step_\d{8,}(_evaluated|_finished)?")
_OWN = {
    "checkpoints": CHECKPOINT_NAME,
    "plots": re.compile(r"(loss|perplexity|accuracy|learning_curve)\.png"),
    "learning_curve": re.compile(r"part_\d+\.json"),
    "": re.compile(
        r"settings\.yaml|data_report\.(json|png)|metrics\.jsonl|train\.log"
        r"|events\.out\.tfevents\..+\.smallgpt|best_model|final_model|learning_curve\.json"
    ),
}
_PART = re.compile(r"learning_curve/part_\d+/?")  # the folder of a part, before its own folders
_WRITTEN_IN = ("", "plots", "checkpoints", "learning_curve")  # the folders that training writes in
# What checkpoints and model folders consist of.
_PARTS = {
    *("state.json", "made_by.json", "training.safetensors", "model.safetensors", "config.json"),
    *("generation_config.json", "adapter_config.json", "adapter_model.safetensors"),
    *("vocab.json", "tokenizer.json", "tokenizer_config.json", "settings.yaml", "codebook.npz"),
}
# How settings.yaml, train.log and the reports of a run differ from other files so named.
_SETTINGS_LINE = re.compile(r"(# (Data|Model|Training|Run)|[a-z][a-z0-9_]*: .+| .+|)")
_SETTINGS_KEYS = ("\ndata_path: ", "\nvocab_path: ", "\noutput_dir: ")
_LOG_START = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  |$")
_REPORT_START = b'{\n  "rows": '
_CURVE_START = b'{\n  "figure": '
_REMEDY = "move it, or choose another --output_dir"


class RunFolder:
    """Paths of one training run below `root`; `whole`: the run of whose rows it learns a part."""

    def __init__(self, root: str | Path, whole: RunFolder | None = None):
        self.root, self._whole = Path(root), whole
        self.settings = self.root / "settings.yaml"
        self.data_report = self.root / "data_report.json"
        self.data_picture = self.root / "data_report.png"
        self.metrics = self.root / "metrics.jsonl"
        self.log = self.root / "train.log"
        self.plots = self.root / "plots"
        self.checkpoints = self.root / "checkpoints"
        self.best_model = self.root / "best_model"
        self.final_model = self.root / "final_model"
        self.learning_curve = self.root / "learning_curve.json"
        self.learning_curve_picture = self.plots / "learning_curve.png"

    def part(self, divisor: int) -> RunFolder:
        """The folder of the run on 1/divisor of the rows."""
        return RunFolder(self.part_results(divisor).with_suffix(""), self)

    def part_results(self, divisor: int) -> Path:
        """The file with the validation results of that run."""
        return self.root / "learning_curve" / f"part_{divisor}.json"

    def go_on_hint(self, learning_curve: bool = False) -> str:
        """The command that goes on with the run, on request with its learning curve."""
        flags = ["--learning_curve"] if learning_curve or self._whole else []
        root = (self._whole or self).root
        return command_hint("train_gpt.py", "--resume", *flags, "--output_dir", root)

    def nearest_run(self) -> Path | None:
        """The run beside this folder that is called nearly the same, None where there is none."""
        beside = [path for path in contents(self.root.parent) if path.name != self.root.name]
        runs = {path.name: path for path in beside if RunFolder(path).checkpoints.is_dir()}
        close = difflib.get_close_matches(self.root.name, runs, n=1, cutoff=0.7)
        return runs[close[0]] if close else None

    def holds_run(self) -> bool:
        """Whether a training run has left anything here that must not be lost."""
        if self.metrics.exists() and self.metrics.stat().st_size:
            return True
        return any(
            os.path.lexists(path)
            for path in (self.best_model, self.final_model, *self._own_in("checkpoints"))
        )

    def check_start(self, clearing: bool) -> None:
        """Raise UserError if a run would overwrite or (`clearing`) delete a file of others."""
        for folder in (self.root / place for place in _WRITTEN_IN):
            if os.path.lexists(folder) and not folder.is_dir():
                raise UserError(f"{folder} is no folder, and a run has one of that name: {_REMEDY}")
        if not self._left_by_run():
            if read_summary(self.root):
                raise UserError(
                    f"{self.root} holds prepared data: give the run a folder of its own, "
                    f"--output_dir {Path('outputs', 'runs', self.root.resolve().name)}"
                )
            for path in (p for place in _WRITTEN_IN for p in self._own_in(place)):
                if not self._is_own(path):
                    raise UserError(
                        f"{path} was left by no training run, and one writes under that name: "
                        f"{_REMEDY}"
                    )
        elif clearing:
            for folder in self.evaluations():
                check_evaluation_folder(folder, "--overwrite would delete it")
            runs = (self, *map(RunFolder, self._parts()))
            wholes = [
                path
                for run in runs
                for path in (run.best_model, run.final_model, *run._own_in("checkpoints"))
            ]
            for path in (path for whole in wholes for path in contents(whole)):
                if path.name not in _PARTS:
                    raise UserError(
                        f"{path} is no file of a training run, and --overwrite would delete it: "
                        f"{_REMEDY}"
                    )

    def check_inputs(self, inputs: Mapping[str, str | Path | None]) -> None:
        """Raise SettingsError for all `inputs`, by option, that `clear` would delete."""
        cleared = [path for place in self._places() for path in self._own_in(place)]
        mistakes = []
        for name, given in inputs.items():
            if given is None or not os.path.exists(given):
                continue
            for path in (given, *contents(Path(given))):  # a folder may hold links
                deleted = next((own for own in cleared if _lies_in(path, own)), None)
                if deleted is not None:
                    mistakes.append(
                        f"{name} {given}: --overwrite deletes {deleted}; copy what is needed of it "
                        f"to another place, or choose another --output_dir"
                    )
                    break
        if mistakes:
            raise SettingsError(mistakes)

    def clear(self) -> list[Path]:
        """Delete the run's own files, and its folders where nothing else is in them.

        Checkpoints go first, the oldest before the newest: a deletion that is stopped halfway
        leaves a run that can resume, or one without any checkpoint. Of the rest best_model goes
        last: it shows that what is left is a run's. Returns the files of others that stay
        where a run has its own, targets of links included.
        """
        strangers = []
        for place, names in self._places().items():
            folder = self.root / place
            own = [folder] if place and folder.is_symlink() else self._own_in(place)
            # An evaluation is known by these.
            own.sort(key=lambda path: (path.name in (PREDICTIONS, METRICS), path.name == MADE_FROM))
            strangers += [Path(os.path.realpath(path)) for path in own if path.is_symlink()]
            for path in own if place else reversed(own):
                remove(path)
            if place and folder.is_dir():
                remove_leftovers(folder, names)
                with suppress(OSError):  # it is not empty
                    folder.rmdir()
                strangers += contents(folder)
        # TensorBoard will show them together with the new run.
        return strangers + sorted(self.root.glob(EVENT_FILES))

    def remove_leftovers(self) -> None:
        """Delete the temporary files and folders of a killed run."""
        for place, names in self._places().items():
            remove_leftovers(self.root / place, names)

    def evaluations(self) -> list[Path]:
        """The folders of evaluations that lie beside the models, as inference.py names them."""
        return [
            path
            for path in contents(self.root)
            if path.is_dir()
            and path.name.startswith("evaluation")
            and (path.name == "evaluation" or (path / MADE_FROM).is_file())  # of earlier versions
        ]

    def _places(self) -> dict[str, re.Pattern]:
        """`_OWN` with evaluations and parts, each folder after those within it.

        The root comes last, since metrics and models show that a run is here.
        """
        places = _OWN | {path.name: EVALUATION_FILES for path in self.evaluations()}
        curve, root = places.pop("learning_curve"), places.pop("")
        for part in self._parts():
            places |= {
                f"learning_curve/{part.name}/{place}".rstrip("/"): names
                for place, names in _OWN.items()
            }
        return places | {"learning_curve": curve, "": root}

    def _parts(self) -> list[Path]:
        """The folders of runs on parts of the rows that are not done yet."""
        folder = self.root / "learning_curve"
        if folder.is_symlink():
            return []
        return [
            path
            for path in contents(folder)
            if re.fullmatch(r"part_\d+", path.name) and path.is_dir() and not path.is_symlink()
        ]

    def _own_in(self, place: str) -> list[Path]:
        """The paths in a folder of `_places` that have a name of the run's, sorted."""
        names = _OWN.get(_PART.sub("", place), EVALUATION_FILES)
        return [p for p in contents(self.root / place) if names.fullmatch(p.name)]

    def _left_by_run(self) -> bool:
        """Whether metrics, a checkpoint or a model show that a run was here."""
        return (
            any((path / "state.json").is_file() for path in self._own_in("checkpoints"))
            or any(_are_settings(m / "settings.yaml") for m in (self.best_model, self.final_model))
            or bool(read_metrics(self.metrics))
        )

    def _is_own(self, path: Path) -> bool:
        """Whether a file could be from a run without a checkpoint yet."""
        if path == self.settings:
            return _are_settings(path)
        if path == self.log:
            return path.is_file() and _LOG_START.match(first_bytes(path)) is not None
        if path == self.metrics:
            return path.is_file() and first_bytes(path) == b""
        if path in (self.data_report, self.data_picture):
            return path.is_file() and first_bytes(self.data_report).startswith(_REPORT_START)
        if path == self.learning_curve:
            return path.is_file() and first_bytes(path).startswith(_CURVE_START)
        return path.match(EVENT_FILES)  # a run adds one and leaves the others

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder for this process; raises as `hold_folder`."""
        return hold_folder(self.root, "training run")


def _lies_in(path: str | Path, place: Path) -> bool:
    """Whether deleting `place` deletes `path`, by name or through links."""
    paths, places = ({os.path.abspath(name), os.path.realpath(name)} for name in (path, place))
    return any(p == q or p.startswith(q + os.sep) for p in paths for q in places)


def _are_settings(path: Path) -> bool:
    """Whether a file is a settings.yaml of training."""
    text = "\n" + first_bytes(path).decode("utf-8", "replace")
    return all(key in text for key in _SETTINGS_KEYS) and all(
        _SETTINGS_LINE.fullmatch(line) for line in text.split("\n")
    )


def disk_error(error: OSError, folder: RunFolder, step: int | None) -> UserError:
    """The UserError for a file error in a run; `step` of its last whole checkpoint, if any."""
    place = error.filename or folder.root
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"no space left on the disk of {place}: free some"
    else:
        what = f"{place}: {error.strerror or error}; put that right"
    if step is None:
        return UserError(f"{what} and run again; nothing had been saved yet")
    return UserError(
        f"{what}, then go on from the checkpoint of step {step:,}, which is whole: "
        f"{folder.go_on_hint()}"
    )
