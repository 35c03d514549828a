"""What docs/kubernetes-clusters.md tells people to write is something that kustomize takes, and that changes something."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from deploy.paths import ROOT
from tests.support.manifests import render, rendered

BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "kubernetes-clusters.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("text", [text for text in BLOCKS if text.startswith("patches:")])
def test_each_patch_reaches_all_that_it_is_for(text: str, tmp_path: Path) -> None:
    place = os.path.relpath(ROOT / "k8s/overlays/production", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(f"namespace: warren\nresources: [{place}]\n{text}")
    before = {(one["kind"], one["metadata"]["name"]): one for one in rendered("production")}
    after = {(one["kind"], one["metadata"]["name"]): one for one in render(tmp_path)}
    assert after.keys() == before.keys()
    changed = {kind for kind, name in after if after[kind, name] != before[kind, name]}
    asked = {kind for patch in yaml.safe_load(text)["patches"] for kind in patch["target"]["kind"].split("|")}
    assert changed == asked
    assert all(after[name] != one for name, one in before.items() if name[0] in asked)


def test_the_overlay_of_who_has_one_namespace(tmp_path: Path) -> None:
    (text,) = (text for text in BLOCKS if text.startswith("namespace:"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(
        text.replace("../k8s", os.path.relpath(ROOT / "k8s", tmp_path / "mine"))
    )
    assert {one["metadata"].get("namespace") for one in render(tmp_path / "mine")} == {"yours"}
