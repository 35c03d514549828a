"""The dev overlay on a real cluster: one apply, then the first hour by kubectl and Invoke, then pods that die.

The tests share one stack and run in the order in which they stand here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from deploy.errors import ExitCode
from deploy.services import SERVICES
from tests.support import commands
from tests.support.checkout import Checkout
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.ledger import LONG

OVERLAY = "k8s/overlays/dev"
WORKERS = "app.kubernetes.io/component=worker"
PRIVILEGED = json.dumps(
    {"spec": {"containers": [{"name": "bad", "image": "warren-app:0.1.0", "securityContext": {"privileged": True}}]}}
)


@pytest.fixture(scope="module")
def stack(cluster: Cluster, app_image: str, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose dev overlay is for a namespace of its own, applied with kubectl alone."""
    checkout = Checkout(tmp_path_factory.mktemp("kubernetes"), "kubernetes", WARREN_KUBE_CONTEXT=cluster.context)
    # The driver copies once, and says so where that fails.
    load = os.environ.get("E2E_KUBE_LOAD") and f"{sys.executable} -m {commands.__name__} {os.environ['E2E_KUBE_LOAD']}"
    checkout.set(WARREN_PROJECT=cluster.namespace, WARREN_KUBE_LOAD=load or "")
    overlay = checkout.folder / OVERLAY / "kustomization.yaml"
    text = overlay.read_text().replace("namespace: warren", f"namespace: {cluster.namespace}")
    overlay.write_text(f"{text}images: [{{name: warren-app, newTag: {app_image.partition(':')[2]}}}]\n")
    applied(cluster, checkout)
    return checkout


def applied(cluster: Cluster, checkout: Checkout, *command: str) -> subprocess.CompletedProcess[str]:
    return cluster.kubectl(*(command or ("apply",)), "--kustomize", str(checkout.folder / OVERLAY), check=not command)


def all_ready(cluster: Cluster) -> bool:
    """Whether every service has what it is to have, and no pod is there that leaves."""
    wanted = {one["metadata"]["name"]: one["spec"]["replicas"] for one in cluster.items("deployments,statefulsets")}
    pods = [pod for pod in cluster.items("pods") if pod["metadata"]["labels"]["app.kubernetes.io/name"] in wanted]
    ready = [
        pod["metadata"]["labels"]["app.kubernetes.io/name"]
        for pod in pods
        if any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))
    ]
    return len(wanted) == len(SERVICES) and sorted(ready) == sorted(
        name for name in wanted for _ in range(wanted[name])
    )


def await_all(cluster: Cluster) -> None:
    """Waits until every service is ready; after that, what each pod waits for is told."""
    eventually(
        lambda: all_ready(cluster),
        LONG,
        lambda: (
            cluster.kubectl("get", "pods", "--output", "wide").stdout + cluster.kubectl("get", "events").stdout[-3000:]
        ),
    )


def versions(cluster: Cluster) -> dict[str, str]:
    kinds = "deployments,statefulsets,services,configmaps,secrets,jobs,persistentvolumeclaims,poddisruptionbudgets"
    return {f"{one['kind']} {one['metadata']['name']}": one["metadata"]["generation"] if "generation" in one["metadata"]
            else one["metadata"]["resourceVersion"] for one in cluster.items(kinds)}  # fmt: skip


def node_of(stack: Checkout, task: str) -> str:
    """The pod that runs ``task``."""
    known = eventually(lambda: (one := stack.json("task", task))["state"] == "STARTED" and one, 60, "it runs")
    return str(known["worker"]).removeprefix("celery@")


def test_one_apply_brings_all_of_it_up_without_a_crash(cluster: Cluster, stack: Checkout) -> None:
    await_all(cluster)
    restarts = {
        pod["metadata"]["name"]: sum(one["restartCount"] for one in pod["status"]["containerStatuses"])
        for pod in cluster.items("pods")
    }
    # Also not while the passwords were not there yet.
    assert set(restarts.values()) == {0}, restarts


