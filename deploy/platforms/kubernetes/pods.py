"""The stack's pods, their states as every platform tells them, and why one is not ready."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from deploy.errors import WarrenError
from deploy.platforms.base import Instance
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.services import kind

__all__ = ["SERVICE", "ended", "hopeless", "instance", "of", "ran", "ready", "runs", "service", "why_not_ready"]

SERVICE = "app.kubernetes.io/name"

# What a container waits with that waiting alone won't mend.
BROKEN = {"CrashLoopBackOff", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerError"}


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
    return waiting(pod)[1] in BROKEN


def instance(pod: dict[str, Any], now: datetime | None = None) -> Instance:
    name = pod["metadata"]["name"]
    if ended(pod):
        state = "stopped"
    elif hopeless(pod):
        state = "failed"
    else:
        serves = ready(pod) or any(one.get("started") for one in containers(pod))
        state = "running" if serves and pod["status"].get("phase") == "Running" else "starting"
    return Instance(
        service=service(pod),
        name=name,
        state=state,
        ready=ready(pod),
        since=since(pod, now or datetime.now(UTC)),
        node=f"celery@{name}" if kind(service(pod)) == "worker" else "",
    )


def since(pod: dict[str, Any], now: datetime) -> str:
    status = pod["status"]
    restarts = sum(one.get("restartCount", 0) for one in status.get("containerStatuses", []))
    again = f", {restarts} restart{'' if restarts == 1 else 's'}" if restarts else ""
    if pod["metadata"].get("deletionTimestamp"):
        return f"stopping{again}"
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


def why_not_ready(kubectl: Kubectl, pod: dict[str, Any]) -> str:
    """In one line: what its container waits for, the last event that warned of it, and the last line that it wrote."""
    name = pod["metadata"]["name"]
    container, reason, message = waiting(pod)
    said = [f"{name} is {instance(pod).state}"]
    unscheduled = [
        one.get("message", "")
        for one in pod["status"].get("conditions", [])
        if one["type"] == "PodScheduled" and one["status"] == "False"
    ]
    if unscheduled:
        said.append(f"no node takes it: {unscheduled[0]}")
    elif reason in {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"}:
        return f"{said[0]}: {no_image(pod, container)}"
    elif reason and reason not in {"PodInitializing", "ContainerCreating"}:
        said.append(f"{reason}{': ' + message if message else ''}")
    if (event := last_warning(kubectl, name)) and event not in message and event not in said[-1]:
        said.append(event)
    if line := last_line(kubectl, name, container, again=reason == "CrashLoopBackOff"):
        said.append(f"its last line: {line}")
    return "; ".join(said)


def no_image(pod: dict[str, Any], container: str) -> str:
    spec = pod["spec"]
    image = next(
        (one["image"] for one in [*spec.get("initContainers", []), *spec["containers"]] if one["name"] == container), ""
    )
    return (
        f"its node can't get the image {image}; `invoke build --push REGISTRY` puts it where nodes get it, or "
        "WARREN_KUBE_LOAD names the command that copies it to them (docs/kubernetes.md)"
    )


def last_warning(kubectl: Kubectl, pod: str) -> str:
    try:
        printed = kubectl.read(
            "get", "events", "--field-selector", f"involvedObject.name={pod},type=Warning",
            "--sort-by", ".metadata.creationTimestamp", "--output", "jsonpath={range .items[*]}{.message}{'\\n'}{end}",
        )  # fmt: skip
    except WarrenError:
        return ""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def last_line(kubectl: Kubectl, pod: str, container: str, again: bool) -> str:
    """The last line that ``pod`` wrote; of the run before, where its container is to be started ``again``."""
    try:
        printed = kubectl.read(
            "logs", pod, "--tail", "5",
            *(["--container", container] if container else []), *(["--previous"] if again else []),
        )  # fmt: skip
    except WarrenError:
        return ""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[-1]) if lines else ""
