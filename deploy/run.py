"""Runs commands as argument lists, shows them when asked to, and turns their failures into one line."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT

__all__ = ["INTERRUPTED", "QUICK", "Runner"]

# For kubectl, which lives for a tenth of a second: a third of it is Go's garbage collection. It begins at that size only.
QUICK = {"GOGC": "off", "GOMEMLIMIT": "512MiB"}

# How a program ends that Ctrl-C ended: by the signal itself, or with a shell's code for it.
INTERRUPTED = {-signal.SIGINT, 128 + signal.SIGINT}

# A message of kubectl's: of its own, or of the API server, about one of several objects perhaps.
KUBECTLS = re.compile(r"^(?:error|Error|Unable)\b|: error when |\bis invalid: |\bis forbidden: ")


@dataclass(frozen=True)
class Runner:
    """``echo`` shows each command before it runs; ``dry`` shows what would change something instead of doing it."""

    echo: bool = False
    dry: bool = False

    def show(self, line: str) -> None:
        if self.echo or self.dry:
            print(f"$ {line}", file=sys.stderr, flush=True)  # noqa: T201

    def acts(self, line: str) -> bool:
        """Shows ``line``, which stands for what is done without a command, and says whether it is to be done."""
        self.show(line)
        return not self.dry

    def run(
        self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, quiet: bool = False
    ) -> None:
        """Runs a command that changes something, from the project's folder, its output going to the terminal.

        Raises:
            WarrenError: it failed, with the last line that it wrote to its error output if that was not shown.
        """
        if not self.acts(shlex.join(arguments)):
            return
        done = self._run(arguments, environment, subprocess.PIPE if quiet else None)
        if done.returncode in INTERRUPTED:
            raise KeyboardInterrupt
        if done.returncode:
            raise failed(arguments, done)

    def read(self, arguments: Sequence[str], *, timeout: float | None = None, check: bool = True) -> str:
        """What a command prints that changes nothing; it runs with ``dry`` as well.

        Raises:
            WarrenError: it failed, or took longer than ``timeout`` seconds.
        """
        self.show(shlex.join(arguments))
        try:
            done = self._run(arguments, None, subprocess.PIPE, timeout)
        except subprocess.TimeoutExpired as error:
            raise WarrenError(f"`{shlex.join(arguments)}` did not end within {timeout} s", ExitCode.TIMEOUT) from error
        if done.returncode and check:
            raise failed(arguments, done)
        return str(done.stdout)

    def differs(self, arguments: Sequence[str]) -> bool:
        """Runs a command that shows on the terminal what differs, and says whether anything does.

        Raises:
            WarrenError: it failed, which diff and its like tell by an exit code of more than 1.
        """
        if not self.acts(shlex.join(arguments)):
            return False
        done = self._run(arguments, None, None, errors=subprocess.PIPE)
        if done.returncode in INTERRUPTED:
            raise KeyboardInterrupt
        if done.returncode not in {0, 1}:
            raise failed(arguments, done)
        sys.stderr.write(done.stderr)
        return bool(done.returncode)

    def attach(self, arguments: Sequence[str]) -> int:
        """Runs a command that the terminal belongs to until it ends or Ctrl-C ends it; its exit code."""
        if not self.acts(shlex.join(arguments)):
            return 0
        try:
            process = subprocess.Popen(arguments, cwd=ROOT, env=surroundings(arguments))
        except FileNotFoundError as error:
            raise missing(arguments) from error
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # It got the same signal from the terminal; it says itself when it is done.
                continue

    def _run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None,
        output: int | None,
        timeout: float | None = None,
        errors: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                arguments,
                cwd=ROOT,
                env={**surroundings(arguments), **(environment or {})},
                stdout=output,
                stderr=errors or output,
                stdin=subprocess.DEVNULL,
                text=True,
                # A log may hold anything.
                errors="replace",
                check=False,
                timeout=timeout,
            )
        except FileNotFoundError as error:
            raise missing(arguments) from error


def missing(arguments: Sequence[str]) -> WarrenError:
    return WarrenError(f"{arguments[0]} is not installed, or not on the PATH", ExitCode.PLATFORM)


def surroundings(arguments: Sequence[str]) -> dict[str, str]:
    """The environment of a command. Compose would let a variable of the shell win over `.warren/compose.env`, which has
    it already, checked and in the form that Compose needs."""
    if arguments[0] == "kubectl":
        return {**QUICK, **os.environ}
    ours = arguments[0] == "docker"
    return {name: value for name, value in os.environ.items() if not (ours and name.startswith("WARREN_"))}


def failed(arguments: Sequence[str], done: subprocess.CompletedProcess[str]) -> WarrenError:
    lines = [line.strip() for line in (done.stderr or "").splitlines() if line.strip()]
    if arguments[0] == "kubectl":
        # Behind its message it may show what would have changed.
        lines = [line for line in lines if KUBECTLS.search(line)] or lines
    said = f": {lines[-1]}" if lines else ""
    return WarrenError(f"`{shlex.join(arguments)}` ended with exit code {done.returncode}{said}", ExitCode.FAILED)
