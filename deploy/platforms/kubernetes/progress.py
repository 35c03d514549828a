"""Waiting until all of the stack is ready, with a line for each step, and the reason where it won't get there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import operated, pods
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.services import SERVICES, kind

__all__ = ["place", "settled", "until_ready"]

WORKLOADS = "deployments,statefulsets"

# Seconds between two looks, each of which takes a tenth of a second of CPU.
INTERVAL = 0.5

# So often must a pod be found broken until it is believed: a container may be started again for a passing reason.
PROOFS = 6


def settled(workload: dict[str, Any]) -> bool:
    """Whether what was asked for is what runs: all replicas there, new and ready, and none of the old ones."""
    spec, status = workload["spec"], workload.get("status", {})
    wanted = spec.get("replicas", 1)
    # Zero is left out. A StatefulSet that is through has but one revision.
    new = status.get("updatedReplicas", 0) == wanted or (
        "updateRevision" in status and status["updateRevision"] == status.get("currentRevision")
    )
    return bool(
        new
        and status.get("observedGeneration", 0) >= workload["metadata"]["generation"]
        and status.get("replicas", 0) == wanted
        and status.get("readyReplicas", 0) == wanted
    )


def new(workload: dict[str, Any]) -> int:
    """How many of its replicas are of what was asked for last."""
    status = workload.get("status", {})
    known = status.get("observedGeneration", 0) >= workload["metadata"]["generation"]
    return int(status.get("updatedReplicas", 0)) if known else 0


def line(workloads: list[dict[str, Any]]) -> str:
    """How many of each service's instances are ready."""
    return ", ".join(
        f"{named(one)} {one.get('status', {}).get('readyReplicas', 0)}/{one['spec'].get('replicas', 1)}"
        for one in sorted(workloads, key=lambda one: place(named(one)))
    )


def named(workload: dict[str, Any]) -> str:
    """Its service. The StatefulSet of RabbitMQ's operator has another name than ours."""
    return pods.service(workload) or str(workload["metadata"]["name"])


def place(service: str) -> tuple[int, str]:
    """Where ``service`` stands among others."""
    return SERVICES.index(kind(service)) if kind(service) in SERVICES else len(SERVICES), service


def until_ready(kubectl: Kubectl, limit: float, services: Sequence[str] = ()) -> None:
    """Returns when ``services`` are settled; all that belong to the stack, where none is named.

    Raises:
        WarrenError: ``limit`` seconds went by without another new pod, since they may be replaced one after another; or a
            pod is broken. With a line for each pod that is not ready.
    """
    until = time.monotonic() + limit
    said, broken, most = "", 0, 0
    while True:
        workloads = [one for one in kubectl.stack(WORKLOADS) if not services or named(one) in services]
        if (now := line(workloads)) != said:
            kubectl.note(f"ready: {now}")
            said = now
        if (count := sum(new(one) for one in workloads)) > most:
            most, until = count, time.monotonic() + limit
        broker = operated.ours(kubectl) if any(by_operator(one) for one in workloads) else None
        if workloads and all(settled(one) for one in workloads) and (broker is None or operated.caught_up(broker)):
            return
        there = [pod for pod in kubectl.stack("pods") if not pods.ready(pod) and here(pod)]
        broken = broken + 1 if any(pods.hopeless(pod) for pod in there) else 0
        if broken >= PROOFS or time.monotonic() > until:
            raise not_ready(kubectl, there)
        time.sleep(INTERVAL)


def by_operator(workload: dict[str, Any]) -> bool:
    labels: dict[str, str] = workload["metadata"].get("labels", {})
    return operated.LABEL.items() <= labels.items()


def here(pod: dict[str, Any]) -> bool:
    """Whether the stack waits for it: it has neither ended nor is about to leave."""
    return not pods.ended(pod) and not pod["metadata"].get("deletionTimestamp")


def not_ready(kubectl: Kubectl, there: list[dict[str, Any]]) -> WarrenError:
    lines = [pods.why_not_ready(kubectl, pod) for pod in there]
    for reason in lines:
        said = reason.partition("its last line: error: ")[2]
        if said:
            # Ours, of a setting or of tasks that can't be imported: it says all.
            return WarrenError(f"{kubectl.place}: {reason.partition(' is ')[0]}: {said}", ExitCode.SETTINGS)
    if trouble := operated.trouble(operated.ours(kubectl)):
        lines.append(f"RabbitMQ's operator says of the broker: {trouble}")
    lines = [f"{kubectl.place}: {reason}" for reason in lines] or [f"{kubectl.place}: no pod is there yet"]
    lines.append(f"{kubectl.place}: what came up is left as it is; see `invoke logs`, and `invoke up` to go on")
    return WarrenError("\n".join(lines), ExitCode.TIMEOUT)
