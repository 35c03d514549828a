"""Whatever a manifest names is there, or is made by something that is: volumes, keys, Secrets, certificates, accounts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.support.manifests import Manifest, different, pods

Manifests = tuple[Manifest, ...]

# Secrets that users bring; each stands in the docs.
BROUGHT = {"warren-edge", "broker-authority", "app-env", "private-settings", "flower-oauth"}


def made() -> set[str]:
    """The keys of the Secret `warren`, which the Job makes on the first apply."""
    (found,) = (one for one in different() if one["metadata"]["name"] == "warren-make-secrets")
    script: dict[str, Any] = {"__name__": "make_secrets"}
    exec(compile(found["data"]["make_secrets.py"], "make_secrets.py", "exec"), script)
    return {*script["PASSWORDS"], "tls.crt", "tls.key"}


def logins(manifests: Manifests) -> set[str]:
    """The Secrets that a Job of theirs makes beside that one."""
    return {"warren-keda" for one in manifests if one["metadata"]["name"] == "make-keda-login"}


def secrets(value: Any) -> Iterator[tuple[str, str | None]]:
    """Each Secret that is named anywhere, with the key where one is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in {"secretKeyRef", "credentials"} and isinstance(inner, dict):
                yield inner["name"], inner["key"]
            elif key == "secretRef":
                yield inner["name"], None
            elif key == "secret" and isinstance(inner, dict) and "secretName" in inner:
                items = inner.get("items", [])
                yield from (
                    ((inner["secretName"], item["key"]) for item in items) if items else [(inner["secretName"], None)]
                )
            elif key == "secretTargetRef":
                yield from ((one["name"], one["key"]) for one in inner)
            elif key == "certificateRefs":
                yield from ((one["name"], None) for one in inner)
            elif key == "tls" and isinstance(inner, list):
                yield from ((one["secretName"], None) for one in inner if "secretName" in one)
            yield from secrets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from secrets(inner)


def test_every_secret_and_each_key_of_ours_is_made_by_somebody(manifests: Manifests) -> None:
    certified = {one["spec"]["secretName"] for one in manifests if one["kind"] == "Certificate"}
    keys = made()
    named = set(secrets(list(manifests)))
    assert named
    assert {name for name, _ in named} <= {"warren"} | logins(manifests) | certified | BROUGHT
    assert {key for name, key in named if name == "warren-keda"} <= {"username", "password"}
    assert {key for name, key in named if name == "warren" and key} <= keys
    assert {key for name, key in named if name in certified and key} <= {"tls.crt", "tls.key", "ca.crt"}


def test_no_address_names_a_service_that_is_missing(manifests: Manifests) -> None:
    there = {one["metadata"]["name"] for one in manifests if one["kind"] == "Service"}
    # The operator makes one of this name.
    there |= {one["metadata"]["name"] for one in manifests if one["kind"] == "RabbitmqCluster"}
    named = set()
    for _, spec in pods(manifests):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            for variable in container.get("env", []):
                named |= set(re.findall(r"(?:://|@)(rabbitmq)\b", variable.get("value", "")))
    assert named <= there


def test_what_is_mounted_is_a_volume_and_every_volume_is_mounted(manifests: Manifests) -> None:
    for workload, spec in pods(manifests):
        volumes = {volume["name"] for volume in spec["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        mounted = {
            mount["name"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]
            for mount in container["volumeMounts"]
        }
        assert mounted == volumes, workload["metadata"]["name"]


def test_claims_and_accounts_are_there(manifests: Manifests) -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    for _, spec in pods(manifests):
        if account := spec.get("serviceAccountName"):
            assert ("ServiceAccount", account) in there
        for volume in spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in there
    for binding in (one for one in manifests if one["kind"] == "RoleBinding"):
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in there
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["name"]) in there


def test_files_that_are_run_from_a_config_map_are_in_it(manifests: Manifests) -> None:
    data = {one["metadata"]["name"]: one["data"] for one in manifests if one["kind"] == "ConfigMap"}
    for _, spec in pods(manifests):
        files = {
            volume["name"]: data[volume["configMap"]["name"]] for volume in spec["volumes"] if "configMap" in volume
        }
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            words = [*container.get("command", []), *commands(container)]
            for mount in container["volumeMounts"]:
                if mount["name"] in files:
                    asked = {word.rpartition("/")[2] for word in words if word.startswith(f"{mount['mountPath']}/")}
                    assert asked <= set(files[mount["name"]]), (container["name"], mount["name"])


def commands(container: dict[str, Any]) -> list[str]:
    """What Kubernetes runs in it besides."""
    asked = [container.get(probe, {}) for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    asked.append(container.get("lifecycle", {}).get("preStop", {}))
    return [word for one in asked for word in one.get("exec", {}).get("command", [])]


def test_routes_scalers_and_budgets_point_at_what_is_there(manifests: Manifests) -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    ports = {
        (one["metadata"]["name"], port[key])
        for one in manifests
        if one["kind"] == "Service"
        for port in one["spec"]["ports"]
        for key in ("name", "port")
    }
    for one in manifests:
        if one["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}:
            target = one["spec"]["scaleTargetRef"]
            assert (target.get("kind", "Deployment"), target["name"]) in there
        if one["kind"] == "Ingress":
            for rule in one["spec"]["rules"]:
                for path in rule["http"]["paths"]:
                    service = path["backend"]["service"]
                    assert {(service["name"], value) for value in service["port"].values()} <= ports
