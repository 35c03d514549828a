"""Pods that can't stop because their node is away: whether what runs there has ended, nobody but a person can know."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Any

from deploy.errors import WarrenError
from deploy.platforms.kubernetes import pods
from deploy.platforms.kubernetes.kubectl import Kubectl, unknown

__all__ = ["way_out"]

# Each node, and whether the cluster hears of it.
NODES = '{range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'


def way_out(kubectl: Kubectl) -> str:
    """What is told of pods that have not stopped because of their nodes; empty where there are none."""
    heard = nodes_heard(kubectl)
    held = {
        pod["metadata"]["name"]: node
        for pod in kubectl.stack("pods")
        if pod["metadata"].get("deletionTimestamp")
        and (node := pod["spec"].get("nodeName"))
        and (overdue(pod) if heard is None else node not in heard)
    }
    if not held:
        return ""
    nodes = ", ".join(sorted(set(held.values())))
    why = f"nothing is heard of {nodes}" if heard is not None else f"whether {nodes} is away this user may not see"
    force = shlex.join(kubectl.command("delete", "pods", *held, "--force"))
    return (
        f"{kubectl.place}: {', '.join(held)} did not stop; {why}; bring that node back or, once it is surely off, let go of "
        f"what ran there by `{force}`, then `invoke down` again"
    )


def overdue(pod: dict[str, Any]) -> bool:
    """Whether a pod that stops should have done so by now: one that still has time may be at its task, on a healthy node."""
    # That is when its time is over, not since when it stops.
    return pods.moment(pod["metadata"]["deletionTimestamp"]) < datetime.now(UTC)


def nodes_heard(kubectl: Kubectl) -> set[str] | None:
    """The nodes that are ready; None where this user may not look at nodes."""
    try:
        listed = kubectl.read("get", "nodes", "--output", f"jsonpath={NODES}").splitlines()
    except WarrenError as error:
        if not unknown(error):
            raise
        return None
    return {line.split()[0] for line in listed if line.endswith(" True")}