def test_a_second_apply_changes_nothing(cluster: Cluster, stack: Checkout) -> None:
    before = versions(cluster)
    told = [line for line in applied(cluster, stack).stdout.splitlines() if not line.endswith(" unchanged")]
    # kubectl sends the selector of a budget each time, changed or not.
    assert {line.partition("/")[0] for line in told} <= {"poddisruptionbudget.policy"}, told
    assert versions(cluster) == before
    compared = applied(cluster, stack, "diff")
    assert (compared.returncode, compared.stdout) == (0, "")


def test_who_applies_on_the_server_meets_no_conflict(cluster: Cluster, stack: Checkout) -> None:
    done = applied(cluster, stack, "apply", "--server-side", "--dry-run=server")
    assert done.returncode == 0, done.stderr


def test_the_maker_of_secrets_may_do_nothing_else_and_leaves_what_is_there(cluster: Cluster, stack: Checkout) -> None:
    def may(verb: str, what: str) -> bool:
        account = f"system:serviceaccount:{cluster.namespace}:make-secrets"
        return cluster.kubectl("auth", "can-i", verb, what, "--as", account, check=False).stdout.strip() == "yes"

    assert may("create", "secrets")
    assert not any(may(verb, "secrets") for verb in ("get", "list", "watch", "update", "patch", "delete"))
    assert not any(may(verb, "pods") for verb in ("get", "create"))
    (before,) = (one for one in cluster.items("secrets") if one["metadata"]["name"] == "warren")
    cluster.kubectl("delete", "job/make-secrets")
    applied(cluster, stack)
    wait = ("wait", "--for=condition=complete", "job/make-secrets", "--timeout=120s")
    eventually(lambda: cluster.kubectl(*wait), LONG, "the maker of secrets is done")
    assert "is there already; nothing is changed" in cluster.kubectl("logs", "job/make-secrets").stdout
    (after,) = (one for one in cluster.items("secrets") if one["metadata"]["name"] == "warren")
    assert after == before


def test_a_pod_that_wants_more_than_its_task_needs_is_refused(cluster: Cluster, stack: Checkout) -> None:
    done = cluster.kubectl(
        "run", "bad", "--image", "warren-app:0.1.0", "--overrides", PRIVILEGED, "--dry-run=server", check=False
    )
    assert done.returncode
    assert 'violates PodSecurity "restricted' in done.stderr


def test_make_up_takes_over_what_kubectl_applied(cluster: Cluster, stack: Checkout) -> None:
    stack.install()
    done = stack.run("make", "up")
    assert "add 2 3 = 5" in done.stdout
    assert "invoke open flower" in done.stdout
    told = [line for line in done.stderr.splitlines() if "ready: " in line]
    assert told and all(line.startswith(f"{cluster.context}/{cluster.namespace}: ") for line in told)
    assert stack.invoke("diff").stdout == ""
    assert stack.invoke("call", "add", "2", "3", "--wait").stdout == "5\n"
    password = stack.folder / ".warren" / "secrets"
    assert not password.exists(), "the passwords are those of the cluster"


def test_new_code_replaces_the_worker_once_and_not_the_broker(cluster: Cluster, stack: Checkout) -> None:
    def there() -> tuple[list[str], int]:
        broker = cluster.items("pods", "app.kubernetes.io/name=rabbitmq")
        return [one["metadata"]["uid"] for one in broker], len(cluster.items("replicasets", WORKERS))

    uids, revisions = there()
    tasks = stack.folder / "app" / "tasks.py"
    tasks.write_text(f'{tasks.read_text()}\n\n@shared_task\ndef fresh() -> str:\n    return "new"\n')
    restarted = stack.invoke("restart", "worker")
    assert "monitor and flower get the code" in restarted.stderr
    assert stack.invoke("call", "fresh", "--wait").stdout == '"new"\n'
    assert there() == (uids, revisions + 1)


