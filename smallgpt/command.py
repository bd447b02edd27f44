"""Entry point of every script: exit codes, and a known error as one line without a traceback.

if __name__ == "__main__":
    run_command(main)
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TextIO

from smallgpt.console import NamedStream, forgiving, has_given_up, print_error
from smallgpt.errors import UserError
from smallgpt.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK

# OpenMP's threads spin while they wait for one another, by default for long. Where another process
# holds one of two cores they spin for a thread that is not running, and training falls to a
# thirtieth of its speed. Spinning briefly and then sleeping keeps the speed of a free machine and
# a quarter of it on a busy one (docs/measurements.md). It counts only before torch is loaded, hence
# here, in what every command imports first.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def run_command(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Run `main(argv)` and exit with its code (`smallgpt.exit_codes`)."""
    # A stream that the caller closed (`>&-`) is None in Python; read and write nothing instead.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        # Names of files and tokens may hold what the terminal's encoding cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = NamedStream(sys.stdout, "standard output"), forgiving(sys.stderr)
    try:
        try:
            code: str | int | None = main(sys.argv[1:]) or EXIT_OK
        except SystemExit as left:  # --help
            code = left.code
        if not has_given_up(sys.stdout):
            sys.stdout.flush()  # a full disk shows here, not after the exit code is settled
        _leave(code)
    except UserError as error:
        if str(error):
            print_error(str(error))
        _leave(error.exit_code)
    except KeyboardInterrupt:
        print_error("stopped by Ctrl-C")
        _leave(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader (`| head`) has left
        _leave(EXIT_OK)
    except (MemoryError, RuntimeError, OSError) as error:
        explanation = _explain(error)
        if explanation is None:
            raise
        print_error(explanation)
        _leave(EXIT_FAILED)


def _has_failed(stream: TextIO) -> bool:
    """Whether buffered output cannot be written."""
    try:
        stream.flush()
    except (OSError, ValueError):
        return True
    return False


def _leave(code: str | int | None) -> NoReturn:
    """As `sys.exit`; drops output that cannot be written, or Python would complain about it."""
    if _has_failed(sys.stdout):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _explain(error: Exception) -> str | None:
    """A message for failures of the machine rather than of the program; None for a bug of ours."""
    text = str(error)
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
        or "out of memory" in text.lower()
    ):
        return (
            "out of memory: in training lower --batch_size (and raise --grad_accumulation_steps "
            "by the same factor to keep the result) or --max_length; elsewhere give less at once"
        )
    if isinstance(error, OSError) and error.filename is not None:
        if error.errno == errno.ENOSPC:
            return f"no space left on the disk of {error.filename}: free some and run again"
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space left on the disk: free some and run again"
    if isinstance(error, OSError) and error.strerror is not None:
        return f"the system refused: {error.strerror}"
    return None
