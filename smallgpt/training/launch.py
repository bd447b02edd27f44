"""Starting the processes of --processes on this machine, and ending with them.

    code = launch(settings, "train_gpt.py --processes 4")

Each is a `train_gpt.py` of its own that reads the settings of this one from a file. They meet in a
file as well, and talk on this machine's own network only. The launcher computes nothing: it passes
signals on to the first process, which stops all at the same step, and when one of them is gone it
ends those that have nothing to save.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from smallgpt.console import plural, print_error
from smallgpt.errors import SettingsError
from smallgpt.exit_codes import (
    EXIT_FAILED,
    EXIT_HUNG_UP,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TERMINATED,
)
from smallgpt.model.threads import cpu_cores
from smallgpt.options.config_file import to_yaml
from smallgpt.options.training import TrainSettings
from smallgpt.processes import LAUNCHER, MEETING_FILE, have_met
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.stopping import STOPPING

COMMAND, RESULT_FILE = "SMALLGPT_COMMAND", "SMALLGPT_RESULT_FILE"
_ENDED_WELL = (EXIT_OK, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_HUNG_UP)
_ALWAYS = 2  # processes, to try them
_LOOK = 0.05  # seconds between two looks at the processes
_SCRIPT = Path(__file__).parents[2] / "train_gpt.py"


class Launched(NamedTuple):
    """How the processes ended: exit code and result of the first, {} where it has none."""

    exit_code: int
    result: dict[str, Any]


def launch(settings: TrainSettings, command: str | None) -> Launched:
    """Train with `settings.processes` processes on this machine; their errors are printed.

    `command`: as in `train`.

    Raises:
        SettingsError: they are more than the cores, where each would wait for the others.
    """
    most = max(_ALWAYS, cpu_cores())
    if settings.processes > most:
        raise SettingsError(
            [f"processes {settings.processes}: this machine has {plural(cpu_cores(), 'core')}, and "
             f"more processes are slower and fill its memory; at most {most}"]
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="smallgpt_") as name:
        folder = Path(name)
        words = _words(settings, folder / "settings.yaml")
        environment = _environment(settings.processes, folder, command)
        processes: list[subprocess.Popen[bytes]] = []
        with _Signals(processes):
            try:
                for rank in range(settings.processes):
                    own = environment | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"}
                    # In groups of their own: Ctrl-C comes to the launcher, and from it to one.
                    process = subprocess.Popen(words, env=own, process_group=0)
                    processes.append(process)
                _wait(processes, folder / "meeting", RunFolder(settings.output_dir))
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
        try:
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            result = {}
        return Launched(_exit_code(processes[0]), result)


def write_result(best_step: int, validation: dict[str, Any]) -> None:
    """Leave the result of training to the launcher, where there is one."""
    path = os.environ.get(RESULT_FILE)
    if path:
        document = {"best_step": best_step, "validation": validation}
        Path(path).write_text(json.dumps(document), encoding="utf-8")


def _words(settings: TrainSettings, path: Path) -> list[str]:
    """The command of each process; its settings are written to `path`."""
    path.write_text(to_yaml(replace(settings, config=None)), encoding="utf-8")
    flags = [f"--{name}" for name in ("resume", "overwrite") if getattr(settings, name)]
    return [sys.executable, str(_SCRIPT), "--config", str(path), *flags]


def _environment(count: int, folder: Path, command: str | None) -> dict[str, str]:
    """The environment of the processes, but for their numbers, as torchrun has it."""
    return {
        "OMP_NUM_THREADS": f"{max(1, cpu_cores() // count)}",
        # Not by the name of this machine, which may be unknown, or have a network behind it.
        **{"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"},
        **os.environ,
        **{"WORLD_SIZE": f"{count}", "LOCAL_WORLD_SIZE": f"{count}"},
        LAUNCHER: f"{os.getpid()}",
        MEETING_FILE: str(folder / "meeting"),
        RESULT_FILE: str(folder / "result.json"),
        COMMAND: command or "",
    }


def _wait(processes: Sequence[subprocess.Popen[bytes]], meeting: Path, folder: RunFolder) -> None:
    """Wait for the first process; say which one was killed, if any."""
    first, *others = processes
    failed, given_up = None, False
    while first.poll() is None:
        failed = failed or next((p for p in others if p.poll() not in (None, EXIT_OK)), None)
        if failed and not have_met(meeting):  # it would wait for that one, with nothing to save
            given_up = True
            first.kill()
        if failed and failed.returncode not in _ENDED_WELL:
            for process in others:  # they have nothing to save; the first one notices, and saves
                process.kill()
        time.sleep(_LOOK)
    killed = first if first.returncode < 0 and not given_up else failed
    # One that is stopped by a signal while it trains stops all, and the first one tells.
    is_told = not given_up and killed and -killed.returncode in STOPPING
    if killed and killed.returncode < 0 and not is_told:
        name = signal.Signals(-killed.returncode).name
        number = f"process {processes.index(killed)} of {len(processes)}"
        hint = f"; go on with: {folder.go_on_hint()}" if killed is first else ""
        print_error(f"{number} was ended by {name}{hint}")


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that has ended, as a shell tells it."""
    code = process.returncode
    return code if code >= 0 else STOPPING.get(signal.Signals(-code), EXIT_FAILED)


class _Signals:
    """Passes the signals that stop training on to the first process; a second Ctrl-C to all."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]):
        self._processes, self._count = processes, 0

    def __enter__(self) -> None:
        ignored = (signal.SIG_IGN, None)
        self._before = {
            number: signal.signal(number, self._handle)
            for number in STOPPING
            if signal.getsignal(number) not in ignored
        }

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._count += number == signal.SIGINT
        for process in self._processes if self._count > 1 else self._processes[:1]:
            process.send_signal(number)
