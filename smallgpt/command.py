"""Run a command: its mistakes in one line, its exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from smallgpt.console import WrappedStream, forgiving, has_given_up, print_error
from smallgpt.errors import UserError
from smallgpt.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK


def run_command(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Run `main(argv)` and leave with its exit code; tell a known mistake in plain words."""
    # A stream that the caller closed (`>&-`) is None in Python; read and write nothing instead.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        # Names of files and tokens may hold what the terminal's encoding cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Named(sys.stdout, "standard output"), forgiving(sys.stderr)
    try:
        try:
            code = main(sys.argv[1:]) or EXIT_OK
        except SystemExit as left:  # --help
            code = left.code
        if not has_given_up(sys.stdout):
            sys.stdout.flush()  # a full disk shows here, not after the exit code is settled
        _leave(code)
    except UserError as error:
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
    """Whether a stream holds what cannot be written."""
    try:
        stream.flush()
    except (OSError, ValueError):
        return True
    return False


def _leave(code: int) -> NoReturn:
    """Exit; output that nobody takes is dropped, or Python would complain about it at exit."""
    if _has_failed(sys.stdout):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _explain(error: Exception) -> str | None:
    """Words for failures of the machine rather than of the program; None for a bug of ours."""
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


class _Named(WrappedStream):
    """Its errors have a name, as those of files have."""

    def __init__(self, stream: TextIO, name: str):
        super().__init__(stream)
        self._name = name

    def write(self, text: str) -> int:
        return self._naming(self._stream.write, text)

    def flush(self) -> None:
        self._naming(self._stream.flush)

    def _naming(self, act: Callable[..., Any], *words: str) -> Any:
        try:
            return act(*words)
        except OSError as error:
            error.filename = self._name
            raise
