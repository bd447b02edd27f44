"""Commands run for tests.

As a process, where its real streams, signals or libraries count; else in this process, which has
loaded the libraries already.
"""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smallgpt.command import run_command

ROOT = Path(__file__).parent.parent
PROGRAM = """
import errno, sys, time
from smallgpt.errors import SettingsError, UserError
from smallgpt.console import print_error, progress_bar, say
from smallgpt.command import run_command

def main(argv):
{body}

run_command(main)
"""


def start(body: str, *argv: str, **options) -> subprocess.Popen:
    """A process that runs `body` as its `main(argv)`."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    program = PROGRAM.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    return subprocess.Popen(
        [sys.executable, "-c", program, *argv],
        cwd=ROOT,
        env=environment,
        text=True,
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        },
    )


def run(body: str, *argv: str, **options) -> tuple[int, str, str]:
    process = start(body, *argv, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def run_here(
    main: Callable[[list[str]], int | None], *argv: object, stdin: str | bytes = ""
) -> subprocess.CompletedProcess:
    """What a script does with its `main`, in this process: exit code, standard output and error."""
    words = ["script.py", *map(str, argv)]
    given = stdin if isinstance(stdin, bytes) else stdin.encode()
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        run_command(main)
    return subprocess.CompletedProcess(words, left.value.code, out.getvalue(), err.getvalue())
