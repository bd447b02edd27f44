"""config.yaml: read, every mistake with its line; written, every option with its help."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from smallgpt.errors import UserError
from smallgpt.files.reading import read_text, shown
from smallgpt.options.option import AUTO, Mistakes, Option, did_you_mean, options_of

# config.yaml has 5 KB; what is nested is a list of texts at most.
_MOST_CONFIG_BYTES, _MOST_CONFIG_LEVELS = 2**16, 8


def read_config_file(
    settings_class: type, path: Path, mistakes: Mistakes, to_run: bool = True
) -> dict[str, Any]:
    """Checked values of a YAML file by option name; mistakes are added to `mistakes`.

    `to_run`: what the file asks for is to be done, so that an option of an older version that is
    gone (`OF_OLDER_VERSIONS` of the class) is a mistake unless it was off.
    """
    options = _options_in_file(settings_class)
    gone = getattr(settings_class, "OF_OLDER_VERSIONS", ())
    values: dict[str, Any] = {}
    for name, (raw, line) in _read_yaml(path, mistakes).items():
        if name in options:
            options[name].take(values, raw, f"{path}:{line}: {name}", mistakes)
        elif name in gone:
            if to_run and raw not in (AUTO, 0):
                given = f"{path}:{line}: {name} {shown(str(raw))}"
                mistakes.append((name, f"{given} is an option of an older version: drop the line"))
        else:
            near = did_you_mean(name, options)
            mistakes.append((name, f"{path}:{line}: unknown option {shown(name)}{near}"))
    return values


def _options_in_file(settings_class: type) -> dict[str, Option]:
    return {n: option for n, option in options_of(settings_class).items() if not option.flag_only}


def _read_yaml(path: Path, mistakes: Mistakes) -> dict[str, tuple[Any, int]]:
    """The top-level mapping of a YAML file as key -> (value, line), stricter than yaml.safe_load.

    A key given twice, an anchor, an alias or deep nesting is a mistake: YAML lets the last key win
    silently, aliases can blow up a small file, scanning takes time quadratic in the depth.
    """
    import yaml  # here and below: --help answers without it

    values: dict[str, tuple[Any, int]] = {}
    try:
        text = read_text(path, _MOST_CONFIG_BYTES)
        depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            place = f"{path}:{token.start_mark.line + 1}"
            if isinstance(token, (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken)):
                raise UserError(f"{place}: anchors, aliases and tags are not used here")
            kind = type(token).__name__
            depth += kind.endswith("StartToken") - kind.endswith("EndToken")
            if depth > _MOST_CONFIG_LEVELS:
                raise UserError(f"{place}: nested too deeply")
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path}: expected lines of `option: value`")
        for key_node, value_node in root.value if root is not None else ():
            line = key_node.start_mark.line + 1
            key = str(loader.construct_object(key_node, deep=True))
            if key in values:
                mistakes.append((key, f"{path}:{line}: {shown(key)} is given twice"))
            values[key] = (loader.construct_object(value_node, deep=True), line)
        return values
    except UserError as error:
        mistakes.append(("", str(error)))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or type(error).__name__
        problem = " ".join(problem.split())[:200]  # it may quote the file
        mistakes.append(("", f"{place}: not valid YAML ({problem})"))
    return {}


def to_yaml(settings: Any, *, heading: str = "", explain: bool = False) -> str:
    """The settings as YAML, in groups; `explain` adds each option's help and range as comments."""
    import yaml

    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    group = None
    for name, option in _options_in_file(type(settings)).items():
        if option.group != group:
            group = option.group
            lines += ["", f"# {group}" if not explain else f"# ---- {group} ".ljust(88, "-")]
        if explain:
            text = option.help + (f" [{option.range_text}]" if option.range_text else "")
            wrapped = textwrap.wrap(text, 86, break_on_hyphens=False)
            lines += ["", *(f"# {line}" for line in wrapped)]
        value = getattr(settings, name)
        value = list(value) if isinstance(value, tuple) else value
        # allow_unicode keeps Chinese paths readable; width stops long paths being folded. Line
        # separators of Unicode that PyYAML would lose are escaped.
        readable = not (isinstance(value, str) and re.search("[\x85\u2028\u2029]", value))
        dumped = yaml.safe_dump({name: value}, allow_unicode=readable, width=10_000)
        lines.append(dumped.rstrip("\n"))
    return "\n".join(lines).lstrip("\n") + "\n"
