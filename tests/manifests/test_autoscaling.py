"""What KEDA is told agrees with what workers do, in any namespace and for pools too."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from app import celery
from deploy.paths import ROOT
from tests.support.manifests import Manifest, render, rendered

Manifests = tuple[Manifest, ...] | list[Manifest]


def one(manifests: Manifests, kind: str, name: str) -> Manifest:
    (found,) = (each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def variables(manifests: Manifests, deployment: Manifest) -> dict[str, str]:
    """The variables of its container as KEDA resolves them: constants, and ConfigMaps by their names."""
    found: dict[str, str] = {}
    for variable in deployment["spec"]["template"]["spec"]["containers"][0]["env"]:
        value = variable.get("value", "")
        if reference := variable.get("valueFrom", {}).get("configMapKeyRef"):
            value = one(manifests, "ConfigMap", reference["name"])["data"][reference["key"]]
        found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), value)
    return found


@pytest.fixture(scope="module", params=["dev", "production"])
def scaled(request: pytest.FixtureRequest) -> Manifests:
    return rendered(f"{request.param}+keda")


def test_keda_counts_in_workers_and_leaves_their_number_to_itself(scaled: Manifests) -> None:
    spec = one(scaled, "ScaledObject", "worker")["spec"]
    worker = one(scaled, "Deployment", "worker")
    pod = worker["spec"]["template"]["spec"]
    (trigger,) = spec["triggers"]
    assert spec["scaleTargetRef"]["name"] == "worker" and "replicas" not in worker["spec"]
    # By amqp it would not see tasks that run, nor by http those of workers that acknowledge when they begin.
    assert trigger["metadata"]["protocol"] == "http" and celery.conf.task_acks_late
    assert trigger["metadata"].get("excludeUnacknowledged", "false") == "false"
    # A worker runs as many tasks as its limit has CPUs, and keeps no more from the others than it has processes.
    assert trigger["metadata"]["value"] == pod["containers"][0]["resources"]["limits"]["cpu"]
    assert celery.conf.worker_prefetch_multiplier == 1
    assert spec["cooldownPeriod"] > pod["terminationGracePeriodSeconds"]
    # Where it is left out, a KEDA of 2.17.0 refuses the fallback.
    assert spec["fallback"] and trigger["metricType"] == "AverageValue"


def test_keda_counts_all_queues_of_the_workers_together(scaled: Manifests) -> None:
    (trigger,) = one(scaled, "ScaledObject", "worker")["spec"]["triggers"]
    asked = trigger["metadata"]
    assert (asked["useRegex"], asked["operation"]) == ("true", "sum")
    (tasks,) = (
        each["data"]
        for each in scaled
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("warren-tasks")
    )
    queues = tasks["WARREN_QUEUES"].split(",")
    assert all(re.search(asked["queueName"], queue) for queue in queues)
    assert not any(re.search(asked["queueName"], queue) for queue in ("dead_letters", "default.other", "my-default"))


@pytest.mark.parametrize("namespace", ["warren", "shop"])
def test_keda_finds_the_broker_in_any_namespace(tmp_path: Path, namespace: str) -> None:
    content = {
        "namespace": namespace,
        "resources": [os.path.relpath(ROOT / "k8s/overlays/dev", tmp_path)],
        "components": [os.path.relpath(ROOT / "k8s/components/keda", tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(json.dumps(content))
    manifests = render(tmp_path)
    (trigger,) = one(manifests, "ScaledObject", "worker")["spec"]["triggers"]
    host = variables(manifests, one(manifests, "Deployment", "worker"))[trigger["metadata"]["hostFromEnv"]]
    assert host == f"http://rabbitmq.{namespace}.svc:15672"


@pytest.mark.parametrize("what", ["dev+keda", "production+rabbitmq-operator+keda+monitoring"])
def test_the_broker_makes_the_user_that_keda_is(what: str) -> None:
    manifests = rendered(what)
    (login,) = (each["spec"] for each in manifests if each["kind"] == "TriggerAuthentication")
    assert {each["parameter"]: (each["name"], each["key"]) for each in login["secretTargetRef"]} == {
        parameter: ("warren-keda", parameter) for parameter in ("username", "password")
    }
    if "operator" in what:
        spec = one(manifests, "RabbitmqCluster", "rabbitmq")["spec"]["override"]["statefulSet"]["spec"]
    else:
        spec = one(manifests, "StatefulSet", "rabbitmq")["spec"]
    pod = spec["template"]["spec"]
    (configure,) = pod["initContainers"]
    (mount,) = (each for each in configure["volumeMounts"] if each["name"] == "keda")
    (volume,) = (each["secret"] for each in pod["volumes"] if each["name"] == "keda")
    (folder,) = (each["value"] for each in configure["env"] if each["name"] == "WARREN_SECRETS")
    assert mount["mountPath"] == f"{folder}-keda"
    # Not optional: a broker that started before the Job was done would not have the user.
    assert volume == {
        "secretName": "warren-keda",
        "defaultMode": 0o440,
        "items": [{"key": "password", "path": "password"}],
    }


def test_who_takes_no_keda_has_no_user_for_it() -> None:
    assert "keda" not in json.dumps([each for each in rendered("dev") if each["kind"] != "ConfigMap"])


@pytest.mark.parametrize("component", ["hpa", "keda"])
def test_the_number_that_a_pool_says_is_left_alone(tmp_path: Path, component: str) -> None:
    """It was made of the workers that are scaled, and to kustomize has their name as well."""
    pool = {
        "resources": [os.path.relpath(ROOT / "k8s/components/worker-pool/workers", tmp_path / "pool")],
        "patches": [{"target": {"name": "worker"}, "patch": '[{"op": "add", "path": "/spec/replicas", "value": 4}]'}],
    }
    content = {
        "resources": [os.path.relpath(ROOT / "k8s/overlays/production", tmp_path), "pool"],
        "components": [os.path.relpath(ROOT / "k8s/components" / component, tmp_path)],
    }
    (tmp_path / "pool").mkdir()
    for folder, written in ((tmp_path, content), (tmp_path / "pool", pool)):
        (folder / "kustomization.yaml").write_text(json.dumps({"namespace": "warren", **written}))
    manifests = render(tmp_path)
    assert "replicas" not in one(manifests, "Deployment", "worker")["spec"]
    assert one(manifests, "Deployment", "worker-heavy")["spec"]["replicas"] == 4


def test_a_pool_may_have_a_scaler_of_its_own(tmp_path: Path) -> None:
    """By the same component, named in the pool's own folder."""
    pool: dict[str, Any] = {
        "resources": [os.path.relpath(ROOT / "k8s/base/worker", tmp_path / "pool")],
        "components": [os.path.relpath(ROOT / "k8s/components/keda/scaler", tmp_path / "pool")],
        "nameSuffix": "-heavy",
    }
    content = {
        "namespace": "shop",
        "resources": [os.path.relpath(ROOT / "k8s/overlays/dev", tmp_path), "pool"],
        "components": [os.path.relpath(ROOT / "k8s/components/keda", tmp_path)],
    }
    (tmp_path / "pool").mkdir()
    for folder, written in ((tmp_path, content), (tmp_path / "pool", pool)):
        (folder / "kustomization.yaml").write_text(json.dumps(written))
    manifests = render(tmp_path)
    # One login for all.
    jobs = {each["metadata"]["name"] for each in manifests if each["kind"] == "Job"}
    assert jobs == {"make-secrets", "make-keda-login"}
    for name in ("worker", "worker-heavy"):
        spec = one(manifests, "ScaledObject", name)["spec"]
        (trigger,) = spec["triggers"]
        assert (spec["scaleTargetRef"]["name"], trigger["authenticationRef"]["name"]) == (name, name)
        host = variables(manifests, one(manifests, "Deployment", name))[trigger["metadata"]["hostFromEnv"]]
        assert host == "http://rabbitmq.shop.svc:15672"
