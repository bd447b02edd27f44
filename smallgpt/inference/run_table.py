"""A table of the runs in a folder: a line a run, the best first, with what its settings have."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smallgpt.console import format_duration, format_table, plural, printable
from smallgpt.errors import UserError
from smallgpt.evaluation.comparison_report import setting_text
from smallgpt.evaluation.row_results import label_loss_name
from smallgpt.evaluation.verdicts import percent, span
from smallgpt.files.reading import contents
from smallgpt.inference.model_facts import VALIDATION_DATA, ModelFacts, differing_settings
from smallgpt.model.own_config import is_number
from smallgpt.model.place import CONFIG, is_adapter_folder

_FIGURES = ("accuracy", "label_loss", "perplexity")


def is_folder_of_runs(folder: Path) -> bool:
    """Whether a folder is no model, and holds runs that have a model."""
    is_model = is_adapter_folder(folder) or (folder / CONFIG).is_file()
    return not is_model and bool(_runs_in(folder))


def _runs_in(folder: Path) -> list[Path]:
    return [path for path in contents(folder) if (path / "best_model").is_dir()]


def table_of_runs(folder: Path) -> list[dict[str, Any]]:
    """Of each run in a folder its name, data, length and best validation figures.

    The best comes first: of lowest label loss (calibrated, as for best_model), and where labels are
    not learned of lowest perplexity.
    `settings` are the options in which a run differs from most of the others. A run whose model
    cannot be read has the reason as `problem`, and comes last.
    """
    models, broken = [], []
    for path in _runs_in(folder):
        try:
            models.append(ModelFacts.of(path / "best_model"))
        except UserError as error:
            broken.append({"run": path.name, "problem": str(error).splitlines()[0]})
    differing = differing_settings(models)
    usual = {name: _most_common(values) for name, values in differing.items()}
    runs = []
    for place, model in enumerate(models):
        settings = {name: values[place] for name, values in differing.items()}
        runs.append(
            {
                "run": model.folder.parent.name,
                "version": model.version,
                "command": model.command,
                "data": model.data,
                "best_step": model.validation.get("step"),
                "steps": model.last.get("step"),
                "epochs": model.last.get("epoch"),
                "seconds": model.seconds,
                "validation_rows": model.validation.get("rows"),
                "figures": _figures(model.validation),
                "settings": {
                    name: value for name, value in settings.items() if value != usual[name]
                },
            }
        )
    return sorted(runs, key=_order) + broken


def _figures(validation: dict[str, Any]) -> dict[str, Any]:
    """The figures that a table has, of those stored with a model."""
    names = {name: name for name in _FIGURES} | {"label_loss": label_loss_name(validation)}
    figures = {
        name: validation[stored]
        for name, stored in names.items()
        if is_number(validation.get(stored), 0, sys.float_info.max)
    }
    if "accuracy" in figures:
        figures["accuracy_interval"] = validation["accuracy_interval"]
    return figures


def _order(run: dict[str, Any]) -> tuple[bool, float]:
    """The order of runs: those with labels first, the best of them first."""
    figures = run["figures"]
    infinite = float("inf")
    return "label_loss" not in figures, figures.get(
        "label_loss", figures.get("perplexity", infinite)
    )


def _most_common(values: Sequence[Any]) -> Any:
    """The most frequent value, the first of several."""
    return Counter(values).most_common(1)[0][0]


def describe_runs(folder: Path, runs: list[dict[str, Any]]) -> str:
    """The table of runs as text; runs that were validated on other rows are marked."""
    whole = [run for run in runs if "problem" not in run]
    data = [run["data"].get(VALIDATION_DATA, "unknown") for run in whole]
    marks = {name: f"{number}" for number, name in enumerate(dict.fromkeys(data), 1)}
    has = {name: any(name in run["figures"] for run in whole) for name in _FIGURES}
    version_differs = len({run["version"] for run in whole}) > 1
    columns: dict[str, list[str]] = {"run": [run["run"] for run in whole]}
    if len(marks) > 1:
        columns["validated on"] = [marks[each] for each in data]
    if version_differs:
        columns["version"] = [run["version"] or "unknown" for run in whole]
    columns["rows"] = [_row_count(run["data"].get("the training data")) for run in whole]
    columns["epochs"] = [_number(run["epochs"], ".3g") for run in whole]
    columns["steps"] = [_number(run["steps"], ",") for run in whole]
    columns["time"] = ["" if r["seconds"] is None else format_duration(r["seconds"]) for r in whole]
    if has["accuracy"]:
        columns["label accuracy"] = [_accuracy(run["figures"]) for run in whole]
    for name, form in (("label_loss", ".4f"), ("perplexity", ".3f")):
        if has[name]:
            words = name.replace("_", " ")
            columns[words] = [_number(run["figures"].get(name), form) for run in whole]
    columns["settings unlike most"] = [
        ", ".join(f"{name} {setting_text(value)}" for name, value in run["settings"].items())
        for run in whole
    ]
    names = list(columns)
    left = [0, names.index("settings unlike most")]
    intervals = " (intervals: 95 %, Wilson)" if has["accuracy"] else ""
    lines = [
        f"{printable(str(folder))}: {plural(len(runs), 'run')}, validation figures{intervals}, "
        f"the best first",
        "",
        format_table(names, list(zip(*columns.values(), strict=True)), left=left),
    ]
    if len(marks) > 1:
        lines += ["", "figures compare only where the rows of validation are the same:"]
        lines += [f"  {mark}  {printable(name)}" for name, mark in marks.items()]
    lines += [
        f"{printable(run['run'])}: left out, {printable(run['problem'])}"
        for run in runs
        if "problem" in run
    ]
    return "\n".join(lines)


def _accuracy(figures: dict[str, Any]) -> str:
    if "accuracy" not in figures:
        return ""
    return f"{percent(figures['accuracy'])} ({span(*figures['accuracy_interval'])})"


def _row_count(data: str | None) -> str:
    """The number of rows in a fingerprint such as `1,438 rows (6b8d...)`."""
    match = re.match(r"([\d,]+) rows", data or "")
    return match[1] if match else ""


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""
