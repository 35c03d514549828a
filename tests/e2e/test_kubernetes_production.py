"""The production overlay as it is, on three nodes: broker nodes killed, all of them restarted, a node drained, all
workers replaced, a node without power; all under load. And what Invoke leaves of it.

The tests share one stack and run in the order in which they stand here.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.paths import ROOT
from tests.support.checkout import Checkout
from tests.support.cluster import Cluster, named, reaches, three_nodes
from tests.support.commands import finished
from tests.support.eventually import eventually
from tests.support.ledger import LONG, Ledger
from tests.support.rollout import watched

# With what tests need beside the overlay.
BASE = ROOT / "tests" / "e2e" / "kubernetes"
BROKERS = "app.kubernetes.io/name=rabbitmq"
WORKERS = "app.kubernetes.io/component=worker"

# Who gets a connection to whom: pod, host, port, and whether it may.
REACHES = {
    ("worker", "rabbitmq", 5672): True,
    ("worker", "rabbitmq", 15672): False,
    ("worker", "rabbitmq-0.rabbitmq-nodes", 25672): False,
    ("worker", "monitor", 5556): False,
    ("worker", "kubernetes.default", 443): False,
    ("monitor", "rabbitmq", 5672): True,
    ("monitor", "rabbitmq", 15672): False,
    ("flower", "rabbitmq", 15672): True,
    ("flower", "monitor", 5556): False,
    ("producer", "rabbitmq", 5672): True,
    ("producer", "rabbitmq", 15672): False,
    ("producer", "ledger", 8080): False,
    ("ledger", "rabbitmq", 5672): False,
}


class Production(Ledger):
    """The overlay with the ledger and the producer on the node that nothing happens to."""

    def __init__(self, cluster: Cluster, folder: Path, image: str) -> None:
        super().__init__(cluster, folder, BASE, image)
        self.nodes = three_nodes(cluster)
        here = {"kubernetes.io/hostname": self.nodes[0]}
        self.pinned = [{"op": "add", "path": "/spec/template/spec/nodeSelector", "value": here}]

    def bring_up(self) -> None:
        target = {"kind": "Deployment", "name": "ledger|producer"}
        self.apply(patches=[{"target": target, "patch": json.dumps(self.pinned)}])

    def homes(self) -> list[str]:
        """The nodes of brokers that something may happen to: not the one of ledger and producer."""
        brokers = {one["spec"]["nodeName"] for one in self.cluster.items("pods", BROKERS)}
        return sorted(brokers - {self.nodes[0]})

    def answering(self, away: str) -> int:
        """How many workers answer one of them that asks all, while the node ``away`` is."""
        pods = self.cluster.items("pods", WORKERS)
        asking = next(one["metadata"]["name"] for one in pods if one["spec"]["nodeName"] != away)
        return len(
            json.loads(self.exec(asking, *["celery", "-A", "app", "inspect", "ping", "--timeout", "5", "--json"]))
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = named(f"e2e-{uuid.uuid4().hex[:8]}")
    nodes = three_nodes(found)
    yield found
    for node in nodes:
        found.kubectl("uncordon", node, check=False)
    found.forget()


@pytest.fixture(scope="module")
def stack(cluster: Cluster, app_image: str, tmp_path_factory: pytest.TempPathFactory) -> Production:
    made = Production(cluster, tmp_path_factory.mktemp("production"), app_image)
    made.bring_up()
    return made


def test_all_queues_and_streams_live_on_all_three_nodes_from_the_start(stack: Production) -> None:
    stack.await_whole()
    assert {"default", "dead_letters", "celery.events", "celery.revoked"} <= set(stack.copies())


def test_a_second_apply_changes_nothing(stack: Production) -> None:
    before = stack.cluster.items("deployments,statefulsets")
    stack.bring_up()
    compared = stack.cluster.kubectl("diff", "--kustomize", str(stack.folder), check=False)
    assert (compared.returncode, compared.stdout) == (0, "")
    after = stack.cluster.items("deployments,statefulsets")
    assert [one["metadata"]["generation"] for one in after] == [one["metadata"]["generation"] for one in before]


def test_broker_nodes_live_on_nodes_of_their_own(stack: Production) -> None:
    brokers = {one["spec"]["nodeName"] for one in stack.cluster.items("pods", BROKERS)}
    assert len(brokers) == 3
    assert brokers <= set(stack.nodes)


def test_pods_reach_what_they_need_and_nothing_else(stack: Production) -> None:
    def seen(pod: str, host: str, port: int) -> bool:
        # A first connection may need a second try; one that is not to be is tried once.
        if not REACHES[pod, host, port]:
            return reaches(stack.cluster, f"deployment/{pod}", host, port)
        return eventually(lambda: reaches(stack.cluster, f"deployment/{pod}", host, port), 60, f"{pod} reaches {host}")

    with ThreadPoolExecutor() as all_at_once:
        found = all_at_once.map(lambda who: seen(*who), REACHES)
    assert dict(zip(REACHES, found, strict=True)) == REACHES


def ran(stack: Production, *arguments: str) -> None:
    stack.cluster.kubectl(*arguments)


def replaced(stack: Production, what: str, selector: str) -> int:
    """Replaces its three pods, one after another; how many there were at the least."""
    with watched(stack.cluster, selector, 3) as seen:
        ran(stack, "rollout", "restart", what)
        for number in (1, 2, 3):
            enough = functools.partial(lambda wanted: len(seen.new) >= wanted, number)
            eventually(enough, LONG, lambda: f"{len(seen.new)} of three are new")
        eventually(lambda: not seen.first & seen.serving, LONG, "those of before go")
    return seen.fewest


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_broker_node_is_killed(stack: Production, number: int) -> None:
    """With a second to end, it is killed in what it does before."""
    pod = f"rabbitmq-{number}"
    stack.under(f"kill{number}-", 300, lambda: ran(stack, "delete", "pod", pod, "--grace-period=1"))
    stack.await_whole()


def test_all_broker_nodes_are_restarted_and_never_are_two_away(stack: Production) -> None:
    def restarted() -> None:
        assert replaced(stack, "statefulset/rabbitmq", BROKERS) == 2

    # For as long as that takes.
    stack.under("rolling-", 400, restarted, rate=5)
    stack.await_whole()


def test_a_node_is_drained(stack: Production) -> None:
    node = stack.homes()[0]

    def drained() -> None:
        drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s")
        # What has gone by then is not asked to go again.
        eventually(lambda: stack.cluster.kubectl(*drain), LONG, f"{node} is drained")

    try:
        stack.under("drain-", 500, drained)
    finally:
        ran(stack, "uncordon", node)
    stack.await_whole()


def test_all_workers_are_replaced_and_there_are_never_fewer(stack: Production) -> None:
    """After the drain they may all be on one node; after this, some are connected to a broker that is about to vanish."""

    def restarted() -> None:
        assert replaced(stack, "deployment/worker", WORKERS) == 3

    stack.under("workers-", 300, restarted, rate=8)
    stack.await_whole()


def test_a_nodes_power_is_cut_and_comes_back(stack: Production) -> None:
    power = os.environ.get("E2E_NODE_POWER", "")
    if not power:
        pytest.skip("E2E_NODE_POWER names no command that cuts a node's power: COMMAND kill NODE, COMMAND start NODE")
    node = stack.homes()[-1]

    def switched(to: str) -> None:
        done = finished([*shlex.split(power), to, node], LONG)
        assert done.returncode == 0, f"{to} {node} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"

    def started() -> bool:
        try:
            switched("start")
        except AssertionError:
            # So that nothing of it is left half started.
            switched("kill")
            raise
        return True

    try:
        # All of them are done while the node is away, and every worker can be asked.
        stack.under("power-", 600, lambda: switched("kill"))
        eventually(lambda: stack.answering(node) == 3, LONG, "the three workers answer")
    finally:
        eventually(started, LONG, f"{node} starts")
    stack.await_whole()


def test_each_task_was_done_and_none_is_left(stack: Production) -> None:
    stack.each_done()


def test_where_all_broker_nodes_are_stopped_none_waits_for_the_others(stack: Production) -> None:
    """As when their namespace is deleted: each would wait for as long as its grace is."""
    (grace,) = {one["spec"]["terminationGracePeriodSeconds"] for one in stack.cluster.items("pods", BROKERS)}
    stack.cluster.kubectl("scale", "statefulset/rabbitmq", "--replicas=0")
    eventually(lambda: not stack.cluster.items("pods", BROKERS), grace / 2, "all have stopped")
    stack.cluster.kubectl("scale", "statefulset/rabbitmq", "--replicas=3")
    stack.await_whole()


def test_down_leaves_no_data_where_that_is_told(stack: Production, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "kubernetes", WARREN_KUBE_CONTEXT=stack.cluster.context)
    checkout.set(WARREN_PROJECT=stack.cluster.namespace, WARREN_KUBE_OVERLAY="production")
    checkout.install()

    def ready() -> int:
        return sum(one["ready"] for one in checkout.json("status")["instances"])

    eventually(lambda: ready() == 8, LONG, lambda: f"{ready()} of 8 are ready")
    kept = {one["metadata"]["name"] for one in stack.cluster.items("pvc")}
    assert kept == {"data-rabbitmq-0", "data-rabbitmq-1", "data-rabbitmq-2", "flower", "monitor"}
    checkout.invoke("down", "--volumes", "--yes")
    assert checkout.json("status")["instances"] == []
    eventually(lambda: not stack.cluster.items("pvc"), LONG, lambda: f"left are {stack.cluster.items('pvc')}")
