"""A folder is held by one process alone."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from smallgpt.errors import UserError
from smallgpt.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]

HOLDER = """
import sys
from smallgpt.training.run_folder import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "run"` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_second_process_is_refused_while_the_first_lives(tmp_path, holder):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=r"another training run .* --output_dir"), folder.locked():
        pass
    holder.communicate()
    with folder.locked():
        pass


def test_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunFolder(tmp_path / "run").locked():
        pass


def test_lock_is_freed_by_an_error_and_held_against_this_process_too(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyError), folder.locked():
        with pytest.raises(UserError), RunFolder(tmp_path / "run").locked():
            pass
        raise KeyError
    with folder.locked():
        pass


def test_other_folders_are_not_locked(tmp_path, holder):
    with RunFolder(tmp_path / "other").locked():
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_told_with_the_folder(tmp_path, monkeypatch, number):
    def flock(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError) as caught, RunFolder(tmp_path / "run").locked():
        pass
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path / 'run'}: ") and os.strerror(number) in line
    assert "--output_dir" in line
