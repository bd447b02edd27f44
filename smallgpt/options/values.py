"""One option: its type, range, default and help, and the reading of its value."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from smallgpt.console import plural
from smallgpt.errors import SettingsError
from smallgpt.files.reading import shown

T = TypeVar("T")
Mistakes = list[tuple[str, str]]  # (option it is about or "", what to tell the user)
# Of steps, rows or seconds nobody needs more, and sums and products of numbers stay floats.
_LARGEST_NUMBER = 10**9
_MOST_MISTAKES_SHOWN = 20
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


def option(
    default: Any,
    help: str,
    *,
    group: str,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    flag_only: bool = False,
) -> Any:
    """A dataclass field that is an option.

    Args:
        default: the value where neither file nor flag gives one.
        help: one or two sentences for `--help` and config.yaml.
        group: the heading it stands under.
        minimum, maximum: inclusive bounds of a number.
        above, below: exclusive bounds of a number.
        choices: the allowed values of a string; `cuda:N` allows `cuda:0`, `cuda:1` and so on.
        flag_only: it is said for one call (`--resume`) and has no place in config.yaml.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "group": group,
            "minimum": minimum,
            "maximum": maximum,
            "above": above,
            "below": below,
            "choices": tuple(choices) if choices else None,
            "flag_only": flag_only,
        },
    )


def build_settings(settings_class: type[T], values: Mapping[str, Any], mistakes: Mistakes) -> T:
    """Make the settings object of checked `values`.

    Raises:
        SettingsError: all `mistakes`, and the contradictions between values that are none.
    """
    settings = settings_class(**values)
    mistaken = {name for name, _ in mistakes}
    contradictions = [
        text for text in settings.contradictions() if mistaken.isdisjoint(re.findall(r"\w+", text))
    ]
    if mistakes or contradictions:
        told = [text for _, text in mistakes] + contradictions
        more = len(told) - _MOST_MISTAKES_SHOWN
        rest = [f"... and {plural(more, 'more mistake')}"] if more > 0 else []
        raise SettingsError(told[:_MOST_MISTAKES_SHOWN] + rest)
    return settings


def check_values(settings: T) -> T:
    """Check settings made in Python as strictly as those from a file.

    Returns:
        The same settings, paths that came as `Path` as text.

    Raises:
        SettingsError: wrong types, values out of range, contradictions.
    """
    mistakes: Mistakes = []
    values: dict[str, Any] = {}
    kinds = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        take_value(values, field, kinds[field.name], value, field.name, mistakes)
        # Files and flags have only text for `5e-5` or `none`; here the value itself is used.
        if isinstance(value, str) and not isinstance(values.get(field.name, ""), str):
            text = f"{field.name}: expected {values[field.name]!r}, got the text {value!r}"
            mistakes.append((field.name, text))
    return build_settings(type(settings), {**vars(settings), **values}, mistakes)


def take_value(
    values: dict[str, Any],
    field: dataclasses.Field,
    kind: Any,
    raw: Any,
    where: str,
    mistakes: Mistakes,
) -> None:
    """Put `raw` into `values` as the option's type, in its range; else a line in `mistakes`."""
    try:
        value = _convert(kind, raw)
        limits = field.metadata
        # A choice that ends in :N stands for those with a number there.
        named = re.sub(r":\d{1,3}$", ":N", value) if isinstance(value, str) else value
        if limits["choices"] and value is not None and named not in limits["choices"]:
            near = did_you_mean(str(value), limits["choices"])
            raise ValueError(f"{shown(value)} is not one of {', '.join(limits['choices'])}{near}")
        if type(value) is int and limits["maximum"] is None and abs(value) > _LARGEST_NUMBER:
            raise ValueError(f"{shown(value)} is too large a number (at most {_LARGEST_NUMBER:,})")
        if isinstance(value, (int, float)) and (
            (limits["minimum"] is not None and value < limits["minimum"])
            or (limits["maximum"] is not None and value > limits["maximum"])
            or (limits["above"] is not None and value <= limits["above"])
            or (limits["below"] is not None and value >= limits["below"])
        ):
            raise ValueError(f"{shown(value)} is out of range ({range_text(field)})")
    except ValueError as error:
        mistakes.append((field.name, f"{where}: {error}"))
    else:
        values[field.name] = value


def _convert(kind: Any, raw: Any) -> Any:
    """`raw` (a flag's text or a YAML value) as `kind`; ValueError says what was expected."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if raw is None or (isinstance(raw, str) and raw.lower() in ("none", "null")):
            return None
        (kind,) = [part for part in typing.get_args(kind) if part is not type(None)]
    if typing.get_origin(kind) is tuple:
        items = raw if isinstance(raw, (list, tuple)) else [raw]
        items = [os.fspath(item) if isinstance(item, Path) else item for item in items]
        if not all(isinstance(item, str) for item in items):
            raise ValueError(f"expected a list of strings, got {shown(raw)}")
        return tuple(items)
    if kind is bool:
        if isinstance(raw, bool):
            return raw
        if isinstance(raw, str) and raw.lower() in _TRUE + _FALSE:
            return raw.lower() in _TRUE
        raise ValueError(f"expected true or false, got {shown(raw)}")
    if kind is int:
        if isinstance(raw, int) and not isinstance(raw, bool):
            return raw
        try:
            if isinstance(raw, str):
                return int(raw)
        except ValueError:
            pass
        raise ValueError(f"expected a whole number, got {shown(raw)}")
    if kind is float:
        # YAML 1.1 reads 5e-5 (no dot) as a string, so strings are numbers here as well.
        try:
            if not isinstance(raw, (int, float, str)) or isinstance(raw, bool):
                raise ValueError
            value = float(raw)
        except (ValueError, OverflowError):
            raise ValueError(f"expected a number, got {shown(raw)}") from None
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {shown(raw)}")
        return value
    if isinstance(raw, Path):
        raw = os.fspath(raw)
    if isinstance(raw, str) and raw:
        if "\0" in raw or not _is_unicode(raw):  # no path, and nothing that could be stored
            raise ValueError(f"{shown(raw)} is not valid Unicode text without NUL")
        return raw
    raise ValueError(f"expected text, got {shown(raw)}" + (" (put it in quotes)" if raw else ""))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def did_you_mean(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def range_text(field: dataclasses.Field) -> str:
    limits = field.metadata
    if limits["choices"]:
        return "|".join(limits["choices"])
    parts = []
    if limits["above"] is not None:
        parts.append(f"above {limits['above']:.15g}")
    if limits["minimum"] is not None:
        parts.append(f"at least {limits['minimum']:.15g}")
    if limits["maximum"] is not None:
        parts.append(f"at most {limits['maximum']:.15g}")
    if limits["below"] is not None:
        parts.append(f"below {limits['below']:.15g}")
    return ", ".join(parts)
