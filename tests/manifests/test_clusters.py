"""What docs tell people to write for their cluster is something that kustomize takes, and that changes something."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.paths import ROOT
from tests.support.docs import yaml_blocks
from tests.support.manifests import pods, render, rendered

BLOCKS = [block for page in ("kubernetes-clusters.md", "your-own-app.md") for block in yaml_blocks(page)]


def asked(patch: dict[str, Any], kind: str, name: str) -> bool:
    return bool(
        re.fullmatch(patch["target"]["kind"], kind) and re.fullmatch(patch["target"].get("name", ".*"), name),
    )


@pytest.mark.parametrize("text", [text for text in BLOCKS if text.startswith("patches:")])
def test_each_patch_reaches_all_that_it_is_for(text: str, tmp_path: Path) -> None:
    place = os.path.relpath(ROOT / "k8s/overlays/production", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(f"namespace: warren\nresources: [{place}]\n{text}")
    before = {(one["kind"], one["metadata"]["name"]): one for one in rendered("production")}
    after = {(one["kind"], one["metadata"]["name"]): one for one in render(tmp_path)}
    assert after.keys() == before.keys()
    changed = {one for one in after if after[one] != before[one]}
    patches = yaml.safe_load(text)["patches"]
    assert changed == {one for one in before if any(asked(patch, *one) for patch in patches)}
    assert all(any(asked(patch, *one) for one in changed) for patch in patches)


def test_room_for_the_workers_is_not_taken_for_pools_of_folders(tmp_path: Path) -> None:
    (text,) = (block for block in BLOCKS if "sizeLimit" in block)
    folders = [os.path.relpath(ROOT / "k8s" / one, tmp_path) for one in ("overlays/dev", "components/worker-pool")]
    (tmp_path / "kustomization.yaml").write_text(
        f"namespace: warren\nresources: [{folders[0]}]\ncomponents: [{folders[1]}]\n{text}"
    )
    found = {
        workload["metadata"]["name"]: volume["emptyDir"]["sizeLimit"]
        for workload, spec in pods(render(tmp_path))
        for volume in spec["volumes"]
        if volume["name"] == "data" and "emptyDir" in volume
    }
    assert (found["worker"], found["worker-heavy"]) == ("20Gi", "1Gi")


def test_a_load_balancer_asks_what_the_platform_asks() -> None:
    probes = {}
    for workload, spec in pods(rendered("production")):
        paths = {part["httpGet"]["path"] for part in spec["containers"][0].values() if "httpGet" in part}
        probes[workload["metadata"]["name"]] = paths
    told = {}
    for text in BLOCKS:
        if "alb.ingress" in text:
            for patch in yaml.safe_load(text)["patches"]:
                (change,) = yaml.safe_load(patch["patch"])
                path = change["value"]["alb.ingress.kubernetes.io/healthcheck-path"]
                told["alb", patch["target"]["name"]] = path
        for one in yaml.safe_load_all(text) if "HealthCheckPolicy" in text else ():
            path = one["spec"]["default"]["config"]["httpHealthCheck"]["requestPath"]
            told["gke", one["spec"]["targetRef"]["name"]] = path
    assert len(told) == 4
    assert all(path in probes[name] for (_, name), path in told.items())


def test_the_overlay_of_who_has_one_namespace(tmp_path: Path) -> None:
    (text,) = (text for text in BLOCKS if text.startswith("namespace:"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(
        text.replace("../k8s", os.path.relpath(ROOT / "k8s", tmp_path / "mine"))
    )
    assert {one["metadata"].get("namespace") for one in render(tmp_path / "mine")} == {"yours"}
