"""ONNX graphs of a model folder: made once, kept beside it under the hash of its weights.

`outputs/best_model` has its graphs in `outputs/.cache/best_model.HASH.fp32`. The hash is of
everything that a graph is made from, the code that makes it included: a graph can never belong to
other weights. When a model has changed, its old graphs are deleted; the folder `.cache` may be
deleted at any time.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from smallgpt.errors import UserError
from smallgpt.files.reading import parse_json, read_text
from smallgpt.files.writing import atomic_folder, write_json
from smallgpt.model.place import CONFIG
from smallgpt.model.weights_file import SETTINGS, WEIGHTS

_FOLDER = ".cache"
_CODE = ("graph_builder.py", "gpt2_graphs.py", "graph_files.py")
_CHOICES = "choices.json"
_MOST_BYTES = 2**20  # of choices.json
_LARGEST = 2**31  # bytes of a model whose graph one file can hold


class Graphs:
    """The graphs of one model folder; one of an adapter, whose base may change, has none kept."""

    def __init__(self, model_folder: Path, write: Callable[[Path, str], None]):
        """`write(folder, precision)` makes the graphs of the model, which is loaded after this."""
        self._model_folder, self._write = model_folder, write
        self._identity = self._identity_now()
        self._for_this_process: dict[str, Path] = {}

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256()
        code = [Path(__file__).parents[1] / "graphs" / name for name in _CODE]
        for path in (*code, *self._files()):
            with open(path, "rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        return digest.hexdigest()[:20]

    def _files(self) -> list[Path]:
        return [self._model_folder / name for name in (CONFIG, SETTINGS, "vocab.json", WEIGHTS)]

    def _identity_now(self) -> list[tuple[int, ...]]:
        found = [path.stat() for path in self._files() if path.is_file()]
        return [(each.st_ino, each.st_size, each.st_mtime_ns) for each in found]

    @property
    def are_of_the_folder(self) -> bool:
        """Whether the model folder has not been replaced since this object was made."""
        return self._identity == self._identity_now()

    @cached_property
    def _is_whole(self) -> bool:
        """Whether the folder has all that graphs are made from: not that of an adapter.

        Files that are too large for a graph are not hashed: a hostile one would take for ever.
        """
        files = self._files()
        return all(path.is_file() for path in files) and (
            sum(path.stat().st_size for path in files) < _LARGEST
        )

    def _place(self, precision: str) -> Path:
        folder = self._model_folder.resolve()
        return folder.parent / _FOLDER / f"{folder.name}.{self._hash}.{precision}"

    def are_at_hand(self, precision: str) -> bool:
        """Whether graphs of these weights were made before."""
        return bool(self._kept()) and self._is_whole and self._place(precision).is_dir()

    def folder(self, precision: str) -> Path:
        """The folder with the graphs, which are made where there are none."""
        if precision in self._for_this_process:
            return self._for_this_process[precision]
        place = self._place(precision) if self._is_whole else None
        if place is None or not self.are_of_the_folder:
            return self._made_for_this_process(precision)
        if not place.is_dir():
            try:
                place.parent.mkdir(exist_ok=True)
                with atomic_folder(place) as new:
                    self._write(new, precision)
            except OSError:  # a folder that may only be read, a full disk, or
                if not place.is_dir():  # another process was faster
                    return self._made_for_this_process(precision)
            self._delete_others()
        return place

    def _made_for_this_process(self, precision: str) -> Path:
        made = Path(tempfile.mkdtemp(prefix="smallgpt-"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        self._write(made, precision)
        self._for_this_process[precision] = made
        return made

    def _delete_others(self) -> None:
        """Delete graphs of what the model folder held before."""
        for other in self._kept():
            if f".{self._hash}." not in other.name:
                shutil.rmtree(other, ignore_errors=True)

    def _kept(self) -> list[Path]:
        """All folders of graphs that were made of what this model folder held."""
        folder = self._model_folder.resolve()
        own = re.compile(rf"{re.escape(folder.name)}\.[0-9a-f]{{20}}\.(fp32|int8)")
        try:
            return [
                each for each in (folder.parent / _FOLDER).iterdir() if own.fullmatch(each.name)
            ]
        except OSError:  # there are none
            return []

    @property
    def parameters(self) -> float:
        """Parameters of the model, about."""
        return (self._model_folder / WEIGHTS).stat().st_size / 4 if self._is_whole else 0

    # ------------------------------------------------------------------- choices

    def choices(self) -> dict[str, Any]:
        """What was measured with these weights, by machine; {} where nothing was."""
        if not self.are_at_hand("fp32"):
            return {}
        with suppress(UserError, ValueError):  # none there, or damaged
            found = parse_json(read_text(self._place("fp32") / _CHOICES, _MOST_BYTES))
            return found if isinstance(found, dict) else {}
        return {}

    def keep_choices(self, choices: dict[str, Any]) -> None:
        """Keep what was measured, beside the graphs in fp32."""
        with suppress(OSError):
            if self.are_at_hand("fp32"):
                write_json(self._place("fp32") / _CHOICES, choices)


class ExportedGraphs:
    """The graphs of an export, which are what they are."""

    def __init__(self, folder: Path, precision: str):
        """`precision` of the files."""
        self._folder, self._precision = folder, precision

    def are_at_hand(self, precision: str) -> bool:
        """Whether they compute in that precision."""
        return precision == self._precision

    def folder(self, precision: str) -> Path:
        """Their folder.

        Raises:
            UserError: they are of another precision.
        """
        if not self.are_at_hand(precision):
            raise UserError(
                f"{self._folder} was exported in {self._precision}, not in {precision}: leave "
                f"--precision out"
            )
        return self._folder

    def choices(self) -> dict[str, Any]:
        """Nothing is chosen."""
        return {}


def machine_key(processor: str, threads: int, versions: dict[str, str]) -> str:
    """What a measurement depends on besides the model."""
    return json.dumps([processor, threads, versions], sort_keys=True)
