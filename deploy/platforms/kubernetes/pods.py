"""The stack's pods, and their states as every platform tells them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.platforms.base import Instance
from deploy.services import is_worker, kind

__all__ = [
    "NO_IMAGE",
    "SERVICE",
    "WORKLOADS",
    "containers",
    "ended",
    "hopeless",
    "instance",
    "lacking",
    "moment",
    "of",
    "ran",
    "ready",
    "runs",
    "service",
    "waiting",
]

SERVICE = "app.kubernetes.io/name"

# The kinds of what is to have pods.
WORKLOADS = {"Deployment", "StatefulSet"}

# What a container waits with whose image can't be had.
NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}

# What it waits with that waiting alone won't mend.
BROKEN = {*NO_IMAGE, "CrashLoopBackOff", "CreateContainerError"}


def service(pod: dict[str, Any]) -> str:
    return str(pod["metadata"].get("labels", {}).get(SERVICE, ""))


def of(pods: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The pods of the service ``name`` that are there to stay."""
    return [
        pod for pod in pods
        if service(pod) == name and not ended(pod) and not pod["metadata"].get("deletionTimestamp")
    ]  # fmt: skip


def ended(pod: dict[str, Any]) -> bool:
    """Whether it never runs again: its work is done, or its node sent it away. It is kept to be looked at."""
    return pod["status"].get("phase") in {"Failed", "Succeeded"}


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return (
        any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
        and not pod["metadata"].get("deletionTimestamp")
    )  # fmt: skip


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of its containers, in the order in which they start."""
    status = pod["status"]
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def ran(pod: dict[str, Any], container: str) -> str:
    """The image of a container that has started at least once; empty where it has not."""
    started = any(
        one["name"] == container
        and (one.get("restartCount") or {"running", "terminated"} & {*one.get("state", {}), *one.get("lastState", {})})
        for one in pod["status"].get("containerStatuses", [])
    )
    found = (one["image"] for one in pod["spec"]["containers"] if one["name"] == container)
    return next(found, "") if started else ""


def runs(pod: dict[str, Any], container: str) -> bool:
    """Whether that container of it runs now, ready or not."""
    return any(
        one["name"] == container and "running" in one.get("state", {})
        for one in pod["status"].get("containerStatuses", [])
    )


def waiting(pod: dict[str, Any]) -> tuple[str, str, str]:
    """Container, reason and message of the first container that waits; empty where none does."""
    for one in containers(pod):
        if found := one.get("state", {}).get("waiting"):
            return one["name"], found.get("reason", ""), found.get("message", "")
    return "", "", ""


def hopeless(pod: dict[str, Any]) -> bool:
    """Whether it won't get ready by being waited for."""
    _, reason, message = waiting(pod)
    # A Secret that is not there yet may come; one that lacks a key stays as it is.
    return reason in BROKEN or (reason == "CreateContainerConfigError" and "find key" in message)


def instance(pod: dict[str, Any], now: datetime | None = None) -> Instance:
    name = pod["metadata"]["name"]
    if ended(pod):
        state = "stopped"
    elif hopeless(pod):
        state = "failed"
    else:
        stops = "deletionTimestamp" in pod["metadata"]
        serves = stops or ready(pod) or any(one.get("started") for one in containers(pod))
        state = "running" if serves and pod["status"].get("phase") == "Running" else "starting"
    return Instance(
        service=service(pod),
        name=name,
        state=state,
        ready=ready(pod),
        since=since(pod, now or datetime.now(UTC)),
        node=f"celery@{name}" if kind(service(pod)) == "worker" else "",
    )


def lacking(workload: dict[str, Any], pods: list[dict[str, Any]]) -> Instance | None:
    """What stands for those of ``pods`` that ``workload`` is to have and that are not there; None where it lacks none.

    No worker may be just what is wanted; all else is, unless nothing runs: a broker that its operator stopped stays so.
    """
    name, wanted = service(workload), workload["spec"].get("replicas", 1)
    missing = wanted - len(of(pods, name))
    if workload["metadata"].get("deletionTimestamp") or (missing <= 0 and (wanted or is_worker(name) or not pods)):
        return None
    since = "scaled to 0" if not wanted else f"{missing} pod{'s are' if missing > 1 else ' is'} not there"
    return Instance(name, workload["metadata"]["name"], "starting" if wanted else "stopped", ready=False, since=since)


def since(pod: dict[str, Any], now: datetime) -> str:
    status = pod["status"]
    restarts = sum(one.get("restartCount", 0) for one in status.get("containerStatuses", []))
    again = f", {restarts} restart{'' if restarts == 1 else 's'}" if restarts else ""
    if until := pod["metadata"].get("deletionTimestamp"):
        grace = pod["metadata"].get("deletionGracePeriodSeconds", 0)
        # Kubernetes says when it ends the pod at the latest, not since when it stops.
        return f"stopping for {ago(now - moment(until) + timedelta(seconds=grace))}, {grace} s at most{again}"
    if reason := waiting(pod)[1]:
        return reason + again
    started = [
        one["state"]["running"]["startedAt"]
        for one in status.get("containerStatuses", [])
        if "running" in one.get("state", {})
    ]
    if not started:
        return str(status.get("reason") or status.get("phase", "")) + again
    return f"Up {ago(now - moment(min(started)))}{again}"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def ago(age: Any) -> str:
    """An age in words, as Compose has them."""
    seconds = max(0, int(age.total_seconds()))
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            number = seconds // size
            return f"{number} {unit}{'' if number == 1 else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
