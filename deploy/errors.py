"""Errors that an operator sees: one line that says what is wrong and what to do, and a stable exit code."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode", "WarrenError", "reason"]


class ExitCode(IntEnum):
    """Exit codes of every command (also in docs/operations.md). They never change their meaning."""

    FAILED = 1
    """What was asked for was done, and failed: a task's error, a command that ended badly."""
    USAGE = 2
    """An argument is wrong."""
    SETTINGS = 3
    """A setting in the environment, .env or invoke.yaml is wrong."""
    PLATFORM = 4
    """The platform can't be used: no engine, no broker package."""
    BROKER = 5
    """The broker can't be reached, refuses the login, or takes no messages."""
    PORT = 6
    """A port is taken."""
    UNKNOWN = 7
    """No such task, queue, service or id."""
    TIMEOUT = 8
    """It took longer than it may."""
    REFUSED = 9
    """It would destroy something, and nobody said --yes."""
    MONITOR = 10
    """The monitor can't be reached, or refuses the key."""
    INTERRUPTED = 130
    """Ctrl-C."""


class WarrenError(Exception):
    """An error with its line for the operator, and the exit code of the command."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


def reason(error: BaseException) -> str:
    """An exception in a few words: its text, or the name of its kind where it has none."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text or type(error).__name__
