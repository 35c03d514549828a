"""Installs what the user's own Celery project needs into this virtual environment, as the image's build does."""

from __future__ import annotations

import hashlib
import sys
import tomllib
from pathlib import Path

from deploy.errors import ExitCode, WarrenError
from deploy.paths import write_private
from deploy.platforms.local.places import LOCAL
from deploy.run import Runner

__all__ = ["install", "requirements"]

# What was installed last, and where: a new virtual environment has none of it.
DONE = LOCAL / "installed"
HELD = LOCAL / "held.txt"
WANTED = LOCAL / "wanted.txt"

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def requirements(project: Path) -> tuple[str, list[str]]:
    """What ``project`` asks for, and pip's arguments to install that; empty where it asks for nothing."""
    listed = project / "requirements.txt"
    if listed.exists():
        # pip reads it, whatever it is written in; here it only tells whether it changed.
        return listed.read_text(errors="backslashreplace"), ["--requirement", str(listed)]
    described = project / "pyproject.toml"
    if not described.exists():
        return "", []
    try:
        text = described.read_text(encoding="utf-8")
        about = tomllib.loads(text).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WarrenError(f"{described} can't be read: {error}", ExitCode.SETTINGS) from error
    if "dependencies" in about.get("dynamic", []):
        # Only its build system knows them.
        return text, [str(project)]
    wanted = "".join(f"{one}\n" for one in about.get("dependencies", []))
    return wanted, ["--requirement", str(WANTED)] if wanted else []


def install(project: Path, runner: Runner) -> None:
    """Installs the requirements of ``project`` if they changed; the versions that are here are held, above all Celery's.

    Raises:
        WarrenError: pip can't install them; it says which two disagree.
    """
    wanted, arguments = requirements(project)
    digest = hashlib.sha256(f"{sys.prefix}\0{project}\0{wanted}".encode()).hexdigest()
    if not arguments or (DONE.exists() and DONE.read_text() == digest):
        return
    frozen = runner.read([*PIP, "freeze"]).splitlines()
    # Packages from folders and addresses have no version to hold.
    write_private(HELD, "".join(f"{line}\n" for line in frozen if "==" in line and not line.startswith("-")))
    write_private(WANTED, wanted)
    runner.run([*PIP, "install", "--constraint", str(HELD), *arguments])
    if not runner.dry:
        write_private(DONE, digest)
