"""What the settings make of an overlay, as kubectl renders it: each is for its own pods."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from app.pools import Pool
from deploy.commands import manifests as commands
from deploy.paths import ROOT
from deploy.platforms.kubernetes import overlay, rendered
from deploy.platforms.kubernetes.scalers import Scalers
from deploy.platforms.kubernetes.setup import Setup
from deploy.run import Runner
from deploy.session import Session
from deploy.settings import Settings
from tests.support.docs import yaml_blocks
from tests.support.manifests import Manifest, render

HEAVY = Pool(name="heavy", queues=("video",), time_limit=3600, concurrency="1", workers=1)


def deployment(manifests: list[Manifest], name: str) -> Manifest:
    (found,) = (one for one in manifests if one["kind"] == "Deployment" and one["metadata"]["name"] == name)
    return found


def concurrency(found: Manifest) -> str:
    (container,) = found["spec"]["template"]["spec"]["containers"]
    return str({one["name"]: one.get("value") for one in container["env"]}["WARREN_WORKER_CONCURRENCY"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(overlay, "FOLDER", tmp_path / "overlay")
    return overlay.FOLDER


@pytest.mark.parametrize("name", ["dev", "production"])
def test_what_is_set_of_the_default_pool_leaves_the_others_alone(folder: Path, name: str) -> None:
    settings = Settings(task_time_limit=100, worker_concurrency="4", pools=(HEAVY,))
    manifests = render(overlay.write(settings, "warren-app:1", ROOT / "k8s" / "overlays" / name, {"worker": 7}))
    worker, heavy = (deployment(manifests, one) for one in ("worker", "worker-heavy"))
    assert worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 130
    assert heavy["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 3630
    assert (concurrency(worker), concurrency(heavy)) == ("4", "1")
    assert worker["spec"]["replicas"] == 7 and "replicas" not in heavy["spec"]
    assert {image["image"] for image in heavy["spec"]["template"]["spec"]["containers"]} == {"warren-app:1"}


def test_a_setting_reaches_its_pods_as_it_is(folder: Path) -> None:
    """Of a value in quotes kustomize would take them away."""
    command = """"/opt/our alerts/tell" --on "task failed\""""
    manifests = render(
        overlay.write(
            Settings(monitor_command=command, queues=("a", "b")), "warren-app:1", ROOT / "k8s/overlays/dev", {}
        )
    )
    told = {name: value for one in manifests if one["kind"] == "ConfigMap" for name, value in one["data"].items()}
    assert (told["MONITOR_COMMAND"], told["WARREN_QUEUES"]) == (command, "a,b")


def with_options(folder: Path, settings: Settings, *options: str, **content: Any) -> list[Manifest]:
    """What ``settings`` make of an overlay of somebody's own, on dev, with ``options`` and further ``content``."""
    place = folder.parent / "mine"
    place.mkdir(exist_ok=True)
    content |= {
        "namespace": "warren",
        "resources": [os.path.relpath(ROOT / "k8s" / "overlays" / "dev", place)],
        "components": [os.path.relpath(ROOT / "k8s" / "components" / one, place) for one in options],
    }
    (place / "kustomization.yaml").write_text(json.dumps(content))
    found = rendered.render(place, Runner())
    setup = Setup.of(found, "warren-app:setup-1")
    return render(overlay.write(settings, "warren-app:1", place, {}, Scalers.of(found, {}), setup))


def spec(manifests: list[Manifest], kind: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name)
    content: dict[str, Any] = found["spec"]
    return content


DIFFERENT = Settings(queues=("default", "mail"), worker_concurrency="4", workers=2, task_time_limit=100, pools=(HEAVY,))


