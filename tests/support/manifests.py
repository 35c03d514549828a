"""The manifests as kubectl renders them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.paths import ROOT

__all__ = ["ALL", "COMPONENTS", "OVERLAYS", "Manifest", "different", "pods", "render", "rendered"]

Manifest = dict[str, Any]

OVERLAYS = sorted(file.parent.name for file in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"))
COMPONENTS = sorted(file.parent.name for file in (ROOT / "k8s" / "components").glob("*/kustomization.yaml"))


def alone_or_with(overlay: str) -> list[str]:
    own = (ROOT / "k8s" / "overlays" / overlay / "kustomization.yaml").read_text()
    return [overlay, *(f"{overlay}+{name}" for name in COMPONENTS if f"components/{name}" not in own)]


# Those that are likely to be taken together, in the order that docs name.
TOGETHER = [
    "dev+worker-pool+keda+namespaced",
    "production+worker-pool+keda+external-broker+tls",
    "production+tls+ingress+hpa",
    "production+rabbitmq-operator+keda+monitoring+tls+namespaced",
]

# Each overlay, and each component on top of each.
ALL = [*(what for overlay in OVERLAYS for what in alone_or_with(overlay)), *TOGETHER]


def render(folder: Path) -> list[Manifest]:
    """What ``kubectl apply -k`` of ``folder`` would apply; without kubectl the test is skipped."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; see kubernetes.io/docs/tasks/tools")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def rendered(what: str) -> tuple[Manifest, ...]:
    """One of our overlays, or one with components, each added in one line: "dev+keda"."""
    overlay, *components = what.split("+")
    if not components:
        return tuple(render(ROOT / "k8s" / "overlays" / overlay))
    with tempfile.TemporaryDirectory() as name:
        # kustomize goes by the real place.
        folder = Path(name).resolve()
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "warren",
            "resources": [os.path.relpath(ROOT / "k8s" / "overlays" / overlay, folder)],
            "components": [os.path.relpath(ROOT / "k8s" / "components" / one, folder) for one in components],
        }
        (folder / "kustomization.yaml").write_text(json.dumps(content))
        return tuple(render(folder))


@functools.cache
def different() -> tuple[Manifest, ...]:
    """What is rendered of all of them: each manifest that any of them has, once."""
    found = {json.dumps(one, sort_keys=True): one for what in ALL for one in rendered(what)}
    return tuple(found.values())


def pods(manifests: tuple[Manifest, ...] | list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each workload with its pod's spec."""
    for one in manifests:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield one, one["spec"]["template"]["spec"]
