"""Options of the manifests on a real cluster: a pool by a copied folder, autoscaling by CPU, and a broker that others run.

The tests share one stack and run in the order in which they stand here. In the end that stack is the broker that others
run, for a second one in another namespace.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode
from deploy.services import SERVICES
from tests.support import own_overlay
from tests.support.checkout import Checkout
from tests.support.cluster import Cluster, named
from tests.support.eventually import eventually

# Seconds for what images, brokers, pods and metrics take on a busy host.
PATIENCE = 600

NOTHING: list[Any] = []

# What nobody needs to reserve here, where CPUs are few.
UNRESERVED = [
    {
        "target": {"kind": kind},
        "patch": json.dumps(
            [
                {"op": "replace", "path": f"/spec/template/spec/{one}/0/resources/requests/cpu", "value": "0"}
                for one in containers
            ]
        ),
    }
    for kind, containers in {"Deployment": ["containers"], "StatefulSet": ["containers", "initContainers"]}.items()
]

# As docs/kubernetes-options.md has it (tls), where there is no cert-manager.
UNCERTIFIED = {
    "target": {"group": "cert-manager.io"},
    "patch": "$patch: delete\nkind: any\nmetadata: {name: any}\n",
}

# So little that a busy host can't keep a worker from using it.
LITTLE = {
    "target": {"kind": "HorizontalPodAutoscaler"},
    "patch": json.dumps([{"op": "replace", "path": "/spec/metrics/0/resource/target/averageValue", "value": "200m"}]),
}

# In a worker, until somebody says that it is enough.
BURN = "import os\nwhile not os.path.exists('/tmp/enough'): sum(range(100_000))"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = named(f"e2e-{uuid.uuid4().hex[:8]}")
    if found.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1", check=False).returncode:
        pytest.skip("the cluster has no metrics of pods; see github.com/kubernetes-sigs/metrics-server")
    yield found
    found.forget()


@pytest.fixture(scope="module")
def second(cluster: Cluster) -> Iterator[Cluster]:
    """The namespace of the stack that has no broker of its own."""
    found = named(f"{cluster.namespace}-b")
    yield found
    found.forget()


@pytest.fixture(scope="module")
def stack(cluster: Cluster, app_image: str, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose settings name an overlay with a pool, autoscaling by CPU and a broker that speaks TLS too."""
    components = [f"k8s/components/{name}" for name in ("worker-pool-batch", "hpa", "tls")]
    checkout = own_overlay.checkout_with(
        tmp_path_factory.mktemp("options"), cluster, app_image,
        components, patches=[LITTLE, UNCERTIFIED, *UNRESERVED],
    )  # fmt: skip
    copied_pool(checkout.folder / "k8s" / "components", "batch")
    cluster.kubectl("create", "namespace", cluster.namespace)
    files = certificate(checkout.folder, f"rabbitmq.{cluster.namespace}")
    cluster.kubectl("create", "secret", "generic", "warren-broker-tls", *(f"--from-file={file}" for file in files))
    checkout.invoke("up")
    return checkout


def copied_pool(components: Path, name: str) -> None:
    """Copies the folder of the pool `heavy` for another name, which it has in both files."""
    copy = components / f"worker-pool-{name}"
    shutil.copytree(components / "worker-pool", copy)
    for file in copy.rglob("kustomization.yaml"):
        text = file.read_text()
        file.write_text(text.replace("heavy", name).replace("HEAVY", name.upper()))


def certificate(folder: Path, host: str) -> list[Path]:
    """A certificate for ``host`` that vouches for itself: the authority's, its own, and the key."""
    made = [folder / name for name in ("ca.crt", "tls.crt", "tls.key")]
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"),
            *("-keyout", str(made[2]), "-out", str(made[1])),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    shutil.copy(made[1], made[0])
    return made


def replicas(cluster: Cluster, name: str = "worker") -> int:
    return int(json.loads(cluster.kubectl("get", "deployment", name, "--output", "json").stdout)["spec"]["replicas"])


