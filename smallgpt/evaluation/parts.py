"""Parts of an evaluation or classification: a folder for each shard of the rows, read when joined.

    with holding_part(folder, Shard(2, 8), belongs, data, overwrite=False) as place:
        place.write(head, arrays, predictions, cells)      # DIR/shard_2_of_8, whole or not at all
    parts = read_parts(folder)                             # all eight, checked to belong together

A part has

    part.json           what it belongs to, what is true of all rows, digests of the other files
    rows.npz            the results of its rows, every number as it was computed
    predictions.jsonl   its rows as in the whole file, with answers that are withheld in the end
    cells.jsonl         of a table: the line and the cells of each row
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smallgpt.console import command_hint, plural
from smallgpt.distribution import VERSION
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation.abstention import withheld
from smallgpt.evaluation.folder import PREDICTIONS
from smallgpt.files.locks import LOCK, hold_output
from smallgpt.files.npz import read_npz
from smallgpt.files.reading import contents, open_input, parse_json, read_text, same_file
from smallgpt.files.writing import atomic_folder, json_line, remove, sync, write_json
from smallgpt.inputs.tables import Table
from smallgpt.options.inference import Shard

HEAD, ROWS, CELLS = "part.json", "rows.npz", "cells.jsonl"
_FILES = (HEAD, ROWS, PREDICTIONS, CELLS)
_NAME = re.compile(r"shard_([1-9][0-9]{0,5})_of_([1-9][0-9]{0,5})")
_MOST_HEAD_BYTES = 2**28  # as of metrics.json; it has the names of all labels
_MOST_ARRAY_BYTES = 2**36  # a billion rows; their digest was compared by then
_CHUNK = 2**16  # bytes of a part that are held while parts are joined; there may be thousands
_MOST_TOLD = 5  # missing parts
# What a part belongs to, in words; what is not named here is a setting.
_WORDS = {"mode": "for another --mode", "rows": "of other rows", "weights": "by another model"}


def name_of(shard: Shard) -> str:
    """The name of the folder of a part."""
    return f"shard_{shard.number}_of_{shard.parts}"


# ------------------------------------------------------------------------------- writing


class PartFolder(NamedTuple):
    """The place of one part, held by this process alone."""

    path: Path
    shard: Shard
    work: Path  # a folder beside it

    def write(
        self,
        head: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        predictions: Collection[dict[str, Any]],
        cells: Iterable[tuple[int, list[str]]] | None,
    ) -> None:
        """Write the part, in place of an earlier one.

        `head`: what part.json is to tell; `arrays`: what rows.npz has; `cells`: of the rows of a
        table their lines and cells.
        """
        whole = self.work / self.path.name
        with atomic_folder(whole) as new:
            with open(new / ROWS, "wb") as handle:
                # (Its stubs take the names of arrays for its other arguments.)
                np.savez(handle, **arrays)  # type: ignore[arg-type]
            _write_lines(new / PREDICTIONS, predictions)
            if cells is not None:
                _write_lines(new / CELLS, cells)
            told = {
                "shard": self.shard.number,
                "shards": self.shard.parts,
                **head,
                "files": {path.name: _digest_of(path) for path in contents(new)},
            }
            write_json(new / HEAD, {**told, "digest": _digest_of_head(told)})
        remove(self.path)
        os.rename(whole, self.path)
        sync(self.path.parent)


@contextmanager
def holding_part(
    folder: Path, shard: Shard, belongs: Mapping[str, Any], data: str, overwrite: bool
) -> Iterator[PartFolder]:
    """Lock the place of a part in the folder of the results.

    A part of the same rows, model and settings is replaced, one of others with `overwrite` alone.

    Args:
        belongs: what tells parts of one evaluation from those of another.
        data: the file of the rows.

    Raises:
        SettingsError: the rows lie in the part, under the name of one of its files.
        UserError: the folder is a file, another process computes this part, or its place holds the
            part of another evaluation or files of others.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder as --output_dir")
    path = folder / name_of(shard)
    work = folder / f".{path.name}"  # the lock is here: the part itself is renamed
    try:
        with hold_output(work, f"run of --shard {shard}"):
            for left in contents(work):  # of a process that was killed
                if left.name != LOCK:
                    remove(left)
            _check_place(path, belongs, data, overwrite)
            yield PartFolder(path, shard, work)
    finally:
        with suppress(OSError):
            work.rmdir()


