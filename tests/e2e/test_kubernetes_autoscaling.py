"""Workers by the length of their queues, with the real KEDA, on a cluster of one node: up under load and back, by Invoke.

The tests share one stack and run in the order in which they stand here.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from deploy.paths import ROOT
from tests.support import own_overlay
from tests.support.checkout import Checkout
from tests.support.cluster import Cluster, named
from tests.support.eventually import eventually
from tests.support.ledger import Ledger

# As k8s/components/keda/scaled-object.yaml has them.
LEAST, MOST = 1, 10

TASKS = 200

# Seconds for what images, brokers and pods take on a busy host.
PATIENCE = 600

NOTHING: list[Any] = []


def without_requests(kind: str, name: str, *containers: str) -> dict[str, Any]:
    """Ten workers fit on a node of two CPUs, which they share with much else here."""
    changes = [
        {"op": "replace", "path": f"/spec/template/spec/{one}/0/resources/requests/cpu", "value": "0"}
        for one in containers
    ]
    return {"target": {"kind": kind, "name": name}, "patch": json.dumps(changes)}


PATCHES = [
    {
        "target": {"kind": "ScaledObject"},
        "patch": json.dumps(
            [
                {
                    "op": "replace",
                    "path": "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleDown",
                    # Not five minutes, so that the test need not wait for them.
                    "value": {"stabilizationWindowSeconds": 5},
                }
            ]
        ),
    },
    without_requests("Deployment", "worker|monitor|flower", "containers"),
    without_requests("StatefulSet", "rabbitmq", "containers", "initContainers"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = named(f"e2e-{uuid.uuid4().hex[:8]}")
    if found.kubectl("get", "crd/scaledobjects.keda.sh", check=False).returncode:
        pytest.skip("the cluster has no KEDA; see keda.sh/docs/latest/deploy")
    yield found
    found.forget()


@pytest.fixture(scope="module")
def stack(cluster: Cluster, app_image: str, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose settings name an overlay with KEDA, and a second pool."""
    checkout = own_overlay.checkout_with(
        tmp_path_factory.mktemp("autoscaling"), cluster, app_image,
        ["k8s/components/keda", "tests/e2e/kubernetes/ledger"], patches=PATCHES,
    )  # fmt: skip
    checkout.set(WARREN_QUEUES="default,mail")
    checkout.set(WARREN_POOLS="heavy", WARREN_POOL_HEAVY_QUEUES="video,reports", WARREN_POOL_HEAVY_CONCURRENCY="1")
    checkout.invoke("up")
    return checkout


@pytest.fixture(scope="module")
def ledger(cluster: Cluster, stack: Checkout, app_image: str) -> Ledger:
    return Ledger(cluster, stack.folder, ROOT / "k8s" / "overlays" / "dev", app_image)


def replicas(cluster: Cluster, name: str = "worker") -> int:
    return int(json.loads(cluster.kubectl("get", "deployment", name, "--output", "json").stdout)["spec"]["replicas"])


def pods(cluster: Cluster) -> list[dict[str, Any]]:
    return cluster.items("pods", "app.kubernetes.io/name=worker")


def state(cluster: Cluster, scaled: str) -> dict[str, str]:
    """What KEDA says of its object."""
    found = json.loads(cluster.kubectl("get", "scaledobject", scaled, "--output", "json").stdout)
    return {one["type"]: one["status"] for one in found["status"]["conditions"]}


def asks(cluster: Cluster, scaled: str) -> bool:
    """Whether it scales by what the broker says."""
    said = state(cluster, scaled)
    return said["Ready"] == "True" and said["Fallback"] == "False"


def bounds(stack: Checkout) -> dict[str, tuple[int, int, bool]]:
    return {one["service"]: (one["least"], one["most"], one["paused"]) for one in stack.json("status")["autoscaling"]}


def may(cluster: Cluster, user: str) -> list[str]:
    """The rights of a user of the broker: to configure, to write and to read what these match."""
    told = cluster.kubectl("exec", "rabbitmq-0", "--", "rabbitmqctl", "--silent", "list_user_permissions", user).stdout
    return told.splitlines()[-1].split()[1:]


