"""Commands of other programs, of which nothing runs on when their time is up, and which are run again where a host is busy."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.eventually import eventually

__all__ = ["finished", "insisted"]

# Seconds for one run of what is run again: a copy to three nodes of a busy host takes minutes, and so do packages.
ONE = 450

# Seconds in which it is run again: where all cores are busy, a copy is cut short every second time.
ALL = 900


def finished(
    command: Sequence[str], timeout: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``command`` when it has ended, with what it printed.

    Raises:
        AssertionError: it had not within ``timeout`` seconds. It was ended with all processes that it started: they would
            be in the way of the next.
    """
    with subprocess.Popen(
        command,
        cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as running:  # fmt: skip
        try:
            return subprocess.CompletedProcess(command, *ended(running, timeout))
        except subprocess.TimeoutExpired:
            kill(running)
            printed: tuple[object, ...] = ()
            # A server that it started has left the group, and may have its output open.
            with suppress(subprocess.TimeoutExpired):
                printed = ended(running, 10)
            said = "\n".join(map(str, printed[1:]))
            raise AssertionError(f"{shlex.join(command)} did not end within {timeout:g} s\n{said}") from None
        except BaseException:
            kill(running)
            raise


def ended(running: subprocess.Popen[str], timeout: float) -> tuple[int, str, str]:
    out, errors = running.communicate(timeout=timeout)
    return running.returncode, out, errors


def kill(running: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)


def insisted(command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Runs, until it succeeds, what a busy host may cut short: what copies images, builds them, or gets packages.

    Raises:
        AssertionError: it never did; with what it printed last.
    """
    printed = ""

    def done() -> bool:
        nonlocal printed
        ran = finished(command, ONE, cwd, env)
        printed = ran.stdout + ran.stderr
        return ran.returncode == 0

    eventually(done, ALL, lambda: f"{shlex.join(command)} succeeds; it printed {printed}")


if __name__ == "__main__":
    # For a command that the tested program runs once.
    insisted(sys.argv[1:])
