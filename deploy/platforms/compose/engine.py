"""The Docker engine: does it answer, and what to do where it does not."""

from __future__ import annotations

import re

from deploy.errors import ExitCode, WarrenError
from deploy.run import Runner

__all__ = ["ENGINE_PATIENCE", "check", "explained"]

# Seconds. An engine that answers takes a tenth of one; a wedged one never answers.
ENGINE_PATIENCE = 10


def check(runner: Runner) -> None:
    """Raises WarrenError where no engine with Compose answers."""
    try:
        version = runner.read(["docker", "version", "--format", "{{.Server.Version}}"], timeout=ENGINE_PATIENCE)
        runner.read(["docker", "compose", "version", "--short"], timeout=ENGINE_PATIENCE)
    except WarrenError as error:
        raise explained(error) from error
    if not version.strip():
        raise unusable("the Docker engine does not answer")


def explained(error: WarrenError) -> WarrenError:
    """``error`` of a docker command as the line that says what to do about the engine, where it is the engine."""
    text = str(error)
    if error.code is ExitCode.PLATFORM:
        return unusable("docker is not installed")
    if "permission denied" in text:
        return WarrenError(
            "this user may not use the Docker engine; join the group docker (sudo usermod -aG docker $USER, then log in "
            "again), or choose --platform local",
            ExitCode.PLATFORM,
        )
    if error.code is ExitCode.TIMEOUT or re.search(
        r"(?i)cannot connect|is the docker daemon running|failed to connect", text
    ):
        return unusable("the Docker engine does not answer")
    if "compose" in text and re.search(r"is not a docker command|unknown command", text):
        return unusable("docker has no Compose plugin")
    return error


def unusable(why: str) -> WarrenError:
    return WarrenError(
        f"{why}; start the engine (sudo systemctl start docker) or install it (docs.docker.com/engine/install), "
        "or choose --platform local",
        ExitCode.PLATFORM,
    )
