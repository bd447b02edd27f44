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

import argparse
import dataclasses
import difflib
import math
import os
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from console import SettingsError, UserError, plural
from input_files import read_text, shown

T = TypeVar("T")
Mistakes = list[tuple[str, str]]  # (option it is about or "", what to tell the user)

# config.yaml has 5 KB; what is nested is a list of texts at most.
_MOST_CONFIG_BYTES, _MOST_CONFIG_LEVELS = 2**16, 8
# Of steps, rows or seconds nobody needs more, and sums and products of numbers stay floats.
_LARGEST_NUMBER = 10**9
_MOST_MISTAKES_SHOWN = 20
_NO_VALUE = object()  # a flag given without a value
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
        _take(values, field, kinds[field.name], value, field.name, mistakes)
        # Files and flags have only text for `5e-5` or `none`; here the value itself is used.
        if isinstance(value, str) and not isinstance(values.get(field.name, ""), str):
            text = f"{field.name}: expected {values[field.name]!r}, got the text {value!r}"
            mistakes.append((field.name, text))
    return build_settings(type(settings), {**vars(settings), **values}, mistakes)


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
            mistakes.append(("", f"unknown flag {name}{_nearest(name, known)}"))
        else:
            mistakes.append(("", f"{text!r} does not belong to a flag (see {prog} --help)"))
    values: dict[str, Any] = {}
    for name, raw in vars(namespace).items():
        if raw in (_NO_VALUE, []):
            if kinds[name] is not bool:
                mistakes.append((name, f"--{name} needs a value"))
                continue
            raw = True
        _take(values, fields[name], kinds[name], raw, f"--{name}", mistakes)
    return values


def read_config_file(settings_class: type, path: Path, mistakes: Mistakes) -> dict[str, Any]:
    """Checked values of a YAML file, by option name; mistakes go into `mistakes`."""
    fields = {f.name: f for f in dataclasses.fields(settings_class) if not f.metadata["flag_only"]}
    kinds = typing.get_type_hints(settings_class)
    values: dict[str, Any] = {}
    for name, (raw, line) in _read_yaml(path, mistakes).items():
        if name not in fields:
            near = _nearest(name, fields)
            mistakes.append((name, f"{path}:{line}: unknown option {shown(name)}{near}"))
            continue
        where = f"{path}:{line}: {name}"
        _take(values, fields[name], kinds[name], raw, where, mistakes)
    return values


def _take(
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
            near = _nearest(str(value), limits["choices"])
            raise ValueError(f"{shown(value)} is not one of {', '.join(limits['choices'])}{near}")
        if type(value) is int and limits["maximum"] is None and abs(value) > _LARGEST_NUMBER:
            raise ValueError(f"{shown(value)} is too large a number (at most {_LARGEST_NUMBER:,})")
        if isinstance(value, (int, float)) and (
            (limits["minimum"] is not None and value < limits["minimum"])
            or (limits["maximum"] is not None and value > limits["maximum"])
            or (limits["above"] is not None and value <= limits["above"])
            or (limits["below"] is not None and value >= limits["below"])
        ):
            raise ValueError(f"{shown(value)} is out of range ({_range_text(field)})")
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


def _read_yaml(path: Path, mistakes: Mistakes) -> dict[str, tuple[Any, int]]:
    """The top-level mapping of a YAML file as key -> (value, line).

    Stricter than yaml.safe_load: a key given twice, an anchor, an alias or deep nesting is a
    mistake (YAML itself lets the last key win silently, aliases can blow up a small file, and the
    scanner's time grows with the square of the depth).
    """
    import yaml

    try:
        text = read_text(path, _MOST_CONFIG_BYTES)
    except UserError as error:
        mistakes.append(("", str(error)))
        return {}
    try:
        depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            line = token.start_mark.line + 1
            if isinstance(token, (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken)):
                mistakes.append(("", f"{path}:{line}: anchors, aliases and tags are not used here"))
                return {}
            kind = type(token).__name__
            depth += kind.endswith("StartToken") - kind.endswith("EndToken")
            if depth > _MOST_CONFIG_LEVELS:
                mistakes.append(("", f"{path}:{line}: nested too deeply"))
                return {}
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            mistakes.append(("", f"{path}: expected lines of `option: value`"))
            return {}
        values: dict[str, tuple[Any, int]] = {}
        for key_node, value_node in root.value:
            line = key_node.start_mark.line + 1
            key = str(loader.construct_object(key_node, deep=True))
            if key in values:
                mistakes.append((key, f"{path}:{line}: {shown(key)} is given twice"))
            values[key] = (loader.construct_object(value_node, deep=True), line)
        return values
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or type(error).__name__
        problem = " ".join(problem.split())[:200]  # it may quote the file
        mistakes.append(("", f"{place}: not valid YAML ({problem})"))
        return {}


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


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


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


def _range_text(field: dataclasses.Field) -> str:
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


def _default_text(field: dataclasses.Field) -> str:
    if field.default is None:
        return "none"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, tuple):
        return " ".join(field.default) or "none"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _help_text(field: dataclasses.Field) -> str:
    facts = [fact for fact in (_range_text(field),) if fact]
    facts.append(f"default {_default_text(field)}")
    return f"{field.metadata['help']} [{'; '.join(facts)}]"


def to_yaml(settings: Any, *, heading: str = "", explain: bool = False) -> str:
    """The settings as YAML text, grouped, in the order of their declaration.

    Args:
        settings: a dataclass object made of options.
        heading: comment lines at the top.
        explain: write each option's help and range above it, as config.yaml has it.
    """
    import yaml

    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    group = None
    for field in dataclasses.fields(settings):
        if field.metadata["flag_only"]:
            continue
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            lines += ["", f"# {group}" if not explain else f"# ---- {group} ".ljust(88, "-")]
        if explain:
            text = field.metadata["help"]
            if _range_text(field):
                text += f" [{_range_text(field)}]"
            lines += [
                "",
                *(f"# {line}" for line in textwrap.wrap(text, 86, break_on_hyphens=False)),
            ]
        value = getattr(settings, field.name)
        value = list(value) if isinstance(value, tuple) else value
        # allow_unicode keeps Chinese paths readable; width stops long paths being folded. Line
        # separators of Unicode that PyYAML would lose are escaped.
        readable = not (isinstance(value, str) and re.search("[\x85\u2028\u2029]", value))
        dumped = yaml.safe_dump({field.name: value}, allow_unicode=readable, width=10_000)
        lines.append(dumped.rstrip("\n"))
    return "\n".join(lines).lstrip("\n") + "\n"
