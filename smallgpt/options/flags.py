"""Command-line flags and --help."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from smallgpt.distribution import VERSION
from smallgpt.options.option import Mistakes, Option, nearest, options_of

_NO_VALUE = object()  # a flag given without a value


def parse_flags(
    settings_class: type,
    argv: Sequence[str],
    mistakes: Mistakes,
    prog: str,
    description: str,
    epilog: str = "",
) -> dict[str, Any]:
    """Checked values of the flags in `argv` by option name; mistakes are added to `mistakes`."""
    options = options_of(settings_class)
    parser = _parser(options, prog, description, epilog)
    namespace, unknown = parser.parse_known_args(_join_values(argv, options))
    for text in unknown:
        name = text.split("=")[0]
        if name.startswith("-"):
            near = nearest(name.lstrip("-"), options)
            hint = f"; did you mean --{near}?" if near else ""
            # It is about the option that was meant, which is then not missed as well.
            mistakes.append((near, f"unknown flag {name}{hint}"))
        else:
            mistakes.append(("", f"{text!r} does not belong to a flag (see {prog} --help)"))
    values: dict[str, Any] = {}
    for name, raw in vars(namespace).items():
        if raw in (_NO_VALUE, []):
            if options[name].kind is not bool:
                mistakes.append((name, f"--{name} needs a value"))
                continue
            raw = True
        options[name].take(values, raw, f"--{name}", mistakes)
    return values


def _join_values(argv: Sequence[str], options: Mapping[str, Option]) -> list[str]:
    """Join `--name value` to `--name=value`: argparse takes a value -1e-3 for a flag."""
    joined: list[str] = []
    for text in argv:
        flag = joined[-1] if joined and joined[-1].startswith("--") else ""
        option = options.get(flag[2:])
        takes_one = flag and "=" not in flag and not (option and option.takes_several)
        if takes_one and not text.startswith("--") and text != "-h":
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


def _parser(
    options: Mapping[str, Option], prog: str, description: str, epilog: str
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
    parser.add_argument("--version", action="version", version=f"smallgpt {VERSION}")
    groups: dict[str | None, Any] = {}
    for name, option in options.items():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        facts = [fact for fact in (option.range_text, f"default {_default_text(option)}") if fact]
        # A missing value is reported together with the other mistakes, not by argparse.
        several, one = {"nargs": "*", "action": "extend"}, {"nargs": "?", "const": _NO_VALUE}
        groups[option.group].add_argument(
            f"--{name}",
            **(several if option.takes_several else one),
            metavar=_metavar(option.kind),
            help=f"{option.help} [{'; '.join(facts)}]".replace("%", "%%"),
        )
    return parser


def _metavar(kind: Any) -> str:
    names = {int: "N", float: "X", bool: "true|false", str: "TEXT"}
    for part in (kind, *typing.get_args(kind)):
        if part in names:
            return names[part]
    return "TEXT"


def _default_text(option: Option) -> str:
    default = option.default
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return " ".join(default) or "none"
    return f"{default:g}" if isinstance(default, float) else str(default)
