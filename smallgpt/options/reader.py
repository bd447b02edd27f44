"""Options as a typed dataclass: filled from a YAML file, then from flags, checked all at once.

Declare the options once:

    @dataclass(frozen=True)
    class Settings:
        batch_size: int = option(32, "Rows in one batch.", group="Training", minimum=1)

        def contradictions(self) -> list[str]: ...

and read them with `read_settings(Settings, argv, prog=..., description=...)`. Types are int,
float, bool, str, `X | None` and `tuple[str, ...]`. Every mistake of the file and of the flags
is collected and raised in one `SettingsError`. The module imports nothing heavy, so `--help`
answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smallgpt.options.config_file import read_config_file
from smallgpt.options.flags import parse_flags
from smallgpt.options.values import Mistakes, T, build_settings

# ------------------------------------------------------------------------------- reading


def read_settings(
    settings_class: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    epilog: str = "",
    default_config: Path | None = None,
) -> T:
    """Read settings from the config file and from flags; a flag beats the file.

    Args:
        settings_class: dataclass whose fields were made by `option`; its method
            `contradictions()` names values that do not fit together, and
            `flag_contradictions(flags, values)`, if it has one, flags that the others forbid.
        argv: the command line without the program's name.
        prog, description, epilog: for `--help`, which prints and leaves with 0.
        default_config: the YAML file read where `--config` names no other; the class then
            needs a `config` option. None: flags only.

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
    if hasattr(settings_class, "flag_contradictions"):
        mistakes += settings_class.flag_contradictions(given.keys(), {**values, **given})
    return build_settings(settings_class, {**values, **given}, mistakes)
