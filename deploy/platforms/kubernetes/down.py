"""`down`: the workers first, then the broker and all else, with their data where they may go."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.errors import ExitCode, WarrenError
from deploy.output import note
from deploy.platforms.kubernetes import away, broker, generated, held, operated, pods, pools
from deploy.platforms.kubernetes.kubectl import PART, Kubectl, labelled
from deploy.services import is_worker

__all__ = ["stop"]

# Seconds that broker nodes of RabbitMQ's operator may take to stop, if they see each that the others can do without it: ten
# minutes at most.
BROKER_PATIENCE = 660

# Seconds that the rest may take after the workers' last task.
PATIENCE = 120


def stop(kubectl: Kubectl, grace: int, volumes: bool) -> None:
    """Stops the stack; workers have ``grace`` seconds for the tasks that they run, or what they were started with, if more.

    Raises:
        WarrenError: not in time; where a node is away, with the way out.
    """
    try:
        in_turn(kubectl, grace, volumes)
    except WarrenError as error:
        if error.code is ExitCode.TIMEOUT and (said := away.way_out(kubectl)):
            raise WarrenError(said, error.code) from error
        raise


def in_turn(kubectl: Kubectl, grace: int, volumes: bool) -> None:
    workers = [pod for pod in kubectl.stack("pods") if is_worker(pods.service(pod))]
    # These settings may be another checkout's, or have changed since.
    grace = max([grace, *(pod["spec"].get("terminationGracePeriodSeconds", 0) for pod in workers)])
    if not kubectl.runner.dry:
        first = f", workers first, when their tasks have ended ({grace} s at most)"
        kubectl.note(f"stopping the stack{first if workers else ''}")
    # One that finds nothing to scale looks again only after minutes.
    let_go = held.end_autoscalers(kubectl)
    # While the broker is there they end their tasks, acknowledge them and give back the others.
    delete(kubectl, "deployments", pools.WORKERS, grace + PATIENCE)
    # While the broker's StatefulSet is there: that tells whose they are.
    claims = broker.claim_names(kubectl)
    # With volumes too: where this is interrupted, the next one knows by it whose they are.
    broker.annotate(kubectl, claims, broker.ran(kubectl)[0])
    tell_broker(kubectl)
    delete(kubectl, "deployments,statefulsets", PART, PATIENCE)
    operated.stop(kubectl, volumes, BROKER_PATIENCE)
    if volumes:
        delete_data(kubectl, claims)
        generated.sweep(kubectl)
    if not let_go:
        held.require_let_go(kubectl)


def delete(kubectl: Kubectl, kinds: str, selector: str, patience: int) -> None:
    """Deletes workloads and waits until their pods are gone."""
    kubectl.run("delete", kinds, "--selector", selector, "--cascade=foreground", f"--timeout={patience}s")


def tell_broker(kubectl: Kubectl) -> None:
    """Tells broker nodes that all of them go: none need wait for the others (k8s/base/rabbitmq/stop).

    Also those that are not ready, or stop already: they wait most. One that can't be told is no reason to stop halfway.
    """
    for pod in kubectl.list("pods"):
        if pods.service(pod) == "rabbitmq" and pods.runs(pod, "rabbitmq"):
            name = pod["metadata"]["name"]
            try:
                kubectl.run("exec", name, "--container", "rabbitmq", "--", "touch", "/tmp/stop-now")  # noqa: S108
            except WarrenError as error:
                note(f"{error}; {name} may take minutes to stop")


def delete_data(kubectl: Kubectl, claims: Sequence[str]) -> None:
    """Deletes ``claims``, which are the broker's, and the others with our label."""

    def ours() -> list[str]:
        there = {one["metadata"]["name"]: one for one in kubectl.list("persistentvolumeclaims", "")}
        # The broker's may have none, where an overlay replaced it; or have it still, where another broker took them over.
        others = {name for name, one in there.items() if labelled(one) and not broker.OURS.fullmatch(name)}
        return [name for name in there if name in {*claims, *others}]

    held.delete_claims(kubectl, ours)
