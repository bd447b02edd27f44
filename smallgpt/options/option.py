"""One option: type, range, default and help, and the check of a value given for it.

    batch_size: int = option(32, "Rows in one batch.", group="Training", minimum=1)
    name: str | None = option(None, "The name of the run.")

are fields of a dataclass, the settings of a command.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from smallgpt.files.reading import shown

Mistakes = list[tuple[str, str]]  # (the option it is about or "", a line for the user)
# Nobody needs more steps, rows or seconds; sums and products of such numbers fit into floats.
_LARGEST_NUMBER = 10**9
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
AUTO: Any = "auto"  # the value of an option that is chosen later, when the data is known


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        help: one or two sentences for `--help` and config.yaml.
        group: the heading it stands under; None = that of the option before it.
        choices: the allowed values of a string; `cuda:N` allows `cuda:0`, `cuda:1` and so on.
        minimum, maximum: inclusive bounds of a number; above, below: exclusive bounds.
        instead: advice for a value out of range.
        can_be_auto: whether it may be `AUTO`, whatever its kind.
        flag_only: a flag for one call, such as `--resume`, with no place in config.yaml.
        name, kind: of the field; kinds are int, float, bool, str, `X | None`, `tuple[str, ...]`.
    """

    default: Any
    help: str
    group: str | None = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    instead: str = ""
    can_be_auto: bool = False
    flag_only: bool = False
    name: str = ""
    kind: Any = str

    @property
    def takes_several(self) -> bool:
        """Whether its value is a tuple of strings."""
        return typing.get_origin(self.kind) is tuple

    @property
    def range_text(self) -> str:
        """Its choices or bounds as text, "" if there are none."""
        bounds = {
            "above": self.above,
            "at least": self.minimum,
            "at most": self.maximum,
            "below": self.below,
        }
        auto = [AUTO] if self.can_be_auto else []
        found = [f"{word} {bound:.15g}" for word, bound in bounds.items() if bound is not None]
        return "|".join([*auto, *self.choices]) if self.choices else ", ".join(auto + found)

    def check(self, raw: Any) -> Any:
        """A flag's text or a YAML value, converted to the option's type.

        Raises:
            ValueError: another type or a value out of range; says what was expected.
        """
        if self.can_be_auto and raw == AUTO:
            return AUTO
        value = _convert(self.kind, raw)
        # A choice that ends in :N allows any number there.
        named = re.sub(r":\d{1,3}$", ":N", value) if isinstance(value, str) else value
        if self.choices and value is not None and named not in self.choices:
            near = did_you_mean(str(value), self.choices)
            raise ValueError(f"{shown(value)} is not one of {', '.join(self.choices)}{near}")
        if type(value) is int and self.maximum is None and abs(value) > _LARGEST_NUMBER:
            raise ValueError(f"{shown(value)} is too large a number (at most {_LARGEST_NUMBER:,})")
        if isinstance(value, (int, float)) and (
            (self.minimum is not None and value < self.minimum)
            or (self.maximum is not None and value > self.maximum)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        ):
            instead = f"; {self.instead}" if self.instead else ""
            raise ValueError(f"{shown(value)} is out of range ({self.range_text}){instead}")
        return value

    def take(self, values: dict[str, Any], raw: Any, where: str, mistakes: Mistakes) -> None:
        """Put `raw`, checked, into `values`; if it is wrong, a line into `mistakes`."""
        try:
            values[self.name] = self.check(raw)
        except ValueError as error:
            mistakes.append((self.name, f"{where}: {error}"))


def option(default: Any, help: str, **facts: Any) -> Any:
    """A dataclass field for an option; `facts` are further attributes of `Option`."""
    return shared(Option(default, help, **facts))


def shared(option: Option, **changes: Any) -> Any:
    """A dataclass field for an option of several settings, with some attributes changed."""
    option = dataclasses.replace(option, **changes)
    return dataclasses.field(default=option.default, metadata={"option": option})


def options_of(settings_class: type) -> dict[str, Option]:
    """The options of a dataclass by name, in the order of their declaration."""
    return _options_of(settings_class)


@cache  # which forgets the types of the arguments
def _options_of(settings_class: type) -> dict[str, Option]:
    kinds = typing.get_type_hints(settings_class)
    options, group = {}, None
    for field in dataclasses.fields(settings_class):
        declared = field.metadata["option"]
        group = declared.group or group
        options[field.name] = dataclasses.replace(
            declared, name=field.name, kind=kinds[field.name], group=group
        )
    return options


def as_flags(settings: Any, without: Collection[str] = ()) -> list[str]:
    """The flags that give settings: those of values that are no defaults."""
    words: list[str] = []
    for name, each in options_of(type(settings)).items():
        value = getattr(settings, name)
        if name in without or value == each.default:
            continue
        if value is True:
            words.append(f"--{name}")
            continue
        for text in map(str, value if each.takes_several else [value]):
            words += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return words


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that begins so, has these initials, or is spelled alike; "" without any."""
    name, known = name.lower(), list(known)
    near = [each for each in known if each.startswith(f"{name}_")]
    if not near:
        of_initials = [x for x in known if "".join(word[:1] for word in x.split("_")) == name]
        # The longest, as it is the likeliest to be shortened: lr is no lora_rank.
        near = sorted(of_initials, key=len, reverse=True)
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return near[0] if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean NEAR?`, "" if no known name is near."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""


def _convert(kind: Any, raw: Any) -> Any:
    """`raw` as `kind`; ValueError says what was expected."""
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
        if re.search("[\0\ud800-\udfff]", raw):  # no path, and nothing that could be stored
            raise ValueError(f"{shown(raw)} is not valid Unicode text without NUL")
        return raw
    raise ValueError(f"expected text, got {shown(raw)}" + (" (put it in quotes)" if raw else ""))
