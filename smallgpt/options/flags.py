"""Flags of a command line, and --help."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from smallgpt.options.values import Mistakes, did_you_mean, range_text, take_value

_NO_VALUE = object()  # a flag given without a value


def parse_flags(
    settings_class: type,
    argv: Sequence[str],
    mistakes: Mistakes,
    prog: str,
    description: str,
    epilog: str = "",
) -> dict[str, Any]:
    """Checked values of the flags in `argv`, by option name; mistakes go into `mistakes`."""
    fields = {field.name: field for field in dataclasses.fields(settings_class)}
    kinds = typing.get_type_hints(settings_class)
    parser = _parser(settings_class, prog, description, epilog)
    namespace, unknown = parser.parse_known_args(_join_values(argv, kinds))
    for text in unknown:
        name = text.split("=")[0]
        if name.startswith("-"):
            known = [f"--{key}" for key in fields]
            mistakes.append(("", f"unknown flag {name}{did_you_mean(name, known)}"))
        else:
            mistakes.append(("", f"{text!r} does not belong to a flag (see {prog} --help)"))
    values: dict[str, Any] = {}
    for name, raw in vars(namespace).items():
        if raw in (_NO_VALUE, []):
            if kinds[name] is not bool:
                mistakes.append((name, f"--{name} needs a value"))
                continue
            raw = True
        take_value(values, fields[name], kinds[name], raw, f"--{name}", mistakes)
    return values


def _join_values(argv: Sequence[str], kinds: Mapping[str, Any]) -> list[str]:
    """Join `--name value` to `--name=value`, since argparse takes a value -1e-3 for a flag."""
    joined: list[str] = []
    for text in argv:
        flag = joined[-1] if joined and joined[-1].startswith("--") else ""
        takes_one = flag and "=" not in flag and typing.get_origin(kinds.get(flag[2:])) is not tuple
        if takes_one and not text.startswith("--") and text != "-h":
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


# ------------------------------------------------------------------------------- showing


def _parser(
    settings_class: type, prog: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [--option value ...]",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = typing.get_type_hints(settings_class)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(settings_class):
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        several = typing.get_origin(kinds[field.name]) is tuple
        groups[title].add_argument(
            f"--{field.name}",
            # A missing value is reported together with the other mistakes, not by argparse.
            **(
                {"nargs": "*", "action": "extend"}
                if several
                else {"nargs": "?", "const": _NO_VALUE}
            ),
            metavar=_metavar(kinds[field.name]),
            help=_help_text(field).replace("%", "%%"),
        )
    return parser


def _metavar(kind: Any) -> str:
    names = {int: "N", float: "X", bool: "true|false", str: "TEXT"}
    for part in (kind, *typing.get_args(kind)):
        if part in names:
            return names[part]
    return "TEXT"


def _default_text(field: dataclasses.Field) -> str:
    if field.default is None:
        return "none"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, tuple):
        return " ".join(field.default) or "none"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _help_text(field: dataclasses.Field) -> str:
    facts = [fact for fact in (range_text(field),) if fact]
    facts.append(f"default {_default_text(field)}")
    return f"{field.metadata['help']} [{'; '.join(facts)}]"
