"""Every overlay, and every component on top of dev."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from deploy.paths import ROOT
from tests.support.manifests import COMPONENTS, OVERLAYS, Manifest, render, rendered


@pytest.fixture(params=[*OVERLAYS, *(f"dev+{name}" for name in COMPONENTS)], scope="session")
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ...]:
    overlay, _, component = str(request.param).partition("+")
    return with_component(tmp_path_factory.mktemp("overlay"), overlay, component) if component else rendered(overlay)


def with_component(folder: Path, overlay: str, component: str) -> tuple[Manifest, ...]:
    """``overlay`` with ``component`` added in one line."""
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "warren",
        "resources": [os.path.relpath(ROOT / "k8s" / "overlays" / overlay, folder)],
        "components": [os.path.relpath(ROOT / "k8s" / "components" / component, folder)],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(content))
    return tuple(render(folder))
