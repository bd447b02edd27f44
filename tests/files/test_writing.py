"""Files and folders appear whole or not at all."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from smallgpt.files.tensors import write_tensors
from smallgpt.files.writing import (
    atomic_folder,
    atomic_write,
    make_folder,
    naming_file,
    remove,
    remove_leftovers,
    write_json,
    write_text,
)

ROOT = Path(__file__).parents[2]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_written_file_holds_its_text_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "文件.txt"
    write_text(path, "训练\n")
    write_text(path, "second\n")
    assert path.read_bytes() == b"second\n"
    assert names_in(path.parent) == {"文件.txt"}


def test_bytes_can_be_written(tmp_path):
    with atomic_write(tmp_path / "x.bin", "wb") as handle:
        handle.write(b"\xff\x00\r\n")
    assert (tmp_path / "x.bin").read_bytes() == b"\xff\x00\r\n"


def test_tensors_with_equal_metadata_are_equal_bytes(tmp_path):
    tensors = {name: torch.arange(3.0) for name in ("b", "a", '"')}
    facts = {f"键 {n}": f'"{n}"\\\n\t\x01\x7f é' for n in range(20)}
    paths = [tmp_path / "one", tmp_path / "two"]
    for path, order in zip(paths, (facts, dict(reversed(facts.items()))), strict=True):
        write_tensors(path, tensors, order)
        with safe_open(path, framework="pt") as handle:
            assert handle.metadata() == facts
            assert all(torch.equal(handle.get_tensor(name), tensors[name]) for name in tensors)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_weights_may_be_read_by_whom_the_umask_allows(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "x.safetensors", {"weight": torch.zeros(2)})
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == mode


def test_old_file_is_there_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with atomic_write(path) as handle:
        handle.write("new")
        handle.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_reader_of_the_old_file_reads_it_to_its_end(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with open(path) as reader:
        write_text(path, "new")
        assert reader.read() == "old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_error_while_writing_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(error), atomic_write(path) as handle:
        handle.write("half")
        raise error
    assert path.read_text() == "old"
    assert names_in(tmp_path) == {"x.txt"}


def test_json_is_indented_readable_and_refuses_nan(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"标签": [1, None]})
    assert path.read_text(encoding="utf-8") == '{\n  "标签": [\n    1,\n    null\n  ]\n}\n'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            write_json(path, {"loss": value})
    assert json.loads(path.read_text(encoding="utf-8")) == {"标签": [1, None]}


def test_deep_levels_of_json_can_stand_in_one_line(tmp_path):
    value = {"a": {"x": {"y": [1, 2]}, "标签": None}, "b": [[1, [2]], {}], "c": [], "d": 0.1}
    lines = {}
    for levels in (None, 0, 1, 2):
        write_json(tmp_path / "file.json", value, levels)
        text = (tmp_path / "file.json").read_text(encoding="utf-8")
        assert json.loads(text) == value
        lines[levels] = text.splitlines()
    assert len(lines[0]) == 1 and len(lines[1]) == 6
    assert lines[2][1:5] == ['  "a": {', '    "x": {"y": [1, 2]},', '    "标签": null', "  },"]
    assert "\n".join(lines[None]) == json.dumps(value, indent=2, ensure_ascii=False)


def test_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "model"
    with pytest.raises(ValueError), atomic_folder(path) as folder:
        (folder / "half.txt").write_text("half")
        raise ValueError
    assert names_in(tmp_path / "deep") == set()
    with atomic_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x.txt").write_text("whole")
        assert not path.exists()
    assert (path / "sub" / "x.txt").read_text() == "whole"
    assert names_in(tmp_path / "deep") == {"model"}


def test_folder_does_not_replace_another(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "model"):
        pass
    assert names_in(tmp_path / "model") == {"mine.txt"}


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from smallgpt.files.writing import atomic_folder, atomic_write\n"
        "with atomic_folder(sys.argv[1] + '/model') as folder, "
        "atomic_write(sys.argv[1] + '/x.json') as handle:\n"
        "    (folder / 'half.txt').write_text('half')\n"
        "    handle.write('half')\n"
        "    handle.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
    assert len(names_in(tmp_path)) == 2
    assert not names_in(tmp_path) & {"model", "x.json"}
    mine = {
        "mine.tmp",
        ".hidden",
        "y.json",
        ".notes.2024.tmp",
        ".x.json.old.tmp",
        ".a.x.json.1.tmp",
    }
    for name in mine:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".backup.20241124.tmp").mkdir()
    remove_leftovers(tmp_path, re.compile(r"model|x\.json"))
    assert names_in(tmp_path) == mine | {".backup.20241124.tmp"}


def test_folder_leaves_its_place_whole(tmp_path, monkeypatch):
    """A reader that polls a folder must not meet a half of it while it is deleted."""
    folder = tmp_path / "best_model"
    folder.mkdir()
    (folder / "a.bin").write_text("x")
    (folder / "b.bin").write_text("x")
    seen = []
    for name in ("unlink", "rmdir"):
        real = getattr(os, name)

        def watched(*args, real=real, **kwargs):
            seen.append(folder.exists())
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, watched)
    remove(folder)
    assert len(seen) >= 3 and not any(seen)
    assert names_in(tmp_path) == set()
    remove(folder)


class Synced:
    """Watches that what is renamed was synced before, and the name of it after."""

    def __init__(self, monkeypatch):
        self.synced, self.waiting, self.renames = set(), None, 0
        monkeypatch.setattr(os, "fsync", self.watch_sync(os.fsync))
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, self.watch_rename(getattr(os, name)))

    def watch_sync(self, real):
        def fsync(handle):
            place = Path(os.readlink(f"/proc/self/fd/{handle}"))
            # The state that was synced: what is written later is not.
            self.synced.add((place.stat().st_ino, place.stat().st_mtime_ns))
            if place == self.waiting:
                self.waiting = None
            real(handle)

        return fsync

    def watch_rename(self, real):
        def rename(source, target):
            assert self.waiting is None, f"{self.waiting} was not synced after a rename"
            source, target = Path(source), Path(target)
            if ".tmp" in source.name or ".tmp" in source.parent.name:  # not a folder to delete
                for place in [source, *source.rglob("*")]:
                    assert (place.stat().st_ino, place.stat().st_mtime_ns) in self.synced, place
                self.waiting, self.renames = target.parent.resolve(), self.renames + 1
            real(source, target)

        return rename


@pytest.fixture
def synced(monkeypatch):
    watch = Synced(monkeypatch)
    yield watch
    assert watch.waiting is None


def test_files_and_folders_are_durable_before_they_get_their_name(tmp_path, synced):
    write_text(tmp_path / "x.txt", "x")
    with atomic_folder(tmp_path / "deep" / "model") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x.bin").write_text("x")
    assert synced.renames == 2


def test_new_folders_are_durable(tmp_path, monkeypatch):
    seen, real = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda h: (seen.append(os.readlink(f"/proc/self/fd/{h}")), real(h))
    )
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert seen == [str(tmp_path), str(tmp_path / "a")]


def test_error_of_an_open_file_gets_its_name_and_keeps_another(tmp_path):
    for given, named in ((None, "x.json"), ("y.json", "y.json")):
        with pytest.raises(OSError) as caught, naming_file("x.json"):
            raise OSError(errno.EIO, "failed", given)
        assert caught.value.filename == named


def test_error_of_making_durable_names_the_folder(tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError) as caught:
        make_folder(tmp_path / "new")
    assert caught.value.filename == str(tmp_path)
