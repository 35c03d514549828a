"""The platforms, and which of them a command uses."""

from __future__ import annotations

import sys

from deploy.errors import ExitCode, WarrenError
from deploy.paths import STATE, write_private
from deploy.platforms.base import Endpoints, Instance, Platform
from deploy.run import Runner
from deploy.secrets import load as load_secrets
from deploy.settings import Settings

__all__ = [
    "NAMES",
    "Endpoints",
    "Instance",
    "Platform",
    "choose",
    "forget",
    "forget_edge",
    "remember",
    "remember_edge",
    "remembered",
    "remembered_edge",
]

NAMES = ("compose", "local", "kubernetes")

# Which platform `up` chose: later commands must not ask the engine again, nor find another answer.
CHOSEN = STATE / "platform"

# What `up --edge` or `up --no-edge` said: it holds for later commands until `down`, over WARREN_EDGE.
EDGE = STATE / "edge"


def make(name: str, settings: Settings, runner: Runner, confirmed: bool = False) -> Platform:
    if name == "kubernetes":
        from deploy.platforms.kubernetes import Kubernetes

        return Kubernetes(settings, runner, confirmed)
    secrets = load_secrets()
    if name == "compose":
        from deploy.platforms.compose import Compose

        return Compose(settings, secrets, runner)
    from deploy.platforms.local import Local

    return Local(settings, secrets, runner)


def choose(asked: str | None, settings: Settings, runner: Runner, confirmed: bool = False) -> Platform:
    """The platform of ``--platform``, else of WARREN_PLATFORM, else where the stack is up, else the best one that answers.

    ``confirmed``: whoever typed the command said --yes to what it may come upon.

    Raises:
        WarrenError: there is no platform of that name.
    """
    name = asked or settings.platform
    if name == "auto":
        name = remembered() or detect(settings, runner)
    if name not in NAMES:
        raise WarrenError(f"there is no platform {name!r}; choose one of {', '.join(NAMES)}", ExitCode.USAGE)
    return make(name, settings, runner, confirmed)


def detect(settings: Settings, runner: Runner) -> str:
    try:
        make("compose", settings, runner).check()
    except WarrenError as why:
        print(f"platform local: {why}", file=sys.stderr)  # noqa: T201
        return "local"
    return "compose"


def remember(name: str) -> None:
    write_private(CHOSEN, name + "\n")


def remembered() -> str | None:
    """The platform that `up` chose, for which later commands take it; None where nothing is up."""
    return (CHOSEN.read_text().strip() or None) if CHOSEN.exists() else None


def forget() -> None:
    CHOSEN.unlink(missing_ok=True)
    forget_edge()


def remember_edge(on: bool) -> None:
    write_private(EDGE, "on\n" if on else "off\n")


def remembered_edge() -> bool | None:
    """What an option of `up` said; None where there was none."""
    return EDGE.read_text().strip() == "on" if EDGE.exists() else None


def forget_edge() -> None:
    EDGE.unlink(missing_ok=True)