def test_what_is_shown_is_what_would_be_applied(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    applied = with_options(folder, DIFFERENT, "keda")
    session = Session(Runner())
    session.settings = replace(DIFFERENT, app_image="warren-app:1")
    commands.render(session, str(folder.parent / "mine"))
    shown = list(yaml.safe_load_all(capsys.readouterr().out))
    for name in ("worker", "worker-heavy"):
        assert deployment(shown, name) == deployment(applied, name)
    # Some names end in a hash of what is in them.
    assert [one["metadata"]["name"] for one in shown] == [one["metadata"]["name"] for one in applied]


def test_each_pool_has_a_scaler_for_its_own_queues(folder: Path) -> None:
    manifests = with_options(folder, DIFFERENT, "keda")
    found = {}
    for name in ("worker", "worker-heavy"):
        scaled = spec(manifests, "ScaledObject", name)
        (trigger,) = scaled["triggers"]
        asked = trigger["metadata"]
        assert (scaled["scaleTargetRef"]["name"], trigger["authenticationRef"]["name"]) == (name, name)
        found[name] = (asked["queueName"], asked["value"], scaled["minReplicaCount"], scaled["cooldownPeriod"])
    assert found == {"worker": ("^(default|mail)$", "4", 2, 160), "worker-heavy": ("^(video)$", "1", 1, 3660)}


def test_each_pool_has_a_horizontal_pod_autoscaler_with_its_own_bounds(folder: Path) -> None:
    manifests = with_options(folder, DIFFERENT, "hpa")
    least = {
        name: spec(manifests, "HorizontalPodAutoscaler", name)["minReplicas"] for name in ("worker", "worker-heavy")
    }
    assert least == {"worker": 2, "worker-heavy": 1}


def test_pools_and_keda_ask_a_broker_of_others(folder: Path) -> None:
    manifests = with_options(folder, DIFFERENT, "keda", "external-broker")
    for name in ("worker", "worker-heavy"):
        (container,) = deployment(manifests, name)["spec"]["template"]["spec"]["containers"]
        told = {one["name"]: one.get("value", "") for one in container["env"]}
        assert "@$(BROKER_HOST):" in told["CELERY_BROKER_URL"]
        assert told["KEDA_BROKER"] == "$(BROKER_API)://$(BROKER_HOST):$(BROKER_API_PORT)"
        names = [source.get("configMapRef", {}).get("name", "") for source in container["envFrom"]]
        assert any(one.startswith("warren-broker-address-") for one in names)


def test_pools_trust_the_authority_of_a_broker_of_others(folder: Path) -> None:
    (folder.parent / "mine").mkdir()
    (folder.parent / "mine" / "ca.crt").write_text("a certificate")
    mail = Pool(name="mail", queues=("mail",), time_limit=60)
    options = ("worker-pool", "keda", "external-broker", "broker-authority")
    own = [{"name": "broker-authority", "files": ["ca.crt"]}]
    manifests = with_options(folder, Settings(pools=(mail,)), *options, secretGenerator=own)
    (secret,) = (one["metadata"]["name"] for one in manifests if one["metadata"]["name"].startswith("broker-authority"))
    deployments = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "Deployment"}
    # The pool of the overlay, and that of the settings.
    assert {"worker", "worker-heavy", "worker-mail"} < set(deployments)
    for one in deployments.values():
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        (volume,) = (each for each in pod["volumes"] if each.get("secret", {}).get("secretName") == secret)
        (mount,) = (each for each in container["volumeMounts"] if each["name"] == volume["name"])
        assert {"name": "SSL_CERT_FILE", "value": f"{mount['mountPath']}/ca.crt"} in container["env"]


@pytest.mark.parametrize(("options", "priority"), [(["namespaced"], None), ([], "warren")])
def test_pools_have_a_priority_where_there_are_any(folder: Path, options: list[str], priority: str | None) -> None:
    manifests = with_options(folder, DIFFERENT, *options)
    for name in ("worker", "worker-heavy"):
        assert deployment(manifests, name)["spec"]["template"]["spec"].get("priorityClassName") == priority


def images(found: Any) -> Iterator[tuple[str, str]]:
    """The containers anywhere in ``found``, each with its image."""
    if isinstance(found, dict):
        for one in [*found.get("initContainers", []), *found.get("containers", [])]:
            if "image" in one:
                yield one["name"], one["image"]
        found = list(found.values())
    for one in found if isinstance(found, list) else []:
        yield from images(one)


PIN = {"name": "warren-app", "newName": "registry.example/warren-app", "newTag": "7"}
# What docs/kubernetes.md says to write, so that new code leaves the broker alone.
(PATCH,) = yaml_blocks("kubernetes.md", "initContainers:")


@pytest.mark.parametrize("options", [(), ("keda",), ("rabbitmq-operator",)])
def test_the_broker_has_an_image_that_new_code_does_not_change(folder: Path, options: tuple[str, ...]) -> None:
    found = list(images(with_options(folder, Settings(pools=(HEAVY,)), *options)))
    assert {image for name, image in found if name == "configure"} == {"warren-app:setup-1"}
    ours = {name for name, image in found if image == "warren-app:1"}
    assert ours == {"worker", "monitor", "flower"}


def test_what_the_overlay_names_is_kept(folder: Path) -> None:
    pinned = dict(images(with_options(folder, Settings(), images=[PIN])))
    assert {pinned[name] for name in ("configure", "worker", "monitor", "flower")} == {"registry.example/warren-app:7"}
    patched = dict(images(with_options(folder, Settings(), images=[PIN], **yaml.safe_load(PATCH))))
    assert patched["configure"].startswith("registry.example/team/warren-app:setup-")
    assert patched["worker"] == "registry.example/warren-app:7"


def test_a_broker_of_others_is_configured_by_others(folder: Path) -> None:
    assert "configure" not in dict(images(with_options(folder, Settings(), "external-broker")))
