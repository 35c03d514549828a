"""Real processes of the project, each in a group of its own so that all of it can be ended by id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deploy.paths import ROOT

__all__ = ["PYTHON", "Process", "ended", "environment"]

PYTHON = sys.executable

# What a process gets of ours: enough to run, and nothing that would configure Warren or Flower behind a test's back.
KEPT = re.compile(r"^(PATH|HOME|LANG|LC_.*|TZ|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH)$")


def environment(values: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if KEPT.match(name)}
    return {**kept, "PYTHONUNBUFFERED": "1", **values}


class Process:
    """A command with its output in a file."""

    def __init__(self, command: Sequence[str], values: Mapping[str, str], log: Path, cwd: Path = ROOT) -> None:
        self.command = list(command)
        self.values = dict(values)
        self.log = log
        self.cwd = cwd
        self.start()

    def start(self) -> None:
        """Starts it, or starts it again."""
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env=environment(self.values),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def tail(self) -> str:
        return f"{' '.join(self.command)} (exit code {self.popen.poll()}) wrote:\n" + "\n".join(self.lines[-40:])

    @property
    def children(self) -> list[int]:
        """The processes that its main thread started, by their ids."""
        pid = self.popen.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def signal(self, number: int) -> None:
        """Sends a signal to the main process."""
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the whole group, as when a host or container dies."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(60)

    def end(self, timeout: float = 120) -> int:
        """SIGTERM, as every platform stops it; its exit code."""
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {timeout:g} s of SIGTERM: {self.tail()}") from None


def ended(pid: int) -> bool:
    """Whether there is no such process any more, or only what its parent has not asked for yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"
