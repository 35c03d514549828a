"""The broker as a RabbitmqCluster, run by the real RabbitMQ cluster operator on three nodes, by Invoke: nodes killed and
restarted under load, stopped with their data and without.

The tests share one stack and run in the order in which they stand here.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import own_overlay
from tests.support.checkout import Checkout
from tests.support.cluster import Cluster, named, three_nodes
from tests.support.eventually import eventually
from tests.support.ledger import LONG, Ledger
from tests.support.rollout import watched

OPERATED = "rabbitmqclusters.rabbitmq.com"
BROKERS = "app.kubernetes.io/name=rabbitmq"
NODES = ["rabbitmq-server-0", "rabbitmq-server-1", "rabbitmq-server-2"]

# Seconds in which a broker that was deleted would be there again.
AGAIN = 5

NOTHING: list[Any] = []


class Operated(Ledger):
    broker = NODES[0]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = named(f"e2e-{uuid.uuid4().hex[:8]}")
    if found.kubectl("get", f"crd/{OPERATED}", check=False).returncode:
        pytest.skip(
            "the cluster has no RabbitMQ cluster operator; see rabbitmq.com/kubernetes/operator/install-operator"
        )
    three_nodes(found)
    yield found
    # Before its namespace, whose pods would wait for each other.
    found.kubectl("delete", OPERATED, "--all", "--wait=false", check=False)
    found.forget()


@pytest.fixture(scope="module")
def stack(cluster: Cluster, app_image: str, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    # As docs/kubernetes-options.md has it, with what a test needs beside it.
    checkout = own_overlay.checkout_with(
        tmp_path_factory.mktemp("operator"), cluster, app_image,
        ["k8s/components/rabbitmq-operator"], resources=["../tests/e2e/kubernetes"],
    )  # fmt: skip
    checkout.invoke("up")
    return checkout


@pytest.fixture(scope="module")
def ledger(cluster: Cluster, stack: Checkout, app_image: str) -> Operated:
    return Operated(cluster, stack.folder, stack.folder / "mine", app_image)


def broker(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.kubectl("get", OPERATED, "rabbitmq", "--output", "json").stdout)
    return found


def conditions(cluster: Cluster) -> dict[str, str]:
    """What the operator says of it."""
    return {one["type"]: one["status"] for one in broker(cluster)["status"]["conditions"]}


def generations(cluster: Cluster) -> dict[str, int]:
    """What changes where somebody asks for something else."""
    found = cluster.items(f"{OPERATED},statefulsets,deployments")
    return {f"{one['kind']} {one['metadata']['name']}": one["metadata"]["generation"] for one in found}


# With what its fixtures build, copy and bring up.
def test_the_operator_makes_a_broker_of_three_nodes_with_all_queues_on_each(cluster: Cluster, ledger: Operated) -> None:
    ledger.await_whole()
    assert {"default", "dead_letters", "celery.events", "celery.revoked"} <= set(ledger.copies())
    nodes = cluster.items("pods", BROKERS)
    found = {one["metadata"]["name"]: one["spec"]["nodeName"] for one in nodes}
    assert sorted(found) == NODES
    assert len(set(found.values())) == 3
    for one in nodes:
        # Those of the operator, too: its broker must not keep a node that cluster-autoscaler would take away.
        disposable = one["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"]
        local = {volume["name"] for volume in one["spec"]["volumes"] if "emptyDir" in volume}
        assert set(disposable.split(",")) == local
    good = {"AllReplicasReady": "True", "ClusterAvailable": "True", "NoWarnings": "True", "ReconcileSuccess": "True"}
    eventually(lambda: conditions(cluster) == good, LONG, lambda: f"{broker(cluster)['status']}")


def test_its_users_are_ours_alone(ledger: Operated) -> None:
    listed = json.loads(ledger.exec(NODES[0], "rabbitmqctl", "--silent", "--formatter", "json", "list_users"))
    assert {one["user"] for one in listed} == {"admin", "worker", "producer", "monitor", "flower", "ops"}


def test_a_second_apply_changes_nothing(cluster: Cluster, stack: Checkout) -> None:
    """The operator writes its defaults into the RabbitmqCluster, too."""
    before = generations(cluster)
    applied = cluster.kubectl("apply", "--kustomize", str(stack.folder / ".warren" / "kubernetes" / "overlay"))
    told = [line for line in applied.stdout.splitlines() if not line.endswith(" unchanged")]
    # kubectl sends the selector of a budget each time, changed or not.
    assert {line.partition("/")[0] for line in told} <= {"poddisruptionbudget.policy"}, told
    assert stack.invoke("diff").stdout == ""
    assert generations(cluster) == before


def test_the_commands_know_it(stack: Checkout) -> None:
    status = stack.json("status")
    assert [one["name"] for one in status["instances"] if one["service"] == "rabbitmq" and one["ready"]] == NODES
    assert {"default", "dead_letters", "celery.events"} <= {one["queue"] for one in status["queues"]}
    assert "default" in stack.invoke("queues").stdout
    assert stack.invoke("exec", "rabbitmq", "--", "rabbitmqctl", "--silent", "version").stdout.startswith("4.3.")
    logs = stack.invoke("logs", "rabbitmq", "--tail", "1000").stdout
    assert all(f"pod/{node}/rabbitmq" in logs for node in NODES)
    assert stack.invoke("call", "add", "2", "3", "--wait").stdout == "5\n"


def test_nodes_are_killed_one_after_another(cluster: Cluster, ledger: Operated) -> None:
    def killed() -> None:
        for node in NODES:
            cluster.kubectl("delete", "pod", node, "--grace-period=1")
            ledger.await_whole()

    ledger.under("kill-", 400, killed, rate=8)


def test_restart_replaces_one_node_after_another(cluster: Cluster, stack: Checkout, ledger: Operated) -> None:
    def restarted() -> None:
        with watched(cluster, BROKERS, 3) as seen:
            assert stack.invoke("restart", "rabbitmq").stdout.endswith(": Restarted rabbitmq.\n")
            eventually(lambda: len(seen.new) == 3 and not seen.first & seen.serving, LONG, "all are new")
        assert seen.fewest == 2

    ledger.under("restart-", 250, restarted, rate=5)
    ledger.await_whole()


def test_each_task_was_done_and_none_is_left(ledger: Operated) -> None:
    ledger.each_done()


def test_none_is_given_up_that_was_never_there(cluster: Cluster, stack: Checkout) -> None:
    """Each node looks for the others, by their names (k8s/overlays/production/join)."""
    given_up = re.findall(r"join: (\S+) is gone", stack.invoke("logs", "rabbitmq", "--tail", "100000").stdout)
    assert set(given_up) <= {f"{node}.rabbitmq-nodes.{cluster.namespace}" for node in NODES}


def test_down_keeps_its_data_and_up_finds_them(cluster: Cluster, stack: Checkout) -> None:
    stack.invoke("scale-workers", "0")
    task = stack.invoke("call", "add", "20", "3").stdout.strip()
    stack.invoke("down")
    assert stack.json("status")["instances"] == NOTHING
    assert cluster.items("pods", BROKERS) == NOTHING
    assert broker(cluster)["spec"]["replicas"] == 0
    kept = {one["metadata"]["name"] for one in cluster.items("pvc")}
    assert kept == {"monitor", "flower", *(f"persistence-{node}" for node in NODES)}
    stack.invoke("up")
    eventually(lambda: stack.json("task", task)["state"] == "SUCCESS", LONG, "what waited is done")


def test_down_with_volumes_leaves_nothing(cluster: Cluster, stack: Checkout) -> None:
    stack.invoke("down")
    stack.invoke("down", "--volumes", "--yes")
    assert cluster.items(f"{OPERATED},deployments,statefulsets,pvc") == NOTHING
    assert cluster.items("pods,services,configmaps,secrets", BROKERS) == NOTHING
    came = cluster.kubectl("wait", "--for=create", f"{OPERATED}/rabbitmq", f"--timeout={AGAIN}s", check=False)
    assert came.returncode, (
        f"it is there again: {cluster.kubectl('get', OPERATED, '--show-managed-fields', '-oyaml').stdout}"
    )
