"""What begins anew with each `up`, because Kubernetes by itself would try again only after minutes, or never."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from deploy.errors import WarrenError
from deploy.platforms.kubernetes import pods, progress
from deploy.platforms.kubernetes.asked import Asked
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.platforms.kubernetes.passwords import MAKERS
from deploy.platforms.kubernetes.reasons import unmounted
from deploy.services import SERVICES, kind

__all__ = ["admit", "left_behind", "unchangeable"]


def left_behind(kubectl: Kubectl) -> list[str]:
    """The pods that an earlier `up` left behind and that did not get far: to be deleted, so that new ones come.

    All of them where the passwords are gone, unless the broker runs with these: what is made anew is of no use to the others.
    """
    there = [pod for pod in kubectl.stack("pods") if kind(pods.service(pod)) in SERVICES and progress.here(pod)]
    if all(pods.ready(pod) for pod in there):
        return []
    asked = Asked(kubectl, broker_ready=True)
    gone = not asked.secret_there and not any(pods.ready(pod) for pod in pods.of(there, "rabbitmq"))
    stuck = [pod for pod in there if gone or pods.hopeless(pod) or unmounted(pod, asked)]
    return [pod["metadata"]["name"] for pod in stuck]


def unchangeable(error: WarrenError) -> list[str]:
    """What an apply was to change and can't, and is made anew for: pods stay, and what the Jobs made."""
    said = str(error)
    jobs = [f"job/{name}" for name in MAKERS] if re.search(r'Job\S* "make-.*immutable', said) else []
    rank = re.search(r'PriorityClass\S* "warren-broker".*immutable', said)
    return [*jobs, *(["priorityclass/warren-broker"] if rank else [])]


def admit(kubectl: Kubectl) -> None:
    """Has the pods tried again that the namespace did not admit: any change of what makes them does."""
    short = [
        f"{one['kind'].lower()}/{one['metadata']['name']}"
        for one in kubectl.stack("replicasets,statefulsets")
        if one.get("status", {}).get("replicas", 0) < one["spec"].get("replicas", 1)
    ]
    if short:
        kubectl.run("annotate", "--overwrite", *short, f"warren/tried={datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
