"""Errors that the user can put right, printed as `error: ...` and never as a traceback."""

from __future__ import annotations

from collections.abc import Sequence

from smallgpt.exit_codes import EXIT_FAILED, EXIT_USAGE


class UserError(Exception):
    """An error that the user can put right; its text says what is wrong, where, and the remedy."""

    exit_code = EXIT_FAILED


class SettingsError(UserError):
    """Wrong flags, keys or values, all together; `mistakes` has one line for each."""

    exit_code = EXIT_USAGE

    def __init__(self, mistakes: Sequence[str]):
        self.mistakes = list(mistakes)
        super().__init__("\n".join(self.mistakes))
