"""Whether the namespace is for the stack alone: the rules that it brings are for all that runs there."""

from __future__ import annotations

from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes.kubectl import PART, Kubectl, labelled

__all__ = ["require_none"]

# What somebody may run; of pods those, too, that nothing looks after.
KINDS = "deployments,statefulsets,daemonsets,cronjobs,pods"

# So many are named.
SHOWN = 3


def require_none(kubectl: Kubectl, namespace: dict[str, Any] | None) -> None:
    """Raises WarrenError where a stack that is new in its ``namespace`` (None: new too) would not be alone in it."""
    found = found_in(kubectl, namespace)
    if not found:
        return
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise WarrenError(
        f"{kubectl.place}: other things run in this namespace ({', '.join(found[:SHOWN])}{more}), and the rules that the stack "
        "brings (what pods may do, whom they reach) would hold for them; choose a namespace of its own by WARREN_PROJECT, "
        "or say `invoke up --yes`",
        ExitCode.REFUSED,
    )


def found_in(kubectl: Kubectl, namespace: dict[str, Any] | None) -> list[str]:
    """What runs in the namespace of a stack that is still to come, as kubectl names it; nothing where a stack was before."""
    if namespace is None or labelled(namespace) or kubectl.list("configmaps"):
        return []
    return kubectl.read("get", KINDS, "--selector", PART.replace("=", "!="), "--output", "name").split()