def test_keda_finds_the_queues_of_each_pool(cluster: Cluster, stack: Checkout) -> None:
    for name in ("worker", "worker-heavy"):
        # While it could not ask the broker, which was not there yet, it helped itself.
        eventually(
            partial(asks, cluster, name),
            PATIENCE,
            lambda: cluster.kubectl("describe", "scaledobjects").stdout[-3000:],
        )
    # As a user who may touch nothing.
    assert may(cluster, "keda") == ["^()$"] * 3
    assert bounds(stack) == {"worker": (LEAST, MOST, False), "worker-heavy": (LEAST, MOST, False)}
    code = "from app import celery; [celery.send_task('app.tasks.sleep', (60,), queue=queue) for queue in {!r}]"
    stack.invoke("exec", "worker", "--", "python3", "-c", code.format(["video", "reports"]))
    # One for each: both queues count.
    eventually(lambda: replicas(cluster, "worker-heavy") == 2, PATIENCE, "a second worker for the second queue")


def test_workers_grow_from_none_to_the_bound_and_back_and_none_is_interrupted(
    cluster: Cluster, stack: Checkout, ledger: Ledger
) -> None:
    stack.invoke("scale-workers", "0")
    assert bounds(stack)["worker"] == (LEAST, MOST, True)
    eventually(lambda: pods(cluster) == NOTHING, PATIENCE, "the workers are gone")
    # As fast as the broker takes them.
    sending = ledger.send("scale-", TASKS, seconds=5, rate=1000)
    assert sending.wait(PATIENCE) == 0
    # Paused, it lets them wait.
    assert replicas(cluster) == 0
    said = stack.invoke("scale-workers", str(LEAST))
    assert said.stdout.endswith(f": KEDA keeps {LEAST} to {MOST} workers.\n")
    eventually(lambda: replicas(cluster) == MOST, PATIENCE, lambda: f"{replicas(cluster)} workers grow to {MOST}")
    ledger.all_done("scale-", TASKS)
    eventually(lambda: replicas(cluster) == LEAST, PATIENCE, lambda: f"{replicas(cluster)} workers shrink to {LEAST}")
    eventually(lambda: len(pods(cluster)) == LEAST, PATIENCE, "those that are not needed have gone")
    # Whoever is interrupted begins again.
    for kind in ("began", "done"):
        assert Counter(ledger.entries(kind, "scale-")) == Counter(f"{kind}/scale-{one}" for one in range(TASKS))


def test_bounds_that_were_set_stay_and_a_pool_that_ends_leaves_nothing(cluster: Cluster, stack: Checkout) -> None:
    assert stack.invoke("scale-workers", "2", "--max", "3").stdout.endswith(": KEDA keeps 2 to 3 workers.\n")
    # KEDA writes the number, when it has seen its new least one.
    eventually(lambda: replicas(cluster) == 2, PATIENCE, lambda: f"{replicas(cluster)} workers grow to 2")
    kinds = "deployments,scaledobjects,triggerauthentications,configmaps,poddisruptionbudgets"
    assert len(cluster.items(kinds, "app.kubernetes.io/name=worker-heavy")) == 5
    settings = stack.folder / ".env"
    kept = [line for line in settings.read_text().splitlines(keepends=True) if not line.startswith("WARREN_POOL")]
    settings.write_text("".join(kept))
    stack.invoke("up")
    eventually(lambda: cluster.items(kinds, "app.kubernetes.io/name=worker-heavy") == NOTHING, PATIENCE, "it is gone")
    assert bounds(stack)["worker"] == (2, 3, False)
    assert "worker: KEDA keeps 2 to 3 workers." in stack.invoke("status").stdout
    assert stack.invoke("diff").stdout == ""


def test_down_ends_autoscalers_too(cluster: Cluster, stack: Checkout) -> None:
    """They would look again only minutes after the next up."""
    stack.invoke("down")
    assert cluster.items("scaledobjects,horizontalpodautoscalers") == NOTHING
