"""Options read from the environment: SMALLGPT_MODEL_PATH is what --model_path is as a flag."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from smallgpt.options.option import Mistakes, nearest, options_of

PREFIX = "SMALLGPT_"


def read_environment(
    settings_class: type, environment: Mapping[str, str], mistakes: Mistakes
) -> dict[str, Any]:
    """Checked values of variables by option name; an empty variable counts as absent.

    Mistakes are added to `mistakes`, misspelled names among them. Other names that begin so are
    left alone: Kubernetes sets some for a service that is called smallgpt.
    """
    options = options_of(settings_class)
    values: dict[str, Any] = {}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or not environment[variable]:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in options and variable == variable_of(name):
            options[name].take(values, environment[variable], variable, mistakes)
            continue
        if near := nearest(name, options):
            text = f"unknown variable {variable}; did you mean {variable_of(near)}?"
            mistakes.append((near, text))
    return values


def variable_of(name: str) -> str:
    """The variable of an option."""
    return PREFIX + name.upper()


def naming_variables(text: str, names: Mapping[str, Any]) -> str:
    """A sentence about flags with the variables of these options in their place."""

    def named(found: re.Match[str]) -> str:
        return variable_of(found[1]) if found[1] in names else found[0]

    return re.sub(r"--(\w+)", named, text)
