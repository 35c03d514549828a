"""A broker that RabbitMQ's cluster operator runs (k8s/components/rabbitmq-operator): what is done otherwise than with ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from deploy.errors import WarrenError
from deploy.platforms.kubernetes import pods
from deploy.platforms.kubernetes.kubectl import BROKER, CLUSTERS, Kubectl, labelled

__all__ = ["STATEFULSET", "caught_up", "ours", "stop", "trouble"]

KIND, NAME = CLUSTERS, BROKER

# What the operator makes of it, and how it labels that: it leaves none of our labels.
STATEFULSET = "rabbitmq-server"
NODES = f"app.kubernetes.io/name={NAME},app.kubernetes.io/part-of=rabbitmq"

# With this label a node does not wait for the others before it stops: the operator's own way, for a broker that is deleted.
# The node reads it from a file, which follows some seconds later.
AT_ONCE = "skipPreStopChecks"
# Where it does not within a minute, they stop as they would one by one.
SEEN = f"for _ in {{1..120}}; do [[ ! -s /etc/pod-info/{AT_ONCE} ]] || exit 0; sleep 0.5; done"


def ours(kubectl: Kubectl) -> dict[str, Any] | None:
    """The RabbitmqCluster of the stack; None where there is none, or the cluster does not know what that is.

    One of that name may be somebody else's, and the stack may even use it (components/external-broker).
    """
    found = kubectl.cluster()
    return found if found and labelled(found) else None


def caught_up(broker: dict[str, Any]) -> bool:
    """Whether the operator has made of it what it says by now. Before, its StatefulSet is settled, but the old one."""
    return bool(broker.get("status", {}).get("observedGeneration", 0) >= broker["metadata"]["generation"])


def trouble(broker: dict[str, Any] | None) -> str:
    """What the operator says of a RabbitmqCluster that it can't make; empty where it can, or there is none."""
    conditions = (broker or {}).get("status", {}).get("conditions", [])
    found = (one for one in conditions if one["type"] == "ReconcileSuccess" and one["status"] == "False")
    return next((one.get("message", "") for one in found), "")


def stop(kubectl: Kubectl, volumes: bool, patience: int) -> None:
    """Stops its nodes, all at once; deleted, it takes its data along.

    Raises:
        WarrenError: not within ``patience`` seconds.
    """
    if ours(kubectl) is None:
        return
    skip_checks(kubectl)
    kubectl.run("patch", f"{KIND}/{NAME}", "--type", "merge", "--patch", '{"spec": {"replicas": 0}}')
    kubectl.run("wait", "pods", "--selector", NODES, "--for=delete", f"--timeout={patience}s")
    if volumes:
        # Until all of it is gone: who comes up again must not find a volume that is about to go.
        kubectl.run("delete", f"{KIND}/{NAME}", "--cascade=foreground", f"--timeout={patience}s")


def skip_checks(kubectl: Kubectl) -> None:
    """Tells the nodes that all of them go: none need wait for the others. Those that stop already don't hear it any more."""
    there = pods.of(kubectl.list("pods", NODES), NAME)
    nodes = [pod["metadata"]["name"] for pod in there if pods.runs(pod, NAME)]
    if not nodes:
        return
    kubectl.run("label", "pods", *nodes, "--overwrite", f"{AT_ONCE}=true")
    for node in nodes:
        # One that has gone meanwhile need not be told.
        with suppress(WarrenError):
            kubectl.run("exec", node, "--container", NAME, "--", "bash", "-c", SEEN)
