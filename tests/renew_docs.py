"""Renew the blocks of the documents that show what a command prints.

    python tests/renew_docs.py [FOLDER] [--check]

FOLDER is one in which ./quick_start.sh was done, by default this one; its files stay as they are.
`--check` writes nothing, shows what differs and ends with 1 where something does.

A block without a language shows output. It is marked in one of these ways:

- it has lines `$ COMMAND` of its own, each followed by what the command prints;
- `<!-- output: COMMAND -->` stands before it: the shell command whose output it is. Lines
  `$ COMMAND` at its beginning are then only shown;
- `<!-- output in WORLD -->` or `<!-- output in WORLD: COMMAND -->`: the same in a folder of
  docs_worlds.py instead of the one of the quick start;
- `<!-- not renewed: REASON -->`.

A line `...` stands for lines left out: what is before it goes from the first line to the one most
like the last line shown so far; what stands between two is found by its first and its last line;
what is after the last one goes to the end. A line that ends in two spaces and `...` is cut there.
Seconds, speeds, sizes, dates and the device stay as they are shown, since they differ by machine.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
QUICK_START = ("data/digits", "outputs/best_model", "outputs/train.log")

_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>(?:output|not renewed)\b[^\n]*) -->\n)?```(?P<language>\w*)\n"
    r"(?P<content>.*?)^```$",
    flags=re.M | re.S,
)
_OUTPUT = re.compile(r"output(?: in (?P<world>\w+))?(?:: (?P<command>.+))?")
_DURATION = r"\d+ h \d\d min|\d+ min \d\d s|\d[\d.]* s\b"
_MACHINE = re.compile(
    rf" *(?:{_DURATION}|\d[\d,.]* (?:tokens/s|[KMGT]i?B)\b|\d{{4}}-\d\d-\d\d)|^device: .*"
)


@dataclass(frozen=True)
class OutputBlock:
    """A block that shows output: its mark without the brackets, its content, its place."""

    mark: str | None
    content: str
    start: int
    end: int

    @property
    def is_marked(self) -> bool:
        """Whether it says how it is renewed, or why it is not."""
        if self.mark is None:
            return self.content.startswith("$ ")
        if self.mark.startswith("not renewed"):
            return re.fullmatch(r"not renewed: \w.+", self.mark) is not None
        found = _OUTPUT.fullmatch(self.mark)
        return found is not None and bool(found["command"] or self.content.startswith("$ "))


def output_blocks(text: str) -> list[OutputBlock]:
    """The blocks of a page that have no language."""
    return [
        OutputBlock(found["mark"], found["content"], found.start("content"), found.end("content"))
        for found in _FENCE.finditer(text)
        if not found["language"]
    ]


def renewed(block: OutputBlock, run: Callable[[str, str], str]) -> str:
    """The content of a block with what its commands print now.

    Args:
        run: gives the output of a command, the second argument, in a world, or "".
    """
    if block.mark is not None and block.mark.startswith("not renewed"):
        return block.content
    found = _OUTPUT.fullmatch(block.mark or "output")
    assert found is not None
    world = found["world"] or ""
    content = ""
    for shown, old in _commands(block.content, single=bool(found["command"])):
        command = found["command"] or shown.removeprefix("$ ").rstrip("\n")
        new = _as_shown(run(world, command).splitlines(), old)
        content += shown + "".join(f"{line}\n" for line in new)
    return content


def _commands(content: str, single: bool) -> list[tuple[str, list[str]]]:
    """Each command of a block as it is shown, and the lines of its output."""
    command = r"\$ (?:.*\\\n)*.*\n"
    if single:
        shown = re.match(rf"(?:{command})*", content)[0]
        return [(shown, content[len(shown) :].splitlines())]
    parts = re.split(rf"^({command})", content, flags=re.M)
    outputs = [output.splitlines() for output in parts[2::2]]
    return list(zip(parts[1::2], outputs, strict=True))


def _as_shown(new: list[str], old: list[str]) -> list[str]:
    """New output in the form of the old: what it left out, and what depends on the machine."""
    new = [_with_old_machine(line.rstrip(), old) for line in "\n".join(new).rstrip().splitlines()]
    parts: list[list[str]] = [[]]
    marks = []
    for line in old:
        if line.strip() == "...":
            parts.append([])
            marks.append(line)
        else:
            parts[-1].append(line)
    result, place = [], 0
    for number, part in enumerate(parts):
        if number:
            result.append(marks[number - 1])
        if not part:
            continue
        first = place if number == 0 else _most_like(new, part[0], place)
        last = first + len(part) - 1
        last = len(new) - 1 if number == len(marks) else _most_like(new, part[-1], first, last)
        result += [_cut(line, part) for line in new[first : last + 1]]
        place = last + 1
    return result


def _most_like(lines: list[str], wanted: str, start: int, expected: int = -1) -> int:
    """The place from `start` on of the line most like the one wanted.

    The `expected` place has an advantage over lines that are not the same, but all alike.
    """

    def likeness(place: int) -> tuple[bool, float]:
        like = _likeness(lines[place], wanted) + 0.15 * (place == expected)
        return lines[place] == wanted, like

    wanted = wanted.removesuffix("  ...")
    return max(range(start, len(lines)), key=likeness, default=start)


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def _cut(line: str, part: list[str]) -> str:
    """A line cut as the lines of its part are."""
    lengths = [len(shown) - 5 for shown in part if shown.endswith("  ...")]
    return f"{line[: min(lengths)]}  ..." if lengths and len(line) > min(lengths) else line


def _with_old_machine(line: str, old: list[str]) -> str:
    """A line with the seconds and the like of the old line that is most like it."""
    masked, count = _MACHINE.subn("", line)
    if not count:
        return line
    candidates = [each for each in old if len(_MACHINE.findall(each)) == count]
    best = max(candidates, key=lambda each: _likeness(_MACHINE.sub("", each), masked), default="")
    if not best or _likeness(_MACHINE.sub("", best), masked) < 0.6:
        return line
    values = iter(_MACHINE.findall(best))
    return _MACHINE.sub(lambda _: next(values), line)


class Shell:
    """Runs the commands of the documents, in worlds that are made when they are needed."""

    def __init__(self, quick_start: Path, folder: Path):
        """`folder`: an empty one, to be filled."""
        self._quick_start, self._folder = quick_start, folder
        self._outputs: dict[tuple[str, str], str] = {}

    def __call__(self, world: str, command: str) -> str:
        """What a command prints in a world; the same command is run once."""
        if (world, command) not in self._outputs:
            self._outputs[world, command] = self._run(self._world(world), command)
        return self._outputs[world, command]

    def _world(self, world: str) -> Path:
        from docs_worlds import WORLDS, make_pictures

        folder = self._folder / (world or "quick_start")
        if folder.exists():
            return folder
        folder.mkdir()
        if world:
            WORLDS[world](folder, lambda command: self._run(folder, command))
            return folder
        for name in QUICK_START:
            source, target = self._quick_start / name, folder / name
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
        make_pictures(folder)
        return folder

    @staticmethod
    def _run(folder: Path, command: str) -> str:
        print(f"{folder.name}: {command}", file=sys.stderr)
        python = f'python() {{ "{sys.executable}" "{ROOT}/$1" "${{@:2}}"; }}\n'
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT / "tests")}
        with subprocess.Popen(
            ["bash", "-c", python + command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            output, _ = process.communicate()
        with suppress(ProcessLookupError):  # `sed /word/q <(python ...)` leaves a run behind
            os.killpg(process.pid, signal.SIGKILL)
        return output


def main() -> int:
    parser = argparse.ArgumentParser(description="Renew the output blocks of the documents.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="of a quick start")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if they differ")
    args = parser.parse_args()
    differ = False
    with tempfile.TemporaryDirectory() as name:
        shell = Shell(args.folder, Path(name))
        for page in PAGES:
            old = page.read_text(encoding="utf-8")
            new, place = "", 0
            for block in output_blocks(old):
                new += old[place : block.start] + renewed(block, shell)
                place = block.end
            new += old[place:]
            if new != old:
                differ = True
                title = page.relative_to(ROOT).as_posix()
                lines = old.splitlines(), new.splitlines()
                print("\n".join(difflib.unified_diff(*lines, title, title, lineterm="", n=1)))
                if not args.check:
                    page.write_text(new, encoding="utf-8")
    return int(differ and args.check)


if __name__ == "__main__":
    sys.exit(main())