def worker_of(stack: Checkout, task: str) -> str:
    known = eventually(lambda: (one := stack.json("task", task))["state"] == "SUCCESS" and one, PATIENCE, "it ran")
    return str(known["worker"])


def test_a_pool_by_a_copied_folder_has_workers_for_its_own_queue(stack: Checkout) -> None:
    for queue, service in (("default", "worker"), ("batch", "worker-batch")):
        task = stack.invoke("call", "add", "2", "3", "--queue", queue).stdout.strip()
        (pod,) = (one for one in stack.json("status")["instances"] if one["service"] == service)
        assert worker_of(stack, task) == pod["node"]
    # The settings name neither this pool nor its queue.
    # Workers have a second to answer, which a busy host may not give them.
    paused = "batch: paused; none of 2 workers consumes it\n"
    eventually(lambda: stack.invoke("pause", "--pool", "batch").stdout == paused, 60, paused)
    waiting = stack.invoke("call", "add", "2", "3", "--queue", "batch").stdout.strip()
    eventually(lambda: stack.json("task", waiting)["queue"] == "batch", PATIENCE, "the monitor heard of it")
    assert "batch was paused" in stack.invoke("task", waiting).stdout
    stack.invoke("resume", "batch")
    assert worker_of(stack, waiting).startswith("celery@worker-batch-")
    assert stack.invoke("scale-workers", "0", "--pool", "batch").stdout.endswith(": 0 workers of the pool batch.\n")
    stack.invoke("scale-workers", "1", "--pool", "batch")
    assert "celery@worker-batch-" in stack.invoke("logs", "worker-batch").stdout


