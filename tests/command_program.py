"""A program that runs a command as a process, so that its real exit code and streams count."""

import os
import subprocess
import sys
from pathlib import Path

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
