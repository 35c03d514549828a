"""How pods are started, replaced, stopped and moved, in every overlay with and without each component."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.manifests import Manifest, pods, rendered

Manifests = tuple[Manifest, ...]

NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
# cluster-autoscaler takes no node away that has a pod with another volume on it.
DISPOSABLE = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"

# Those that RabbitMQ's operator gives a broker's pods by itself (tests/e2e/test_kubernetes_operator.py sees them).
OPERATORS = {"rabbitmq-erlang-cookie", "rabbitmq-plugins"}


def deployments(manifests: Manifests) -> list[Manifest]:
    return [one for one in manifests if one["kind"] == "Deployment"]


def workers(manifests: Manifests) -> list[Manifest]:
    return [one for one in deployments(manifests) if one["metadata"]["labels"].get(COMPONENT) == "worker"]


def brokers(manifests: Manifests) -> list[dict[str, Any]]:
    return [one["spec"] for one in manifests if one["kind"] == "StatefulSet"]


def broker_templates(manifests: Manifests) -> list[dict[str, Any]]:
    """Of our broker's pods, or of what RabbitMQ's operator is to put over its own."""
    operated = [one["spec"]["override"]["statefulSet"]["spec"] for one in manifests if one["kind"] == "RabbitmqCluster"]
    return [spec["template"] for spec in (*brokers(manifests), *operated)]


def seconds(probe: dict[str, Any]) -> int:
    """How long a container has to pass it: what is left out is what Kubernetes takes then."""
    return int(probe.get("periodSeconds", 10)) * int(probe.get("failureThreshold", 3))


def test_workers_are_replaced_without_ever_being_fewer(manifests: Manifests) -> None:
    assert workers(manifests)
    for one in workers(manifests):
        assert one["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        }


def test_what_writes_one_file_never_runs_twice(manifests: Manifests) -> None:
    for one in deployments(manifests):
        claims = [volume for volume in one["spec"]["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume]
        if claims:
            assert (one["spec"]["replicas"], one["spec"]["strategy"]) == (1, {"type": "Recreate"})
        else:
            assert one in workers(manifests)


def test_the_number_of_workers_is_left_to_who_scales_them() -> None:
    for overlay in ("dev", "dev+keda", "production+keda", "dev+hpa", "production+hpa", "dev+worker-pool"):
        assert all("replicas" not in one["spec"] for one in workers(rendered(overlay))), overlay


def test_whoever_there_may_be_several_of_has_a_budget(manifests: Manifests) -> None:
    budgets = [one["spec"] for one in manifests if one["kind"] == "PodDisruptionBudget"]
    several = [one["spec"] for one in workers(manifests)] + brokers(manifests)
    for spec in several:
        labels = spec["template"]["metadata"]["labels"]
        (budget,) = (one for one in budgets if one["selector"]["matchLabels"].items() <= labels.items())
        assert budget["maxUnavailable"] == 1
        assert budget["unhealthyPodEvictionPolicy"] in {"AlwaysAllow", "IfHealthyBudget"}


def test_the_broker_is_given_time_to_recover_and_to_hand_over(manifests: Manifests) -> None:
    for spec in brokers(manifests):
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        # An hour: what is recovered may be large.
        assert seconds(container["startupProbe"]) >= 3600
        assert container["lifecycle"]["preStop"]
        # One of several waits until the others can do without it.
        assert pod["terminationGracePeriodSeconds"] == (600 if spec.get("replicas", 1) > 1 else 60)
        assert spec["podManagementPolicy"] == "Parallel"
        assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_a_broker_may_open_thousands_of_files(manifests: Manifests) -> None:
    found = (one["data"] for one in manifests if "warren-broker-scripts" in one["metadata"]["name"])
    scripts: dict[str, str] = next(found, {})
    for template in broker_templates(manifests):
        (container,) = template["spec"]["containers"]
        _, script = container["command"]
        # The operator's is for production, which has the script that it names.
        if script != "/scripts/run" and (text := scripts.get(script.removeprefix("/scripts/"))):
            assert text.endswith("\nexec bash /scripts/run\n")
        assert re.search(r"^ulimit -Sn .*\b65536\b", scripts["run"], re.MULTILINE)


def test_the_broker_is_the_last_to_go_when_a_node_runs_short(manifests: Manifests) -> None:
    there = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "PriorityClass"}
    if not there:
        # Pods of a class that is not there are refused.
        assert "priorityClassName" not in json.dumps(manifests)
        return
    # By a class of ours: without one, a cluster's default may be more than the broker's.
    ranks = {
        workload["metadata"]["name"]: there[spec["priorityClassName"]]["value"] for workload, spec in pods(manifests)
    }
    if "rabbitmq" in ranks:
        assert all(ranks["rabbitmq"] > rank for name, rank in ranks.items() if name != "rabbitmq")
    # Who is put out of its place could be anybody's.
    assert {one["preemptionPolicy"] for one in there.values()} == {"Never"}


def test_nodes_that_nobody_needs_may_be_taken_away(manifests: Manifests) -> None:
    # Not those of Jobs: they end, and a node with pods that have ended can go.
    lasting = [one["spec"]["template"] for one, _ in pods(manifests) if one["kind"] != "Job"]
    operated = [one for one in broker_templates(manifests) if one not in lasting]
    assert lasting
    for template in (*lasting, *operated):
        ours = {volume["name"] for volume in template["spec"]["volumes"] if "emptyDir" in volume}
        named = template["metadata"]["annotations"][DISPOSABLE].split(",")
        assert len(set(named)) == len(named)
        assert set(named) == (ours | OPERATORS if template in operated else ours)


def test_probes_leave_a_busy_pod_time_to_answer(manifests: Manifests) -> None:
    for workload, spec in pods(manifests):
        for container in spec["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                # Where nothing is said, it is one second.
                if probe in container and "tcpSocket" not in container[probe]:
                    assert container[probe]["timeoutSeconds"] >= 5, (workload["metadata"]["name"], probe)


def test_all_that_the_stack_has_says_which_part_it_is(manifests: Manifests) -> None:
    own = {(one["kind"], one["metadata"]["name"]) for one in rendered("dev")}
    for one in manifests:
        if (one["kind"], one["metadata"]["name"]) in own:
            assert one["metadata"]["labels"][COMPONENT] in {"broker", "worker", "monitor", "flower", "config"}
        if one["kind"] in {"Deployment", "StatefulSet", "Service", "PodDisruptionBudget", "PersistentVolumeClaim"}:
            assert one["metadata"]["labels"][NAME]