def test_workers_grow_with_the_cpu_that_they_use_within_bounds_that_a_person_sets(
    cluster: Cluster, stack: Checkout
) -> None:
    assert stack.invoke("scale-workers", "1", "--max", "2").stdout.endswith(
        ": HorizontalPodAutoscaler keeps 1 to 2 workers.\n"
    )
    burning = subprocess.Popen(
        [
            *("kubectl", "--context", cluster.context, "--namespace", cluster.namespace),
            *("exec", "deployment/worker", "--", "python3", "-c", BURN),
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(
            lambda: replicas(cluster) == 2,
            PATIENCE,
            lambda: cluster.kubectl("describe", "hpa").stdout[-3000:] + cluster.kubectl("top", "pods").stdout,
        )
        assert burning.poll() is None
    finally:
        burning.kill()
    # Not the pool, which has none.
    assert replicas(cluster, "worker-batch") == 1
    assert stack.json("status")["autoscaling"] == [
        {"service": "worker", "by": "HorizontalPodAutoscaler", "least": 1, "most": 2, "paused": False}
    ]
    # Still as busy: that is what the process in the pod goes on for.
    assert stack.invoke("scale-workers", "1", "--max", "1").stdout.endswith(
        ": HorizontalPodAutoscaler keeps 1 to 1 workers.\n"
    )
    eventually(lambda: replicas(cluster) == 1, PATIENCE, lambda: cluster.kubectl("describe", "hpa").stdout[-3000:])
    stack.invoke("up")
    assert stack.json("status")["autoscaling"][0]["most"] == 1


def served_elsewhere(cluster: Cluster, stack: Checkout) -> None:
    """The overlay, and the settings, of a stack whose broker is the one in ``cluster``, by its name there and by TLS."""
    address = {"BROKER_SCHEME": "amqps", "BROKER_HOST": f"rabbitmq.{cluster.namespace}", "BROKER_PORT": "5671"}
    patch = [{"op": "replace", "path": f"/data/{name}", "value": value} for name, value in address.items()]
    folder = own_overlay.write(
        stack, "elsewhere",
        ["k8s/components/external-broker", "k8s/components/broker-authority"],
        patches=[
            {"target": {"kind": "ConfigMap", "name": "warren-broker-address"}, "patch": json.dumps(patch)},
            *UNRESERVED[:1],
        ],
        secretGenerator=[{"name": "broker-authority", "files": ["ca.crt"]}],
    )  # fmt: skip
    shutil.copy(stack.folder / "ca.crt", folder / "ca.crt")


def versions(cluster: Cluster) -> dict[str, Any]:
    return {
        f"{one['kind']} {one['metadata']['name']}": one["metadata"].get(
            "generation", one["metadata"]["resourceVersion"]
        )
        for one in cluster.items("deployments,statefulsets,services,configmaps,secrets,jobs,persistentvolumeclaims")
    }


def test_a_stack_without_a_broker_of_its_own_comes_up_when_that_of_others_knows_it(
    cluster: Cluster, second: Cluster, stack: Checkout
) -> None:
    # From here on the first stack is a broker, which others run.
    cluster.kubectl("delete", "hpa,deployments", "--all", "--wait=false")
    cluster.kubectl("delete", "pods", "--selector", "app.kubernetes.io/name!=rabbitmq", "--grace-period=1")
    served_elsewhere(cluster, stack)
    stack.set(WARREN_PROJECT=second.namespace, WARREN_KUBE_OVERLAY="elsewhere")
    up = stack.start("up")
    definitions = eventually(lambda: stack.invoke("definitions").stdout, PATIENCE, "its passwords are there")
    subprocess.run(
        [
            *("kubectl", "--context", cluster.context, "--namespace", cluster.namespace, "exec", "--stdin"),
            *("rabbitmq-0", "--", "sh", "-c", "cat >/tmp/d.json && rabbitmqctl import_definitions /tmp/d.json"),
        ],
        input=definitions, text=True, check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    printed, _ = up.communicate(timeout=PATIENCE)
    assert up.returncode == 0, printed
    assert "until that has what `invoke definitions` prints, pods wait" in printed
    before = versions(second)
    assert not [name for name in before if "rabbitmq" in name]
    stack.invoke("up")
    assert versions(second) == before
    assert stack.invoke("diff").stdout == ""


def test_every_command_finds_the_broker_of_others(second: Cluster, stack: Checkout) -> None:
    assert stack.invoke("call", "add", "2", "3", "--wait").stdout == "5\n"
    status = eventually(lambda: (one := stack.json("status"))["error"] is None and one, 60, "the monitor answers")
    assert {one["service"] for one in status["instances"] if one["ready"]} == set(SERVICES) - {"rabbitmq"}
    (worker,) = (one["node"] for one in status["instances"] if one["node"])
    (default,) = (queue for queue in stack.json("queues") if queue["queue"] == "default")
    assert default["consumers"] == 1 and "default" in {queue["queue"] for queue in status["queues"]}
    eventually(lambda: stack.json("ping")["pong"] == [worker], 60, "it answers")
    running = stack.invoke("call", "sleep", "250").stdout.strip()
    known = eventually(lambda: (one := stack.json("task", running))["state"] == "STARTED" and one, PATIENCE, "it runs")
    assert known["worker"] == worker
    stack.invoke("revoke", running, "--terminate")
    eventually(lambda: stack.json("task", running)["state"] == "REVOKED", PATIENCE, "it is revoked")
    sent = "from app import celery; print(celery.send_task('no.such.task').id)"
    unknown = stack.invoke("exec", "worker", "--", "python3", "-c", sent).stdout.strip()
    letters = eventually(lambda: stack.json("dead-letters")["letters"], PATIENCE, "it is a dead letter")
    assert [one["id"] for one in letters] == [unknown]
    stack.invoke("dead-letters", "drop", unknown, "--yes")
    assert stack.json("dead-letters")["letters"] == NOTHING
    refused = stack.invoke("restart", "rabbitmq", check=False)
    assert refused.returncode == ExitCode.UNKNOWN and "others run the broker, and restart it" in refused.stderr
