"""What a person can put right: printed by `run_command` as `error: ...`, never as a traceback."""

from __future__ import annotations

from collections.abc import Sequence

from smallgpt.exit_codes import EXIT_FAILED, EXIT_USAGE


class UserError(Exception):
    """Something the user can put right. The text says what is wrong, where, and the remedy."""

    exit_code = EXIT_FAILED


class SettingsError(UserError):
    """One or more wrong flags, keys or values, together.

    Attributes:
        mistakes: one line each.
    """

    exit_code = EXIT_USAGE

    def __init__(self, mistakes: Sequence[str]):
        self.mistakes = list(mistakes)
        super().__init__("\n".join(self.mistakes))
