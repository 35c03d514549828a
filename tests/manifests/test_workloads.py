"""What holds for every pod of every overlay, with and without each component."""

from __future__ import annotations

from typing import Any

from app.settings import AppSettings
from tests.support.manifests import Manifest, pods

Manifests = tuple[Manifest, ...]

# Those that run until they are stopped.
LASTING = ("Deployment", "StatefulSet")


NAME = "app.kubernetes.io/name"


def containers(spec: Manifest) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def names(manifests: Manifests, kind: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def test_nothing_is_there_twice_and_all_of_it_says_whose_it_is(manifests: Manifests) -> None:
    found = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(set(found)) == len(found)
    for one in manifests:
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "warren", one["metadata"]


def test_pods_are_what_the_restricted_standard_asks_for_and_a_little_more(manifests: Manifests) -> None:
    for workload, spec in pods(manifests):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] > 0, workload["metadata"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        assert not any(spec.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC"))
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for one in containers(spec):
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, one["name"]


def test_only_makers_of_secrets_have_a_token(manifests: Manifests) -> None:
    assert {
        workload["metadata"]["name"] for workload, spec in pods(manifests) if spec["automountServiceAccountToken"]
    } <= {"make-secrets", "make-keda-login"}


def test_containers_say_what_they_need_and_what_they_may_take(manifests: Manifests) -> None:
    for _, spec in pods(manifests):
        for one in containers(spec):
            assert set(one["resources"]["requests"]) == set(one["resources"]["limits"]) == {"cpu", "memory"}, one[
                "name"
            ]
        assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume)


def test_images_have_a_version_and_are_taken_where_they_are(manifests: Manifests) -> None:
    for _, spec in pods(manifests):
        for one in containers(spec):
            _, colon, tag = one["image"].rpartition(":")
            assert colon and tag != "latest", one["image"]
            assert one["imagePullPolicy"] == "IfNotPresent"


def test_pods_that_last_are_asked_whether_they_are_ready(manifests: Manifests) -> None:
    for workload, spec in pods(manifests):
        if workload["kind"] in LASTING:
            for one in spec["containers"]:
                assert {"startupProbe", "readinessProbe"} <= set(one), one["name"]
                # A broker that recovers must not be killed for it.
                assert ("livenessProbe" in one) == (one["name"] != "rabbitmq")


def test_selectors_select_their_own_pods_and_nobody_elses(manifests: Manifests) -> None:
    lasting = [(workload, workload["spec"]) for workload, _ in pods(manifests) if workload["kind"] in LASTING]
    for workload, spec in lasting:
        selected = [
            other["metadata"]["name"]
            for other, its in lasting
            if spec["selector"]["matchLabels"].items() <= its["template"]["metadata"]["labels"].items()
        ]
        assert selected == [workload["metadata"]["name"]]


def test_services_and_budgets_select_pods_and_name_ports_that_these_have(manifests: Manifests) -> None:
    lasting = [workload["spec"]["template"] for workload, _ in pods(manifests) if workload["kind"] in LASTING]
    for kind, where in (("Service", ("selector",)), ("PodDisruptionBudget", ("selector", "matchLabels"))):
        for one in names(manifests, kind).values():
            selector = one["spec"]
            for key in where:
                selector = selector.get(key, {})
            if not selector:
                continue
            if any(other["kind"] == "RabbitmqCluster" for other in manifests) and selector.get(NAME) == "rabbitmq":
                continue  # the operator makes these pods
            selected = [pod for pod in lasting if selector.items() <= pod["metadata"]["labels"].items()]
            assert selected, f"{kind} {one['metadata']['name']} selects no pod"
            for port in one["spec"].get("ports", []):
                for pod in selected:
                    assert port["targetPort"] in ports(pod), (one["metadata"]["name"], port)


def ports(pod: Manifest) -> set[str]:
    return {port["name"] for one in pod["spec"]["containers"] for port in one.get("ports", [])}


def test_what_pods_take_from_configmaps_is_there(manifests: Manifests) -> None:
    there = names(manifests, "ConfigMap")
    for _, spec in pods(manifests):
        for one in containers(spec):
            for source in one.get("envFrom", []):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in there
            for variable in one.get("env", []):
                if reference := variable.get("valueFrom", {}).get("configMapKeyRef"):
                    assert reference["key"] in there[reference["name"]]["data"]
        for volume in spec["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in there


def test_what_pods_take_from_the_secret_is_what_the_job_makes(manifests: Manifests) -> None:
    if "warren-make-secrets" not in (there := names(manifests, "ConfigMap")):
        return
    script: dict[str, Any] = {"__name__": "make_secrets"}
    exec(compile(there["warren-make-secrets"]["data"]["make_secrets.py"], "make_secrets.py", "exec"), script)
    made = {*script["PASSWORDS"], "tls.crt", "tls.key"}
    for _, spec in pods(manifests):
        for one in containers(spec):
            for variable in one.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
                if reference.get("name") == "warren":
                    assert reference["key"] in made, variable["name"]
        for volume in spec["volumes"]:
            if volume.get("secret", {}).get("secretName") == "warren":
                assert {item["key"] for item in volume["secret"]["items"]} <= made


def settings(manifests: Manifests) -> AppSettings:
    (found,) = (one["data"] for name, one in names(manifests, "ConfigMap").items() if name.startswith("warren-tasks"))
    return AppSettings(task_time_limit=int(found["WARREN_TASK_TIME_LIMIT"]))


def test_a_worker_that_is_told_to_stop_may_end_its_longest_task(manifests: Manifests) -> None:
    graces = [
        spec["terminationGracePeriodSeconds"]
        for workload, spec in pods(manifests)
        if workload["spec"]["template"]["metadata"]["labels"].get("app.kubernetes.io/component") == "worker"
    ]
    assert graces and set(graces) == {settings(manifests).stop_grace}


def test_the_broker_knows_how_many_nodes_it_has(manifests: Manifests) -> None:
    if broker := names(manifests, "StatefulSet").get("rabbitmq"):
        told = {
            variable["value"]
            for one in containers(broker["spec"]["template"]["spec"])
            for variable in one["env"]
            if variable["name"] == "WARREN_RABBITMQ_NODES"
        }
        assert told == {str(broker["spec"]["replicas"])}