def _check_place(path: Path, belongs: Mapping[str, Any], data: str, overwrite: bool) -> None:
    """Refuse to replace anything but a part of the same; see `holding_part`."""
    if any(same_file(data, path / name) for name in _FILES):
        raise SettingsError([f"--test_data {data} would be overwritten: give another --output_dir"])
    if not os.path.lexists(path):
        return
    foreign = [each for each in contents(path) if each.name not in _FILES]
    if foreign or not path.is_dir():
        raise UserError(
            f"{foreign[0] if foreign else path} was left by no shard, and one writes under that "
            f"name: move it, or choose another --output_dir"
        )
    try:
        stored = _read_head(path)["belongs"]
    except UserError:
        return  # it is damaged, and to be made again
    if stored != belongs and not overwrite:
        raise UserError(
            f"{path} holds a part {_difference(stored, belongs)}: give another --output_dir, or "
            f"replace it with --overwrite"
        )


def _write_lines(path: Path, values: Iterable[Any]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(map(json_line, values))


def _digest_of(path: Path) -> str:
    with open_input(path) as handle:
        return hashlib.file_digest(handle, "blake2b").hexdigest()


def _digest_of_head(head: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(head).encode()).hexdigest()


# ------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Part:
    """A part that is whole."""

    path: Path
    head: dict[str, Any]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What rows.npz has."""
        return read_npz(self.path / ROWS, _MOST_ARRAY_BYTES)


def read_parts(folder: Path) -> list[Part]:
    """All parts of one evaluation, in their order.

    Raises:
        UserError: there is none; one is missing, damaged, by another version, or of another
            evaluation than most; or there are parts of several divisions.
    """
    numbers = {
        path: Shard(*map(int, named.groups()))
        for path in contents(folder)
        if (named := _NAME.fullmatch(path.name)) is not None
    }
    if not numbers:
        raise UserError(
            f"{folder}: no parts in it; inference.py --test_data FILE --shard 1/8 --output_dir "
            f"{folder} writes the first of eight"
        )
    counts = sorted({shard.parts for shard in numbers.values()})
    if len(counts) > 1:
        raise UserError(
            f"{folder} has parts of divisions by {' and by '.join(map(str, counts))}: delete those "
            f"of all but one"
        )
    count = counts[0]
    heads = {shard.number: _head_or_error(path, shard) for path, shard in numbers.items()}
    paths = {shard.number: path for path, shard in numbers.items()}
    sound = {number: head for number, head in heads.items() if not isinstance(head, UserError)}
    usual = _most_frequent(list(sound.values()))

    def remedy(number: int, *flags: str) -> str:
        shard = Shard(number, count)
        if usual is None:
            return f"make it again, by --shard {shard}"
        words = [*usual["command"], "--shard", shard, "--output_dir", folder, *flags]
        return f"`{command_hint('inference.py', *map(str, words))}`"

    for number, head in sorted(heads.items(), key=itemgetter(0)):
        if isinstance(head, UserError):
            raise UserError(f"{head}: {remedy(number)}")
    for number, head in sorted(sound.items(), key=itemgetter(0)):
        if usual is not None and head["belongs"] != usual["belongs"]:
            raise UserError(
                f"{paths[number]} holds a part {_difference(head['belongs'], usual['belongs'])}, "
                f"unlike {name_of(Shard(usual['shard'], count))}: {remedy(number, '--overwrite')}"
            )
    missing = sorted({*range(1, count + 1)} - sound.keys())
    if missing:
        told = ", ".join(remedy(number) for number in missing[:_MOST_TOLD])
        more = f" and {len(missing) - _MOST_TOLD:,} more" if len(missing) > _MOST_TOLD else ""
        raise UserError(
            f"{folder}: {len(missing):,} of {plural(count, 'part')} missing: {told}{more}"
        )
    for number, head in sorted(sound.items(), key=itemgetter(0)):
        for name, digest in head["files"].items():
            path = paths[number] / name
            if not path.is_file() or _digest_of(path) != digest:
                raise UserError(f"{path}: damaged: {remedy(number)}")
    return [Part(paths[number], sound[number]) for number in sorted(sound)]


def _most_frequent(heads: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """A part of the evaluation that most parts belong to; None where there is no part."""
    counts = Counter(json.dumps(head["belongs"]) for head in heads)
    return max(heads, key=lambda head: counts[json.dumps(head["belongs"])], default=None)


def _head_or_error(path: Path, shard: Shard) -> dict[str, Any] | UserError:
    """What part.json tells, or why it cannot be used."""
    try:
        head = _read_head(path)
    except UserError as error:
        return error
    if (head["shard"], head["shards"]) != shard:
        return UserError(f"{path}: it holds part {head['shard']} of {head['shards']}")
    version = head["belongs"]["versions"]["smallgpt"]
    if version != VERSION:
        return UserError(f"{path}: it was written by smallgpt {version}, and this is {VERSION}")
    return head


def _read_head(path: Path) -> dict[str, Any]:
    """What part.json tells.

    Raises:
        UserError: it is damaged.
    """
    with suppress(UserError, ValueError, TypeError, LookupError, AttributeError):
        head: dict[str, Any] = parse_json(read_text(path / HEAD, _MOST_HEAD_BYTES))
        digest = head.pop("digest")
        if digest == _digest_of_head(head):
            return head
    raise UserError(f"{path / HEAD}: damaged")


def _difference(belongs: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In what a part differs from another, such as `by another model`."""
    for name, words in _WORDS.items():
        if belongs[name] != other[name]:
            return words
    told = [
        f"{name} {belongs[kind].get(name)} and not {other[kind].get(name)}"
        for kind in ("settings", "versions")
        for name in sorted(belongs[kind].keys() | other[kind].keys())
        if belongs[kind].get(name) != other[kind].get(name)
    ]
    return f"with {', '.join(told)}"


# ------------------------------------------------------------------------------- joining


class JoinedPredictions(Collection[dict[str, Any]]):
    """The objects of predictions.jsonl of all parts in the order of the lines, read as needed."""

    def __init__(self, parts: Sequence[Part], abstain_below: float | None = None):
        """`abstain_below`: as for `abstain`."""
        self._parts, self._abstain_below = parts, abstain_below

    def __len__(self) -> int:
        return sum(part.head["rows"] for part in self._parts)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        each = (_lines_of(part.path / PREDICTIONS) for part in self._parts)
        for row in heapq.merge(*each, key=itemgetter("line")):
            yield withheld(row, self._abstain_below)

    def __contains__(self, row: object) -> bool:
        return any(row == other for other in self)


@dataclass(frozen=True)
class JoinedTable(Table):
    """A table whose cells lie in parts; its own `text` is empty."""

    parts: Sequence[Part] = ()

    def rows(self) -> Iterator[tuple[int, list[str], str | None]]:
        """As `Table.rows`; why a row cannot be used stands in its prediction."""
        for line, cells in heapq.merge(*(_lines_of(part.path / CELLS) for part in self.parts)):
            yield line, cells, None


def _lines_of(path: Path) -> Iterator[Any]:
    """The values of a JSONL file of a part; it is open only while it is being read."""
    place = 0
    while True:
        with open_input(path) as handle:
            handle.seek(place)
            lines = handle.readlines(_CHUNK)
        if not lines:
            return
        place += sum(map(len, lines))
        for line in lines:
            yield parse_json(line.decode())
