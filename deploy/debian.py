"""Packages of the distribution: installed where we may, and otherwise named with the command that installs them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from deploy.errors import ExitCode, WarrenError
from deploy.run import Runner

__all__ = ["ensure", "installable", "missing"]

# Where daemons are, which the PATH of people other than root often leaves out.
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def found(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}") is not None


def installable() -> bool:
    """Whether this process may install packages here by itself."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def missing(package: str) -> WarrenError:
    """That ``package`` is missing, with the one command to type."""
    if sys.platform == "darwin":
        command = f"brew install {package.removesuffix('-server')}"
    elif shutil.which("apt-get"):
        command = f"sudo apt-get install {package}"
    else:
        command = f"install {package} with this system's package manager"
    return WarrenError(
        f"{package} is not installed; {'type: ' if ' with ' not in command else ''}{command}", ExitCode.PLATFORM
    )


def ensure(package: str, program: str, runner: Runner) -> None:
    """Installs ``package`` unless ``program`` is there; a service that came with it is not left running.

    Raises:
        WarrenError: it is missing and this user may not install it, with the command to type.
    """
    if found(program):
        return
    if not installable():
        raise missing(package)
    print(f"{package} is not installed: installing it with apt-get", file=sys.stderr)  # noqa: T201
    # Without systemd, Debian's invoke-rc.d starts no service in runlevel 1.
    environment = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    runner.run(["apt-get", "update"], environment=environment, quiet=True)
    runner.run(["apt-get", "install", "--yes", "--no-install-recommends", package], environment=environment, quiet=True)
    if Path("/run/systemd/system").exists():
        runner.run(["systemctl", "disable", "--now", package], quiet=True)
