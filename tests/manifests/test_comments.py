"""What the comments of components tell people to write into their overlays does what they say."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.paths import ROOT
from tests.support.manifests import Manifest, render

COMPONENTS = sorted(path.parent.name for path in ROOT.glob("k8s/components/*/kustomization.yaml"))


def shown(component: str) -> dict[str, Any]:
    """The parts of an overlay that the component's comment shows, as one."""
    text = (ROOT / "k8s" / "components" / component / "kustomization.yaml").read_text()
    found: dict[str, Any] = {}
    for block in re.findall(r"(?:^#   .*\n)+", text, re.MULTILINE):
        part = yaml.safe_load(re.sub(r"^#   ", "", block, flags=re.MULTILINE))
        # Others are commands, and a line more of a patch.
        for key, value in part.items() if isinstance(part, dict) else ():
            found[key] = found[key] + value if isinstance(value, list) and key in found else value
    return found


def overlay(folder: Path, content: dict[str, Any]) -> list[Manifest]:
    """That of somebody who wrote ``content``, in a folder beside ours."""
    mine = folder / "k8s" / "overlays" / "mine"
    shutil.copytree(ROOT / "k8s", folder / "k8s", dirs_exist_ok=True)
    mine.mkdir()
    (mine / "ca.crt").write_text("a certificate")
    (mine / "kustomization.yaml").write_text(
        yaml.safe_dump({"namespace": "warren", "resources": ["../dev"], **content})
    )
    return render(Path(os.path.relpath(mine, ROOT)))


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The name of a ConfigMap ends in a hash."""
    (found,) = (
        one
        for one in manifests
        if one["kind"] == kind and re.fullmatch(rf"{name}(-\w{{10}})?", one["metadata"]["name"])
    )
    return found


def at(content: Any, path: str) -> Any:
    for part in path.strip("/").split("/"):
        content = content[int(part)] if isinstance(content, list) else content[part]
    return content


@pytest.mark.parametrize("component", COMPONENTS)
def test_what_a_component_tells_to_write_holds(tmp_path: Path, component: str) -> None:
    content = shown(component)
    assert f"../../components/{component}" in content["components"]
    manifests = overlay(tmp_path, content)
    for patch in content.get("patches", []):
        for change in yaml.safe_load(patch["patch"]):
            told = named(manifests, patch["target"]["kind"], patch["target"]["name"])
            assert at(told, change["path"]) == change["value"], change


def test_several_pools_are_named_by_the_overlay(tmp_path: Path) -> None:
    copy = tmp_path / "k8s" / "components" / "worker-pool-mail"
    shutil.copytree(ROOT / "k8s" / "components" / "worker-pool", copy)
    for file in copy.rglob("kustomization.yaml"):
        file.write_text(file.read_text().replace("heavy", "mail").replace("HEAVY", "MAIL"))
    content = shown("worker-pool")
    manifests = overlay(
        tmp_path, {**content, "components": [*content["components"], "../../components/worker-pool-mail"]}
    )
    settings = named(manifests, "ConfigMap", "warren-tasks")["data"]
    assert settings["WARREN_POOLS"] == "heavy,mail"
    assert {"WARREN_POOL_HEAVY_QUEUES", "WARREN_POOL_MAIL_QUEUES"} <= set(settings)
    for name in ("heavy", "mail"):
        (container,) = named(manifests, "Deployment", f"worker-{name}")["spec"]["template"]["spec"]["containers"]
        assert {"name": "WARREN_POOL", "value": name} in container["env"]
