"""Where the local platform keeps what it makes."""

from __future__ import annotations

from pathlib import Path

from deploy.paths import ROOT, STATE

__all__ = [
    "CONF",
    "LOCAL",
    "LOGS",
    "PROGRAMS",
    "RECORDS",
    "log_file",
    "program_file",
    "record_file",
    "relative",
]

LOCAL = STATE / "local"
LOGS = STATE / "logs"
CONF = LOCAL / "supervisord.conf"
PROGRAMS = LOCAL / "programs"
# What launch.py writes: the process id of each program, with its start time.
RECORDS = LOCAL / "run"


def program_file(name: str) -> Path:
    """What launch.py starts ``name`` from."""
    return PROGRAMS / f"{name}.json"


def record_file(name: str) -> Path:
    return RECORDS / f"{name}.json"


def log_file(name: str) -> Path:
    return LOGS / f"{name}.log"


def relative(path: Path) -> str:
    """``path`` as seen from the project's folder, where every process of ours starts.

    Relative, because supervisor's configuration can't hold every absolute path (" #" starts a comment in it).
    """
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
