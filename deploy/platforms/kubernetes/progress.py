"""Waiting until all of the stack is ready, with a line for each step, and the reason where it won't get there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from deploy.errors import WarrenError
from deploy.output import note
from deploy.platforms.kubernetes import operated, pods, trouble
from deploy.platforms.kubernetes.kubectl import Kubectl, by_operator, unknown
from deploy.services import SERVICES, kind

__all__ = ["WORKLOADS", "here", "named", "place", "settled", "until_ready", "waited_for"]

WORKLOADS = "deployments,statefulsets"

# Seconds between two looks, each of which takes a tenth of a second of CPU.
INTERVAL = 0.5

# Seconds without a change after which a person wants to know what is waited for. Most things take less.
SILENCE = 15

# So often must a pod be found broken until it is believed: a container may be started again for a passing reason.
PROOFS = 6

# Seconds for which looks may fail one after another. An API server that is replaced, as on a cluster with only one of them, is
# back within half a minute, and the rollout goes on meanwhile: who left it then would see neither its end nor what comes after.
PATIENCE = 60


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
    """How many of each service's instances are ready; where they are replaced, how many are new."""
    return ", ".join(count(one) for one in sorted(workloads, key=lambda one: place(named(one))))


def count(workload: dict[str, Any]) -> str:
    wanted, status = workload["spec"].get("replicas", 1), workload.get("status", {})
    said = f"{named(workload)} {min(status.get('readyReplicas', 0), wanted)}/{wanted}"
    # While they are replaced, old ones are ready too: without this it would look as if nothing happened.
    replaced = new(workload) < wanted <= status.get("replicas", 0) and not settled(workload)
    return f"{said} ({new(workload)} new)" if replaced else said


def named(workload: dict[str, Any]) -> str:
    """Its service. The StatefulSet of RabbitMQ's operator has another name than ours."""
    return pods.service(workload) or str(workload["metadata"]["name"])


def place(service: str) -> tuple[int, str]:
    """Where ``service`` stands among others."""
    return SERVICES.index(kind(service)) if kind(service) in SERVICES else len(SERVICES), service


def until_ready(kubectl: Kubectl, limit: float, services: Sequence[str] = ()) -> None:
    """Returns when ``services`` are settled; all that belong to the stack, where none is named.

    Where nothing has changed for a while, it says what it waits for.

    Raises:
        WarrenError: ``limit`` seconds went by without another new pod, since they may be replaced one after another; or a
            pod is broken, with a line for each reason. Or the cluster has not answered for a while, or forbids to look.
    """
    still = time.monotonic()
    until = still + limit
    said, broken, most, known = "", 0, 0, set[str]()
    answered = still
    silent = False
    while True:
        try:
            workloads, there, done = look(kubectl, services)
        except WarrenError as error:
            if unknown(error) or time.monotonic() > answered + PATIENCE:
                raise
            if not silent:
                note(f"{error}; what was begun goes on, and is looked at again, for {PATIENCE} s at most")
            silent = True
            time.sleep(INTERVAL)
            continue
        now = time.monotonic()
        answered, silent = now, False
        if (counted := line(workloads)) != said:
            kubectl.note(f"ready: {counted}")
            said, still = counted, now
        if (renewed := sum(new(one) for one in workloads)) > most:
            most, until = renewed, now + limit
        if done:
            return
        broken = broken + 1 if any(pods.hopeless(pod) for pod in there) else 0
        if broken >= PROOFS or now > until:
            raise trouble.error(kubectl, trouble.found(kubectl, workloads, there))
        if now > still + SILENCE:
            still = now
            with suppress(WarrenError):  # they only explain; a cluster that is silent the next look tells
                for reason in trouble.lines(trouble.found(kubectl, workloads, there)):
                    if reason not in known:
                        kubectl.note(f"waiting: {reason}")
                        known.add(reason)
        time.sleep(INTERVAL)


def look(kubectl: Kubectl, services: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], bool]:
    """The workloads of ``services``, the pods of theirs that are waited for, and whether all is done."""
    workloads = [one for one in kubectl.stack(WORKLOADS) if not services or named(one) in services]
    broker = operated.ours(kubectl) if any(by_operator(one) for one in workloads) else None
    if workloads and all(settled(one) for one in workloads) and (broker is None or operated.caught_up(broker)):
        return workloads, [], True
    return workloads, [pod for pod in kubectl.stack("pods") if waited_for(pod, services)], False


def waited_for(pod: dict[str, Any], services: Sequence[str] = ()) -> bool:
    """Whether it is one of ``services``, or of all where none is named, and not ready."""
    return not pods.ready(pod) and here(pod) and (not services or pods.service(pod) in services)


def here(pod: dict[str, Any]) -> bool:
    """Whether the stack waits for it: it has neither ended nor is about to leave."""
    return not pods.ended(pod) and not pod["metadata"].get("deletionTimestamp")