def test_the_commands_of_the_first_hour(cluster: Cluster, stack: Checkout) -> None:
    status = stack.json("status")
    assert status["platform"] == "kubernetes"
    assert {one["service"] for one in status["instances"] if one["ready"]} == set(SERVICES)
    assert {"default", "dead_letters", "celery.events"} <= {queue["queue"] for queue in status["queues"]}
    failed = stack.invoke("call", "fail", '"on purpose"').stdout.strip()
    known = eventually(lambda: (one := stack.json("task", failed))["state"] == "FAILURE" and one, 60, "it failed")
    assert known["worker"].removeprefix("celery@") in {one["name"] for one in status["instances"]}
    assert "RuntimeError('on purpose')" in stack.invoke("result", failed, check=False).stdout
    assert failed in stack.invoke("history", "--failed").stdout
    assert failed in stack.invoke("events", "--type", "failed").stdout
    assert "RuntimeError" in stack.invoke("logs", "worker", "--tail", "200").stdout
    # Workers have a second to answer, which a busy host may not give them.
    eventually(lambda: stack.json("ping")["silent"] == [], 60, "every worker answers")
    assert "default" in stack.invoke("queues").stdout
    assert stack.invoke("exec", "worker", "--", "celery", "--version").stdout.startswith("5.")


def test_a_context_that_nobody_meant_is_refused(stack: Checkout) -> None:
    done = stack.invoke("status", check=False, WARREN_KUBE_CONTEXT="nowhere")
    assert done.returncode == ExitCode.SETTINGS
    assert "kubectl has no context 'nowhere'" in done.stderr


def test_scaling_down_stops_the_idle_worker(cluster: Cluster, stack: Checkout) -> None:
    stack.invoke("scale-workers", "2")
    task = stack.invoke("call", "sleep", "250").stdout.strip()
    busy = node_of(stack, task)
    stack.invoke("scale-workers", "1")
    (left,) = (pod for pod in cluster.items("pods", WORKERS) if "deletionTimestamp" not in pod["metadata"])
    assert left["metadata"]["name"] == busy
    assert stack.json("task", task)["state"] == "STARTED"
    stack.invoke("revoke", task, "--terminate")
    eventually(lambda: stack.json("task", task)["state"] == "REVOKED", 60, "it is revoked")


def test_what_is_revoked_while_no_worker_is_there_never_runs(cluster: Cluster, stack: Checkout) -> None:
    stack.invoke("scale-workers", "0")
    eventually(lambda: not cluster.items("pods", WORKERS), LONG, "the workers are gone")
    task = stack.invoke("call", "add", "1", "1").stdout.strip()
    stack.invoke("revoke", task)
    stack.invoke("scale-workers", "1")
    eventually(lambda: stack.json("task", task)["state"] == "REVOKED", 60, "it is revoked")


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_that_dies_loses_nothing(cluster: Cluster, stack: Checkout, service: str) -> None:
    """At once, as with its node: the broker with what waits in its queues, a worker with what it runs."""
    await_all(cluster)
    code = "from app import celery; print(*(celery.send_task('app.tasks.sleep', (0.5,)).id for _ in range(20)))"
    sent = set(stack.invoke("exec", "worker", "--", "python3", "-c", code).stdout.split())
    assert len(sent) == 20
    (pod,) = cluster.items("pods", f"app.kubernetes.io/name={service}")
    # Not --force: two brokers on one volume would be another accident.
    cluster.kubectl("delete", f"pod/{pod['metadata']['name']}", "--grace-period=1")
    await_all(cluster)

    def done() -> bool:
        listed = stack.json("history", "--state", "SUCCESS", "--name", "app.tasks.sleep", "--limit", "1000")["tasks"]
        return sent <= {one["id"] for one in listed}

    eventually(done, LONG, "all tasks ran")


def test_down_keeps_the_data_and_up_finds_it(cluster: Cluster, stack: Checkout) -> None:
    task = stack.invoke("call", "add", "20", "3").stdout.strip()
    eventually(lambda: stack.json("task", task)["state"] == "SUCCESS", 60, "it ran")
    stack.invoke("down")
    assert stack.json("status")["instances"] == []
    waiting: dict[str, Any] = {one["metadata"]["name"]: one["status"]["phase"] for one in cluster.items("pvc")}
    assert waiting == {"data-rabbitmq-0": "Bound", "flower": "Bound", "monitor": "Bound"}
    stack.invoke("up")
    assert stack.json("task", task)["state"] == "SUCCESS"
