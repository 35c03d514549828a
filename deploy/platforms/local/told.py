"""What is said of programs and of what is done with them."""

from __future__ import annotations

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.local.places import CONF, log_file, relative
from deploy.platforms.local.ready import last_line
from deploy.platforms.local.supervisor import Process

__all__ = ["SUPERVISORCTL", "ctl", "ended", "in_words", "kill", "said", "since"]

SUPERVISORCTL = f"supervisorctl --configuration {relative(CONF)}"


def ctl(verb: str, name: str) -> str:
    """The command that an operator could type for what we ask of supervisor."""
    return f"{SUPERVISORCTL} {verb} {name}"


def kill(left: dict[str, list[int]]) -> str:
    return f"kill {' '.join(str(pid) for pids in left.values() for pid in pids)}"


def ended(name: str, since: int) -> WarrenError:
    """The error of a program that ended at once."""
    line = last_line(name, since)
    if line.startswith("error: "):
        # Ours, of a setting or of tasks that can't be imported: it says all.
        return WarrenError(f"{name}: {line.removeprefix('error: ')}", ExitCode.SETTINGS)
    return WarrenError(f"{name} ended at once{said(name, since)}", ExitCode.FAILED)


def said(name: str, since: int) -> str:
    """The last line of a program's log, and where to read on."""
    line = last_line(name, since)
    return f"{': ' + line if line else ''}; see {relative(log_file(name))}"


def in_words(seconds: int) -> str:
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            amount = seconds // size
            return f"{amount} {unit}{'s' if amount > 1 else ''}"
    return "less than a second"


def since(process: Process) -> str:
    if process.up:
        return f"up {in_words(process.seconds)}"
    if process.state == "STOPPING":
        return "stopping"
    return f"{in_words(process.seconds)} ago" if process.seconds else ""
