"""Settings: a frozen dataclass of options, filled from a YAML file and flags, checked together.

    @dataclass(frozen=True)
    class Settings:
        batch_size: int = option(32, "Rows in one batch.", group="Training", minimum=1)

        def contradictions(self) -> Iterable[str]: ...

    settings = read_settings(Settings, argv, prog="train.py", description="...")

No library, since tyro, jsonargparse and pydantic-settings stop at the first mistake and take 60 to
150 ms. Here one `SettingsError` has every mistake, those of the file with their lines, and `--help`
answers at once, since nothing heavy is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from smallgpt.console import plural
from smallgpt.errors import SettingsError
from smallgpt.options.config_file import read_config_file
from smallgpt.options.environment import naming_variables, read_environment
from smallgpt.options.flags import parse_flags
from smallgpt.options.option import Mistakes, options_of

_MOST_MISTAKES_SHOWN = 20


class Settings(Protocol):
    """A frozen dataclass of options."""

    def contradictions(self) -> Iterable[str]:
        """Values that do not fit together, a line each."""


T = TypeVar("T", bound=Settings)


def read_settings(
    settings_class: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    epilog: str = "",
    default_config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> T:
    """Read settings from the config file and from flags; flags override the file.

    `contradictions()` of the class names values that do not fit together. If it has them,
    `flag_contradictions(flags, values)` names flags that other options forbid, and
    `settle_file(values, flags)` drops values of the file that no longer count. Without
    `--config`, `default_config` is read; None = flags only. `environment`: variables that are
    read too, and that flags override. `--help` exits with 0.

    Raises:
        SettingsError: every mistake found, one line each.
    """
    mistakes: Mistakes = []
    given = parse_flags(settings_class, argv, mistakes, prog, description, epilog)
    values: dict[str, Any] = {}
    if default_config is not None:
        config = Path(given.get("config") or default_config)
        if os.path.exists(config):
            values = read_config_file(settings_class, config, mistakes)
        elif given.get("config"):
            mistakes.append(("config", f"--config {config}: no such file"))
        if settle_file := getattr(settings_class, "settle_file", None):
            settle_file(values, given)
    if flag_contradictions := getattr(settings_class, "flag_contradictions", None):
        mistakes += flag_contradictions(given.keys(), {**values, **given})
    of_variables = read_environment(settings_class, environment or {}, mistakes)
    of_variables = {name: value for name, value in of_variables.items() if name not in given}
    return _build(settings_class, {**values, **of_variables, **given}, mistakes, of_variables)


def load_settings(settings_class: type[T], path: Path) -> T:
    """Read settings from a YAML file alone, such as the settings.yaml of a run.

    Raises:
        SettingsError: unknown keys or wrong values.
    """
    mistakes: Mistakes = []
    values = read_config_file(settings_class, path, mistakes, to_run=False)
    return _build(settings_class, values, mistakes)


def check_settings(settings: T) -> T:
    """Check settings made in Python as strictly as a file; returns them, `Path` values as text.

    Raises:
        SettingsError: wrong types, values out of range, contradictions.
    """
    mistakes: Mistakes = []
    values: dict[str, Any] = {}
    for name, option in options_of(type(settings)).items():
        given = getattr(settings, name)
        option.take(values, given, name, mistakes)
        # Files and flags have only text for `5e-5` or `none`; here the value itself is used.
        if isinstance(given, str) and not isinstance(values.get(name, ""), str):
            text = f"{name}: expected {values[name]!r}, got the text {given!r}"
            mistakes.append((name, text))
    return _build(type(settings), {**vars(settings), **values}, mistakes)


def _build(
    settings_class: type[T],
    values: Mapping[str, Any],
    mistakes: Mistakes,
    of_variables: Mapping[str, Any] | None = None,
) -> T:
    """Make settings of checked values; raise mistakes, and contradictions of the other options.

    `of_variables`: values from the environment, which are named by their variables.
    """
    settings = settings_class(**values)
    mistaken = {name for name, _ in mistakes}
    contradictions = [
        naming_variables(text, of_variables or {})
        for text in settings.contradictions()
        if mistaken.isdisjoint(re.findall(r"\w+", text))
    ]
    if mistakes or contradictions:
        lines = [text for _, text in mistakes] + contradictions
        more = len(lines) - _MOST_MISTAKES_SHOWN
        rest = [f"... and {plural(more, 'more mistake')}"] if more > 0 else []
        raise SettingsError(lines[:_MOST_MISTAKES_SHOWN] + rest)
    return settings
