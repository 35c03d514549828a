"""What the settings make of an overlay, as kubectl renders it: each is for its own pods."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.pools import Pool
from deploy.paths import ROOT
from deploy.platforms.kubernetes import overlay
from deploy.settings import Settings
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
